"""The fold from observations to evidence: which rows are bet when, and what all bets have won so far.

An *ingest* is one read of new rows from the inference table. What it saw is stored as :class:`Observation` rows, and
the state is a fold over them in the order of ingests: the same rows give the same state, bit for bit.

Rows are bet in *blocks*: the rows of one ramp step in one event-time bucket that were first seen in one ingest, or in
consecutive ones until the champion has ``gate.min_champion_rows``. A closed block is never opened again; later rows of
its bucket begin a new one. Whether a block closes depends on counts and time only, never on outcomes, which keeps the
bets fair. The two hypotheses close their blocks differently:

- harm closes as soon as the counts allow, because rows that came early came early for both arms;
- non-inferiority also waits until the watermark has passed the bucket's end, because a challenger whose bad answers
  are logged late would look healthy until then;
- absolute bounds have one arm and nothing to compare it with, so in both directions they wait for the watermark, too.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import groupby
from operator import attrgetter
from typing import Final, Self

import numpy as np

from release_pipeline.gate.betting import (
    LAMBDAS,
    Floats,
    above_increment,
    below_increment,
    harm_increment,
    noninferiority_increment,
)
from release_pipeline.spec import GatePart, Metric

Counts = tuple[int, ...]
Capitals = tuple[float, ...]
BlockKey = tuple[int, float]

#: The champion's level where no row from before the release tells it; p95 leaves 5 % slow by definition.
DEFAULT_LEVELS: Final[Mapping[str, float]] = {"errors": 0.01, "slow": 0.05}
_DEFAULT_LEVEL: Final = 0.05

#: An open block is given up when the watermark is this many buckets past its end. Its rows stay counted, not bet.
GIVE_UP_AFTER_BUCKETS: Final = 12

#: Bucket lengths that :func:`bucket_seconds_for` chooses from; they divide a day, so buckets of any two days line up.
BUCKET_LENGTHS: Final = (300, 600, 1200, 3600, 7200, 14400)
#: A bucket should hold this many times the rows that close a block, or too many rows are left over.
_BLOCKS_PER_BUCKET: Final = 5

_NOTHING: Final[Capitals] = (0.0,) * len(LAMBDAS)


class Bet(StrEnum):
    """The four hypotheses that are bet on per metric."""

    HARM = "harm"
    NONINFERIORITY = "noninferiority"
    ABOVE = "above"
    BELOW = "below"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What one ingest saw of one metric in one event-time bucket of one ramp step.

    An observation with counts of zero is allowed: it carries a new watermark when no row came.
    """

    ingest: int
    """Number of the ingest, rising within a release."""
    step: int
    """Ramp step at the rows' event time; 0 is the first."""
    bucket_start: float
    """Start of the event-time bucket, unix seconds."""
    metric: str
    """Name of the metric in the gate."""
    champion: Counts
    """Champion rows per value bin, from good (0) to bad (1)."""
    challenger: Counts
    """Challenger rows per value bin."""
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
        if min(*self.champion, *self.challenger) < 0:
            raise ValueError(f"observation of {self.metric} in ingest {self.ingest} has a negative count; count again")


@dataclass(frozen=True, slots=True)
class Baseline:
    """The champion's level of one metric before the release, frozen when the release starts."""

    metric: str
    n: int
    """Champion rows it was taken from."""
    bad: float
    """Sum of their badness."""
    threshold_ms: int | None
    """What counts as slow, milliseconds; None where the metric has no threshold."""
    level: float
    """Mean badness in (0, 1)."""

    @classmethod
    def freeze(cls, metric: Metric, n: int, bad: float, threshold_ms: int | None = None) -> Self:
        """The level ``(bad + 0.5) / (n + 1)``, or the kind's default (:data:`DEFAULT_LEVELS`) without rows.

        The level decides how quickly evidence grows, not whether it is valid, so a rough one is good enough.

        Raises:
            ValueError: ``bad`` is not between 0 and ``n``.
        """
        if not 0 <= bad <= n:
            raise ValueError(f"baseline of {metric.name} has {bad} bad of {n} rows; bad must be from 0 to {n}")
        level = (bad + 0.5) / (n + 1) if n else DEFAULT_LEVELS.get(metric.kind, _DEFAULT_LEVEL)
        return cls(metric.name, n, bad, threshold_ms, level)


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
        return Arms(
            tuple(a + b for a, b in zip(self.champion, other.champion, strict=True)),
            tuple(a + b for a, b in zip(self.challenger, other.challenger, strict=True)),
        )

    @property
    def champion_n(self) -> int:
        """Champion rows."""
        return sum(self.champion)

    @property
    def challenger_n(self) -> int:
        """Challenger rows."""
        return sum(self.challenger)


