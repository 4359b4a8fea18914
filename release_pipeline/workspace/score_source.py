"""Counts of scores: what is new in the score table since a commit, and the level before a release."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from release_pipeline.errors import TableMissing
from release_pipeline.spec_gate import SCORE_BINS, Metric
from release_pipeline.workspace.budget import Budget
from release_pipeline.workspace.counts import OTHER, Cursor, Delta, Group, Level, MetricPlan, Window
from release_pipeline.workspace.inference_table import SEGMENT_SHARE, SEGMENTS, moment_of
from release_pipeline.workspace.metric_sql import bucket, step, value_bin
from release_pipeline.workspace.score_table import CLOCKS, ScoreTable, source_of
from release_pipeline.workspace.sql.warehouse import Row, Value, quoted

# The column that says which plan a row belongs to.
_PLAN: Final = "rp_plan"


class Silence(NamedTuple):
    """A table that has no new row although it should have.

    Attributes:
        newest: Time of its newest row.
        requests: Requests since, those that may not be logged yet excepted.
        expected: Rows that so many requests brought before; 0 where it had none in all the time that was looked at.
    """

    newest: datetime
    requests: int
    expected: int


class ScoreSource:
    """Metrics whose values are in the score table, however they come there.

    Several sources share the table; each has a cursor of its own.

    Args:
        name: What the values come from, as people know it; unique among the sources of a release.
        metrics: The metrics.
        scores: The score table.
    """

    def __init__(self, name: str, metrics: tuple[Metric, ...], scores: ScoreTable) -> None:
        self.name = name
        self.metrics = metrics
        self.scores = scores

    def collect(self, since: datetime, budget: Budget) -> None:
        """Write what is new of requests from ``since`` on; here others write, and the table is created.

        Args:
            since: No request is older.
            budget: Time for it. What is not looked through within it is looked through at the next collection.

        Raises:
            TableUnreadable: What the values come from cannot be read; everything else can.
        """
        self._create()

    def collect_before(self, since: datetime, until: datetime, budget: Budget) -> datetime:
        """Write what requests before a release were worth, as far as there is time; here others write it.

        Args:
            since: First event time.
            until: Last event time, exclusive.
            budget: Time for it.

        Returns:
            The event time from which on all was looked through.

        Raises:
            TableUnreadable: As :meth:`collect`.
        """
        self._create()
        return since

    def silence(self, since: datetime, lag: timedelta) -> Silence | None:
        """Proof that nobody writes any more to the table that the values come from; None without one, as here.

        Args:
            since: Nothing older is looked at.
            lag: What was asked within it may not be in any table yet.

        Raises:
            StatementFailed: The warehouse failed.
        """
        return None

    def latest(self) -> Cursor | None:
        """How far the score table reaches; None where it, or what the values come from, does not exist."""
        return self.scores.latest()

    def _create(self) -> None:
        if self.scores.latest() is None:
            self.scores.create()

    def version_before(self, moment: datetime) -> int:
        """The last commit that can hold no value of a request from ``moment`` on; 0 without a table.

        A release reads from here on, because others may write values before its first look.
        """
        try:
            commits = self.scores.history()
        except TableMissing:
            return 0
        # The log forgets commits after a month: where all that it still knows are young, the one before them is not.
        forgotten = max(0, min((cursor.version for cursor in commits), default=0) - 1)
        return max((cursor.version for cursor in commits if cursor.at < moment - CLOCKS), default=forgotten)

    def level(
        self, since: datetime, until: datetime, *, rate_seconds: float, entities: Sequence[str] = ()
    ) -> list[Level]:
        """The levels of the metrics between two event times, with the segments that they are judged by from here on.

        Args:
            since: First event time.
            until: Last event time, exclusive.
            rate_seconds: The rates are taken from the first value to ``until``, but from no shorter a time than this:
                values come late, so the newest requests have few.
            entities: The champion's entity ids, as far as they are known; all rows count where there are none.

        Returns:
            One level per metric; where it has segments one per frozen label, in order of their frequency, and one of
            :data:`~release_pipeline.workspace.counts.OTHER`.
        """
        chosen, values = _which(self.metrics)
        values |= {"since": since, "until": until}
        of = ""
        if entities:
            values |= {f"entity_{index}": entity for index, entity in enumerate(entities)}
            of = f" AND served_entity_id IN ({', '.join(f':entity_{index}' for index in range(len(entities)))})"
        binned = value_bin("badness", SCORE_BINS, "metric")
        try:
            rows = self.scores.warehouse.execute(
                f"""
                SELECT {_PLAN} AS plan, segment, count(*) AS n, count({binned}) AS judged,
                    coalesce(sum({binned}), 0) AS bad, min(unix_millis(request_time)) AS first
                FROM (SELECT *, {chosen} AS {_PLAN} FROM {quoted(self.scores.name)} WHERE request_id IS NOT NULL)
                    AS scored
                WHERE {_PLAN} IS NOT NULL AND request_time >= :since AND request_time < :until{of}
                GROUP BY 1, 2 ORDER BY 1, 3 DESC, 2
                """,
                values,
            )
        except TableMissing:
            rows = []
        levels: list[Level] = []
        for number, metric in enumerate(self.metrics):
            own = [row for row in rows if _integer(row, "plan") == number]
            spanned = rate_seconds
            if own:
                spanned = max(spanned, until.timestamp() - min(_integer(row, "first") for row in own) / 1000)
            total = sum(_integer(row, "n") for row in own)
            frequent = [row["segment"] for row in own if _integer(row, "n") >= SEGMENT_SHARE * total]
            frozen = (
                [label for label in frequent if label not in (None, "", OTHER)][:SEGMENTS] if metric.segments else []
            )
            for segment in [*frozen, OTHER] if metric.segments else [""]:
                of_segment = [row for row in own if _segment(row["segment"], metric, frozen) == segment]
                judged = sum(_integer(row, "judged") for row in of_segment)
                bad = sum(_integer(row, "bad") for row in of_segment) / (metric.bins - 1)
                levels.append(Level(metric.name, segment, judged, bad, None, judged / max(spanned, 1.0)))
        return levels

    def changes(
        self,
        after_version: int,
        latest: Cursor,
        *,
        windows: Sequence[Window],
        plans: Sequence[MetricPlan],
    ) -> Delta:
        """Count the values that were written after ``after_version``, up to ``latest``.

        A row is written twice only by statements that ran at the same time. Values that were there before are looked up
        in the table as it is, around the new ones' requests: older versions of it may be gone.

        Args:
            after_version: Last commit that was read.
            latest: Commit to read up to.
            windows: The ramp's steps; a value belongs to the step of its request.
            plans: How the metrics are counted.
        """
        chosen, values = _which([plan.metric for plan in plans])
        placed, times = step(windows)
        binned = value_bin("badness", SCORE_BINS, "metric")
        labelled, labels = _segments(plans)
        buckets = " ".join(
            f"WHEN {_PLAN} = {number} THEN {bucket(plan.bucket_seconds)}" for number, plan in enumerate(plans)
        )
        fresh = (
            f"(SELECT *, {chosen} AS {_PLAN} FROM table_changes('{self.scores.name}', {after_version + 1}, "
            f"{latest.version}) WHERE _change_type = 'insert' AND request_id IS NOT NULL)"
        )
        rows: list[Row] = []
        if plans and (around := self._around(fresh, values)):
            rows = self.scores.warehouse.execute(
                f"""
                WITH numbered AS (
                    SELECT {_PLAN}, metric, request_id, request_time, served_entity_id AS served_entity, segment,
                        badness, CAST(NULL AS STRING) AS client_request_id, CAST(NULL AS INT) AS status_code,
                        unix_millis(_commit_timestamp) - unix_millis(request_time) AS rp_lag,
                        row_number() OVER (PARTITION BY {_PLAN}, request_id ORDER BY _commit_version) AS rp_copy
                    FROM {fresh} AS fresh WHERE {_PLAN} IS NOT NULL
                ), seen AS (
                    SELECT {_PLAN} AS rp_before_plan, request_id AS rp_before FROM (
                        SELECT *, 1 AS rp_rows FROM (
                            SELECT request_id, request_time, {chosen} AS {_PLAN}
                            FROM {quoted(self.scores.name)} VERSION AS OF {int(latest.version)}
                        ) AS all_rows WHERE request_time >= :oldest AND request_time <= :newest
                        UNION ALL
                        SELECT request_id, request_time, {_PLAN}, -1 AS rp_rows FROM {fresh} AS fresh
                    ) AS counted WHERE {_PLAN} IS NOT NULL GROUP BY 1, 2 HAVING sum(rp_rows) > 0
                ), placed AS (
                    SELECT {_PLAN}, {placed} AS rp_step, CASE {buckets} END AS rp_bucket, served_entity AS rp_entity,
                        {labelled} AS rp_segment, {binned} AS rp_bin, rp_lag,
                        CASE WHEN rp_copy > 1 OR rp_before IS NOT NULL THEN 1 ELSE 0 END AS rp_again
                    FROM numbered LEFT JOIN seen ON rp_before = request_id AND rp_before_plan = {_PLAN}
                )
                SELECT {_PLAN} AS plan, rp_step AS step, rp_bucket AS bucket, rp_entity AS entity,
                    rp_segment AS segment, rp_bin AS bin, count_if(rp_again = 0) AS n, sum(rp_again) AS again,
                    max(rp_lag) AS lag_ms
                FROM placed GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6
                """,
                {**values, **times, **labels, **around},
            )
        counted = [row for row in rows if row["step"] is not None and _integer(row, "n")]
        entities: dict[str, int] = {}
        for row in counted:
            entities[row["entity"] or ""] = entities.get(row["entity"] or "", 0) + _integer(row, "n")
        return Delta(
            from_version=after_version + 1,
            to_version=latest.version,
            groups=_groups(counted, plans),
            entities=entities,
            mapping={},
            lag_seconds=max((_integer(row, "lag_ms") for row in counted), default=0) / 1000,
            committed_at=latest.at,
            outside=sum(_integer(row, "n") for row in rows if row["step"] is None),
            duplicates=sum(_integer(row, "again") for row in rows),
            rows=sum(_integer(row, "n") for row in rows),
        )

    def _around(self, fresh: str, values: dict[str, Value]) -> dict[str, Value]:
        """The first and last event time of new values; nothing where there are none."""
        (found,) = self.scores.warehouse.execute(
            "SELECT min(unix_micros(request_time)) AS oldest, max(unix_micros(request_time)) AS newest "
            f"FROM {fresh} AS fresh WHERE {_PLAN} IS NOT NULL",
            values,
        )
        if found["oldest"] is None:
            return {}
        return {name: moment_of(int(found[name] or 0)) for name in ("oldest", "newest")}


def _which(metrics: Sequence[Metric]) -> tuple[str, dict[str, Value]]:
    """The SQL of the number of a row's metric, NULL for none of them, and the values that it binds."""
    values: dict[str, Value] = {}
    cases = []
    for number, metric in enumerate(metrics):
        values |= {f"metric_{number}": metric.name, f"source_{number}": source_of(metric)}
        cases.append(f"WHEN metric = :metric_{number} AND source = :source_{number} THEN {number}")
    return f"CASE {' '.join(cases)} END", values


