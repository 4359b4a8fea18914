"""What is known before anything is bet: counts of one ingest, levels from before the release, lengths of buckets."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from operator import add
from typing import Final, NamedTuple, Self

from release_pipeline.spec_gate import GatePart, Metric

Counts = tuple[int, ...]

#: The segment of rows whose label was rare, or unknown, before the release.
OTHER: Final = "other"
#: A label is a segment of its own from this share of the rows on; less is not waited for.
SEGMENT_SHARE: Final = 0.05

#: The champion's level where no row from before the release tells it; p95 leaves 5 % slow by definition.
DEFAULT_LEVELS: Final[Mapping[str, float]] = {"errors": 0.01, "slow": 0.05}
_DEFAULT_LEVEL: Final = 0.05

#: Bucket lengths that :func:`bucket_seconds_for` chooses from; they divide a day, so buckets of any two days line up.
BUCKET_LENGTHS: Final = (60, 120, 300, 600, 1200, 3600, 7200, 14400, 43200, 86400)
#: The champion's rows in a bucket should be this many times the rows that close a block, or too many are left over.
_BLOCKS_PER_BUCKET: Final = 2.5
#: Rows of a bucket are counted in slices of event time, no longer than this and all of one length.
_LONGEST_SLICE: Final = 60
#: Where nothing is known of the traffic.
_UNKNOWN_TRAFFIC_SECONDS: Final = 3600


class Series(NamedTuple):
    """What is bet on by itself: a metric, or one segment of it."""

    metric: str
    segment: str = ""
    """Label of the segment; empty where the metric has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What one ingest saw of one series in one slice of event time of one ramp step: a bucket or a part of it.

    An observation with counts of zero is allowed: it carries a new watermark when no row came.
    """

    ingest: int
    """Number of the ingest, rising within a release."""
    step: int
    """Ramp step at the rows' event time; 0 is the first."""
    bucket_start: float
    """Start of the slice, unix seconds; see :func:`slice_seconds`."""
    metric: str
    """Name of the metric in the gate."""
    segment: str = ""
    """Label of the segment; empty where the metric has none."""
    champion: Counts
    """Champion rows per value bin, from good (0) to bad (1)."""
    challenger: Counts
    """Challenger rows per value bin."""
    champion_unjudged: int = 0
    """Champion rows without a usable value: NULL, NaN, a negative duration, a status that is none."""
    challenger_unjudged: int = 0
    challenger_failed: int = 0
    """How many of them the metric's own SQL failed on; of the champion's rows of that read none are counted."""
    from_version: int
    """First commit version of the table that the ingest read."""
    to_version: int
    """Last commit version that it read."""
    watermark: float
    """Event time up to which rows were believed complete at the ingest, unix seconds."""

    def __post_init__(self) -> None:
        """Refuse counts that cannot be counts."""
        if len(self.champion) != len(self.challenger) or len(self.champion) < 2:
            raise ValueError(
                f"observation of {self.metric} in ingest {self.ingest} has {len(self.champion)} champion and "
                f"{len(self.challenger)} challenger bins; give both arms the same bins, at least 2"
            )
        unjudged = self.challenger_unjudged - self.challenger_failed
        if min(*self.champion, *self.challenger, self.champion_unjudged, self.challenger_failed, unjudged) < 0:
            raise ValueError(f"observation of {self.metric} in ingest {self.ingest} has a negative count; count again")

    @property
    def series(self) -> Series:
        """What the rows are bet on."""
        return Series(self.metric, self.segment)


@dataclass(frozen=True, slots=True)
class Baseline:
    """The champion's level of one series before the release, frozen when the release starts."""

    metric: str
    n: int
    """Champion rows it was taken from."""
    bad: float
    """Sum of their badness."""
    threshold_ms: int | None
    """What counts as slow, milliseconds; None where the metric has no threshold."""
    level: float
    """Mean badness in (0, 1)."""
    segment: str = ""

    @classmethod
    def freeze(cls, metric: Metric, n: int, bad: float, threshold_ms: int | None = None, segment: str = "") -> Self:
        """The level ``(bad + 0.5) / (n + 1)``, or the kind's default (:data:`DEFAULT_LEVELS`) without rows.

        The level decides how quickly evidence grows, not whether it is valid, so a rough one is good enough.

        Raises:
            ValueError: ``bad`` is not between 0 and ``n``.
        """
        if not 0 <= bad <= n:
            raise ValueError(f"baseline of {metric.name} has {bad} bad of {n} rows; bad must be from 0 to {n}")
        level = (bad + 0.5) / (n + 1) if n else DEFAULT_LEVELS.get(metric.kind, _DEFAULT_LEVEL)
        return cls(metric.name, n, bad, threshold_ms, level, segment)


@dataclass(frozen=True, slots=True)
class Arms:
    """Rows per value bin of both arms; the empty one has no bins yet."""

    champion: Counts = ()
    challenger: Counts = ()

    def __add__(self, other: "Arms") -> "Arms":
        if not self.champion:
            return other
        if not other.champion:
            return self
        if len(self.champion) != len(other.champion):
            raise ValueError(f"cannot add counts of {len(self.champion)} and {len(other.champion)} bins; count again")
        # Both arms have the same bins.
        return Arms(tuple(map(add, self.champion, other.champion)), tuple(map(add, self.challenger, other.challenger)))

    @classmethod
    def total(cls, arms: Iterable["Arms"]) -> "Arms":
        """The sum of many, which is quicker at once than one after the other."""
        full = [each for each in arms if each.champion]
        if len(full) <= 2:
            return full[0] + full[1] if len(full) == 2 else full[0] if full else cls()
        champion, challenger = [each.champion for each in full], [each.challenger for each in full]
        try:
            return cls(tuple(map(sum, zip(*champion, strict=True))), tuple(map(sum, zip(*challenger, strict=True))))
        except ValueError:
            return sum(full, cls())  # which says what is wrong

    @property
    def champion_n(self) -> int:
        """Champion rows."""
        return sum(self.champion)

    @property
    def challenger_n(self) -> int:
        """Challenger rows."""
        return sum(self.challenger)


def bucket_seconds_for(gate: GatePart, champion_rows_per_second: float) -> int:
    """Length of the event-time buckets: what the gate says, or the shortest that holds enough champion rows.

    Short buckets keep evidence valid while weights or rates swing within a step; long ones lose fewer rows at low
    traffic. Traffic alone decides, never outcomes.

    Args:
        gate: Its ``bucket_seconds`` wins where it is set.
        champion_rows_per_second: Rows of the metric expected at the champion's smallest share, that of the last step;
            0 where nothing is known.
    """
    if gate.bucket_seconds is not None:
        return gate.bucket_seconds
    if not champion_rows_per_second:
        return _UNKNOWN_TRAFFIC_SECONDS
    rows = _BLOCKS_PER_BUCKET * gate.min_block_rows
    return next((s for s in BUCKET_LENGTHS if s * champion_rows_per_second >= rows), BUCKET_LENGTHS[-1])


@cache
def slice_seconds(bucket_seconds: float) -> float:
    """Length of the slices that a bucket's rows are counted in: a minute, or the next shorter time that divides it.

    Harm is bet as soon as enough slices are complete. Where traffic is low a bucket may last for hours, and a version
    that fails every request must not have so long.
    """
    seconds = round(bucket_seconds)
    if seconds <= _LONGEST_SLICE or seconds != bucket_seconds:
        return bucket_seconds
    return float(next(part for part in range(_LONGEST_SLICE, 0, -1) if seconds % part == 0))
