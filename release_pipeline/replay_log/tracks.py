"""One series of a release on its way through the gate: what is still to be counted, and how its bets have gone."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from release_pipeline.gate.betting import LAMBDAS, log_e_value
from release_pipeline.gate.evidence import Bet, Capitals, EvidenceState
from release_pipeline.gate.observations import Observation, Series
from release_pipeline.replay_log.arrivals import SeriesCounts
from release_pipeline.replay_log.results import EPath

#: Exponents beyond this are no floats; the gate's own e-values end here, too.
_LARGEST: Final = 700.0
_NOTHING: Final = (0.0,) * len(LAMBDAS)
_NO_COUNTS: Final = SeriesCounts([], [], [], [], [], [], [], [0], 2)


@dataclass
class Track:
    """One series.

    Attributes:
        series: The metric, and the segment.
        harm_bet: The bet that may roll back.
        good_bet: The bet that lets a step go.
        watched: Whether anything is bet on it.
        harm_limit: Logarithm of the e-value that rolls back.
        good_limit: Logarithm of the e-value that shows it.
        guard: Whether it may roll back.
        required: Whether it must be shown.
        counts: Its counts, from the last layout on.
        good: Log-capitals of the good bet on the present step.
        won: Log-capitals of both bets over all steps.
    """

    series: Series
    harm_bet: Bet
    good_bet: Bet
    watched: bool
    harm_limit: float
    good_limit: float
    guard: bool
    required: bool
    counts: SeriesCounts = _NO_COUNTS
    good: Capitals = _NOTHING
    won: tuple[Capitals, Capitals] = (_NOTHING, _NOTHING)
    _taken: int = 0
    _watermark: float = float("-inf")
    _capitals: tuple[Mapping[int, Capitals] | None, Mapping[int, Capitals] | None] = (None, None)
    _at: list[float] = field(default_factory=list)
    _step: list[int] = field(default_factory=list)
    _harms: list[Capitals] = field(default_factory=list)
    _goods: list[Capitals] = field(default_factory=list)

    @property
    def harm_reached(self) -> bool:
        """Whether harm is shown."""
        return _reached(self.won[0], self.harm_limit)

    @property
    def good_reached(self) -> bool:
        """Whether the series is shown to be good enough on the present step."""
        return _reached(self.good, self.good_limit)

    def lay_out(self, counts: SeriesCounts) -> None:
        """Begin with other counts."""
        self.counts, self._taken = counts, 0

    def take(self, read: int, watermark: float, step: int) -> list[Observation]:
        """The counts up to a read, as one ingest; where there are none, an empty one carries the watermark.

        Slices of a bucket that the watermark passes with this read come as one. The fold would put them together
        before it does anything else with them, and none of them can be late.
        """
        counts, bins, before = self.counts, self.counts.bins, self._watermark
        new = slice(self._taken, bisect_right(counts.at, read, self._taken))
        self._taken, self._watermark = new.stop, watermark
        found: dict[int, list[int]] = {}
        first: dict[int, int] = {}
        ends, bucket_of = counts.ends, counts.bucket
        for key, slot, rows in zip(counts.key[new], counts.slot[new], counts.rows[new], strict=True):
            if before < ends[key] <= watermark:
                key = first.setdefault(bucket_of[key], key)
            if key not in found:
                found[key] = [0] * (2 * bins + 2)
            found[key][slot] += rows
        empty = (0,) * bins
        blocks = [
            (*counts.keys[key], tuple(slots[1 : bins + 1]), tuple(slots[bins + 2 :]), slots[0], slots[bins + 1])
            for key, slots in found.items()
        ] or [(step, watermark, empty, empty, 0, 0)]
        return [
            Observation(
                ingest=read,
                step=at,
                bucket_start=bucket,
                metric=self.series.metric,
                segment=self.series.segment,
                champion=champion,
                challenger=challenger,
                champion_unjudged=old,
                challenger_unjudged=young,
                from_version=read,
                to_version=read,
                watermark=watermark,
            )
            for at, bucket, champion, challenger, old, young in blocks
        ]

    def follow(self, state: EvidenceState, now: float, step: int) -> None:
        """Read the bets off a state; the path gets longer if they have won or lost something."""
        evidence = state.metric(*self.series)
        harm, good = evidence.account(self.harm_bet), evidence.account(self.good_bet)
        self.good = good.at(step)
        if harm.capitals is self._capitals[0] and good.capitals is self._capitals[1]:
            return
        self._capitals = harm.capitals, good.capitals
        won = harm.carried(), good.carried()
        if won != self.won:
            self.won = won
            self._at.append(now)
            self._step.append(step)
            self._harms.append(won[0])
            self._goods.append(self.good)

    def path(self) -> EPath:
        """How the bets have gone."""
        return EPath(tuple(self._at), tuple(self._step), _e_values(self._harms), _e_values(self._goods))


def _reached(capitals: Capitals, limit: float) -> bool:
    """Whether a mean capital has reached a limit, both as logarithms; no mean is above its largest part."""
    return max(capitals) >= limit and float(log_e_value(capitals)) >= limit


def _e_values(capitals: list[Capitals]) -> tuple[float, ...]:
    logs = log_e_value(np.asarray(capitals)) if capitals else np.zeros(0)
    return tuple(np.exp(np.minimum(logs, _LARGEST)).tolist())
