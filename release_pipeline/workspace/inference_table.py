"""The endpoint's inference table: what is new in it, counted in the warehouse.

New rows come from the table's change data feed, so a tick reads what arrived since the tick before. Python sees
counts per (ramp step, event-time bucket, served entity), never a request's body.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from release_pipeline.errors import StatementFailed, TableMissing
from release_pipeline.spec import Metric
from release_pipeline.workspace.sql.warehouse import Row, Value, Warehouse, parse_timestamp, quoted
from release_pipeline.workspace.tracer import PREFIX, version_of

# Requests that never reached a version: credentials, permissions, unknown paths, rate limits.
NOT_SERVED = (401, 403, 404, 429)
# A stream that fails is HTTP 200; its last event carries this. A quote inside a text would be escaped.
STREAM_ERROR = r'(^|[^\\])"databricks_output"\s*:\s*\{.*"error"\s*:\s*\{'


@dataclass(frozen=True)
class Window:
    """The event times of one ramp step, half open; ``end`` None means until now."""

    step: int
    start: datetime
    end: datetime | None


@dataclass(frozen=True)
class Group:
    """Counts of one (step, bucket, served entity): per metric the rows it could judge, and the bad ones."""

    step: int
    bucket_start: float
    served_entity_id: str
    rows: int
    counts: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Delta:
    """What arrived between two versions of the table.

    Attributes:
        from_version: First commit that was read.
        to_version: Last commit that was read.
        groups: Counts of the rows that fall into a step.
        mapping: Version by served entity id, as tracers showed it.
        lag_seconds: Longest time from a request to its commit among these rows, 0.0 where there was none.
        committed_at: Time of the last commit.
        outside: Rows of no step (before the ramp, or while traffic was being moved) or of no entity (answered by the
            gateway); counted, never judged.
    """

    from_version: int
    to_version: int
    groups: tuple[Group, ...]
    mapping: Mapping[str, str]
    lag_seconds: float
    committed_at: datetime
    outside: int = 0


@dataclass(frozen=True)
class Level:
    """A metric's level before the release: judged rows, bad ones, and the frozen threshold of a `slow` metric."""

    rows: int
    bad: int
    threshold_ms: int | None = field(default=None)


class InferenceTable:
    """One inference table in the AI Gateway shape."""

    def __init__(self, warehouse: Warehouse, name: str) -> None:
        self._warehouse = warehouse
        self.name = name

    def latest(self) -> tuple[int, datetime] | None:
        """The newest commit version and its time, or None where the table does not exist (yet)."""
        try:
            rows = self._warehouse.execute(f"DESCRIBE HISTORY {quoted(self.name)} LIMIT 1")
        except TableMissing:
            return None
        if not rows:
            return None
        return int(rows[0]["version"] or 0), parse_timestamp(rows[0]["timestamp"] or "")

    def level(
        self,
        metrics: Sequence[Metric],
        since: datetime,
        until: datetime,
        rate_seconds: float,
        *,
        entities: Sequence[str] = (),
    ) -> "Baseline":
        """The level of every metric between two event times.

        Args:
            metrics: What the gate watches.
            since: First event time.
            until: Last event time, exclusive.
            rate_seconds: The traffic rate is taken from this many seconds before ``until``.
            entities: The champion's entity ids, as far as tracers have shown them; all rows count where there are none.
        """
        table = quoted(self.name)
        where = f"request_time >= :since AND request_time < :until AND {_SERVED}"
        bounds: dict[str, Value] = {"since": since, "until": until}
        if entities:
            bounds |= {f"entity{index}": entity for index, entity in enumerate(entities)}
            where += f" AND served_entity_id IN ({', '.join(f':entity{index}' for index in range(len(entities)))})"
        quantile = self._warehouse.execute(
            f"SELECT percentile_approx(execution_duration_ms, 0.95) AS p95, count(*) AS n, "
            f"count_if(request_time >= :recent) AS recent, min(request_time) AS first FROM {table} WHERE {where}",
            {**bounds, "recent": datetime.fromtimestamp(until.timestamp() - rate_seconds, tz=until.tzinfo)},
        )[0]
        p95 = round(float(quantile["p95"])) if quantile["p95"] is not None else None
        thresholds = {metric.name: metric.threshold_ms or p95 for metric in metrics if metric.kind == "slow"}
        columns, parameters = _metric_columns(metrics, thresholds)
        counted = self._warehouse.execute(f"SELECT {columns} FROM {table} WHERE {where}", {**bounds, **parameters})[0]
        levels = {
            metric.name: Level(
                int(counted[f"n{index}"] or 0), int(counted[f"bad{index}"] or 0), thresholds.get(metric.name)
            )
            for index, metric in enumerate(metrics)
        }
        first = quantile["first"]
        spanned = min(rate_seconds, (until - parse_timestamp(first)).total_seconds()) if first else rate_seconds
        return Baseline(levels, int(quantile["recent"] or 0) / max(spanned, 1.0))

    def changes(
        self,
        after_version: int,
        latest: tuple[int, datetime],
        *,
        first_version: int,
        windows: Sequence[Window],
        bucket_seconds: int,
        metrics: Sequence[Metric],
        thresholds: Mapping[str, int | None],
    ) -> Delta:
        """Count the rows that were committed after ``after_version``, up to ``latest``.

        Rows whose request id was seen before (since ``first_version``, where the release began) are duplicates of an
        at-least-once delivery and are dropped.

        Raises:
            StatementFailed: The table has no change data feed, or lacks a column of the AI Gateway shape.
        """
        to_version, committed_at = latest
        feed = f"table_changes({_literal(self.name)}, {after_version + 1}, {to_version})"
        seen = f"table_changes({_literal(self.name)}, {first_version}, {after_version})"
        again = (
            f"AND NOT EXISTS (SELECT 1 FROM {seen} AS old "
            "WHERE old.databricks_request_id = fresh.databricks_request_id)"
            if after_version >= first_version
            else ""
        )
        columns, parameters = _metric_columns(metrics, thresholds)
        steps, bounds = _step_case(windows)
        rows = self._warehouse.execute(
            f"""
            WITH fresh AS (
                SELECT *, row_number() OVER (PARTITION BY databricks_request_id ORDER BY _commit_version) AS copy
                FROM {feed} WHERE _change_type = 'insert'
            )
            SELECT {steps} AS step,
                CAST(floor(unix_millis(request_time) / {1000 * bucket_seconds}) * {bucket_seconds} AS BIGINT) AS bucket,
                coalesce(served_entity_id, '') AS entity,
                count(*) AS n,
                max(unix_millis(_commit_timestamp) - unix_millis(request_time)) AS lag_ms,
                {columns}
            FROM fresh
            WHERE copy = 1 AND {_SERVED} {again}
            GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
            """,
            {**parameters, **bounds},
        )
        tracers = self._warehouse.execute(
            f"""
            SELECT client_request_id, served_entity_id,
                unix_millis(_commit_timestamp) - unix_millis(request_time) AS lag_ms
            FROM {feed} WHERE client_request_id LIKE '{PREFIX}%' AND served_entity_id IS NOT NULL
            """
        )
        # A row without an entity never reached a version: the gateway answered it.
        judged = [row for row in rows if row["step"] is not None and row["entity"]]
        groups = [_group(row, metrics) for row in judged]
        lags = [int(row["lag_ms"] or 0) for row in (*rows, *tracers)]
        return Delta(
            from_version=after_version + 1,
            to_version=to_version,
            groups=tuple(groups),
            mapping={
                row["served_entity_id"] or "": version
                for row in tracers
                if (version := version_of(row["client_request_id"] or "")) is not None
            },
            lag_seconds=max([0, *lags]) / 1000,
            committed_at=committed_at,
            outside=sum(int(row["n"] or 0) for row in rows) - sum(int(row["n"] or 0) for row in judged),
        )


