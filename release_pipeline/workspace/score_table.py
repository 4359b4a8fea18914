"""The score table: what people, judges and later truth say of single requests, with the request that they judge.

One row per metric and request, append-only: ``<catalog>.<schema>.<model>_release_scores``. A row holds a badness and
what joins it to its version; never a request, a response, a comment or a name. A row that is there already is not
written again, so whatever writes may be killed and repeated. What counts of a request is the first value of a metric:
evidence that was bet on must not change afterwards.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from release_pipeline.errors import SpecError, StatementFailed, TableMissing
from release_pipeline.spec import ReleaseSpec
from release_pipeline.spec_gate import Metric
from release_pipeline.spec_sql import expression_problem
from release_pipeline.workspace.counting import without_rows
from release_pipeline.workspace.counts import Cursor
from release_pipeline.workspace.inference_table import InferenceTable
from release_pipeline.workspace.metric_sql import ANSWERED
from release_pipeline.workspace.payload_sql import Statement
from release_pipeline.workspace.sql.warehouse import Row, Value, Warehouse, parse_timestamp, quoted

_COLUMNS: Final = {
    "metric": "STRING",
    "request_id": "STRING",
    "request_time": "TIMESTAMP",
    "served_entity_id": "STRING",
    "segment": "STRING",
    "badness": "DOUBLE",
    "at": "TIMESTAMP",
    "source": "STRING",
}
#: Fields of a metric that its values depend on.
_DEFINING: Final = (
    *("kind", "assessment", "source", "scorer", "worst", "best", "table", "request_id_column", "badness", "segments"),
)
#: The clocks of the parts of a workspace differ by less than this.
CLOCKS: Final = timedelta(minutes=10)
# Values per statement; one parameter carries them all.
_CHUNK: Final = 1000


@dataclass(frozen=True)
class Judged:
    """One value of a metric.

    Attributes:
        request_id: The request's databricks_request_id, or its client_request_id.
        badness: 0 to 1; None for a value that cannot be read.
        at: When it was said.
    """

    request_id: str
    badness: float | None
    at: datetime


def score_table_name(spec: ReleaseSpec) -> str:
    """Full name of the score table of a model."""
    return f"{spec.model.registered_name}_release_scores"


def source_of(metric: Metric) -> str:
    """What the column ``source`` says: the kind, and a digest of what the metric's values depend on.

    After an edit of the metric its earlier values no longer count, and requests get new ones.
    """
    parts = {field: getattr(metric, field) for field in _DEFINING}
    return f"{metric.kind}/{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]}"


class ScoreTable:
    """The scores of one model's requests.

    Args:
        warehouse: Runs the statements.
        name: The table, ``catalog.schema.table``.
        payload: The inference table that holds the requests.
    """

    def __init__(self, warehouse: Warehouse, name: str, payload: InferenceTable) -> None:
        self.warehouse = warehouse
        self.name = name
        self.payload = payload

    def create(self) -> None:
        """Create the table where it does not exist."""
        columns = ", ".join(f"{name} {kind}" for name, kind in _COLUMNS.items())
        self.warehouse.execute(
            f"CREATE TABLE IF NOT EXISTS {quoted(self.name)} ({columns}) "
            "COMMENT 'What people, judges and later truth say of single requests; append-only.' "
            "TBLPROPERTIES ('delta.enableChangeDataFeed' = 'true')"
        )

    def latest(self) -> Cursor | None:
        """The newest commit, or None where the table does not exist."""
        try:
            rows = self.warehouse.execute(f"DESCRIBE HISTORY {quoted(self.name)} LIMIT 1")
        except TableMissing:
            return None
        return Cursor(int(rows[0]["version"] or 0), parse_timestamp(rows[0]["timestamp"] or "")) if rows else None

    def history(self) -> list[Cursor]:
        """All commits that are known, newest first.

        Raises:
            TableMissing: There is no score table.
        """
        rows = self.warehouse.execute(f"DESCRIBE HISTORY {quoted(self.name)}")
        return [Cursor(int(row["version"] or 0), parse_timestamp(row["timestamp"] or "")) for row in rows]

    def logged(self, metric: Metric, since: datetime, until: datetime) -> Statement:
        """The query of requests that a version answered: all columns of the payload, and three more.

        ``rp_key`` is the request's id, or its client's in a row more; ``rp_segment`` is its label.

        Raises:
            SpecError: The metric's ``segments`` is not one expression.
            TableMissing: There is no inference table.
            TableUnreadable: The inference table is in no shape that the gate can read.
        """
        shape = self.payload.shape()
        where, values = shape.between(since, until, "logged")
        rows = f"SELECT {shape.select_list()} FROM {quoted(self.payload.name)} AS payload WHERE {where}"
        return (
            "SELECT *, explode(array_distinct(array(request_id, coalesce(client_request_id, request_id)))) AS rp_key, "
            f"{segment_sql(metric)} AS rp_segment FROM ({rows}) AS canonical WHERE {ANSWERED}",
            values,
        )

    def add(self, metric: Metric, values: Sequence[Judged], since: datetime, until: datetime) -> int:
        """Write values of requests that are in the inference table and have none yet; the number of new rows.

        Args:
            metric: The metric.
            values: In the order in which they were said; the first one of a request counts.
            since: No request came earlier.
            until: No request came as late as this.

        Raises:
            StatementFailed: The warehouse failed, or the SQL of the metric's segments did.
        """
        logged, bound = self.logged(metric, since, until)
        given = (
            "SELECT get_json_object(rp_line, '$.id') AS rp_given, "
            "CAST(get_json_object(rp_line, '$.n') AS BIGINT) AS rp_order, "
            "CAST(get_json_object(rp_line, '$.badness') AS DOUBLE) AS rp_badness, "
            "timestamp_millis(CAST(get_json_object(rp_line, '$.at') AS BIGINT)) AS rp_at "
            "FROM (SELECT explode(split(:lines, '\\n')) AS rp_line) AS lines"
        )
        found = (
            f"SELECT request_id, request_time, served_entity, rp_segment, rp_badness, rp_at, rp_order "
            f"FROM ({logged}) AS logged JOIN ({given}) AS given ON logged.rp_key = given.rp_given"
        )
        return sum(
            self.add_query(metric, (found, {**bound, "lines": _lines(values[start : start + _CHUNK])}))
            for start in range(0, len(values), _CHUNK)
        )

    def add_query(self, metric: Metric, found: Statement) -> int:
        """Write what a query finds of requests that have no value yet; the number of new rows.

        Args:
            metric: The metric.
            found: The query, with the columns ``request_id``, ``request_time``, ``served_entity``, ``rp_segment``,
                ``rp_badness``, ``rp_at`` and ``rp_order``, by which the first value of a request is known.

        Raises:
            StatementFailed: The warehouse failed, or the query did; only the condition is told, never a row.
        """
        query, values = found
        table = quoted(self.name)
        rows = self.execute(
            f"Writing values of metric {metric.name}",
            f"""
            INSERT INTO {table} ({", ".join(_COLUMNS)})
            SELECT :metric, request_id, request_time, served_entity, rp_segment, rp_badness, rp_at, :source
            FROM (
                SELECT *, row_number() OVER (PARTITION BY request_id ORDER BY rp_order, rp_badness DESC) AS rp_copy
                FROM ({query}) AS found
            ) AS fresh
            WHERE rp_copy = 1 AND NOT EXISTS (
                SELECT 1 FROM {table} AS old
                WHERE old.metric = :metric AND old.source = :source AND old.request_id = fresh.request_id
            )
            """,
            {**values, "metric": metric.name, "source": source_of(metric)},
        )
        return int(rows[0]["num_inserted_rows"] or 0) if rows else 0

    def execute(self, what: str, statement: str, values: Mapping[str, Value]) -> list[Row]:
        """Run a statement that reads requests; ``what`` it does is said in an error.

        Raises:
            TableMissing: A table does not exist.
            StatementFailed: It failed; only the condition is told, because the rest may quote a request.
        """
        try:
            return self.warehouse.execute(statement, values)
        except TableMissing:
            raise
        except StatementFailed as error:
            raise without_rows(error, what) from None

    def newest(self, metric: Metric) -> datetime | None:
        """Event time of the newest request that has a value, None where none has.

        Raises:
            TableMissing: There is no score table.
        """
        found = self.warehouse.execute(
            f"SELECT max(request_time) AS newest FROM {quoted(self.name)} "
            "WHERE metric = :metric AND source = :source AND request_id IS NOT NULL",
            {"metric": metric.name, "source": source_of(metric)},
        )[0]["newest"]
        return parse_timestamp(found) if found else None

    def swept(self, metric: Metric, since: datetime) -> datetime | None:
        """When all requests from ``since`` on were last looked through, None where they never were."""
        found = self.warehouse.execute(
            f"SELECT max(at) AS at FROM {quoted(self.name)} "
            "WHERE metric = :metric AND source = :source AND request_id IS NULL AND request_time <= :since",
            {"metric": metric.name, "source": source_of(metric), "since": since},
        )[0]["at"]
        return parse_timestamp(found) if found else None

    def mark_swept(self, metric: Metric, since: datetime, at: datetime) -> None:
        """Note that at ``at`` all requests from ``since`` on were looked through: a row without a request."""
        self.warehouse.execute(
            f"INSERT INTO {quoted(self.name)} (metric, request_time, at, source) "
            "VALUES (:metric, :since, :at, :source)",
            {"metric": metric.name, "since": since, "at": at, "source": source_of(metric)},
        )


def segment_sql(metric: Metric) -> str:
    """The SQL of a request's label over the payload's columns, NULL where the metric has no segments.

    Raises:
        SpecError: It is not one expression.
    """
    if metric.segments is None:
        return "CAST(NULL AS STRING)"
    if problem := expression_problem(metric.segments):
        raise SpecError(f"segments of metric {metric.name} {problem}.")
    return f"CAST(({metric.segments}) AS STRING)"


def _lines(values: Iterable[Judged]) -> str:
    """One JSON object per line: JSON escapes line breaks within texts."""
    return "\n".join(
        json.dumps({"id": value.request_id, "n": number, "badness": value.badness, "at": _milliseconds(value.at)})
        for number, value in enumerate(values)
    )


def _milliseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
