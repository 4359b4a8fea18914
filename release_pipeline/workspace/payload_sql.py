"""The statements that read a payload table: what is new, how it counts, and how it was before a release."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from release_pipeline.errors import StatementFailed
from release_pipeline.workspace.counts import MetricPlan, Window
from release_pipeline.workspace.metric_sql import (
    TRACER,
    answered,
    badness,
    bucket,
    label,
    segment,
    step,
    value_bin,
)
from release_pipeline.workspace.payload_shape import PayloadShape
from release_pipeline.workspace.sql.warehouse import Value

Statement = tuple[str, dict[str, Value]]

# Hours of event time since 1970.
_HOUR: Final = "CAST(floor(unix_micros(request_time) / 3600000000) AS BIGINT)"
#: No answer takes longer, milliseconds: the platform gives a request 297 s. One that says so is taken for one of this
#: length.
LONGEST_MS: Final = 300_000
# Unix microseconds at which an answer was done; where the shape has no duration, those of its request.
_DONE: Final = f"(unix_micros(request_time) + 1000 * least(greatest(coalesce(duration_ms, 0), 0), {LONGEST_MS}))"


@dataclass(frozen=True)
class Rows:
    """Rows of a payload table.

    Attributes:
        shape: The table's shape.
        relation: What FROM reads.
        where: Condition over it as ``payload``.
        values: What the condition binds.
        order: SQL by which the first copy of a request id is known.
        lag: SQL of a row's microseconds from request to commit.
        committed: SQL of the commit's time in unix microseconds.
        tracer: SQL over canonical columns of whether a row is a tracer's.
    """

    shape: PayloadShape
    relation: str
    where: str
    values: Mapping[str, Value] = field(default_factory=dict)
    order: str = "0"
    lag: str = "CAST(NULL AS BIGINT)"
    committed: str = "CAST(NULL AS BIGINT)"
    tracer: str = TRACER

    @property
    def query(self) -> str:
        """All their columns, canonical ones and the table's own."""
        return (
            f"SELECT {self.shape.select_list()}, {self.order} AS rp_order, {self.lag} AS rp_lag, "
            f"{self.committed} AS rp_committed FROM {self.relation} AS payload WHERE {self.where}"
        )

    @property
    def answered(self) -> str:
        """SQL over canonical columns of whether a version answered a row, tracers excepted."""
        return answered(self.tracer)


def change_feed(table: str, first: int, last: int) -> str:
    """What FROM reads for the changes of these versions, both included.

    Raises:
        StatementFailed: The table's name cannot be quoted.
    """
    if "'" in table or "\\" in table:  # names were validated as identifiers before
        raise StatementFailed(f"the table name {table!r} cannot be quoted; rename the model.")
    return f"table_changes('{table}', {int(first)}, {int(last)})"


def profile(rows: Rows, windows: Sequence[Window]) -> Statement:
    """Rows by (step, served entity, tracer, hour): copies, distinct rows, event times in microseconds, sampling, lag,
    the newest commit, and how many of the rows call themselves tracers' and are none.

    Rows without a request id cannot be told from their copies; each is a row of its own, in no step.
    """
    placed, values = step(windows, rows.tracer)
    statement = f"""
    WITH fresh AS (
        SELECT *, {placed} AS rp_step, CASE WHEN {rows.tracer} THEN client_request_id END AS rp_tracer
        FROM ({rows.query}) AS canonical
    ), numbered AS (
        SELECT *, row_number() OVER (PARTITION BY request_id, rp_step ORDER BY rp_order) AS rp_copy FROM fresh
    )
    SELECT rp_step AS step, served_entity AS entity, rp_tracer AS tracer, {_HOUR} AS hour, count(*) AS copies,
        count_if(rp_copy = 1 OR request_id IS NULL) AS n,
        min(unix_micros(request_time)) AS oldest, max(unix_micros(request_time)) AS newest,
        min(sampling_fraction) AS sampling, max(rp_lag) AS lag_us, max(rp_committed) AS committed,
        count_if(rp_tracer IS NULL AND {TRACER} AND rp_copy = 1) AS forged
    FROM numbered GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
    """
    return statement, {**rows.values, **values}


def traced(rows: Rows) -> Statement:
    """The tracers among rows, each with its served entity."""
    return (
        f"SELECT DISTINCT served_entity AS entity, client_request_id AS tracer FROM ({rows.query}) AS canonical "
        f"WHERE {rows.tracer} ORDER BY 1, 2",
        dict(rows.values),
    )


