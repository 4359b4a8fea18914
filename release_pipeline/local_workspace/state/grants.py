"""Unity Catalog privileges: who was granted what on which securable."""

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from release_pipeline.local_workspace.state.database import Database

_TABLES = """
CREATE TABLE IF NOT EXISTS grant_catalogs (name TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS grants (
    securable_type TEXT NOT NULL, full_name TEXT NOT NULL, principal TEXT NOT NULL, privileges TEXT NOT NULL,
    PRIMARY KEY (securable_type, full_name, principal));
"""


@dataclass(frozen=True)
class EffectivePrivilege:
    """A privilege and where it comes from; both are None when it was granted on the securable itself."""

    privilege: str
    inherited_from_type: str | None = None
    inherited_from_name: str | None = None


class Grants:
    """Grants by securable. The token's user is granted everything on each catalog when the catalog is first seen."""

    def __init__(self, database: Database, catalogs: Iterable[str], owner: str) -> None:
        self._database = database
        with database.transaction() as connection:
            for statement in _TABLES.split(";"):
                connection.execute(statement)
            for catalog in catalogs:
                if connection.execute("INSERT OR IGNORE INTO grant_catalogs VALUES (?)", (catalog,)).rowcount:
                    _write(connection, "CATALOG", catalog, owner, {"ALL_PRIVILEGES"})

    def on(self, securable_type: str, full_name: str) -> dict[str, list[str]]:
        """The privileges granted on the securable itself, by principal."""
        with self._database.transaction() as connection:
            return _read(connection, securable_type, full_name)

    def effective(self, securable_type: str, full_name: str) -> dict[str, list[EffectivePrivilege]]:
        """The privileges that hold on the securable, by principal: its own and those of its schema and catalog."""
        parts = full_name.split(".")
        parents = [("CATALOG", parts[0]), ("SCHEMA", ".".join(parts[:2]))][: len(parts) - 1]
        result: dict[str, list[EffectivePrivilege]] = {}
        with self._database.transaction() as connection:
            for principal, privileges in _read(connection, securable_type, full_name).items():
                result.setdefault(principal, []).extend(EffectivePrivilege(name) for name in privileges)
            for parent_type, parent in parents:
                for principal, privileges in _read(connection, parent_type, parent).items():
                    inherited = (EffectivePrivilege(name, parent_type, parent) for name in privileges)
                    result.setdefault(principal, []).extend(inherited)
        return result

    def change(
        self, securable_type: str, full_name: str, changes: Iterable[tuple[str, Iterable[str], Iterable[str]]]
    ) -> Mapping[str, list[str]]:
        """Applies (principal, privileges to add, privileges to remove), all or none.

        Returns:
            The privileges granted on the securable afterwards, by principal.
        """
        with self._database.transaction() as connection:
            for principal, add, remove in changes:
                held = set(_read(connection, securable_type, full_name).get(principal, []))
                _write(connection, securable_type, full_name, principal, (held | set(add)) - set(remove))
            return _read(connection, securable_type, full_name)


def _read(connection: sqlite3.Connection, securable_type: str, full_name: str) -> dict[str, list[str]]:
    rows = connection.execute(
        "SELECT principal, privileges FROM grants WHERE securable_type = ? AND full_name = ? ORDER BY principal",
        (securable_type, full_name),
    )
    return {row["principal"]: json.loads(row["privileges"]) for row in rows}


def _write(
    connection: sqlite3.Connection, securable_type: str, full_name: str, principal: str, privileges: set[str]
) -> None:
    key = (securable_type, full_name, principal)
    if privileges:
        connection.execute("INSERT OR REPLACE INTO grants VALUES (?, ?, ?, ?)", (*key, json.dumps(sorted(privileges))))
    else:
        connection.execute("DELETE FROM grants WHERE securable_type = ? AND full_name = ? AND principal = ?", key)
