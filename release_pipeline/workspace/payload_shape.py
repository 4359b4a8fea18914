"""The shapes of payload tables: recognised by their columns, and read as one set of columns.

Three shapes are in the field, and none is told by a table's name:

- *AI Gateway* on serving endpoints, today's default;
- *legacy auto-capture*, deprecated: the row itself names the model and version that answered, so no tracer is needed;
- *Unity AI Gateway*, the newest: readable where it has a column of the served entity. Without one no row can be told
  from another version's, and the table is refused by that name.

Every statement of the gate, and every expression in the YAML, may use the :data:`CANONICAL` columns in each shape,
beside the table's own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from release_pipeline.errors import TableUnreadable
from release_pipeline.workspace.sql.warehouse import Value

#: Column name and type, in every shape. ``request_time`` is the event time, ``duration_ms`` is in milliseconds.
CANONICAL: Final[Mapping[str, str]] = {
    "request_id": "STRING",
    "client_request_id": "STRING",
    "request_time": "TIMESTAMP",
    "status_code": "INT",
    "duration_ms": "BIGINT",
    "request": "STRING",
    "response": "STRING",
    "served_entity": "STRING",
    "sampling_fraction": "DOUBLE",
    "logging_error_codes": "ARRAY<STRING>",
}

# The older agents' feedback model logs to the same table; its rows are no answers of the model.
_MODEL = "payload.request_metadata['model_name']"
_LEGACY_ENTITY = (
    f"CASE WHEN {_MODEL} <> 'feedback' AND {_MODEL} NOT LIKE '%.feedback' "
    f"THEN concat({_MODEL}, '/', payload.request_metadata['model_version']) END"
)


@dataclass(frozen=True)
class PayloadShape:
    """How one shape is read.

    Attributes:
        name: What people call it.
        needs: Its own columns that it is recognised by and cannot do without.
        expressions: SQL of a canonical column, over the table as ``payload``; a canonical column without one is the
            table's own column of that name, or NULL where it has none.
        time_column: Its column of the event time, which files and row groups are pruned by.
        milliseconds: Whether that column holds unix milliseconds, not a TIMESTAMP.
        date_column: Its column of the event time's UTC date.
        names_version: Whether ``served_entity`` is ``model name/version``.
        columns: All columns of the table that was recognised, in lower case.
    """

    name: str
    needs: tuple[str, ...]
    expressions: Mapping[str, str]
    time_column: str
    milliseconds: bool = False
    date_column: str = ""
    names_version: bool = False
    columns: tuple[str, ...] = field(default=())

    def expression(self, canonical: str) -> str:
        """The SQL of a canonical column over the table as ``payload``, of the type that :data:`CANONICAL` says."""
        if canonical in self.expressions:
            return self.expressions[canonical]
        return f"payload.{canonical}" if canonical in self.columns else f"CAST(NULL AS {CANONICAL[canonical]})"

    def select_list(self) -> str:
        """The canonical columns, and the table's own under their own names."""
        own = [f"payload.`{column.replace('`', '``')}`" for column in self.columns if column not in CANONICAL]
        return ", ".join([*(f"{self.expression(name)} AS {name}" for name in CANONICAL), *own])

    def between(self, since: datetime, until: datetime, name: str) -> tuple[str, dict[str, Value]]:
        """The condition that the event time is in ``[since, until)``, on columns that files are pruned by.

        Args:
            since: First event time.
            until: Last event time, exclusive.
            name: Beginning of the names of the bound values.

        Returns:
            The condition over the table as ``payload``, and the values that it binds.
        """
        column = f"payload.{self.time_column}"
        values: dict[str, Value] = {f"{name}_since": since, f"{name}_until": until}
        if self.milliseconds:
            values = {
                key: _milliseconds(moment) for key, moment in ((f"{name}_since", since), (f"{name}_until", until))
            }
        condition = f"{column} >= :{name}_since AND {column} < :{name}_until"
        if self.date_column and self.date_column in self.columns:
            # A day more on both sides: the pruning must not depend on how the date was cut.
            days = (since.astimezone(UTC) - _DAY).date(), (until.astimezone(UTC) + _DAY).date()
            values |= {f"{name}_day": days[0].isoformat(), f"{name}_last_day": days[1].isoformat()}
            date = f"payload.`{self.date_column}`"
            condition += (
                f" AND ({date} IS NULL OR {date} BETWEEN CAST(:{name}_day AS DATE) AND CAST(:{name}_last_day AS DATE))"
            )
        return condition, values

    def between_any(self, times: Sequence[tuple[datetime, datetime]], name: str) -> tuple[str, dict[str, Value]]:
        """The same of rows of any of several times."""
        conditions, values = list[str](), dict[str, Value]()
        for number, (since, until) in enumerate(times):
            condition, bound = self.between(since, until, f"{name}_{number}")
            conditions.append(f"({condition})")
            values |= bound
        return f"({' OR '.join(conditions)})", values

    def version_of(self, served_entity: str) -> str | None:
        """The version that an entity of this shape names itself; None where only a tracer can tell."""
        return served_entity.rpartition("/")[2] if self.names_version else None


