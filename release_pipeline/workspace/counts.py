"""What reading a table gives: counts of its new rows, and levels from before a release. Never a request's body."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, NamedTuple, Self

from release_pipeline.spec_gate import Metric

#: The segment of every label that was not frozen; the gate calls it so, too.
OTHER: Final = "other"
#: Watermark mode looks for late rows among those of so many seconds before the last one that was read.
LATE_SECONDS: Final = 86_400
#: Seconds.
HOUR: Final = 3600


class Cursor(NamedTuple):
    """How far a table reaches.

    Attributes:
        version: Newest commit version; in watermark mode the last whole second of event time that may be read.
        at: Time of that commit; in watermark mode the event time of the newest row.
    """

    version: int
    at: datetime


@dataclass(frozen=True)
class Window:
    """The event times of one ramp step, half open; ``end`` None means until now."""

    step: int
    start: datetime
    end: datetime | None


@dataclass(frozen=True)
class MetricPlan:
    """How one metric's rows are counted during a release; frozen with its baseline.

    Attributes:
        metric: The metric.
        bucket_seconds: Length of its event-time buckets.
        threshold_ms: What `slow` means; with None no row can be judged.
        segments: Labels that are counted by themselves; every other label is counted as ``OTHER``. Empty where the
            metric has no segments, or where none was seen.
    """

    metric: Metric
    bucket_seconds: int
    threshold_ms: int | None = None
    segments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """Rows of one metric in one (step, event-time bucket, served entity, segment).

    Attributes:
        step: Ramp step at the rows' event time.
        bucket_start: Start of the bucket, unix seconds.
        served_entity_id: Who answered.
        metric: Name of the metric.
        segment: Label; empty where the metric has no segments.
        counts: Rows per value bin, from good (0) to bad (1).
        unjudged: Rows without a usable value.
    """

    step: int
    bucket_start: float
    served_entity_id: str
    metric: str
    segment: str
    counts: tuple[int, ...]
    unjudged: int


@dataclass(frozen=True)
class Delta:
    """What arrived between two versions of a table.

    Attributes:
        from_version: First version that was read.
        to_version: Last version that was read.
        groups: Counts of the rows that fall into a step and were answered by a served entity.
        entities: Number of those rows by served entity id.
        mapping: Version by served entity id, as tracers, or the rows themselves, showed it.
        lag_seconds: Longest time from a request to its commit among the rows of a step and the tracers, 0.0 where
            there was none; in watermark mode the hold-back.
        lag_measured: Whether rows told the lag; False in watermark mode.
        committed_at: Time of the newest commit that brought rows, or ``at`` of the cursor that was read up to.
        contradictions: Versions by served entity id where tracers showed more than one; not in ``mapping``.
        forged: Rows that call themselves tracers' and were not sent by this pipeline; they count as users' rows.
        outside: Rows of no step (before the ramp, or while traffic was being moved), of no entity (answered by the
            gateway), refused before a version saw them, or without a request id; counted, never judged.
        duplicates: Rows that were delivered before, and dropped.
        cells: Watermark mode: the distinct rows of a step, by hour.
        late_cells: Watermark mode: rows of a step that came after their event time had been read, by hour; counted,
            never judged.
        sampling_fraction: Smallest sampling fraction among the rows of a step; None where no row states one.
        rows: Distinct rows that were read, tracers excepted.
        failed: Metrics whose own SQL failed in the warehouse, each with a sentence; all their rows are unjudged.
    """

    from_version: int
    to_version: int
    groups: tuple[Group, ...]
    entities: Mapping[str, int]
    mapping: Mapping[str, str]
    lag_seconds: float
    committed_at: datetime
    outside: int = 0
    duplicates: int = 0
    cells: tuple["Cell", ...] = ()
    late_cells: tuple["Cell", ...] = ()
    sampling_fraction: float | None = None
    rows: int = 0
    failed: Mapping[str, str] = field(default_factory=dict)
    lag_measured: bool = True
    contradictions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    forged: int = 0

    @property
    def late(self) -> int:
        """Watermark mode: rows that came after their event time had been read."""
        return sum(cell.rows for cell in self.late_cells)


class Failures(NamedTuple):
    """Answers of one served entity in some time."""

    failed: int = 0
    """With a status of 500 and above."""
    refused: int = 0
    """With a status of 400 to 499."""


class Cell(NamedTuple):
    """Distinct rows of a ramp step that one served entity answered within one hour of event time."""

    hour: int
    """Hours since 1970."""
    step: int
    entity: str
    rows: int


@dataclass(frozen=True)
class Counted:
    """Watermark mode: the rows of a release that are known, whether they came in time or late.

    Attributes:
        since: The first second that was read.
        cells: The rows of the last day of what was read.
    """

    since: int
    cells: tuple[Cell, ...] = ()

    def add(self, cells: Iterable[Cell], until: int) -> Self:
        """With more rows, up to a second; hours that nobody counts again are forgotten."""
        oldest = first_hour(until)
        rows = Counter[tuple[int, int, str]]()
        for hour, step, entity, number in (*self.cells, *cells):
            if hour >= oldest:
                rows[hour, step, entity] += number
        return replace(self, cells=tuple(Cell(*place, number) for place, number in sorted(rows.items())))

    def late(self, found: Iterable[Cell]) -> tuple[Cell, ...]:
        """What there is beyond what is known."""
        known = {cell[:3]: cell.rows for cell in self.cells}
        beyond = [cell._replace(rows=cell.rows - known.get(cell[:3], 0)) for cell in found]
        return tuple(cell for cell in beyond if cell.rows > 0)


def first_hour(until: int) -> int:
    """The first hour of the day that ends with a second, in which late rows are looked for."""
    return (until - LATE_SECONDS) // HOUR


@dataclass(frozen=True)
class Level:
    """The level of a metric, or of one segment of it, before the release.

    Attributes:
        metric: Name of the metric.
        segment: Label; empty where the metric has no segments.
        rows: Judged rows.
        bad: Sum of their badness.
        threshold_ms: Frozen threshold of a `slow` metric.
        rows_per_second: Judged rows per second, just before the release.
        failed: Why the metric's own SQL failed in the warehouse, a sentence; such a level, and its segments, are not
            known. Empty where they are.
    """

    metric: str
    segment: str
    rows: int
    bad: float
    threshold_ms: int | None
    rows_per_second: float
    failed: str = ""
