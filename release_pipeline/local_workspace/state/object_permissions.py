"""Who may do what with workspace objects that keep no record of their own, such as SQL warehouses."""

import json

from release_pipeline.local_workspace.state.database import Database

_TABLE = """
CREATE TABLE IF NOT EXISTS object_permissions (
    object_type TEXT NOT NULL, object_id TEXT NOT NULL, grants TEXT NOT NULL, PRIMARY KEY (object_type, object_id))
"""


class ObjectPermissions:
    """Access control lists by type and id of the object: a list of ``{<kind of principal>, permission_level}``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        with database.transaction() as connection:
            connection.execute(_TABLE)

    def get(self, object_type: str, object_id: str) -> list[dict[str, str]]:
        """What was given on the object, empty where nothing was."""
        with self._database.transaction() as connection:
            row = connection.execute(
                "SELECT grants FROM object_permissions WHERE object_type = ? AND object_id = ?",
                (object_type, object_id),
            ).fetchone()
        return list(json.loads(row["grants"])) if row else []

    def put(self, object_type: str, object_id: str, grants: list[dict[str, str]]) -> None:
        """Replace what was given on the object."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO object_permissions VALUES (?, ?, ?)",
                (object_type, object_id, json.dumps(grants)),
            )