def counts(rows: Rows, seen: Rows | None, windows: Sequence[Window], plans: Sequence[MetricPlan]) -> Statement:
    """Rows of a step by (step, bucket, entity, segment): their number, lag, and per plan ``v<i>_<bin>`` and ``v<i>_x``.

    Args:
        rows: The new rows.
        seen: The table up to the new rows' version, around their event times; a new row whose request id was in it
            before is left out. None where nothing was read before.
        windows: The ramp's steps.
        plans: Plans that :func:`~release_pipeline.workspace.metric_sql.together` put together; may be empty, then
            ``bucket`` is 0.
    """
    placed, values = step(windows, rows.tracer)
    values |= dict(rows.values)
    again = ""
    if seen is not None:
        values |= dict(seen.values)
        again = "AND NOT EXISTS (SELECT 1 FROM seen WHERE seen.request_id = candidate.request_id)"
    label_sql, labels = segment(plans[0]) if plans else ("''", {})
    bucket_sql = bucket(plans[0].bucket_seconds) if plans else "CAST(0 AS BIGINT)"
    values |= labels
    valued, bound = _valued(plans)
    values |= bound
    counted = [column for number, plan in enumerate(plans) for column in _bins(number, plan.metric.bins)]
    statement = f"""
    WITH fresh AS (
        SELECT *, {placed} AS rp_step FROM ({rows.query}) AS canonical
    ), numbered AS (
        SELECT *, row_number() OVER (PARTITION BY request_id ORDER BY rp_order) AS rp_copy
        FROM fresh WHERE rp_step IS NOT NULL
    ), {_seen(rows, seen)}kept AS (
        SELECT * FROM numbered AS candidate WHERE rp_copy = 1 {again}
    ), valued AS (
        SELECT rp_step, {bucket_sql} AS rp_bucket, request_id, served_entity, {label_sql} AS rp_segment, rp_lag{valued}
        FROM kept
    ), binned AS (
        SELECT rp_step, rp_bucket, served_entity, rp_segment, rp_lag{_binned(plans)} FROM valued
    )
    SELECT rp_step AS step, rp_bucket AS bucket, served_entity AS entity, rp_segment AS segment,
        count(*) AS n, max(rp_lag) AS lag_us{"".join(counted)}
    FROM binned GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
    """
    return statement, values


def by_hour(rows: Rows, windows: Sequence[Window]) -> Statement:
    """Distinct rows of the steps by (hour, step, served entity)."""
    placed, values = step(windows, rows.tracer)
    return (
        f"SELECT {_HOUR} AS hour, rp_step AS step, served_entity AS entity, count(DISTINCT request_id) AS n "
        f"FROM (SELECT *, {placed} AS rp_step FROM ({rows.query}) AS canonical) AS placed "
        "WHERE rp_step IS NOT NULL GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
        {**rows.values, **values},
    )


def failures(rows: Rows, since_us: int, until_us: int) -> Statement:
    """Rows that were done in a time, half open in unix microseconds, by served entity: ``failed`` with a status of 500
    and above, ``refused`` with one of 400 to 499. Tracers are included, copies counted once.
    """
    counted = ", ".join(
        f"count(DISTINCT CASE WHEN {status} THEN request_id END) + count_if({status} AND request_id IS NULL) AS {name}"
        for name, status in (("failed", "status_code >= 500"), ("refused", "status_code < 500"))
    )
    return (
        f"SELECT coalesce(served_entity, '') AS entity, {counted} FROM ({rows.query}) AS canonical "
        f"WHERE status_code >= 400 AND {_DONE} >= :done_since AND {_DONE} < :done_until GROUP BY 1 ORDER BY 1",
        {**rows.values, "done_since": since_us, "done_until": until_us},
    )


def durations(rows: Rows, entities: Sequence[str]) -> Statement:
    """The p95 of durations in milliseconds, and the first event time in unix microseconds."""
    chosen, values = _of(entities)
    return (
        "SELECT percentile(CASE WHEN duration_ms >= 0 THEN duration_ms END, 0.95) AS p95, "
        f"min(unix_micros(request_time)) AS first FROM ({rows.query}) AS canonical WHERE {rows.answered}{chosen}",
        {**rows.values, **values},
    )


def labels(rows: Rows, entities: Sequence[str], plan: MetricPlan, at_most: int) -> Statement:
    """The most frequent labels of a metric's segments, each with its rows and the rows in all."""
    chosen, values = _of(entities)
    return (
        f"""
        WITH labelled AS (
            SELECT {label(plan.metric)} AS rp_label FROM ({rows.query}) AS canonical WHERE {rows.answered}{chosen}
        ), numbered AS (
            SELECT rp_label, count(*) AS n, sum(count(*)) OVER () AS total FROM labelled GROUP BY rp_label
        )
        SELECT rp_label AS label, n, total FROM numbered ORDER BY n DESC, rp_label LIMIT {int(at_most)}
        """,
        {**rows.values, **values},
    )


