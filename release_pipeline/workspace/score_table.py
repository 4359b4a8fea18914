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
from typing import Final, NamedTuple

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
#: Requests that share their client's id are looked for within this of each other: retries, and turns of one talk.
NEAR: Final = timedelta(hours=1)
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


class Pass(NamedTuple):
    """One way through all requests that are no longer fresh, from the oldest on.

    Attributes:
        at: When it began; requests that were fresh then are left to the next pass.
        since: The event time that it began with.
        reached: The event time up to which it has come, exclusive.
    """

    at: datetime
    since: datetime
    reached: datetime


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

    def logged(self, metric: Metric, since: datetime, until: datetime, *, own: bool = False) -> Statement:
        """The query of requests that a version answered: all columns of the payload, and four more.

        ``rp_key`` is the request's id, or its client's in a row more; ``rp_segment`` is its label; ``rp_inside`` is
        whether it came in ``[since, until)``. Around that time are others, with which it may share its client's id.

        Args:
            metric: The metric.
            since: First event time.
            until: Last event time, exclusive.
            own: Requests go by their own ids alone; then nothing is read around the time.

        Raises:
            SpecError: The metric's ``segments`` is not one expression.
            TableMissing: There is no inference table.
            TableUnreadable: The inference table is in no shape that the gate can read.
        """
        shape, around = self.payload.shape(), timedelta(0) if own else NEAR
        where, values = shape.between(since - around, until + around, "logged")
        rows = f"SELECT {shape.select_list()} FROM {quoted(self.payload.name)} AS payload WHERE {where}"
        keys = "array(request_id" + (")" if own else ", coalesce(client_request_id, request_id))")
        return (
            f"SELECT *, explode(array_distinct({keys})) AS rp_key, {segment_sql(metric)} AS rp_segment, "
            "request_time >= :inside_since AND request_time < :inside_until AS rp_inside "
            f"FROM ({rows}) AS canonical WHERE {ANSWERED}",
            {**values, "inside_since": since, "inside_until": until},
        )

    def add(
        self, metric: Metric, values: Sequence[Judged], since: datetime, until: datetime, *, own: bool = False
    ) -> int:
        """Write values of requests that are in the inference table and have none yet; the number of new rows.

        Args:
            metric: The metric.
            values: In the order in which they were said; the first one of a request counts.
            since: No request came earlier.
            until: No request came as late as this.
            own: The values are for requests by their own ids, never by their clients'.

        Raises:
            StatementFailed: The warehouse failed, or the SQL of the metric's segments did.
        """
        logged, bound = self.logged(metric, since, until, own=own)
        given = (
            "SELECT get_json_object(rp_line, '$.id') AS rp_given, "
            "CAST(get_json_object(rp_line, '$.n') AS BIGINT) AS rp_order, "
            "CAST(get_json_object(rp_line, '$.badness') AS DOUBLE) AS rp_badness, "
            "timestamp_millis(CAST(get_json_object(rp_line, '$.at') AS BIGINT)) AS rp_at "
            "FROM (SELECT explode(split(:lines, '\\n')) AS rp_line) AS lines"
        )
        found = (
            "SELECT request_id, request_time, served_entity, rp_segment, rp_badness, rp_at, rp_order, rp_key, "
            f"rp_inside FROM ({logged}) AS logged JOIN ({given}) AS given ON logged.rp_key = given.rp_given"
        )
        return sum(
            self.add_query(metric, (found, {**bound, "lines": _lines(values[start : start + _CHUNK])}))
            for start in range(0, len(values), _CHUNK)
        )

    def add_query(self, metric: Metric, found: Statement) -> int:
        """Write what a query finds of requests that have no value yet; the number of new rows.

        A client's id may stand for several requests that came within :data:`NEAR` of each other. Which of them a value
        is about nobody knows, so it makes all of them unjudged. An id that is a request's own means that request alone.

        Args:
            metric: The metric.
            found: The query, with the columns ``request_id``, ``request_time``, ``served_entity``, ``rp_segment``,
                ``rp_badness``, ``rp_at``, ``rp_order``, by which the first value of a request is known, and of
                :meth:`logged` ``rp_key``, the id that the value was given for, and ``rp_inside``.

        Raises:
            StatementFailed: The warehouse failed, or the query did; only the condition is told, never a row.
        """
        query, values = found
        table = quoted(self.name)
        rows = self.execute(
            f"Writing values of metric {metric.name}",
            f"""
            INSERT INTO {table} ({", ".join(_COLUMNS)})
            SELECT :metric, request_id, request_time, served_entity, rp_segment,
                CASE WHEN NOT rp_shared THEN rp_badness END, rp_at, :source
            FROM (
                SELECT *, row_number() OVER (
                    PARTITION BY request_id ORDER BY rp_shared, rp_order, rp_badness DESC
                ) AS rp_copy
                FROM (
                    SELECT *, rp_owner IS NULL AND rp_first <> rp_last AS rp_shared FROM (
                        SELECT *, min(request_id) OVER (PARTITION BY rp_key) AS rp_first,
                            max(request_id) OVER (PARTITION BY rp_key) AS rp_last,
                            max(CASE WHEN request_id = rp_key THEN rp_key END) OVER (PARTITION BY rp_key) AS rp_owner
                        FROM ({query}) AS found
                    ) AS keyed
                    WHERE rp_inside AND (rp_owner IS NULL OR rp_owner = request_id)
                ) AS owned
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

    def newest_pass(self, metric: Metric, until: datetime) -> Pass | None:
        """How far the newest pass through the requests is that began before ``until``; None where there was none."""
        found = self.warehouse.execute(
            f"SELECT at, min(request_time) AS since, max(request_time) AS reached FROM {quoted(self.name)} "
            "WHERE metric = :metric AND source = :source AND request_id IS NULL AND at < :until "
            "GROUP BY at ORDER BY at DESC LIMIT 1",
            {"metric": metric.name, "source": source_of(metric), "until": until},
        )
        return Pass(*(parse_timestamp(found[0][name] or "") for name in Pass._fields)) if found else None

    def note_pass(self, metric: Metric, done: Pass) -> None:
        """Note how far a pass is: two rows without a request."""
        self.warehouse.execute(
            f"INSERT INTO {quoted(self.name)} (metric, request_time, at, source) "
            "VALUES (:metric, :since, :at, :source), (:metric, :reached, :at, :source)",
            {
                "metric": metric.name,
                "since": done.since,
                "reached": done.reached,
                "at": done.at,
                "source": source_of(metric),
            },
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
