"""The fold from observations to evidence: which rows are bet when, and what all bets have won so far.

An *ingest* is one read of new rows from the inference table. What it saw is stored as
:class:`~release_pipeline.gate.observations.Observation` rows, and the state is a fold over them in the order of
ingests: the same rows give the same state, bit for bit.

Rows are bet in *blocks*: rows of one ramp step and one bucket of event time, counted in slices of a minute at most. A
slice that the watermark has passed is complete. The bets differ in what makes a block:

- harm: complete slices of a bucket as soon as both arms together have ``gate.min_block_rows`` in them, then the next;
- non-inferiority: a bucket that is over, if it has as many rows; larger blocks know the champion better;
- bounds: any complete slice, as one arm is compared with nothing.

Whether a block closes depends on time and on the number of its rows only, never on how they are split over the arms:
where lateness depends on the outcome, one arm's own number would tell its outcomes, and identical versions would be
rolled back.

All bets wait for the watermark, harm too. A row arrives when its answer is done, so of a time that is not complete an
arm that answers sooner shows more of its good answers; where errors are time-outs, or come at once, its share of errors
would be wrong. For the same reason a time is compared once: rows that come after their block was closed are *late*.
They are counted and told (:meth:`Account.late`), never compared, because rows that are slow enough to be late are no
fair sample of an arm. Bets on one arm take late rows as they come.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import groupby
from operator import add, attrgetter
from typing import Final, NamedTuple, Self

import numpy as np

from release_pipeline.gate.betting import (
    LAMBDAS,
    above_increment,
    below_increment,
    harm_increment,
    kept,
    noninferiority_increment,
)
from release_pipeline.gate.observations import OTHER, SEGMENT_SHARE, Arms, Baseline, Observation, Series, slice_seconds
from release_pipeline.spec_gate import GatePart, Metric

Capitals = tuple[float, ...]
#: Ramp step, and start of a bucket or of a slice, unix seconds.
Place = tuple[int, float]

#: A bucket's rows are given up this many buckets after it has ended and the first of them has come; after as many, no
#: more are waited for. They stay counted, not bet.
GIVE_UP_AFTER_BUCKETS: Final = 12

_NOTHING: Final[Capitals] = (0.0,) * len(LAMBDAS)
_NO_ARMS: Final = Arms()


class Bet(StrEnum):
    """The four hypotheses that are bet on."""

    HARM = "harm"
    NONINFERIORITY = "noninferiority"
    ABOVE = "above"
    BELOW = "below"


_PAIRED: Final = (Bet.HARM, Bet.NONINFERIORITY)
_ONE_ARMED: Final = (Bet.ABOVE, Bet.BELOW)


class OpenBlock(NamedTuple):
    """Rows of a slice that are not bet yet."""

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
    open: Mapping[Place, OpenBlock] = field(default_factory=dict)
    """Slices that are not bet yet, by step and start."""
    given_up: Mapping[int, Arms] = field(default_factory=dict)
    """Rows that will never be bet, by step: their block did not fill, or they came after it was closed."""
    closed: Mapping[Place, float] = field(default_factory=dict)
    """Event time up to which a bucket was bet or given up, by step and bucket start, until it is too old for rows."""

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

    def late(self, step: int, bucket_seconds: float, watermark: float) -> Arms:
        """Rows of a step that came after their block was closed, or never filled one, and are not bet.

        Rows of buckets, of that length in seconds, that the watermark has not passed are not late; they still wait.
        """
        waiting = [
            block.arms
            for (at, start), block in sorted(self.open.items())
            if at == step and start // bucket_seconds * bucket_seconds + bucket_seconds <= watermark
        ]
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
    failed: Mapping[int, int] = field(default_factory=dict)
    """How many of the challenger's of them the metric's own SQL failed on, by step."""

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


_EMPTY: Final = Account()
_NONE: Final = MetricEvidence()
_PLACE: Final = attrgetter("metric", "segment", "step", "bucket_start")


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
    level_rows: Mapping[Series, int] = field(default_factory=dict)
    """Champion rows that each level was taken from; a series that is not in it has a default, or one of an earlier
    version of this package."""

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
        return cls(gate=gate, levels={}, buckets={})._frozen(gate.metrics, baselines, buckets)

    def freeze(self, baselines: Iterable[Baseline], *, buckets: Mapping[str, float]) -> Self:
        """The state with levels that could not be read at the start, in place of the defaults.

        A level may come as late as it likes, as long as it is from before the release: it is fixed before the first row
        of its metric is bet, and no outcome of the release plays a part in it.

        Args:
            baselines: The levels of some metrics, all series of each.
            buckets: Length of the event-time buckets of these metrics, seconds.

        Raises:
            ValueError: Rows of such a metric were added before, or a bucket's length is missing or not positive.
        """
        late = list(baselines)
        names = {baseline.metric for baseline in late}
        for series, evidence in self.metrics.items():
            if series.metric in names and (evidence.rows or evidence.unjudged):
                raise ValueError(f"rows of {series.metric} were added before its level; freeze levels first")
        return self._frozen([metric for metric in self.gate.metrics if metric.name in names], late, buckets)

    def _frozen(self, metrics: Iterable[Metric], baselines: Iterable[Baseline], buckets: Mapping[str, float]) -> Self:
        known_levels = list(baselines)
        frozen = {Series(baseline.metric, baseline.segment): baseline.level for baseline in known_levels}
        rows: dict[Series, int] = {Series(baseline.metric, baseline.segment): baseline.n for baseline in known_levels}
        small, levels = set(self.small), dict(self.levels)
        level_rows = {series: n for series, n in self.level_rows.items() if series not in rows}
        for metric in metrics:
            small = {series for series in small if series.metric != metric.name}
            levels = {series: level for series, level in levels.items() if series.metric != metric.name}
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
        level_rows |= {series: n for series, n in rows.items() if n and series in levels}
        return replace(
            self,
            levels=levels,
            buckets={**self.buckets, **buckets},
            small=frozenset(small),
            level_rows=level_rows,
        )

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
        rows = sorted(observations, key=_PLACE)
        if not rows:
            return self
        ingest = rows[0].ingest
        by_series: dict[tuple[str, str], list[Observation]] = {}
        for row in rows:
            if row.ingest != ingest:
                ingest = self.last_ingest  # refused below
            by_series.setdefault((row.metric, row.segment), []).append(row)
        if ingest <= self.last_ingest:
            raise ValueError(
                f"cannot add ingest {rows[0].ingest} after {self.last_ingest}; add newer ingests, one at a time"
            )
        known = {metric.name: metric for metric in self.gate.metrics}
        metrics = dict(self.metrics)
        for key, group in by_series.items():
            if key in self.levels:
                series = Series(*key)
                metrics[series] = self._add_series(known[series.metric], series, metrics.get(series, _NONE), group)
        return replace(self, last_ingest=ingest, metrics=metrics)

    def _add_series(
        self, metric: Metric, series: Series, before: MetricEvidence, rows: list[Observation]
    ) -> MetricEvidence:
        watermark, seen, unjudged, failed = before.watermark, before.rows, before.unjudged, before.failed
        fresh: dict[Place, Arms] = {}
        keys = set[Place]()
        for row in rows:
            step, start, champion, challenger = row.step, row.bucket_start, row.champion, row.challenger
            watermark = max(watermark, row.watermark)
            key = (step, start)
            if key in keys:
                raise ValueError(
                    f"ingest {row.ingest}: two observations of {row.metric} in step {step}, slice {start:.0f}; sum them"
                )
            keys.add(key)
            if any(champion) or any(challenger):
                fresh[key] = Arms(champion, challenger)
            if row.champion_unjudged or row.challenger_unjudged:
                old, new = unjudged.get(step, (0, 0))
                unjudged = {**unjudged, step: (old + row.champion_unjudged, new + row.challenger_unjudged)}
            if row.challenger_failed:
                failed = {**failed, step: failed.get(step, 0) + row.challenger_failed}
        for step in {step for step, _ in fresh}:
            came = (arms for (at, _), arms in fresh.items() if at == step)
            seen = {**seen, step: Arms.total((before.seen(step), *came))}
        passed = before.watermark, watermark
        accounts = {
            bet: self._advance(metric, series, bet, before.accounts.get(bet, _EMPTY), fresh, passed)
            for bet in _bets_on(metric)
        }
        return MetricEvidence(watermark, seen, unjudged, accounts, failed)

    def _advance(
        self,
        metric: Metric,
        series: Series,
        bet: Bet,
        before: Account,
        fresh: Mapping[Place, Arms],
        watermarks: tuple[float, float],
    ) -> Account:
        """Put fresh rows into open slices, then close, keep or give up each bucket's complete ones, in their order."""
        blocks, capitals, folded, given_up = dict(before.open), before.capitals, before.folded, before.given_up
        closed, watermark, done, merged = before.closed, watermarks[1], False, False
        length, one_armed = self.buckets[metric.name], bet in _ONE_ARMED
        part, patience = slice_seconds(length), (1 + GIVE_UP_AFTER_BUCKETS) * length
        for key, arms in fresh.items():
            step, start = key
            bucket = step, start // length * length
            if key in blocks:
                blocks[key] = OpenBlock(blocks[key].arms + arms, blocks[key].opened)
            elif one_armed or (bucket[1] > watermarks[0] - patience and start >= closed.get(bucket, start)):
                blocks[key] = OpenBlock(arms, watermark)
            else:
                given_up = {**given_up, step: given_up.get(step, _NO_ARMS) + arms}
        passed: dict[Place, list[Place]] = {}
        # A block whose bucket was over at the ingest before is as it was, until rows come or it is given up.
        known = min([watermarks[0], *(start - part for _, start in fresh)]) - length
        for key in blocks:
            if watermark >= key[1] + part and (key[1] > known or watermark >= key[1] + patience - length):
                passed.setdefault((key[0], key[1] // length * length), []).append(key)
        for bucket in sorted(passed):
            (step, start), keys = bucket, passed[bucket]
            if len(keys) > 1:
                keys.sort()
                arms, opened = Arms.total([blocks[key].arms for key in keys]), min(blocks[key].opened for key in keys)
            else:
                arms, opened = blocks[keys[0]]
            complete = bet is not Bet.NONINFERIORITY or watermark >= start + length
            if complete and (one_armed or sum(arms.champion) + sum(arms.challenger) >= self.gate.min_block_rows):
                won = capitals.get(step, _NOTHING)
                if any(arms.challenger):  # else the increment is 0, whichever the bet
                    won = tuple(map(add, self._increment(metric, series, bet, step, arms), won))
                capitals = {**capitals, step: won}
                folded = {**folded, step: folded.get(step, _NO_ARMS) + arms}
            elif complete and watermark >= start + patience and watermark >= opened - length + patience:
                given_up = {**given_up, step: given_up.get(step, _NO_ARMS) + arms}
            else:
                if len(keys) > 1:  # they wait as one: what waits is not summed anew at every ingest
                    for key in keys[1:]:
                        del blocks[key]
                    blocks[keys[0]], merged = OpenBlock(arms, opened), True
                continue
            done = True
            for key in keys:
                del blocks[key]
            if not one_armed:
                closed = {**closed, bucket: min(start + length, watermark // part * part)}
        if done and next(iter(closed), (0, watermark))[1] <= watermark - patience:
            closed = {bucket: until for bucket, until in closed.items() if bucket[1] > watermark - patience}
        return Account(capitals, folded, blocks, given_up, closed) if fresh or done or merged else before

    def _increment(self, metric: Metric, series: Series, bet: Bet, step: int, arms: Arms) -> Capitals:
        if bet is Bet.HARM:
            return kept(harm_increment, arms.champion, arms.challenger, self.levels[series], metric.tolerance)
        if bet is Bet.NONINFERIORITY:
            margin = metric.margin_at(step)
            assert margin is not None, "bets against the champion are placed for metrics with a margin"
            return kept(noninferiority_increment, arms.champion, arms.challenger, self.levels[series], margin)
        assert metric.bound is not None, "bets on a bound are placed for metrics with one"
        return kept(above_increment if bet is Bet.ABOVE else below_increment, arms.challenger, metric.bound)


def _bets_on(metric: Metric) -> tuple[Bet, ...]:
    """Against the champion where there is a margin, against the bound where there is one."""
    paired = () if metric.margin is None else _PAIRED
    return paired if metric.bound is None else paired + _ONE_ARMED


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
