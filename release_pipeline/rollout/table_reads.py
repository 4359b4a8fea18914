"""What is new in the tables of a release: each is read by itself, and one that fails takes no other with it."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol

from release_pipeline.errors import OutOfTime, SpecError, StatementFailed, TableMissing, WorkspaceError
from release_pipeline.gate.observations import slice_seconds
from release_pipeline.gate.verdict import Contradiction, Frozen
from release_pipeline.rollout.evidence_fold import EvidenceSoFar
from release_pipeline.rollout.ingest import RATE_SECONDS, TableRead, nothing_new, watermark_of
from release_pipeline.rollout.state import ReleaseState
from release_pipeline.spec_gate import Metric
from release_pipeline.workspace.budget import Budget
from release_pipeline.workspace.counting import condition
from release_pipeline.workspace.counts import Cursor, Delta, Level, MetricPlan, Window
from release_pipeline.workspace.inference_table import InferenceTable
from release_pipeline.workspace.score_source import Silence
from release_pipeline.workspace.sql.warehouse import within
from release_pipeline.workspace.tracer_rows import NOTHING_SHOWN, Shown

#: Time of one look for values that come late, and of the look that freezes their levels, seconds. A sensor's tick has
#: 60 s in all.
LOOK_SECONDS = 5.0
BASELINE_SECONDS = 15.0
#: What is new is read at once; where the warehouse is too slow for that only these shares of it, and then one commit
#: (without a change feed two minutes of event time), each try in so many seconds.
PIECES = ((1.0, 15.0), (1 / 16, 8.0), (1 / 256, 7.0), (0.0, 8.0))
#: Looking for tracers behind the piece, where only a piece of what is new is read.
TRACER_SECONDS = 5.0
#: Kinds that are counted in the inference table itself.
PAYLOAD_KINDS = ("errors", "slow", "expression")


class Source(Protocol):
    """A table beside the inference table whose rows judge requests: scores of judges and people, labels."""

    name: str
    metrics: tuple[Metric, ...]

    def collect(self, since: datetime, budget: Budget) -> None:
        """Bring what the table is made of up to date, where that is this pipeline's work, as far as there is time."""

    def collect_before(self, since: datetime, until: datetime, budget: Budget) -> datetime:
        """The same of requests before a release, the newest first; from which time on it is done."""

    def silence(self, since: datetime, lag: timedelta) -> Silence | None:
        """Proof that nobody writes to it any more; None without one."""

    def latest(self) -> Cursor | None:
        """How far the table reaches; None where it does not exist."""

    def version_before(self, moment: datetime) -> int:
        """The last version that can hold nothing of a request from ``moment`` on."""

    def level(
        self, since: datetime, until: datetime, *, rate_seconds: float, entities: Sequence[str] = ()
    ) -> list[Level]:
        """The level of its metrics before the release."""

    def changes(
        self,
        after_version: int,
        latest: Cursor,
        *,
        windows: Sequence[Window],
        plans: Sequence[MetricPlan],
    ) -> Delta:
        """What is new in it."""


@dataclass
class Findings:
    """What one look found out besides evidence.

    Attributes:
        missing: Tables that a metric of the gate needs and that do not exist.
        unreadable: Why a table, or the SQL of a metric, of the gate cannot be read.
        notes: The same of metrics that are only watched: told, and nothing is held for them.
        unmapped: Rows of entities that no tracer has mapped yet.
        contradictions: Entities that tracers have shown to be several versions.
        frozen: Tables of metrics that decide to which nobody writes any more.
        backlog: Why not all that is new in the inference table was read; empty where it was.
        behind: What tracers show that come after the piece that was read.
    """

    missing: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unmapped: int = 0
    contradictions: tuple[Contradiction, ...] = ()
    frozen: list[Frozen] = field(default_factory=list)
    backlog: str = ""
    behind: Shown = NOTHING_SHOWN

    def add_missing(self, table: str, metrics: Sequence[Metric]) -> None:
        """A table of these metrics does not exist."""
        if _decides(metrics):
            _once(self.missing, table)
        else:
            _once(self.notes, f"the table {table} of {_names(metrics)} does not exist")

    def add_unreadable(self, why: str, metrics: Sequence[Metric]) -> None:
        """The values of these metrics cannot be read."""
        _once(self.unreadable if _decides(metrics) else self.notes, why)

    def add_frozen(self, table: str, silence: Silence, metrics: Sequence[Metric]) -> None:
        """Nobody writes any more to a table of these metrics."""
        newest, requests, expected = silence
        if _decides(metrics):
            self.frozen.append(Frozen(table, newest.timestamp(), requests, expected))
        else:
            _once(
                self.notes,
                f"the newest row of {table} of {_names(metrics)} is of {newest:%Y-%m-%d %H:%M} UTC; nothing is written "
                "to it any more",
            )

    def add_failure(self, source: Source, error: Exception) -> None:
        """A source failed."""
        if isinstance(error, TableMissing):
            self.add_missing(source.name, source.metrics)
        else:
            self.add_unreadable(why_failed(source, error), source.metrics)


