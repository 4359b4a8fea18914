"""Payload tables of every shape in the local workspace, filled with rows that a test writes down."""

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from release_pipeline.errors import StatementFailed
from release_pipeline.workspace.sql.warehouse import Row, Value, Warehouse

METADATA = re.compile(r"\s*(DESCRIBE|SHOW)\b")
START = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)

COLUMNS = {
    "gateway": "databricks_request_id STRING, request_date DATE, client_request_id STRING, request_time TIMESTAMP, "
    "status_code INT, sampling_fraction DOUBLE, execution_duration_ms BIGINT, request STRING, response STRING, "
    "logging_error_codes ARRAY<STRING>, served_entity_id STRING, requester STRING",
    "legacy": "client_request_id STRING, databricks_request_id STRING, date DATE, timestamp_ms BIGINT, "
    "status_code INT, sampling_fraction DOUBLE, execution_time_ms BIGINT, request STRING, response STRING, "
    "request_metadata MAP<STRING, STRING>",
    "unity": "event_time TIMESTAMP, invocation_id STRING, client_request_id STRING, status_code INT, "
    "latency_ms BIGINT, request STRING, response STRING, logging_error_codes ARRAY<STRING>, served_entity_id STRING",
}
SHAPES = tuple(COLUMNS)
COLUMN = re.compile(r", (?=\w+ [A-Z])")
"""What stands between two columns; a comma within a type does not."""


@dataclass(frozen=True)
class Logged:
    """A row as a test writes it, in whichever shape it is stored; ``at`` is seconds after ``START``."""

    id: str | None
    at: float | None = 0.0
    status: int | None = 200
    ms: int | None = 10
    entity: str | None = "m/1"
    request: str | None = "{}"
    response: str | None = "{}"
    client: str | None = None
    sampling: float | None = 1.0
    codes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sent:
    """One statement, what it bound, and what the local workspace answered: rows, or None where it failed."""

    statement: str
    parameters: Mapping[str, Value]
    rows: list[Row] | None


class RecordingWarehouse(Warehouse):
    """The real warehouse of the local workspace, and a list of what was sent to it."""

    def __init__(self, inner: Warehouse) -> None:
        super().__init__(inner._client, inner.warehouse_id)
        self.sent: list[Sent] = []

    def execute(self, statement: str, parameters: Mapping[str, Value] | None = None) -> list[Row]:
        try:
            rows = super().execute(statement, parameters)
        except StatementFailed:
            self.sent.append(Sent(statement, dict(parameters or {}), None))
            raise
        if not METADATA.match(statement):
            self.sent.append(Sent(statement, dict(parameters or {}), rows))
        return rows


def warehouse() -> Warehouse:
    """The session's warehouse, as the pipeline connects to it."""
    from release_pipeline.workspace.client import connect

    return connect().warehouse


def create(executor: Warehouse, shape: str, *, feed: bool = True, without: Sequence[str] = ()) -> str:
    """An empty table; its name."""
    name = f"main.default.p{uuid.uuid4().hex[:10]}_payload"
    properties = " TBLPROPERTIES (delta.enableChangeDataFeed = true)" if feed else ""
    columns = [column for column in COLUMN.split(COLUMNS[shape]) if column.split()[0] not in without]
    executor.execute(f"CREATE TABLE {name} ({', '.join(columns)}){properties}")
    return name


def insert(executor: Warehouse, table: str, shape: str, rows: Sequence[Logged]) -> None:
    """Append rows as one commit."""
    values = ", ".join("(" + ", ".join(_literals(shape, row)) + ")" for row in rows)
    executor.execute(f"INSERT INTO {table} VALUES {values}")


def moment(seconds: float) -> datetime:
    """Seconds after ``START``."""
    return START + timedelta(seconds=seconds)


def _literals(shape: str, row: Logged) -> list[str]:
    time = None if row.at is None else moment(row.at)
    stamp = "NULL" if time is None else f"TIMESTAMP '{time.strftime('%Y-%m-%d %H:%M:%S.%f')}Z'"
    date = "NULL" if time is None else f"DATE '{time.date()}'"
    codes = f"array({', '.join(map(_text, row.codes))})" if row.codes else "NULL"
    if shape == "gateway":
        return [
            *(_text(row.id), date, _text(row.client), stamp, _number(row.status), _number(row.sampling)),
            *(_number(row.ms), _text(row.request), _text(row.response), codes, _text(row.entity), "'someone'"),
        ]
    if shape == "legacy":
        model, _, version = (row.entity or "").rpartition("/")
        metadata = "NULL"
        if row.entity:
            metadata = f"map('endpoint_name', 'e', 'model_name', {_text(model)}, 'model_version', {_text(version)})"
        milliseconds = "NULL" if time is None else str(round(time.timestamp() * 1000))
        return [
            *(_text(row.client), _text(row.id), date, milliseconds, _number(row.status), _number(row.sampling)),
            *(_number(row.ms), _text(row.request), _text(row.response), metadata),
        ]
    return [
        *(stamp, _text(row.id), _text(row.client), _number(row.status), _number(row.ms), _text(row.request)),
        *(_text(row.response), codes, _text(row.entity)),
    ]


def _text(value: str | None) -> str:
    if value is None:
        return "NULL"
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"


def _number(value: float | None) -> str:
    return "NULL" if value is None else repr(value)


def stream(*events: Any) -> str:
    """The text of a stream of server-sent events."""
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events)