@dataclass(frozen=True)
class Baseline:
    """Levels by metric, and the traffic of the endpoint in requests per second."""

    levels: Mapping[str, Level]
    requests_per_second: float


_SERVED = (
    f"status_code NOT IN ({', '.join(str(status) for status in NOT_SERVED)}) "
    f"AND (client_request_id IS NULL OR client_request_id NOT LIKE '{PREFIX}%')"
)


def _metric_columns(metrics: Sequence[Metric], thresholds: Mapping[str, int | None]) -> tuple[str, dict[str, Value]]:
    """Per metric the number of rows it can judge and the number of bad ones, as columns ``n<i>`` and ``bad<i>``."""
    columns, parameters = [], {}
    for index, metric in enumerate(metrics):
        if metric.kind == "errors":
            parameters["stream_error"] = STREAM_ERROR
            judged = "status_code IS NOT NULL"
            bad = "status_code >= 400 OR coalesce(response RLIKE :stream_error, false)"
        else:
            threshold = thresholds.get(metric.name)
            if threshold is None:
                # Nothing says what slow is: no row can be judged.
                columns.append(f"0 AS n{index}, 0 AS bad{index}")
                continue
            judged = "execution_duration_ms IS NOT NULL AND execution_duration_ms >= 0"
            bad = f"execution_duration_ms > {int(threshold)}"
        columns.append(f"count_if({judged}) AS n{index}, count_if({judged} AND ({bad})) AS bad{index}")
    return ", ".join(columns), dict(parameters)


def _step_case(windows: Sequence[Window]) -> tuple[str, dict[str, Value]]:
    """A CASE that gives a row's step by its event time, NULL for none; times are bound."""
    if not windows:
        return "CAST(NULL AS INT)", {}
    cases, bounds = [], dict[str, Value]()
    for index, window in enumerate(windows):
        condition = f"request_time >= :start{index}"
        bounds[f"start{index}"] = window.start
        if window.end is not None:
            condition += f" AND request_time < :end{index}"
            bounds[f"end{index}"] = window.end
        cases.append(f"WHEN {condition} THEN {window.step}")
    return f"CASE {' '.join(cases)} END", bounds


def _group(row: Row, metrics: Sequence[Metric]) -> Group:
    return Group(
        step=int(row["step"] or 0),
        bucket_start=float(row["bucket"] or 0),
        served_entity_id=row["entity"] or "",
        rows=int(row["n"] or 0),
        counts={
            metric.name: (int(row[f"n{index}"] or 0), int(row[f"bad{index}"] or 0))
            for index, metric in enumerate(metrics)
        },
    )


def _literal(text: str) -> str:
    """A SQL string literal; names of tables were validated as identifiers before."""
    if "'" in text or "\\" in text:
        raise StatementFailed(f"the table name {text!r} cannot be quoted; rename the model.")
    return f"'{text}'"
