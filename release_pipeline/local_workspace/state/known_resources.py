"""Objects that the workspace does not run and only knows by name, so that what declares them can be checked.

A kind is checked once its names were given. Before that nothing is known of it, and nothing is refused for it.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Final

from release_pipeline.local_workspace.state.database import Database

#: Kinds as mlflow names them in what a model declares.
KINDS: Final = ("app", "function", "genie_space", "lakebase", "uc_connection", "vector_search_index")


class KnownResources:
    """The table ``known_resources``: for each kind whose names were given, the names."""

    def __init__(self, database: Database) -> None:
        self._database = database
        with database.transaction() as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS known_resources (kind TEXT PRIMARY KEY, names TEXT NOT NULL)"
            )

    def all(self) -> dict[str, list[str] | None]:
        """The names by kind; None where they were not given."""
        with self._database.transaction() as connection:
            rows = connection.execute("SELECT kind, names FROM known_resources").fetchall()
        known = {row["kind"]: list(json.loads(row["names"])) for row in rows}
        return {kind: known.get(kind) for kind in KINDS}

    def names(self, kind: str) -> list[str] | None:
        """The names of one kind; None where they were not given."""
        return self.all()[kind]

    def change(self, names: Mapping[str, Sequence[str] | None]) -> None:
        """Replace the names of some kinds; None: nothing is known of the kind any more."""
        with self._database.transaction() as connection:
            for kind, given in names.items():
                if given is None:
                    connection.execute("DELETE FROM known_resources WHERE kind = ?", (kind,))
                else:
                    connection.execute(
                        "INSERT OR REPLACE INTO known_resources VALUES (?, ?)", (kind, json.dumps(list(given)))
                    )
