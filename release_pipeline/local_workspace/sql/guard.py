"""What a statement is checked against, table by table, before it runs."""

from typing import Protocol

from release_pipeline.local_workspace.sql.failures import SqlFailure, bad_request
from release_pipeline.local_workspace.sql.names import TableName


class Guard(Protocol):
    """Says whether whoever sent a statement may run it. Asked within the statement's transaction, by many threads."""

    def read(self, name: TableName) -> None:
        """Raises SqlFailure where rows of a table or view may not be read."""

    def write(self, name: TableName) -> None:
        """Raises SqlFailure where rows of a table may not be changed."""

    def other(self) -> None:
        """Raises SqlFailure where anything beside queries and changes of rows is not for the sender."""


def insufficient(sentence: str) -> SqlFailure:
    """The failure of a statement that its sender may not run."""
    return bad_request("INSUFFICIENT_PERMISSIONS", f"Insufficient privileges: {sentence}", "42501")
