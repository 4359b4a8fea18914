"""The tables of the catalog ``system`` that Model Serving fills: who asked what, and what was served.

Columns are those that the service documents. Of the configurations by kind of entity only that of custom models is
ever filled, because there is no other kind here.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from release_pipeline.local_workspace.sql import catalog
from release_pipeline.local_workspace.sql.catalog import CHANGE_FEED_PROPERTY, TableInfo
from release_pipeline.local_workspace.sql.names import SYSTEM, SchemaName, TableName
from release_pipeline.local_workspace.sql.payload_shapes import MAP, Column, field, timestamp

SCHEMA = SchemaName(SYSTEM, "serving")
USAGE = TableName(SYSTEM, "serving", "endpoint_usage")
SERVED = TableName(SYSTEM, "serving", "served_entities")


def _map(name: str) -> Column:
    return Column(name, MAP, lambda row: json.dumps(row.get(name) or {}))


def _json(name: str, kind: str) -> Column:
    return Column(name, kind, lambda row: None if row.get(name) is None else json.dumps(row[name]))


_COLUMNS: dict[TableName, tuple[Column, ...]] = {
    USAGE: (
        field("account_id", "VARCHAR"),
        field("workspace_id", "VARCHAR"),
        field("client_request_id", "VARCHAR"),
        field("databricks_request_id", "VARCHAR"),
        field("requester", "VARCHAR"),
        field("status_code", "INTEGER"),
        Column("request_time", "TIMESTAMP", timestamp),
        field("input_token_count", "BIGINT"),
        field("output_token_count", "BIGINT"),
        field("input_character_count", "BIGINT"),
        field("output_character_count", "BIGINT"),
        _map("usage_context"),
        field("request_streaming", "BOOLEAN"),
        field("served_entity_id", "VARCHAR"),
    ),
    SERVED: (
        field("served_entity_id", "VARCHAR"),
        field("account_id", "VARCHAR"),
        field("workspace_id", "VARCHAR"),
        field("created_by", "VARCHAR"),
        field("endpoint_name", "VARCHAR"),
        field("endpoint_id", "VARCHAR"),
        field("served_entity_name", "VARCHAR"),
        field("entity_type", "VARCHAR"),
        field("entity_name", "VARCHAR"),
        field("entity_version", "VARCHAR"),
        field("endpoint_config_version", "INTEGER"),
        field("task", "VARCHAR"),
        field("external_model_config", "VARCHAR"),
        field("foundation_model_config", "VARCHAR"),
        _json("custom_model_config", "STRUCT(min_concurrency INTEGER, max_concurrency INTEGER, compute_type VARCHAR)"),
        field("feature_spec_config", "VARCHAR"),
        Column("change_time", "TIMESTAMP", lambda row: row["change_time"].isoformat(sep=" ")),
        field("endpoint_delete_time", "TIMESTAMP"),
    ),
}

Write = Callable[[Callable[[Any], Any]], Any]


class SystemTables:
    """Makes and writes the tables, which nobody else may.

    Args:
        write: Does some work with a DuckDB cursor in a transaction of its own. Blocks.
    """

    def __init__(self, write: Write) -> None:
        self._write = write

    def make(self) -> None:
        """Make those that are not there."""
        self._write(lambda cursor: [_table(cursor, name) for name in _COLUMNS])

    def add_usage(self, rows: Sequence[Mapping[str, Any]], log_position: int) -> int:
        """Append requests, and the log position that they reach up to, as one commit; its version."""

        def add(cursor: Any) -> int:
            return _append(cursor, _table(cursor, USAGE), rows, log_position)

        version: int = self._write(add)
        return version

    def add_served(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append those entities of configurations that are not there."""

        def add(cursor: Any) -> None:
            info = _table(cursor, SERVED)
            known = set(
                cursor.execute(
                    f"SELECT served_entity_id, endpoint_config_version FROM {info.name.physical} "
                    "WHERE list_contains(?, served_entity_id)",
                    [[row["served_entity_id"] for row in rows]],
                ).fetchall()
            )
            new = [row for row in rows if (row["served_entity_id"], row["endpoint_config_version"]) not in known]
            if new:
                _append(cursor, info, new, None)

        self._write(add)

    def note_deletion(self, endpoint_id: str) -> None:
        """Say in the rows of an endpoint's entities that it is gone."""

        def note(cursor: Any) -> None:
            info = _table(cursor, SERVED)
            cursor.execute(
                f"UPDATE {info.name.physical} SET endpoint_delete_time = ? "
                "WHERE endpoint_id = ? AND endpoint_delete_time IS NULL",
                [catalog.utc_now(), endpoint_id],
            )
            catalog.commit(cursor, info, "UPDATE", 0, rewrite=True)

        self._write(note)


def _table(cursor: Any, name: TableName) -> TableInfo:
    if not catalog.schema_exists(cursor, SCHEMA):
        catalog.create_schema(cursor, SCHEMA, None)
    if catalog.find(cursor, name) is None:
        definitions = ", ".join(f"{column.name} {column.kind}" for column in _COLUMNS[name])
        cursor.execute(f"CREATE TABLE {name.physical} ({definitions})")
        now = catalog.utc_now()
        catalog.add(cursor, TableInfo(name, "MANAGED", now, now, properties={CHANGE_FEED_PROPERTY: "false"}))
        catalog.log_commit(cursor, name, 0, now, "CREATE TABLE", 0)
    return catalog.require(cursor, name)


def _append(cursor: Any, info: TableInfo, rows: Sequence[Mapping[str, Any]], log_position: int | None) -> int:
    columns = _COLUMNS[info.name]
    values = [[column.value(row) for row in rows] for column in columns]
    lists = ", ".join(f"CAST(unnest(?::{column.parameter_kind}[]) AS {column.kind})" for column in columns)
    names = ", ".join(column.name for column in columns)
    cursor.execute(f"INSERT INTO {info.name.physical} ({names}) SELECT {lists}", values)
    return catalog.commit(cursor, info, "WRITE", len(rows), log_position=log_position)
