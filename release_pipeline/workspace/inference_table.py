"""The endpoint's inference table: what is new in it, counted in the warehouse.

Python sees counts per (ramp step, event-time bucket, served entity, segment), never a request's body. A tick reads what
is new only:

- *With a change feed* (today's tables have one) new means committed since the last read. Delivery is at least once, so
  a row whose request id came before is dropped; earlier rows are looked up in the table itself, only around the new
  rows' event times, and the work does not grow with the release. No version that was read before is needed again:
  OPTIMIZE and VACUUM take old ones away after a week, and the log forgets them after a month.
- *Without one* (watermark mode) nothing tells when a row came. The cursor is then event time in whole seconds: a tick
  reads the seconds that have passed since the last read, up to a hold-back before the newest row. The newest row, not
  the clock, is what the hold-back counts from, so a table that lags for hours is read hours later and loses nothing.
  The price: the last rows before traffic ends stay unread. A row that comes after its second was read is *late*: it is
  never judged, but counted: once an hour the last day is counted again, and what is known of it is taken off.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Final

from release_pipeline.errors import TableMissing
from release_pipeline.spec_gate import Metric
from release_pipeline.workspace import payload_sql
from release_pipeline.workspace.counting import Grouped, cell_of, count_groups, count_sound, integer, level_of
from release_pipeline.workspace.counts import (
    HOUR,
    OTHER,
    Cell,
    Counted,
    Cursor,
    Delta,
    Failures,
    Group,
    Level,
    MetricPlan,
    Window,
    first_hour,
)
from release_pipeline.workspace.metric_sql import KINDS, check, together
from release_pipeline.workspace.payload_shape import PayloadShape, recognise
from release_pipeline.workspace.payload_sql import Rows, Statement
from release_pipeline.workspace.sql.warehouse import Row, Warehouse, parse_timestamp, quoted
from release_pipeline.workspace.tracer_rows import NOTHING_SHOWN, Shown, shown_by, times_around, tracer_sql

__all__ = [
    "KINDS",
    "OTHER",
    "Counted",
    "Cursor",
    "Delta",
    "Group",
    "InferenceTable",
    "Level",
    "MetricPlan",
    "Window",
]

#: Watermark mode trails the newest row by this; rows are documented to come within an hour.
HOLD_BACK_SECONDS: Final = 3600.0
#: A label becomes a segment of its own with this share of the rows, if it is among the most frequent ones.
SEGMENT_SHARE: Final = 0.05
SEGMENTS: Final = 8

#: Watermark mode: the least that a read takes of what is new, seconds; a few ticks of the sensor.
LEAST_SECONDS: Final = 120

_MICROSECOND: Final = timedelta(microseconds=1)
_SECOND: Final = 1_000_000
_CHANGE_FEED: Final = "delta.enablechangedatafeed"


class InferenceTable:
    """One inference table, in any shape of :mod:`~release_pipeline.workspace.payload_shape`.

    Args:
        warehouse: Runs the statements.
        name: The table, ``catalog.schema.table``.
        hold_back_seconds: Watermark mode: how far the reads trail the newest row.
    """

    def __init__(self, warehouse: Warehouse, name: str, *, hold_back_seconds: float = HOLD_BACK_SECONDS) -> None:
        self._warehouse = warehouse
        self.name = name
        self._hold_back = hold_back_seconds
        self._shape: PayloadShape | None = None
        self._feed: bool | None = None

    def shape(self) -> PayloadShape:
        """The table's shape, recognised by its columns at the first call.

        Raises:
            TableMissing: There is no such table.
            TableUnreadable: It is in no shape that the gate can read.
        """
        if self._shape is None:
            columns = []
            for row in self._warehouse.execute(f"DESCRIBE TABLE {quoted(self.name)}"):
                # After the columns come sections about partitions and clustering.
                if not row["col_name"] or row["col_name"].startswith("#"):
                    break
                columns.append(row["col_name"])
            self._shape = recognise(self.name, columns)
        return self._shape

    def has_change_feed(self) -> bool:
        """Whether commits can be read one by one; asked once.

        Raises:
            TableMissing: There is no such table.
        """
        if self._feed is None:
            rows = self._warehouse.execute(f"SHOW TBLPROPERTIES {quoted(self.name)}")
            found = {(row["key"] or "").lower(): (row["value"] or "").lower() for row in rows}
            self._feed = found.get(_CHANGE_FEED) == "true"
        return self._feed

    def latest(self) -> Cursor | None:
        """How far the table reaches, or None where it does not exist (yet), or without a change feed is empty.

        Raises:
            TableUnreadable: It has no change feed, and is in no shape that the gate can read.
        """
        try:
            if not self.has_change_feed():
                newest = self.newest()
                if newest is None:
                    return None
                # The second that the hold-back ends in is not over: the one before is the last whole one.
                return Cursor(int(newest.timestamp() - self._hold_back) - 1, newest)
            rows = self._warehouse.execute(f"DESCRIBE HISTORY {quoted(self.name)} LIMIT 1")
        except TableMissing:
            return None
        return Cursor(int(rows[0]["version"] or 0), parse_timestamp(rows[0]["timestamp"] or "")) if rows else None

    def newest(self) -> datetime | None:
        """Event time of the newest row; None where there is none, or no table.

        Raises:
            TableUnreadable: It is in no shape that the gate can read.
        """
        try:
            shape = self.shape()
            found = self._warehouse.execute(
                f"SELECT max(payload.{shape.time_column}) AS newest FROM {quoted(self.name)} AS payload"
            )[0]["newest"]
        except TableMissing:
            return None
        if found is None:
            return None
        return moment_of(1000 * int(found)) if shape.milliseconds else parse_timestamp(found)

    def level(
        self,
        metrics: Sequence[Metric],
        since: datetime,
        until: datetime,
        *,
        rate_seconds: float,
        entities: Sequence[str] = (),
    ) -> list[Level]:
        """The levels of metrics between two event times, with the segments that they are judged by from here on.

        Rows that were delivered twice count twice here: a level decides how soon evidence is enough, not whether it is
        valid. A metric whose SQL fails in the warehouse has a level of no rows that says why.

        Args:
            metrics: Metrics of :data:`KINDS`.
            since: First event time.
            until: Last event time, exclusive.
            rate_seconds: The rates are taken from this many seconds before ``until``.
            entities: The champion's entity ids, as far as they are known; all rows count where there are none.

        Returns:
            One level per metric; where it has segments one per frozen label, in order of their frequency, and one of
            :data:`OTHER`.

        Raises:
            SpecError: The SQL of a metric is not one expression.
            TableMissing: There is no such table.
            TableUnreadable: It is in no shape that the gate can read.
        """
        for metric in metrics:
            check(metric)
        rows = self._between(since, until)
        before = self._run(payload_sql.durations(rows, entities))[0]
        p95 = round(float(before["p95"])) if before["p95"] is not None else None
        spanned = rate_seconds
        if before["first"] is not None:
            spanned = max(1.0, min(rate_seconds, until.timestamp() - int(before["first"]) / 1e6))
        recent = until - timedelta(seconds=spanned)
        plans, failed = list[MetricPlan](), dict[str, str]()
        for metric in metrics:
            threshold = (metric.threshold_ms or p95) if metric.kind == "slow" else None
            plan = MetricPlan(metric, 0, threshold)
            plans.append(replace(plan, segments=self._frequent(rows, entities, plan, failed)))
        found = dict[tuple[str, str], Level]()
        for batch in together(plans):
            result = count_sound(
                self._warehouse, rows, None, batch, lambda sound: payload_sql.levels(rows, entities, sound, recent)
            )
            failed |= result.failed
            for row in result.rows:
                for number, plan in enumerate(result.plans):
                    found[plan.metric.name, row["segment"] or ""] = level_of(row, number, plan, spanned)
        return [
            replace(
                found.get((plan.metric.name, label), Level(plan.metric.name, label, 0, 0.0, plan.threshold_ms, 0.0)),
                failed=failed.get(plan.metric.name, ""),
            )
            for plan in plans
            for label in ([""] if plan.metric.segments is None else [*plan.segments, OTHER])
        ]

    def changes(
        self,
        after_version: int,
        latest: Cursor,
        *,
        first_version: int,
        windows: Sequence[Window],
        plans: Sequence[MetricPlan],
        counted: Counted | None = None,
        tracers: Sequence[str] | None = None,
    ) -> Delta:
        """Count what came after ``after_version``, up to ``latest``.

        Args:
            after_version: Last version that was read before; below ``latest.version``.
            latest: What :meth:`latest` or :meth:`piece` said.
            first_version: First version of the release; a request id that was seen since then does not count again.
            windows: The ramp's steps by event time.
            plans: How the metrics are counted; may be empty.
            counted: The release's rows that are known; only watermark mode needs them, to count late rows.
            tracers: Ids of the tracers that were sent; None takes every row for one that calls itself so.

        Raises:
            SpecError: The SQL of a metric is not one expression.
            StatementFailed: The versions are gone, or a statement failed that holds no metric's own SQL.
            TableUnreadable: It is in no shape that the gate can read.
        """
        rows, shape = self._new(after_version + 1, latest.version, tracers), self.shape()
        profile = self._run(payload_sql.profile(rows, windows))
        traced = [row for row in profile if row["tracer"] is not None]
        outside = [row for row in profile if row["tracer"] is None and row["step"] is None]
        inside = [row for row in profile if row["step"] is not None]
        grouped = Grouped()
        if inside:
            seen = self._seen(first_version, after_version, latest, inside)
            grouped = count_groups(self._warehouse, rows, seen, windows, plans)
        entities = grouped.entities
        kept, aside = sum(entities.values()), sum(integer(row, "n") for row in outside)
        feed = self.has_change_feed()
        lag_us = max([grouped.lag_us, *(integer(row, "lag_us") for row in traced)])
        shown, committed = shown_by(traced), max((integer(row, "committed") for row in profile), default=0)
        return Delta(
            from_version=after_version + 1,
            to_version=latest.version,
            groups=grouped.groups,
            entities=entities,
            mapping={
                **{entity: version for entity in entities if (version := shape.version_of(entity)) is not None},
                **shown.mapping,
            },
            contradictions=shown.contradictions,
            forged=sum(integer(row, "forged") for row in profile),
            lag_seconds=max(0, lag_us) / 1e6 if feed else self._hold_back,
            committed_at=moment_of(committed) if committed else latest.at,
            outside=aside,
            duplicates=max(0, sum(integer(row, "copies") for row in (*inside, *outside)) - kept - aside),
            cells=() if feed else tuple(map(cell_of, inside)),
            late_cells=() if feed else self._late(after_version, latest.version, counted, windows, tracers),
            sampling_fraction=min((float(row["sampling"]) for row in inside if row["sampling"]), default=None),
            rows=kept + aside,
            failed=grouped.failed,
            lag_measured=feed,
        )

    def piece(self, after_version: int, latest: Cursor, share: float) -> Cursor:
        """How far a read goes that takes only a share of what is new; the time of a commit in between is not known.

        Args:
            after_version: Last version that was read before; below ``latest.version``.
            latest: What :meth:`latest` said.
            share: Share of the commits, or seconds, that are read; one commit, or :data:`LEAST_SECONDS`, at least.
        """
        feed = self.has_change_feed()
        least = 1 if feed else LEAST_SECONDS
        version = after_version + max(least, ceil(share * (latest.version - after_version)))
        if version >= latest.version:
            return latest
        if feed:
            return Cursor(version, moment_of(0))
        return Cursor(version, moment_of(_SECOND * (version + 1)) + timedelta(seconds=self._hold_back))

    def shown(self, tracers: Mapping[str, datetime]) -> Shown:
        """What tracers show, and nothing else; they are looked for around the times at which they were noted.

        Args:
            tracers: When each was noted, by its id.
        """
        times = times_around(tracers.values())
        if not times:
            return NOTHING_SHOWN
        where, values = self.shape().between_any(times, "traced")
        tracer, ids = tracer_sql(tuple(tracers))
        rows = Rows(self.shape(), quoted(self.name), where, {**values, **ids}, tracer=tracer)
        return shown_by(self._run(payload_sql.traced(rows)))

    def failures_logged(self, since: datetime, until: datetime) -> dict[str, Failures]:
        """Failures whose answers were done in ``[since, until)``, by served entity id.

        An answer is done when its duration has passed since the request; in a shape without durations it is when it was
        asked for. That is when the endpoint's own counters count it, too. Tracers are included, because those counters
        include them; rows that were delivered twice count once. The key of rows that no entity answered is empty.

        Raises:
            TableMissing: There is no such table.
            TableUnreadable: It is in no shape that the gate can read.
        """
        rows = self._between(since - timedelta(milliseconds=payload_sql.LONGEST_MS), until)
        found = self._run(payload_sql.failures(rows, _microseconds(since), _microseconds(until)))
        return {row["entity"] or "": Failures(integer(row, "failed"), integer(row, "refused")) for row in found}

    def _run(self, statement: Statement) -> list[Row]:
        return self._warehouse.execute(*statement)

    def _between(self, since: datetime, until: datetime, tracers: Sequence[str] | None = None) -> Rows:
        """Rows of the whole table by event time."""
        where, values = self.shape().between(since, until, "rows")
        tracer, ids = tracer_sql(tracers)
        return Rows(self.shape(), quoted(self.name), where, {**values, **ids}, tracer=tracer)

    def _new(self, first: int, last: int, tracers: Sequence[str] | None) -> Rows:
        """Rows of these versions, both included."""
        if not self.has_change_feed():
            return self._between(moment_of(_SECOND * first), moment_of(_SECOND * (last + 1)), tracers)
        tracer, ids = tracer_sql(tracers)
        return Rows(
            self.shape(),
            payload_sql.change_feed(self.name, first, last),
            "payload._change_type = 'insert'",
            ids,
            order="payload._commit_version",
            lag=f"unix_micros(payload._commit_timestamp) - unix_micros({self.shape().expression('request_time')})",
            committed="unix_micros(payload._commit_timestamp)",
            tracer=tracer,
        )

    def _seen(self, first: int, last: int, latest: Cursor, inside: Sequence[Row]) -> Rows | None:
        """The table around the event times of new rows, these included; None where nothing was read before.

        Without a change feed copies have the same event time, so they are read together or late.
        """
        if last < first or not self.has_change_feed():
            return None
        oldest = moment_of(min(integer(row, "oldest") for row in inside))
        newest = moment_of(max(integer(row, "newest") for row in inside))
        where, values = self.shape().between(oldest, newest + _MICROSECOND, "seen")
        return Rows(self.shape(), f"{quoted(self.name)} VERSION AS OF {int(latest.version)}", where, values)

    def _late(
        self,
        after: int,
        until: int,
        counted: Counted | None,
        windows: Sequence[Window],
        tracers: Sequence[str] | None,
    ) -> tuple[Cell, ...]:
        """The last day's rows beyond those that are known; looked for where the read begins another hour."""
        if counted is None or after // HOUR == until // HOUR:
            return ()
        rows = self._new(max(counted.since, HOUR * first_hour(after)), after, tracers)
        return counted.late(map(cell_of, self._run(payload_sql.by_hour(rows, windows))))

    def _frequent(
        self, rows: Rows, entities: Sequence[str], plan: MetricPlan, failed: dict[str, str]
    ) -> tuple[str, ...]:
        """The labels that become segments: frequent, not empty, and not what the rest is called."""
        if plan.metric.segments is None:
            return ()
        # Two more than are wanted: NULL, an empty label or the rest's own name may be among the most frequent.
        statement = payload_sql.labels(rows, entities, plan, SEGMENTS + 3)
        found = count_sound(self._warehouse, rows, None, [plan], lambda _: statement)
        failed |= found.failed
        return tuple(
            str(row["label"])
            for row in found.rows
            if row["label"] not in (None, "", OTHER) and integer(row, "n") >= SEGMENT_SHARE * integer(row, "total")
        )[:SEGMENTS]


def moment_of(microseconds: int) -> datetime:
    """An aware time in UTC from unix microseconds."""
    return datetime(1970, 1, 1, tzinfo=UTC) + microseconds * _MICROSECOND


def _microseconds(moment: datetime) -> int:
    return (moment - moment_of(0)) // _MICROSECOND
