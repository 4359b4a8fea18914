"""What the workspace knows about its schemas and tables: kept in DuckDB, so that it commits with the data.

Every write to a table is a commit with a version, as in Delta: version 0 creates the table. All functions work on a
cursor inside the caller's transaction.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from release_pipeline.local_workspace.sql.failures import HIDDEN_COLUMN, bad_request, schema_not_found, table_not_found
from release_pipeline.local_workspace.sql.names import SYSTEM, SchemaName, TableName
from release_pipeline.local_workspace.sql.result_values import databricks_type

CHANGE_FEED_PROPERTY = "delta.enableChangeDataFeed"

_TABLES = """
CREATE SCHEMA IF NOT EXISTS __workspace;
CREATE TABLE IF NOT EXISTS __workspace.schemas (catalog_name VARCHAR, schema_name VARCHAR, comment VARCHAR);
CREATE TABLE IF NOT EXISTS __workspace.tables (
    full_name VARCHAR, catalog_name VARCHAR, schema_name VARCHAR, table_name VARCHAR, kind VARCHAR, comment VARCHAR,
    properties VARCHAR, created_at TIMESTAMP, modified_at TIMESTAMP, version BIGINT, change_feed_since BIGINT,
    last_rewrite BIGINT, log_position BIGINT, view_text VARCHAR);
CREATE TABLE IF NOT EXISTS __workspace.commits (
    full_name VARCHAR, version BIGINT, committed_at TIMESTAMP, operation VARCHAR, row_count BIGINT);
ALTER TABLE __workspace.tables ADD COLUMN IF NOT EXISTS vacuumed BIGINT DEFAULT 0;
"""


@dataclass(frozen=True)
class ColumnInfo:
    """A column of a table: its name, Databricks type text and API type name, and whether it may be null."""

    name: str
    type_text: str
    type_name: str
    nullable: bool


@dataclass(frozen=True)
class TableInfo:
    """A table or view.

    Attributes:
        name: Its three-level name.
        kind: ``MANAGED`` or ``VIEW``.
        created_at: UTC, without a zone.
        modified_at: Time of the last commit, UTC, without a zone; never goes back.
        version: The last commit's version; 0 is the creation.
        change_feed_since: First version whose changes are recorded; None without a change feed.
        last_rewrite: Last version that changed or removed rows; -1 if rows were only ever added.
        vacuumed: Versions before this one are gone: neither they nor their changes can be read.
        log_position: Byte offset in the inference log up to which rows are stored; 0 for other tables.
        properties: Table properties; the change feed's key as Delta writes it, others as they were given.
        columns: Filled only where the caller asked for them.
    """

    name: TableName
    kind: str
    created_at: datetime
    modified_at: datetime
    version: int = 0
    change_feed_since: int | None = None
    last_rewrite: int = -1
    vacuumed: int = 0
    log_position: int = 0
    comment: str | None = None
    properties: Mapping[str, str] = field(default_factory=dict)
    view_text: str | None = None
    columns: tuple[ColumnInfo, ...] = ()

    @property
    def has_change_feed(self) -> bool:
        """Whether rows carry the version that added them, in the hidden column."""
        return self.change_feed_since is not None


def utc_now() -> datetime:
    """The time in UTC without a zone, as DuckDB's TIMESTAMP keeps it."""
    return datetime.now(UTC).replace(tzinfo=None)


def initialise(cursor: Any, catalogs: tuple[str, ...]) -> None:
    """Create the workspace's own tables and, in each catalog, the schema ``default``."""
    cursor.execute(_TABLES)
    for catalog in catalogs:
        name = SchemaName(catalog.lower(), "default")
        if not schema_exists(cursor, name):
            create_schema(cursor, name, None)


def schema_exists(cursor: Any, name: SchemaName) -> bool:
    """Whether the schema exists."""
    row = cursor.execute(
        "SELECT 1 FROM __workspace.schemas WHERE catalog_name = ? AND schema_name = ?", [name.catalog, name.schema]
    ).fetchone()
    return row is not None


def create_schema(cursor: Any, name: SchemaName, comment: str | None) -> None:
    """Record a schema and give it its place in DuckDB."""
    cursor.execute('CREATE SCHEMA "{}"'.format(name.full.replace('"', '""')))
    cursor.execute("INSERT INTO __workspace.schemas VALUES (?, ?, ?)", [name.catalog, name.schema, comment])


def drop_schema(cursor: Any, name: SchemaName) -> None:
    """Forget an existing schema with everything in it."""
    for info in tables_in(cursor, name):
        forget(cursor, info.name)
    cursor.execute('DROP SCHEMA "{}" CASCADE'.format(name.full.replace('"', '""')))
    cursor.execute(
        "DELETE FROM __workspace.schemas WHERE catalog_name = ? AND schema_name = ?", [name.catalog, name.schema]
    )


def schemas(cursor: Any, catalog: str) -> list[str]:
    """The names of a catalog's schemas, sorted."""
    rows = cursor.execute(
        "SELECT schema_name FROM __workspace.schemas WHERE catalog_name = ? ORDER BY 1", [catalog.lower()]
    ).fetchall()
    return [row[0] for row in rows]


_FIELDS = (
    "catalog_name, schema_name, table_name, kind, created_at, modified_at, version, change_feed_since, last_rewrite, "
    "vacuumed, log_position, comment, properties, view_text"
)


def _info(row: tuple[Any, ...]) -> TableInfo:
    found = dict(zip(_FIELDS.split(", "), row, strict=True))
    name = TableName(found.pop("catalog_name"), found.pop("schema_name"), found.pop("table_name"))
    return TableInfo(name, **{**found, "properties": json.loads(found["properties"])})


