"""The fold from observations to evidence: which rows are bet when, and what all bets have won so far.

An *ingest* is one read of new rows from the inference table. What it saw is stored as
:class:`~release_pipeline.gate.observations.Observation` rows, and the state is a fold over them in the order of
ingests: the same rows give the same state, bit for bit.

Rows are bet in *blocks*: the rows of one ramp step in one event-time bucket that were first seen in one ingest, or in
consecutive ones until both arms together have ``gate.min_block_rows``. A closed block is never opened again; later rows
of its bucket begin a new one. Whether a block closes depends on time and on the number of its rows only, never on how
they are split over the arms: where lateness depends on the outcome, one arm's own number would tell its outcomes, and
identical versions would be rolled back. The hypotheses close their blocks differently:

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
from typing import Final, NamedTuple, Self

import numpy as np

from release_pipeline.gate.betting import (
    LAMBDAS,
    Floats,
    above_increment,
    below_increment,
    harm_increment,
    noninferiority_increment,
)
from release_pipeline.gate.observations import OTHER, SEGMENT_SHARE, Arms, Baseline, Observation, Series
from release_pipeline.spec_gate import GatePart, Metric

Capitals = tuple[float, ...]
BlockKey = tuple[int, float]

#: An open block is given up this many buckets after its bucket has ended and its first row has come. Its rows stay
#: counted, not bet.
GIVE_UP_AFTER_BUCKETS: Final = 12

_NOTHING: Final[Capitals] = (0.0,) * len(LAMBDAS)
_NO_ARMS: Final = Arms()


class Bet(StrEnum):
    """The four hypotheses that are bet on."""

    HARM = "harm"
    NONINFERIORITY = "noninferiority"
    ABOVE = "above"
    BELOW = "below"


_ONE_ARMED: Final = (Bet.ABOVE, Bet.BELOW)


class OpenBlock(NamedTuple):
    """Rows that are not bet yet."""

    arms: Arms
    opened: float
    """Watermark when its first row came."""


@dataclass(frozen=True, slots=True)
class Account:
    """One bet on one series: what it has won per step, from which rows, and the blocks that are still open."""

    capitals: Mapping[int, Capitals] = field(default_factory=dict)
    """Log-capital per stake, by step; each step begins with 0."""
    folded: Mapping[int, Arms] = field(default_factory=dict)
    """Rows in closed blocks, by step."""
    open: Mapping[BlockKey, OpenBlock] = field(default_factory=dict)
    """Open blocks, by step and bucket start."""
    given_up: Mapping[int, Arms] = field(default_factory=dict)
    """Rows that will never be bet, by step: their block did not fill."""

    def at(self, step: int) -> Capitals:
        """Log-capitals of one step alone: evidence at that traffic only."""
        return self.capitals.get(step, _NOTHING)

    def carried(self) -> Capitals:
        """Log-capitals over all steps: bets add up, although counts of different steps must never be pooled."""
        if len(self.capitals) <= 1:
            return next(iter(self.capitals.values()), _NOTHING)
        total = np.zeros(len(LAMBDAS))
        for step in sorted(self.capitals):
            total += self.capitals[step]
        return tuple(total.tolist())

    def late(self, step: int, before: float) -> Arms:
        """Rows of a step that came after their bucket's block was closed, or never filled one, and are not bet.

        Args:
            step: The ramp step.
            before: Only buckets that start before this event time count as late; younger ones still wait.
        """
        waiting = [block.arms for (at, start), block in sorted(self.open.items()) if at == step and start <= before]
        return sum(waiting, self.given_up.get(step, _NO_ARMS))


@dataclass(frozen=True, slots=True)
class MetricEvidence:
    """Everything that is known of one series in a release."""

    watermark: float = float("-inf")
    """Latest watermark that an ingest of this series stated, unix seconds."""
    rows: Mapping[int, Arms] = field(default_factory=dict)
    """All rows seen, by step, for people to read; decisions use the accounts."""
    unjudged: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    """Champion and challenger rows without a usable value, by step."""
    accounts: Mapping[Bet, Account] = field(default_factory=dict)

    def account(self, bet: Bet) -> Account:
        """The account of one bet; an empty one before its first row."""
        return self.accounts.get(bet) or Account()

    def seen(self, step: int) -> Arms:
        """All rows of one step."""
        return self.rows.get(step, _NO_ARMS)

    def total(self) -> Arms:
        """All rows of the release."""
        return sum((self.rows[step] for step in sorted(self.rows)), _NO_ARMS)

    def leftover(self, bet: Bet, step: int) -> tuple[int, int]:
        """Champion and challenger rows of one step that are in no closed block of this bet."""
        seen, folded = self.seen(step), self.account(bet).folded.get(step, _NO_ARMS)
        return seen.champion_n - folded.champion_n, seen.challenger_n - folded.challenger_n


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceState:
    """The evidence of one release after an ingest. Immutable: :meth:`add` returns the next state."""

    gate: GatePart
    levels: Mapping[Series, float]
    """Frozen level per series. A metric with segments has those that were frozen with it, and :data:`OTHER`."""
    buckets: Mapping[str, float]
    """Length of an event-time bucket per metric, seconds."""
    small: frozenset[Series] = frozenset()
    """Segments :data:`OTHER` that had too few rows before the release to be waited for."""
    last_ingest: int = -1
    metrics: Mapping[Series, MetricEvidence] = field(default_factory=dict)

    @classmethod
    def start(cls, baselines: Iterable[Baseline], gate: GatePart, *, buckets: Mapping[str, float]) -> Self:
        """The state before the first ingest.

        Args:
            baselines: Frozen levels; a series without one gets its kind's default.
            gate: The gate of the release; it must stay the same throughout.
            buckets: Length of the event-time buckets that the observations are counted in, per metric, seconds.

        Raises:
            ValueError: The length of a metric's buckets is missing or not positive.
        """
        known_levels = list(baselines)
        frozen = {Series(baseline.metric, baseline.segment): baseline.level for baseline in known_levels}
        rows: dict[Series, int] = {Series(baseline.metric, baseline.segment): baseline.n for baseline in known_levels}
        small = set()
        levels: dict[Series, float] = {}
        for metric in gate.metrics:
            if not buckets.get(metric.name, 0) > 0:
                raise ValueError(
                    f"the bucket of {metric.name} is {buckets.get(metric.name)} s; it must be above 0, such as 300"
                )
            default = Baseline.freeze(metric, 0, 0).level
            if metric.segments is None:
                labels = [""]
            else:
                known = {series.segment for series in frozen if series.metric == metric.name}
                labels = [*sorted(known - {"", OTHER}), OTHER]
                total = sum(rows.get(Series(metric.name, label), 0) for label in labels)
                if len(labels) > 1 and rows.get(Series(metric.name, OTHER), 0) < SEGMENT_SHARE * total:
                    small.add(Series(metric.name, OTHER))
            levels |= {(key := Series(metric.name, label)): frozen.get(key, default) for label in labels}
        return cls(gate=gate, levels=levels, buckets=dict(buckets), small=frozenset(small))

    def metric(self, name: str, segment: str = "") -> MetricEvidence:
        """The evidence of one series; empty before its first observation."""
        return self.metrics.get(Series(name, segment)) or MetricEvidence()

    def segments(self, name: str) -> tuple[str, ...]:
        """The segments that a metric is judged by: one empty label where it has none."""
        return tuple(series.segment for series in self.levels if series.metric == name)

    def add(self, observations: Iterable[Observation]) -> Self:
        """The state after one more ingest. Their order does not matter; series that the gate lacks are ignored.

        Raises:
            ValueError: The observations are of several ingests, of one that is not newer than the last, or two are of
                the same step, bucket and series. Rows would count twice.
        """
        rows = sorted(observations, key=lambda row: (row.metric, row.segment, row.step, row.bucket_start))
        if not rows:
            return self
        ingest = rows[0].ingest
        if any(row.ingest != ingest for row in rows) or ingest <= self.last_ingest:
            raise ValueError(f"cannot add ingest {ingest} after {self.last_ingest}; add newer ingests, one at a time")
        known = {metric.name: metric for metric in self.gate.metrics}
        metrics = dict(self.metrics)
        for series, group in groupby(rows, key=attrgetter("series")):
            if series in self.levels:
                before = metrics.get(series) or MetricEvidence()
                metrics[series] = self._add_series(known[series.metric], series, before, list(group))
        return replace(self, last_ingest=ingest, metrics=metrics)

    def _add_series(
        self, metric: Metric, series: Series, before: MetricEvidence, rows: list[Observation]
    ) -> MetricEvidence:
        watermark = max(before.watermark, *[row.watermark for row in rows])
        seen, unjudged = dict(before.rows), dict(before.unjudged)
        fresh: dict[BlockKey, Arms] = {}
        for row in rows:
            key, arms = (row.step, row.bucket_start), Arms(row.champion, row.challenger)
            if key in fresh:
                raise ValueError(
                    f"ingest {row.ingest} has two observations of {row.metric} in step {row.step}, bucket "
                    f"{row.bucket_start:.0f}; sum them before adding"
                )
            fresh[key] = arms
            if row.champion_unjudged or row.challenger_unjudged:
                old, new = unjudged.get(row.step, (0, 0))
                unjudged[row.step] = (old + row.champion_unjudged, new + row.challenger_unjudged)
        fresh = {key: arms for key, arms in fresh.items() if any(arms.champion) or any(arms.challenger)}
        for key, arms in fresh.items():
            seen[key[0]] = seen.get(key[0], _NO_ARMS) + arms
        accounts = {
            bet: self._advance(metric, series, bet, before.account(bet), fresh, watermark) for bet in _bets_on(metric)
        }
        return MetricEvidence(watermark, seen, unjudged, accounts)

    def _advance(
        self,
        metric: Metric,
        series: Series,
        bet: Bet,
        before: Account,
        fresh: Mapping[BlockKey, Arms],
        watermark: float,
    ) -> Account:
        """Put fresh rows into open blocks, then close, keep or give up each block, in the order of step and bucket."""
        blocks, capitals, folded, given_up = before.open, before.capitals, before.folded, before.given_up
        if fresh:
            blocks = dict(blocks)
            for key, arms in fresh.items():
                open_block = blocks.get(key)
                blocks[key] = (
                    OpenBlock(open_block.arms + arms, open_block.opened) if open_block else OpenBlock(arms, watermark)
                )
        length = self.buckets[metric.name]
        patience = GIVE_UP_AFTER_BUCKETS * length
        if bet is Bet.HARM:
            # One that has no new rows has as few as before; at most it is too old (a second more, for rounding).
            old = watermark - length - patience + 1
            due = [key for key in blocks if key in fresh or key[1] <= old]
        else:
            due = [key for key in blocks if watermark >= key[1] + length]
        if not due:
            return Account(capitals, folded, blocks, given_up) if fresh else before
        one_armed, done = bet in _ONE_ARMED, list[BlockKey]()
        for key in sorted(due):
            (step, start), (arms, opened) = key, blocks[key]
            if one_armed or arms.champion_n + arms.challenger_n >= self.gate.min_block_rows:
                won = capitals.get(step, _NOTHING)
                if any(arms.challenger):
                    won = tuple((self._increment(metric, series, bet, step, arms) + np.asarray(won)).tolist())
                # Without challenger rows the increment is 0, whichever the bet.
                capitals = {**capitals, step: won}
                folded = {**folded, step: folded.get(step, _NO_ARMS) + arms}
            elif watermark >= max(start + length, opened) + patience:
                given_up = {**given_up, step: given_up.get(step, _NO_ARMS) + arms}
            else:
                continue
            done.append(key)
        if done:
            blocks = {key: block for key, block in blocks.items() if key not in done}
        return Account(capitals, folded, blocks, given_up)

    def _increment(self, metric: Metric, series: Series, bet: Bet, step: int, arms: Arms) -> Floats:
        level = self.levels[series]
        if bet is Bet.HARM:
            return harm_increment(arms.champion, arms.challenger, level, metric.tolerance)
        if bet is Bet.NONINFERIORITY:
            margin = metric.margin_at(step)
            assert margin is not None, "bets against the champion are placed for metrics with a margin"
            return noninferiority_increment(arms.champion, arms.challenger, level, margin)
        assert metric.bound is not None, "bets on a bound are placed for metrics with one"
        bounded = above_increment if bet is Bet.ABOVE else below_increment
        return bounded(arms.challenger, metric.bound)


def _bets_on(metric: Metric) -> tuple[Bet, ...]:
    """Against the champion where there is a margin, against the bound where there is one."""
    paired = () if metric.margin is None else (Bet.HARM, Bet.NONINFERIORITY)
    return paired if metric.bound is None else (*paired, Bet.ABOVE, Bet.BELOW)


def fold(
    observations: Iterable[Observation],
    baselines: Iterable[Baseline],
    gate: GatePart,
    *,
    buckets: Mapping[str, float],
) -> EvidenceState:
    """The state after all observations: :meth:`EvidenceState.add`, ingest by ingest.

    Raises:
        ValueError: As :meth:`EvidenceState.start` and :meth:`EvidenceState.add`.
    """
    state = EvidenceState.start(baselines, gate, buckets=buckets)
    by_ingest = attrgetter("ingest")
    for _, rows in groupby(sorted(observations, key=by_ingest), key=by_ingest):
        state = state.add(rows)
    return state