_DAY = timedelta(days=1)

SHAPES: Final = (
    PayloadShape(
        name="AI Gateway",
        needs=(
            *("databricks_request_id", "client_request_id", "request_time", "status_code", "execution_duration_ms"),
            *("request", "response", "served_entity_id"),
        ),
        expressions={
            "request_id": "payload.databricks_request_id",
            "duration_ms": "payload.execution_duration_ms",
            "served_entity": "nullif(payload.served_entity_id, '')",
        },
        time_column="request_time",
        date_column="request_date",
    ),
    PayloadShape(
        name="legacy auto-capture",
        needs=(
            *("databricks_request_id", "client_request_id", "timestamp_ms", "status_code", "execution_time_ms"),
            *("request", "response", "request_metadata"),
        ),
        expressions={
            "request_id": "payload.databricks_request_id",
            "request_time": "timestamp_millis(payload.timestamp_ms)",
            "duration_ms": "payload.execution_time_ms",
            "served_entity": _LEGACY_ENTITY,
        },
        time_column="timestamp_ms",
        milliseconds=True,
        date_column="date",
        names_version=True,
    ),
    PayloadShape(
        name="Unity AI Gateway",
        needs=("event_time", "invocation_id", "status_code", "latency_ms", "served_entity_id"),
        expressions={
            "request_id": "payload.invocation_id",
            "request_time": "payload.event_time",
            "duration_ms": "payload.latency_ms",
            "served_entity": "nullif(payload.served_entity_id, '')",
        },
        time_column="event_time",
    ),
    # As published descriptions have it: no served entity by that name, and the client's own id in the request alone.
    PayloadShape(
        name="Unity AI Gateway with destinations",
        needs=("event_time", "request_id", "status_code", "latency_ms", "request", "response", "destination_id"),
        expressions={
            "client_request_id": "get_json_object(payload.request, '$.client_request_id')",
            "request_time": "payload.event_time",
            "duration_ms": "payload.latency_ms",
            "served_entity": "nullif(payload.destination_id, '')",
        },
        time_column="event_time",
    ),
)


def recognise(table: str, columns: Iterable[str]) -> PayloadShape:
    """The shape of a table with these columns.

    Raises:
        TableUnreadable: It is in none of the shapes, or in one without a column that the gate needs.
    """
    found = tuple(column.lower() for column in columns)
    missing = {shape.name: [need for need in shape.needs if need not in found] for shape in SHAPES}
    nearest = min(SHAPES, key=lambda shape: len(missing[shape.name]))
    lacks = missing[nearest.name]
    if not lacks:
        return replace(nearest, columns=found)
    if lacks == ["served_entity_id"]:
        raise TableUnreadable(
            f"{table} is in the shape of {nearest.name} without served_entity_id, so nothing tells which version "
            "answered a request; turn on the endpoint's own inference table (endpoint.inference_table)."
        )
    raise TableUnreadable(
        f"{table} is in no shape of a payload table: the nearest is {nearest.name}, and it lacks {', '.join(lacks)}; "
        "name the endpoint's inference table."
    )


def _milliseconds(moment: datetime) -> int:
    """Unix milliseconds, rounded up: a whole millisecond is at or after ``moment`` just when it is at or after this."""
    microseconds = round((moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))
    return -(-microseconds // 1000)
