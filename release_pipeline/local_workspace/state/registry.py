"""Unity Catalog registered models, their versions, aliases and tags."""

import json
import re
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from release_pipeline.local_workspace.errors import AlreadyExists, InvalidParameter, NotFound
from release_pipeline.local_workspace.state.database import Database
from release_pipeline.local_workspace.state.files import FileStore

PENDING = "PENDING_REGISTRATION"
READY = "READY"

_TABLES = """
CREATE TABLE IF NOT EXISTS registered_models (
    name TEXT PRIMARY KEY, description TEXT NOT NULL, tags TEXT NOT NULL, last_version INTEGER NOT NULL DEFAULT 0,
    created_ms INTEGER NOT NULL, updated_ms INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS model_versions (
    name TEXT NOT NULL REFERENCES registered_models ON DELETE CASCADE, version INTEGER NOT NULL,
    status TEXT NOT NULL, source TEXT NOT NULL, run_id TEXT NOT NULL, model_id TEXT NOT NULL,
    run_tracking_server_id TEXT NOT NULL, description TEXT NOT NULL, dependencies TEXT NOT NULL, tags TEXT NOT NULL,
    created_ms INTEGER NOT NULL, updated_ms INTEGER NOT NULL, PRIMARY KEY (name, version));
CREATE TABLE IF NOT EXISTS model_aliases (
    name TEXT NOT NULL, alias TEXT NOT NULL, version INTEGER NOT NULL, PRIMARY KEY (name, alias),
    FOREIGN KEY (name, version) REFERENCES model_versions ON DELETE CASCADE)
"""
# What may stand between the dots of a Unity Catalog name, and in an alias.
_NAME_PART = re.compile(r"[^\s./\x00-\x1f\x7f]{1,255}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_ALIAS = re.compile(r"[\w-]{1,255}")
_RESERVED_ALIAS = re.compile(r"latest|v\d+", re.IGNORECASE)


@dataclass(frozen=True)
class RegisteredModel:
    """A registered model; times in milliseconds since the Unix epoch, aliases map to versions."""

    name: str
    description: str
    tags: Mapping[str, str]
    aliases: Mapping[str, str]
    created_ms: int
    updated_ms: int


@dataclass(frozen=True)
class ModelVersion:
    """One version of a registered model; ``status`` is PENDING_REGISTRATION until its files are complete, then READY.

    ``dependencies`` are the resources declared at log time, as (type, name).
    """

    name: str
    version: str
    status: str
    source: str
    run_id: str
    model_id: str
    run_tracking_server_id: str
    description: str
    dependencies: Sequence[tuple[str, str]]
    tags: Mapping[str, str]
    aliases: Sequence[str]
    created_ms: int
    updated_ms: int


class ModelRegistry:
    """State of the registry. Every method is one transaction; a name is always ``catalog.schema.model``.

    Methods that name a model or a version raise :class:`NotFound` when it does not exist, unless they say otherwise.
    """

    def __init__(self, database: Database, files: FileStore, user_name: str) -> None:
        self._database = database
        self._files = files
        self.user_name = user_name
        with database.transaction() as connection:
            for statement in _TABLES.split(";"):
                connection.execute(statement)

    def create_model(self, name: str, description: str, tags: Mapping[str, str]) -> RegisteredModel:
        """Creates a model without versions; AlreadyExists when the name is taken."""
        check_model_name(name)
        now = _now_ms()
        with self._database.transaction() as connection:
            cursor = connection.execute(
                "INSERT OR IGNORE INTO registered_models VALUES (?, ?, ?, 0, ?, ?)",
                (name, description, json.dumps(dict(tags)), now, now),
            )
            if not cursor.rowcount:
                raise AlreadyExists(f"Registered model '{name}' already exists.")
            return _model(connection, name)

    def get_model(self, name: str) -> RegisteredModel:
        """The model of that name."""
        with self._database.transaction() as connection:
            return _model(connection, name)

    def has_model(self, name: str) -> bool:
        """Whether there is a model of that name."""
        with self._database.transaction() as connection:
            return connection.execute("SELECT 1 FROM registered_models WHERE name = ?", (name,)).fetchone() is not None

    def models(self, offset: int, limit: int) -> list[RegisteredModel]:
        """Models by name, from the ``offset``-th on."""
        with self._database.transaction() as connection:
            rows = connection.execute(
                "SELECT name FROM registered_models ORDER BY name LIMIT ? OFFSET ?", (limit, offset)
            ).fetchall()
            return [_model(connection, row["name"]) for row in rows]

    def update_model(
        self, name: str, description: str | None = None, tags: Mapping[str, str | None] | None = None
    ) -> RegisteredModel:
        """Replaces the description when one is given, sets tags, and deletes those whose value is None."""
        with self._database.transaction() as connection:
            model = _model(connection, name)
            connection.execute(
                "UPDATE registered_models SET description = ?, tags = ?, updated_ms = ? WHERE name = ?",
                (_either(description, model.description), _merged(model.tags, tags), _now_ms(), name),
            )
            return _model(connection, name)

    def delete_model(self, name: str) -> None:
        """Deletes the model with its versions, aliases and files."""
        with self._database.transaction() as connection:
            _model(connection, name)
            connection.execute("DELETE FROM registered_models WHERE name = ?", (name,))
        self._files.remove_tree("/Models/" + name.replace(".", "/"))

    def create_version(
        self,
        name: str,
        *,
        source: str,
        run_id: str = "",
        model_id: str = "",
        run_tracking_server_id: str = "",
        description: str = "",
        dependencies: Sequence[tuple[str, str]] = (),
        tags: Mapping[str, str] | None = None,
    ) -> ModelVersion:
        """Creates the model's next version, PENDING_REGISTRATION; a deleted version's number is not used again."""
        now = _now_ms()
        origin = (source, run_id, model_id, run_tracking_server_id, description)
        with self._database.transaction() as connection:
            _model(connection, name)
            (version,) = connection.execute(
                "UPDATE registered_models SET last_version = last_version + 1, updated_ms = ? WHERE name = ? "
                "RETURNING last_version",
                (now, name),
            ).fetchone()
            details = (json.dumps([list(item) for item in dependencies]), json.dumps(dict(tags or {})), now, now)
            connection.execute(
                "INSERT INTO model_versions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (name, version, PENDING, *origin, *details),
            )
            return _version(connection, name, str(version))

    def finalize_version(self, name: str, version: str) -> ModelVersion:
        """Makes the version READY; InvalidParameter while its files are not there."""
        if not (self.version_path(name, version) / "MLmodel").is_file():
            self.require_version(name, version)
            raise InvalidParameter(f"Version {version} of '{name}' has no MLmodel file; upload its files first.")
        with self._database.transaction() as connection:
            found = _version(connection, name, version)
            connection.execute(
                "UPDATE model_versions SET status = ?, updated_ms = ? WHERE name = ? AND version = ?",
                (READY, _now_ms(), name, int(found.version)),
            )
            return _version(connection, name, version)

    def get_version(self, name: str, version: str) -> ModelVersion | None:
        """The version, or None when there is none of that name and number."""
        with self._database.transaction() as connection:
            return _find_version(connection, name, version)

    def require_version(self, name: str, version: str) -> ModelVersion:
        """The version of that name and number."""
        with self._database.transaction() as connection:
            return _version(connection, name, version)

    def version_by_alias(self, name: str, alias: str) -> ModelVersion:
        """The version that an alias points at; NotFound when the model has no such alias."""
        with self._database.transaction() as connection:
            target = _model(connection, name).aliases.get(alias)
            if target is None:
                raise NotFound(f"Alias '{alias}' does not exist on registered model '{name}'.")
            return _version(connection, name, target)

    def versions(self, column: str, value: str, offset: int, limit: int) -> list[ModelVersion]:
        """Versions whose ``name`` or ``run_id`` equals the value, newest first, from the ``offset``-th on."""
        if column not in ("name", "run_id"):
            raise InvalidParameter(f"Model versions cannot be searched by {column!r}; use name or run_id.")
        with self._database.transaction() as connection:
            rows = connection.execute(
                f"SELECT name, version FROM model_versions WHERE {column} = ? "
                "ORDER BY name, version DESC LIMIT ? OFFSET ?",
                (value, limit, offset),
            ).fetchall()
            return [_version(connection, row["name"], str(row["version"])) for row in rows]

    def update_version(
        self,
        name: str,
        version: str,
        description: str | None = None,
        tags: Mapping[str, str | None] | None = None,
    ) -> ModelVersion:
        """Replaces the description when one is given, sets tags, and deletes those whose value is None."""
        with self._database.transaction() as connection:
            found = _version(connection, name, version)
            connection.execute(
                "UPDATE model_versions SET description = ?, tags = ?, updated_ms = ? WHERE name = ? AND version = ?",
                (_either(description, found.description), _merged(found.tags, tags), _now_ms(), name, int(version)),
            )
            return _version(connection, name, version)

    def delete_version(self, name: str, version: str) -> None:
        """Deletes the version with its aliases and files."""
        with self._database.transaction() as connection:
            _version(connection, name, version)
            connection.execute("DELETE FROM model_versions WHERE name = ? AND version = ?", (name, int(version)))
        self._files.remove_tree(version_folder(name, version))

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Points the alias at the version, wherever it pointed before."""
        if not _ALIAS.fullmatch(alias) or _RESERVED_ALIAS.fullmatch(alias):
            raise InvalidParameter(
                f"The alias {alias!r} is not allowed; use letters, digits, _ or -, and not v<number>."
            )
        with self._database.transaction() as connection:
            _version(connection, name, version)
            connection.execute("INSERT OR REPLACE INTO model_aliases VALUES (?, ?, ?)", (name, alias, int(version)))

    def delete_alias(self, name: str, alias: str) -> None:
        """Removes the alias; nothing happens when the model has none of that name."""
        with self._database.transaction() as connection:
            _model(connection, name)
            connection.execute("DELETE FROM model_aliases WHERE name = ? AND alias = ?", (name, alias))

    def version_path(self, name: str, version: str) -> Path:
        """The folder on this machine's disk that holds the version's ``MLmodel`` file."""
        return self._files.local_path(version_folder(name, version))


def check_model_name(name: str) -> tuple[str, str, str]:
    """Splits a model's full name into catalog, schema and model; InvalidParameter when it has not that form."""
    parts = name.split(".")
    if len(parts) != 3 or not all(_NAME_PART.fullmatch(part) for part in parts):
        raise InvalidParameter(f"The model name {name!r} must be of the form catalog.schema.model.")
    return parts[0], parts[1], parts[2]


def version_folder(name: str, version: str) -> str:
    """The Files API path of a version's files."""
    check_model_name(name)
    return f"/Models/{name.replace('.', '/')}/{version}"


def _model(connection: sqlite3.Connection, name: str) -> RegisteredModel:
    row = connection.execute("SELECT * FROM registered_models WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise NotFound(f"Registered model '{name}' does not exist.")
    found = connection.execute("SELECT alias, version FROM model_aliases WHERE name = ? ORDER BY alias", (name,))
    aliases = {alias: str(version) for alias, version in found}
    tags = json.loads(row["tags"])
    return RegisteredModel(name, row["description"], tags, aliases, row["created_ms"], row["updated_ms"])


def _find_version(connection: sqlite3.Connection, name: str, version: str) -> ModelVersion | None:
    if not _VERSION.fullmatch(version):
        return None
    key = (name, version)
    row = connection.execute("SELECT * FROM model_versions WHERE name = ? AND version = ?", key).fetchone()
    if row is None:
        return None
    aliases = connection.execute("SELECT alias FROM model_aliases WHERE name = ? AND version = ? ORDER BY alias", key)
    return ModelVersion(
        name=name,
        version=str(row["version"]),
        status=row["status"],
        source=row["source"],
        run_id=row["run_id"],
        model_id=row["model_id"],
        run_tracking_server_id=row["run_tracking_server_id"],
        description=row["description"],
        dependencies=[(kind, resource) for kind, resource in json.loads(row["dependencies"])],
        tags=json.loads(row["tags"]),
        aliases=[alias for (alias,) in aliases],
        created_ms=row["created_ms"],
        updated_ms=row["updated_ms"],
    )


def _version(connection: sqlite3.Connection, name: str, version: str) -> ModelVersion:
    found = _find_version(connection, name, version)
    if found is None:
        raise NotFound(f"Model version '{version}' of registered model '{name}' does not exist.")
    return found


def _merged(tags: Mapping[str, str], changes: Mapping[str, str | None] | None) -> str:
    merged = {**tags, **(changes or {})}
    return json.dumps({key: value for key, value in merged.items() if value is not None})


def _either(value: str | None, default: str) -> str:
    return default if value is None else value


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