def why_failed(source: Source, error: Exception) -> str:
    """A sentence on a source that failed. A failed statement may quote a row, so that only its condition is told."""
    if isinstance(error, TableMissing):
        return f"{source.name} does not exist."
    if isinstance(error, StatementFailed):
        return (
            f"{source.name} of {_names(source.metrics)} cannot be read: {condition(error)}; check that it exists "
            "and that you may read it."
        )
    return str(error)


def has_new(table: InferenceTable, found: EvidenceSoFar, latest: Cursor) -> bool:
    """Whether the inference table reaches further than it was read."""
    return latest.version > _read_up_to(table, found)


def read_payload(
    table: InferenceTable,
    state: ReleaseState,
    found: EvidenceSoFar,
    latest: Cursor,
    seen: Findings,
    tracers: Mapping[str, datetime],
) -> TableRead | None:
    """What is new in the inference table; None where nothing is.

    What a slow warehouse cannot read at once is read in pieces, one at each look, so that every look gets further.

    Args:
        table: The inference table.
        state: The release.
        found: Its evidence.
        latest: How far the table reaches.
        seen: Told what failed, and what is left.
        tracers: When each tracer was noted, by the id of those that were sent.

    Raises:
        OutOfTime: Not even a piece could be read.
        TableUnreadable: It is in no shape that the gate can read.
        StatementFailed: The warehouse failed, and no metric's own SQL is to blame.
    """
    after = _read_up_to(table, found)
    if latest.version <= after:
        return None
    metrics = tuple(metric for metric in found.gate.metrics if metric.kind in PAYLOAD_KINDS)
    tries = dict[Cursor, float]()
    for share, seconds in PIECES:  # of little that is new the smaller pieces are the same one
        until = table.piece(after, latest, share)
        tries[until] = tries.get(until, 0.0) + seconds
    for until, seconds in tries.items():
        try:
            with within(seconds):
                delta = table.changes(
                    after,
                    until,
                    first_version=state.baseline_version + 1,
                    windows=_windows(state),
                    plans=found.plans(metric.name for metric in metrics),
                    counted=found.counted,
                    tracers=tuple(tracers),
                )
            break
        except OutOfTime as error:
            late = error
    else:
        raise late
    if until.version < latest.version:
        # Tracers of the piece's own rows may come after it: without them the rows would wait for ever. They are kept
        # apart from what the piece itself brought, which alone tells how far the table was read.
        with suppress(OutOfTime), within(TRACER_SECONDS):
            seen.behind = table.shown(tracers)
        units = "commits" if table.has_change_feed() else "seconds"
        seen.backlog = (
            f"the warehouse is too slow to read at once what is new in {table.name}: {until.version - after} of "
            f"{latest.version - after} {units} were read in this look, and the rest follows in the next ones."
        )
    if found.counts_from:
        never = float("-inf")
        groups = (group for group in delta.groups if group.bucket_start >= found.counts_from.get(group.metric, never))
        delta = replace(delta, groups=tuple(groups))
    for metric in metrics:
        if metric.name in delta.failed:
            seen.add_unreadable(delta.failed[metric.name], [metric])
    return TableRead(table.name, metrics, delta)