@dataclass(frozen=True, slots=True)
class Account:
    """One bet on one metric: what it has won per step, from which rows, and the blocks that are still open."""

    capitals: Mapping[int, Capitals] = field(default_factory=dict)
    """Log-capital per stake, by step; each step begins with 0."""
    folded: Mapping[int, Arms] = field(default_factory=dict)
    """Rows in closed blocks, by step."""
    open: Mapping[BlockKey, Arms] = field(default_factory=dict)
    """Open blocks, by step and bucket start."""

    def at(self, step: int) -> Capitals:
        """Log-capitals of one step alone: evidence at that traffic only."""
        return self.capitals.get(step, _NOTHING)

    def carried(self) -> Capitals:
        """Log-capitals over all steps: bets add up, although counts of different steps must never be pooled."""
        total = np.zeros(len(LAMBDAS))
        for step in sorted(self.capitals):
            total += self.capitals[step]
        return tuple(total.tolist())


@dataclass(frozen=True, slots=True)
class MetricEvidence:
    """Everything that is known of one metric in a release."""

    watermark: float = float("-inf")
    """Latest watermark that an ingest of this metric stated, unix seconds."""
    rows: Mapping[int, Arms] = field(default_factory=dict)
    """All rows seen, by step, for people to read; decisions use the accounts."""
    accounts: Mapping[Bet, Account] = field(default_factory=dict)

    def account(self, bet: Bet) -> Account:
        """The account of one bet; an empty one before its first row."""
        return self.accounts.get(bet, Account())

    def seen(self, step: int) -> Arms:
        """All rows of one step."""
        return self.rows.get(step, Arms())

    def total(self) -> Arms:
        """All rows of the release."""
        return sum((self.rows[step] for step in sorted(self.rows)), Arms())

    def leftover(self, bet: Bet, step: int) -> tuple[int, int]:
        """Champion and challenger rows of one step that are in no closed block of this bet."""
        seen, folded = self.seen(step), self.account(bet).folded.get(step, Arms())
        return seen.champion_n - folded.champion_n, seen.challenger_n - folded.challenger_n


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceState:
    """The evidence of one release after an ingest. Immutable: :meth:`add` returns the next state."""

    gate: GatePart
    levels: Mapping[str, float]
    """Frozen level per metric."""
    bucket_seconds: float
    """Length of an event-time bucket, seconds."""
    last_ingest: int = -1
    metrics: Mapping[str, MetricEvidence] = field(default_factory=dict)

    @classmethod
    def start(cls, baselines: Iterable[Baseline], gate: GatePart, *, bucket_seconds: float) -> Self:
        """The state before the first ingest.

        Args:
            baselines: Frozen levels; a metric without one gets its kind's default.
            gate: The gate of the release; it must stay the same throughout.
            bucket_seconds: Length of the event-time buckets that the observations were counted in, seconds.

        Raises:
            ValueError: ``bucket_seconds`` is not positive.
        """
        if not bucket_seconds > 0:
            raise ValueError(f"bucket_seconds is {bucket_seconds}; it must be above 0, such as 300")
        frozen = {baseline.metric: baseline.level for baseline in baselines}
        levels = {m.name: frozen.get(m.name, Baseline.freeze(m, 0, 0).level) for m in gate.metrics}
        return cls(gate=gate, levels=levels, bucket_seconds=bucket_seconds)

    def metric(self, name: str) -> MetricEvidence:
        """The evidence of one metric; empty before its first observation."""
        return self.metrics.get(name, MetricEvidence())

    def add(self, observations: Iterable[Observation]) -> Self:
        """The state after one more ingest. Their order does not matter; metrics that the gate lacks are ignored.

        Raises:
            ValueError: The observations are of several ingests, of one that is not newer than the last, or two are of
                the same step, bucket and metric. Rows would count twice.
        """
        rows = sorted(observations, key=lambda row: (row.metric, row.step, row.bucket_start))
        if not rows:
            return self
        ingest = rows[0].ingest
        if any(row.ingest != ingest for row in rows) or ingest <= self.last_ingest:
            raise ValueError(f"cannot add ingest {ingest} after {self.last_ingest}; add newer ingests, one at a time")
        known = {metric.name: metric for metric in self.gate.metrics}
        metrics = dict(self.metrics)
        for name, group in groupby(rows, key=attrgetter("metric")):
            if name in known:
                metrics[name] = self._add_metric(known[name], self.metric(name), list(group))
        return replace(self, last_ingest=ingest, metrics=metrics)

    def _add_metric(self, metric: Metric, before: MetricEvidence, rows: list[Observation]) -> MetricEvidence:
        watermark = max(before.watermark, *(row.watermark for row in rows))
        seen = dict(before.rows)
        fresh: dict[BlockKey, Arms] = {}
        for row in rows:
            key, arms = (row.step, row.bucket_start), Arms(row.champion, row.challenger)
            if key in fresh:
                raise ValueError(
                    f"ingest {row.ingest} has two observations of {row.metric} in step {row.step}, bucket "
                    f"{row.bucket_start:.0f}; sum them before adding"
                )
            if arms.champion_n or arms.challenger_n:
                fresh[key] = arms
                seen[row.step] = seen.get(row.step, Arms()) + arms
        bets = (Bet.HARM, Bet.NONINFERIORITY) if metric.bound is None else tuple(Bet)
        accounts = {bet: self._advance(metric, bet, before.account(bet), fresh, watermark) for bet in bets}
        return MetricEvidence(watermark, seen, accounts)

    def _advance(
        self, metric: Metric, bet: Bet, before: Account, fresh: Mapping[BlockKey, Arms], watermark: float
    ) -> Account:
        """Put fresh rows into open blocks, then close, keep or give up each block, in the order of step and bucket."""
        blocks, capitals, folded = dict(before.open), dict(before.capitals), dict(before.folded)
        for key, arms in fresh.items():
            blocks[key] = blocks.get(key, Arms()) + arms
        for key in sorted(blocks):
            step, end = key[0], key[1] + self.bucket_seconds
            arms = blocks[key]
            enough = bet in (Bet.ABOVE, Bet.BELOW) or arms.champion_n >= self.gate.min_champion_rows
            if enough and (bet is Bet.HARM or watermark >= end):
                won = self._increment(metric, bet, step, arms) + np.asarray(capitals.get(step, _NOTHING))
                capitals[step] = tuple(won.tolist())
                folded[step] = folded.get(step, Arms()) + arms
                del blocks[key]
            elif watermark >= end + GIVE_UP_AFTER_BUCKETS * self.bucket_seconds:
                del blocks[key]
        return Account(capitals, folded, blocks)

    def _increment(self, metric: Metric, bet: Bet, step: int, arms: Arms) -> Floats:
        level = self.levels[metric.name]
        if bet is Bet.HARM:
            return harm_increment(arms.champion, arms.challenger, level, metric.tolerance)
        if bet is Bet.NONINFERIORITY:
            return noninferiority_increment(arms.champion, arms.challenger, level, metric.margin_at(step))
        assert metric.bound is not None, "bets on a bound are placed for metrics with one"
        bounded = above_increment if bet is Bet.ABOVE else below_increment
        return bounded(arms.challenger, metric.bound)