def levels(rows: Rows, entities: Sequence[str], plans: Sequence[MetricPlan], recent: datetime) -> Statement:
    """By segment and plan: ``n<i>`` judged rows, ``bad<i>`` the sum of their bins, ``recent<i>`` those since then."""
    chosen, values = _of(entities)
    label_sql, bound = segment(plans[0])
    valued, values_bound = _valued(plans)
    values |= {**bound, **values_bound, **rows.values, "recent": recent}
    counted = [
        f", count(rp_bin_{number}) AS n{number}, coalesce(sum(rp_bin_{number}), 0) AS bad{number}, "
        f"count_if(rp_recent AND rp_bin_{number} IS NOT NULL) AS recent{number}"
        for number in range(len(plans))
    ]
    return (
        f"""
        WITH valued AS (
            SELECT request_id, {label_sql} AS rp_segment, request_time >= :recent AS rp_recent{valued}
            FROM ({rows.query}) AS canonical WHERE {rows.answered}{chosen}
        ), binned AS (
            SELECT rp_segment, rp_recent{_binned(plans)} FROM valued
        )
        SELECT rp_segment AS segment{"".join(counted)} FROM binned GROUP BY 1 ORDER BY 1
        """,
        values,
    )


def probe(rows: Rows, windows: Sequence[Window] | None, plan: MetricPlan) -> Statement:
    """A statement that fails where the SQL of one metric does, over the rows of the steps, or without any over all."""
    placed, values = (f"CASE WHEN {rows.answered} THEN 1 END", {}) if windows is None else step(windows, rows.tracer)
    sql, bound = badness(plan.metric, plan.threshold_ms, 0)
    label_sql = label(plan.metric) if plan.metric.segments else "''"
    return (
        f"SELECT count({sql}) AS n, count({label_sql}) AS labelled FROM ({rows.query}) AS canonical "
        f"WHERE {placed} IS NOT NULL",
        {**rows.values, **values, **bound},
    )


def _valued(plans: Sequence[MetricPlan]) -> Statement:
    """The columns ``rp_value_<i>``, the badness of each plan, and all values that they and their bins bind."""
    columns, values = [], dict[str, Value]()
    for number, plan in enumerate(plans):
        sql, bound = badness(plan.metric, plan.threshold_ms, number)
        columns.append(f", {sql} AS rp_value_{number}")
        values |= bound
        if plan.metric.bins > 2:
            values[f"metric_{number}"] = plan.metric.name
    return "".join(columns), values


def _binned(plans: Sequence[MetricPlan]) -> str:
    """The columns ``rp_bin_<i>`` over ``rp_value_<i>`` and ``request_id``."""
    return "".join(
        f", {value_bin(f'rp_value_{number}', plan.metric.bins, f':metric_{number}')} AS rp_bin_{number}"
        for number, plan in enumerate(plans)
    )


def _bins(number: int, bins: int) -> list[str]:
    column = f"rp_bin_{number}"
    return [
        *(f", count_if({column} <=> {value}) AS v{number}_{value}" for value in range(bins)),
        f", count_if({column} IS NULL) AS v{number}_x",
    ]


def _seen(rows: Rows, seen: Rows | None) -> str:
    """The request ids that were in the table before these changes: those with more rows in it than they have brought.

    Of the table's versions only the newest can be relied on, so the one before the changes is counted back to.
    """
    if seen is None:
        return ""
    request_id = seen.shape.expression("request_id")
    added = "payload._change_type IN ('insert', 'update_postimage')"
    return f"""seen AS (
        SELECT request_id FROM (
            SELECT {request_id} AS request_id, 1 AS rp_rows FROM {seen.relation} AS payload WHERE {seen.where}
            UNION ALL
            SELECT {request_id} AS request_id, CASE WHEN {added} THEN -1 ELSE 1 END AS rp_rows
            FROM {rows.relation} AS payload WHERE {seen.where}
        ) AS counted GROUP BY request_id HAVING sum(rp_rows) > 0
    ), """


def _of(entities: Sequence[str]) -> Statement:
    """A condition that only these served entities answered; none for all."""
    if not entities:
        return "", {}
    values: dict[str, Value] = {f"entity_{index}": entity for index, entity in enumerate(entities)}
    return f" AND served_entity IN ({', '.join(f':{name}' for name in values)})", values
