"""OPTIMIZE and VACUUM: what they do to a table's older versions, and nothing else.

On the service OPTIMIZE writes a table's rows into new files, and VACUUM removes files that the table no longer names
once they have been out of use for a while, seven days unless it is told otherwise. From then on the versions before
that OPTIMIZE can neither be travelled to nor be read through the change feed, although their rows are all there.
"""

import re
from datetime import timedelta
from typing import Any

from release_pipeline.local_workspace.sql import catalog
from release_pipeline.local_workspace.sql.catalog import TableInfo
from release_pipeline.local_workspace.sql.failures import unsupported
from release_pipeline.local_workspace.sql.names import Session, split_name
from release_pipeline.local_workspace.sql.result_values import ResultSet

#: What VACUUM keeps by itself, hours.
RETAIN_HOURS = 168
_OPTIMIZE = re.compile(r"\s*OPTIMIZE\s+(\S+?)\s*;?\s*", re.IGNORECASE)
_VACUUM = re.compile(r"\s*VACUUM\s+(\S+?)(?:\s+RETAIN\s+(\d{1,6})\s+HOURS)?\s*;?\s*", re.IGNORECASE)
_LEADING = re.compile(r"\s*(?:OPTIMIZE|VACUUM)\b", re.IGNORECASE)


def is_maintenance(statement: str) -> bool:
    """Whether the text begins like a statement of this module."""
    return _LEADING.match(statement) is not None


def run(cursor: Any, statement: str, session: Session) -> ResultSet:
    """Maintain a table.

    Raises:
        SqlFailure: It is missing or a view, or the statement has a clause that the workspace does not know.
    """
    if found := _OPTIMIZE.fullmatch(statement):
        info = _table(cursor, session, found[1])
        catalog.commit(cursor, info, "OPTIMIZE", 0)
        return ResultSet()
    found = _VACUUM.fullmatch(statement)
    if found is None:
        raise unsupported("OPTIMIZE or VACUUM with such a clause")
    info = _table(cursor, session, found[1])
    unused = catalog.utc_now() - timedelta(hours=int(found[2] or RETAIN_HOURS))
    for version, at, operation, _ in catalog.history(cursor, info.name, None):
        if operation == "OPTIMIZE" and at <= unused:
            catalog.vacuum(cursor, info.name, max(version, info.vacuumed))
            break
    for operation in ("VACUUM START", "VACUUM END"):
        catalog.commit(cursor, catalog.require(cursor, info.name), operation, 0)
    return ResultSet()


def _table(cursor: Any, session: Session, name: str) -> TableInfo:
    info = catalog.require(cursor, catalog.require_changeable(session.table(split_name(name))))
    if info.kind != "MANAGED":
        raise unsupported("maintenance of a view")
    return info