def bucket_seconds_for(gate: GatePart, champion_rows_per_second: float) -> int:
    """Length of the event-time buckets: what the gate says, or the shortest that holds enough champion rows.

    Short buckets keep evidence valid while weights or rates swing within a step; long ones lose fewer rows at low
    traffic. Traffic alone decides, never outcomes.

    Args:
        gate: Its ``bucket_seconds`` wins where it is set.
        champion_rows_per_second: Expected at the champion's smallest share, that of the last ramp step.
    """
    if gate.bucket_seconds is not None:
        return gate.bucket_seconds
    rows = _BLOCKS_PER_BUCKET * gate.min_champion_rows
    return next((s for s in BUCKET_LENGTHS if s * champion_rows_per_second >= rows), BUCKET_LENGTHS[-1])


def fold(
    observations: Iterable[Observation], baselines: Iterable[Baseline], gate: GatePart, *, bucket_seconds: float
) -> EvidenceState:
    """The state after all observations: :meth:`EvidenceState.add`, ingest by ingest.

    Raises:
        ValueError: As :meth:`EvidenceState.start` and :meth:`EvidenceState.add`.
    """
    state = EvidenceState.start(baselines, gate, bucket_seconds=bucket_seconds)
    by_ingest = attrgetter("ingest")
    for _, rows in groupby(sorted(observations, key=by_ingest), key=by_ingest):
        state = state.add(rows)
    return state