def _segments(plans: Sequence[MetricPlan]) -> tuple[str, dict[str, Value]]:
    """The SQL of a row's segment among the frozen labels of its plan, and the values that it binds."""
    values: dict[str, Value] = {}
    cases = []
    for number, plan in enumerate(plans):
        if plan.metric.segments is None:
            continue
        names = [f"label_{number}_{index}" for index in range(len(plan.segments))]
        values |= dict(zip(names, plan.segments, strict=True))
        if names:
            cases.append(
                f"WHEN {_PLAN} = {number} AND segment IN ({', '.join(f':{name}' for name in names)}) THEN segment"
            )
        cases.append(f"WHEN {_PLAN} = {number} THEN '{OTHER}'")
    return f"CASE {' '.join(cases)} ELSE '' END" if cases else "''", values


def _segment(label: str | None, metric: Metric, frozen: Sequence[str | None]) -> str:
    if metric.segments is None:
        return ""
    return label if label is not None and label in frozen else OTHER


def _groups(rows: Sequence[Row], plans: Sequence[MetricPlan]) -> tuple[Group, ...]:
    """The counts of each (plan, step, bucket, entity, segment), from one row per value bin."""
    found: dict[tuple[int, int, float, str, str], tuple[list[int], list[int]]] = {}
    for row in rows:
        number = _integer(row, "plan")
        key = (number, _integer(row, "step"), float(row["bucket"] or 0), row["entity"] or "", row["segment"] or "")
        counts, unjudged = found.setdefault(key, ([0] * plans[number].metric.bins, [0]))
        if row["bin"] is None:
            unjudged[0] += _integer(row, "n")
        else:
            counts[_integer(row, "bin")] += _integer(row, "n")
    return tuple(
        Group(at, start, entity, plans[number].metric.name, segment, tuple(counts), unjudged)
        for (number, at, start, entity, segment), (counts, (unjudged,)) in found.items()
    )


def _integer(row: Row, column: str) -> int:
    return int(row[column] or 0)
