"""One HTTP call of a release, and what it asks for in words."""

import json
import re
from dataclasses import dataclass, field
from typing import Any

STATEMENTS = "/api/2.0/sql/statements"
_WRITING = ("INSERT", "CREATE", "ALTER", "MERGE", "UPDATE", "DELETE")
_TABLE = re.compile(r"`[^`]+`\.`[^`]+`\.`([^`]+)`|table_changes\('[^']*\.([^.']+)'")
_SUFFIXES = ("release_ledger", "release_evidence", "payload", "scores")
#: What is asked for by POST.
_ASKING = re.compile(r"/(search|search-long-running|create-download-url)$")
_NUMBER = re.compile(r"(?<=[/_-])\d+(?=/|$)")
#: What the workspace called something in this run alone, such as a statement.
_ID = re.compile(r"\b[0-9a-f]{8}(?:-?[0-9a-f]{4}){3}-?[0-9a-f]{12}\b")


@dataclass(frozen=True)
class Call:
    """One request as the proxy sees it.

    Attributes:
        path: With its query, as it was sent.
        body: As it was sent.
        site: The place in the pipeline's code that it comes from.
    """

    method: str
    path: str
    body: bytes
    site: str = field(default="", compare=False)

    @property
    def statement(self) -> str:
        """The SQL that it carries, empty for any other call."""
        if self.method != "POST" or not self.path.startswith(STATEMENTS):
            return ""
        return str(json.loads(self.body).get("statement", "")).strip()

    @property
    def writes(self) -> bool:
        """Whether it can change what the workspace holds."""
        if self.method in ("GET", "HEAD") or _ASKING.search(self.path.split("?")[0]):
            return False
        return not self.statement or self.statement.upper().startswith(_WRITING)

    @property
    def moves(self) -> bool:
        """Whether it can change what an observer sees: the ledger, an alias, or the endpoint."""
        if self.statement:
            return self.writes and "_release_ledger`" in self.statement
        path = self.path.split("?")[0]
        return self.writes and ("alias" in path or ("serving-endpoints" in path and not path.endswith("/invocations")))

    @property
    def updates_endpoint(self) -> bool:
        """Whether it asks for a new configuration of an endpoint, which can fail later."""
        path = self.path.split("?")[0]
        creates = self.method == "POST" and path == "/api/2.0/serving-endpoints"
        return creates or (self.method == "PUT" and path.endswith("/config") and "/serving-endpoints/" in path)

    @property
    def route(self) -> str:
        """Method and path, the same in every run that comes from the same place."""
        return f"{self.method} {_NUMBER.sub('<n>', _ID.sub('<n>', self.path.split('?')[0]))}"

    @property
    def json(self) -> dict[str, Any]:
        """Its body."""
        found = json.loads(self.body or b"{}")
        return found if isinstance(found, dict) else {}

    def words(self, model: str) -> str:
        """The call without names and numbers of one release, for a table that people read."""
        if self.statement:
            verb = " ".join(self.statement.upper().split()[:2])
            verb = verb if verb.startswith(("DESCRIBE", "SHOW", "INSERT", "CREATE", "ALTER")) else verb.split()[0]
            found = _TABLE.search(self.statement)
            table = next(filter(None, found.groups())) if found else ""
            return f"SQL {verb} {next((each for each in _SUFFIXES if table.endswith(each)), table)}".strip()
        return self.route.replace(model, "<model>")