def find(cursor: Any, name: TableName) -> TableInfo | None:
    """What is known about a table or view, without its columns; None if there is none of that name."""
    row = cursor.execute(f"SELECT {_FIELDS} FROM __workspace.tables WHERE full_name = ?", [name.full]).fetchone()
    return _info(row) if row else None


def require(cursor: Any, name: TableName) -> TableInfo:
    """Like find.

    Raises:
        SqlFailure: TABLE_OR_VIEW_NOT_FOUND.
    """
    info = find(cursor, name)
    if info is None:
        raise table_not_found(name)
    return info


def require_changeable(name: TableName) -> TableName:
    """The name, where statements may change what has it.

    Raises:
        SqlFailure: It is a table of the service's own.
    """
    if name.catalog == SYSTEM:
        raise bad_request("INSUFFICIENT_PERMISSIONS", f"{name.quoted} is a system table and can only be read.", "42501")
    return name


def tables_in(cursor: Any, schema: SchemaName) -> list[TableInfo]:
    """The tables and views of a schema by name, without their columns."""
    rows = cursor.execute(
        f"SELECT {_FIELDS} FROM __workspace.tables WHERE catalog_name = ? AND schema_name = ? ORDER BY table_name",
        [schema.catalog, schema.schema],
    ).fetchall()
    return [_info(row) for row in rows]


def with_columns(cursor: Any, info: TableInfo) -> TableInfo:
    """The same with its columns filled; a view that no longer works has none."""
    nullable = dict(
        cursor.execute(
            "SELECT column_name, is_nullable FROM duckdb_columns() WHERE schema_name = ? AND table_name = ?",
            [info.name.parent.full, info.name.name],
        ).fetchall()
    )
    try:
        described = cursor.execute(f"SELECT * FROM {info.name.physical} LIMIT 0").description
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("duckdb", "_duckdb"):
            raise
        described = []
    columns = tuple(
        ColumnInfo(each[0], *databricks_type(each[1]), nullable=bool(nullable.get(each[0], True)))
        for each in described
        if each[0] != HIDDEN_COLUMN
    )
    return replace(info, columns=columns)


def require_schema(cursor: Any, name: SchemaName) -> None:
    """Check that a schema is there.

    Raises:
        SqlFailure: SCHEMA_NOT_FOUND.
    """
    if not schema_exists(cursor, name):
        raise schema_not_found(name)


def forget(cursor: Any, name: TableName) -> None:
    """Remove what is known about a table, with its history."""
    cursor.execute("DELETE FROM __workspace.tables WHERE full_name = ?", [name.full])
    cursor.execute("DELETE FROM __workspace.commits WHERE full_name = ?", [name.full])


def add(cursor: Any, info: TableInfo) -> None:
    """Record a new table or view, as it is; the commit is the caller's."""
    name = info.name
    if find(cursor, name) is not None:
        raise bad_request("TABLE_OR_VIEW_ALREADY_EXISTS", f"The table or view {name.quoted} exists already.", "42P07")
    cursor.execute(
        f"INSERT INTO __workspace.tables (full_name, {_FIELDS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            *(name.full, name.catalog, name.schema, name.name, info.kind, info.created_at, info.modified_at),
            *(info.version, info.change_feed_since, info.last_rewrite, info.vacuumed, info.log_position, info.comment),
            *(json.dumps(dict(info.properties)), info.view_text),
        ],
    )


def commit(
    cursor: Any, info: TableInfo, operation: str, rows: int, *, rewrite: bool = False, log_position: int | None = None
) -> int:
    """Record one more version of a table.

    Args:
        cursor: A cursor with an open transaction.
        info: The table as it was before this write.
        operation: Delta's name for the write, as DESCRIBE HISTORY shows it.
        rows: How many rows it added, changed or removed.
        rewrite: Whether rows that were there before are changed or gone.
        log_position: The new position in the inference log, with the rows up to it.

    Returns:
        The new version.
    """
    version = info.version + 1
    at = max(utc_now(), info.modified_at)
    cursor.execute(
        "UPDATE __workspace.tables SET version = ?, modified_at = ?, last_rewrite = ?, log_position = ? "
        "WHERE full_name = ?",
        [
            version,
            at,
            version if rewrite else info.last_rewrite,
            info.log_position if log_position is None else log_position,
            info.name.full,
        ],
    )
    log_commit(cursor, info.name, version, at, operation, rows)
    return version


def log_commit(cursor: Any, name: TableName, version: int, at: datetime, operation: str, rows: int) -> None:
    """Append one line to a table's history."""
    cursor.execute("INSERT INTO __workspace.commits VALUES (?, ?, ?, ?, ?)", [name.full, version, at, operation, rows])


def vacuum(cursor: Any, name: TableName, version: int) -> None:
    """Make versions before this one unreadable."""
    cursor.execute("UPDATE __workspace.tables SET vacuumed = ? WHERE full_name = ?", [version, name.full])


def history(cursor: Any, name: TableName, limit: int | None) -> list[tuple[int, datetime, str, int]]:
    """Version, time, operation and row count of a table's commits, newest first."""
    rows = cursor.execute(
        "SELECT version, committed_at, operation, row_count FROM __workspace.commits WHERE full_name = ? "
        "ORDER BY version DESC" + (f" LIMIT {limit:d}" if limit is not None else ""),
        [name.full],
    ).fetchall()
    return [tuple(row) for row in rows]
