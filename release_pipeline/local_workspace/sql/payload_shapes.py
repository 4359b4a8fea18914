"""The columns that inference tables have had, and how one logged request fills each of them.

``ai_gateway`` is today's default of serving endpoints, ``legacy`` the older auto-capture, ``unity_ai_gateway`` that of
the newer Unity AI Gateway. The newest is put together from public descriptions of it: ``event_time``, ``status_code``,
``sampling_fraction``, ``latency_ms``, ``time_to_first_byte_ms``, ``request``, ``response``, ``logging_error_codes``,
``requester``, ``request_id`` or ``invocation_id`` are named by more than one; that ``destination_id`` holds the served
entity, and the types, are assumptions. It has no column for the client's own request id.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """One column: its name, its DuckDB type, and its value of one logged request.

    A value of a nested type is JSON text.
    """

    name: str
    kind: str
    value: Callable[[Row], Any]

    @property
    def parameter_kind(self) -> str:
        """The type as which values are handed to DuckDB."""
        return "JSON" if "(" in self.kind or self.kind.endswith("[]") else self.kind


def utc(time: datetime | str) -> datetime:
    """A time of any zone in UTC, without a zone."""
    value = datetime.fromisoformat(time) if isinstance(time, str) else time
    return value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo is not None else value


def json_or_null(value: Any) -> str | None:
    """The value as JSON text, None for None."""
    return None if value is None else json.dumps(value)


def timestamp(row: Row) -> str | None:
    """When the request arrived, as DuckDB reads a timestamp."""
    time = row.get("request_time")
    return None if time is None else utc(time).isoformat(sep=" ")


def day(row: Row) -> str | None:
    """The day on which the request arrived, in UTC."""
    time = row.get("request_time")
    return None if time is None else utc(time).date().isoformat()


def epoch_ms(row: Row) -> int | None:
    """When the request arrived, in milliseconds since 1970."""
    time = row.get("request_time")
    return None if time is None else round(utc(time).replace(tzinfo=UTC).timestamp() * 1000)


def request_metadata(row: Row) -> str:
    """Endpoint, model and version that answered, as a JSON object."""
    return json.dumps({name: row.get(name) for name in ("endpoint_name", "model_name", "model_version")})


def field(name: str, kind: str, key: str | None = None) -> Column:
    """A column that takes one value of the request as it is."""
    source = key or name
    return Column(name, kind, lambda row: row.get(source))


def nested(name: str, kind: str) -> Column:
    """A column of a nested type that takes one value of the request."""
    return Column(name, kind, lambda row: json_or_null(row.get(name)))


STRINGS = "VARCHAR[]"
MAP = "MAP(VARCHAR, VARCHAR)"

SHAPES: dict[str, tuple[Column, ...]] = {
    "ai_gateway": (
        field("databricks_request_id", "VARCHAR"),
        Column("request_date", "DATE", day),
        field("client_request_id", "VARCHAR"),
        Column("request_time", "TIMESTAMP", timestamp),
        field("status_code", "INTEGER"),
        field("sampling_fraction", "DOUBLE"),
        field("execution_duration_ms", "BIGINT"),
        field("request", "VARCHAR"),
        field("response", "VARCHAR"),
        nested("logging_error_codes", STRINGS),
        field("served_entity_id", "VARCHAR"),
        field("requester", "VARCHAR"),
    ),
    "legacy": (
        field("client_request_id", "VARCHAR"),
        field("databricks_request_id", "VARCHAR"),
        Column("date", "DATE", day),
        Column("timestamp_ms", "BIGINT", epoch_ms),
        field("status_code", "INTEGER"),
        field("sampling_fraction", "DOUBLE"),
        field("execution_time_ms", "BIGINT", "execution_duration_ms"),
        field("request", "VARCHAR"),
        field("response", "VARCHAR"),
        Column("request_metadata", MAP, request_metadata),
    ),
    "unity_ai_gateway": (
        field("request_id", "VARCHAR", "databricks_request_id"),
        field("invocation_id", "VARCHAR", "databricks_request_id"),
        Column("request_tags", MAP, lambda row: "{}"),
        Column("event_time", "TIMESTAMP", timestamp),
        field("status_code", "INTEGER"),
        field("sampling_fraction", "DOUBLE"),
        field("latency_ms", "BIGINT", "execution_duration_ms"),
        field("time_to_first_byte_ms", "BIGINT", "execution_duration_ms"),
        field("request", "VARCHAR"),
        field("response", "VARCHAR"),
        field("destination_id", "VARCHAR", "served_entity_id"),
        nested("logging_error_codes", STRINGS),
        field("requester", "VARCHAR"),
        Column("schema_version", "VARCHAR", lambda row: "1"),
    ),
}
"""Columns by the name of the shape, in order."""


def shape_of(names: Sequence[str]) -> tuple[Column, ...] | None:
    """The shape that a table with columns of these names begins with, or None."""
    for columns in SHAPES.values():
        if [column.name for column in columns] == list(names[: len(columns)]):
            return columns
    return None