def read_sources(
    sources: Sequence[Source], state: ReleaseState, found: EvidenceSoFar, seen: Findings, now: float
) -> list[TableRead]:
    """What is new in the tables beside it. A source that fails is told in ``seen``, and read at another look.

    A source without anything new gives an empty read when rows that wait for its values to settle have waited enough.
    """
    reads = []
    budget, lag = Budget(LOOK_SECONDS), timedelta(minutes=found.gate.max_lag_minutes)
    known_since = state.started_at - timedelta(days=found.gate.baseline_days)
    for number, source in enumerate(sources):
        if all(metric.name in found.unfrozen for metric in source.metrics):
            continue  # its rows wait for the level
        try:
            source.collect(state.steps[0].started_at, budget.share(len(sources) - number))
            until = source.latest()
            if until is None:
                seen.add_missing(source.name, source.metrics)
                continue
            after = found.cursors.get(source.name)
            if after is None:  # at the first look the score table could not be asked
                after = source.version_before(state.started_at)
            if until.version > after:
                delta = source.changes(
                    after,
                    until,
                    windows=_windows(state),
                    plans=found.plans(metric.name for metric in source.metrics),
                )
                reads.append(TableRead(source.name, source.metrics, delta))
            elif any(_has_settled(metric, found, now) for metric in source.metrics):
                reads.append(TableRead(source.name, source.metrics, nothing_new(until)))
            if silence := source.silence(known_since, lag):
                seen.add_frozen(source.name, silence, source.metrics)
        except (WorkspaceError, SpecError) as error:  # the guards must not go blind with it
            seen.add_failure(source, error)
    return reads


def freeze_sources(
    sources: Sequence[Source],
    since: datetime,
    until: datetime,
    entities: Sequence[str],
    seen: Findings,
    *,
    seconds: float = BASELINE_SECONDS,
) -> tuple[list[Level], dict[str, int]]:
    """Levels of late metrics before the release, and the version that each source is read from.

    A source that fails has levels that say why, and are read again; one whose table cannot be asked has no version,
    which a later look finds out.
    """
    levels, cursors, budget = list[Level](), dict[str, int](), Budget(seconds)
    for number, source in enumerate(sources):
        try:
            reached = source.collect_before(since, until, budget.share(len(sources) - number))
            if reached > since:
                _once(
                    seen.notes,
                    f"the level of {_names(source.metrics)} is taken from {reached:%Y-%m-%d %H:%M} UTC on; there was "
                    "no time to look through more",
                )
            # Of younger requests the values that come soon are known, and the others not yet.
            settled_until = until - timedelta(seconds=max(metric.settle_seconds for metric in source.metrics))
            levels += source.level(
                min(since, settled_until), settled_until, rate_seconds=RATE_SECONDS, entities=entities
            )
        except (WorkspaceError, SpecError) as error:
            seen.add_failure(source, error)
            why = why_failed(source, error)
            levels += [Level(metric.name, "", 0, 0.0, None, 0.0, why) for metric in source.metrics]
        try:
            cursors[source.name] = source.version_before(until)
        except WorkspaceError as error:
            seen.add_failure(source, error)
    return levels, cursors


def _has_settled(metric: Metric, found: EvidenceSoFar, now: float) -> bool:
    """Whether something that waits would be complete if the metric's watermark moved to where it may be."""
    length, moved = found.state.buckets[metric.name], watermark_of(metric, found.watermark, now)
    for segment in found.state.segments(metric.name):
        evidence = found.state.metric(metric.name, segment)
        for account in evidence.accounts.values():
            for _, start in account.open:
                ends = start + slice_seconds(length), start // length * length + length
                if any(evidence.watermark < end <= moved for end in ends):
                    return True
    return False


def unknown_rows(read: TableRead, known: frozenset[str]) -> int:
    """Rows of a read whose entity is none of those that are known."""
    return sum(rows for entity, rows in read.delta.entities.items() if entity not in known)


def settled(state: ReleaseState, versions: Iterable[str]) -> bool:
    """Whether these versions, which tracers of a read showed, are all that serve: who is unknown then is none."""
    return {state.challenger_version, state.champion_version} - {None} <= set(versions)


def _read_up_to(table: InferenceTable, found: EvidenceSoFar) -> int:
    # Evidence of an earlier version names no table.
    return found.cursors.get(table.name, found.cursors.get("", 0))


def _windows(state: ReleaseState) -> list[Window]:
    return [Window(step.step, step.started_at, step.ended_at) for step in state.steps]


def _decides(metrics: Sequence[Metric]) -> bool:
    return any(metric.guards or metric.requires for metric in metrics)


def _names(metrics: Sequence[Metric]) -> str:
    return " and ".join(metric.name for metric in metrics)


def _once(found: list[str], what: str) -> None:
    if what not in found:
        found.append(what)
