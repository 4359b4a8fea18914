"""One series on one step of the ramp: its bets, and the traffic that they see, in blocks of time."""

import math
from collections.abc import Sequence
from typing import Final

from release_pipeline.gate.betting import (
    Floats,
    above_increment,
    below_increment,
    harm_increment,
    noninferiority_increment,
)
from release_pipeline.gate.observations import bucket_seconds_for, slice_seconds
from release_pipeline.gate.power_plan import Traffic, Wait
from release_pipeline.gate.power_simulation import Leg, Race, blocks_until
from release_pipeline.spec import ReleaseSpec

#: An equal version that is not shown within this many deadlines is said never to be.
_DEADLINES: Final = 20


class Course:
    """What :func:`release_pipeline.gate.planner.plan` asks about one series on one step."""

    def __init__(self, spec: ReleaseSpec, traffic: Traffic, index: int, step: int) -> None:
        self._spec, self._traffic, self._seed = spec, traffic, (index, step)
        self.series, self.step = traffic.series[index], step
        self.metric, self.level = self.series.metric, self.series.level
        self.share = spec.ramp.steps[step] / 100
        self.margin = self.metric.margin_at(step)
        rows = traffic.requests_per_second * self.series.rows
        self._champion_rate, self._challenger_rate = rows * (1 - self.share), rows * self.share
        alike = [each for each in traffic.series if each.metric.name == self.metric.name]
        of_metric = traffic.requests_per_second * sum(each.rows * each.alike for each in alike)
        self.bucket_seconds = bucket_seconds_for(spec.gate, of_metric * (1 - max(spec.ramp.steps) / 100))

    @property
    def _bound(self) -> float:
        assert self.metric.bound is not None, "a metric without a margin has a bound"
        return self.metric.bound

    @property
    def harmless(self) -> float:
        """Mean badness up to which a challenger is not harmful."""
        return self._bound if self.margin is None else min(self.level + self.metric.tolerance, 1.0)

    @property
    def edge(self) -> float:
        """Mean badness from which on a challenger is not good enough."""
        return self._bound if self.margin is None else min(self.level + self.margin, 1.0)

    @property
    def harm_limit(self) -> float:
        """E-value that rolls back: alpha is split over the guards, then over the segments."""
        return self.series.labels / self._spec.gate.alpha_of(self.metric)

    def hours_to_advance(self) -> Floats:
        """Hours until an equal version is shown to be good enough, per release."""
        hours = _DEADLINES * self._spec.ramp.deadline_hours
        buckets = self._advance(self.level, hours * 3600)
        return (buckets * self.bucket_seconds + self._lag + self._tick) / 3600

    def false_advance(self) -> float:
        """Probability that a version at the edge is shown to be good enough before the ramp's deadline, simulated.

        At most alpha is proven; of few releases the share that is counted may be a little above it.
        """
        return float((self._advance(self.edge, self._spec.ramp.deadline_hours * 3600) < math.inf).mean())

    def seconds_to_roll_back(self, mean: float, most: float) -> Floats:
        """Seconds of traffic until a challenger of this mean is shown to be harmful, per release; lag not included."""
        return self._harm(mean, self.harm_legs(most)) * self._harm_block()[0]

    def rolled_back(self, mean: float, legs: Sequence[Leg]) -> float:
        """Probability that a challenger of this mean is shown to be harmful on its way over ``legs``."""
        return float((self._harm(mean, legs) < math.inf).mean())

    def harm_legs(self, seconds: float) -> list[Leg]:
        """This step's traffic for so long, in blocks that are bet for harm."""
        length, used = self._harm_block()
        return self._legs(length, used, seconds)

    def wait(self, seconds: tuple[float, float]) -> Wait:
        """Requests and hours of a median and a 90th percentile of seconds of traffic."""
        rate = self._traffic.requests_per_second * self.share
        requests, hours = [each * rate for each in seconds], [(each + self._lag) / 3600 for each in seconds]
        return Wait(*requests, *hours)

    @property
    def _lag(self) -> float:
        """Seconds from a request until its value counts: its row is there, and its value has settled."""
        return max(self._traffic.lag_seconds, self.metric.settle_seconds)

    @property
    def _tick(self) -> float:
        return float(self._spec.automation.tick_seconds)

    def _advance(self, mean: float, seconds: float) -> Floats:
        """Buckets until a challenger of this mean is shown; the first bucket is not a whole one."""
        margin, level = self.margin, self.level
        if margin is None:
            bound = self._bound
            used = 1.0

            def bet(champion: Floats, challenger: Floats) -> Floats:
                return below_increment(challenger, bound)
        else:
            used = _poisson_at_least(self._spec.gate.min_block_rows - 1, self._rate * self.bucket_seconds)

            def bet(champion: Floats, challenger: Floats) -> Floats:
                return noninferiority_increment(champion, challenger, level, margin)

        legs = self._legs(self.bucket_seconds, used, seconds)
        race = Race(bet, self.metric.bins, level, mean, -math.log(self._spec.gate.alpha), legs, on_grid=True)
        return blocks_until(race, (*self._seed, 0, round(mean * 1e9)))

    def _harm(self, mean: float, legs: Sequence[Leg]) -> Floats:
        """Blocks until a challenger of this mean is shown to be harmful."""
        level, tolerance = self.level, self.metric.tolerance
        if self.margin is None:
            bound = self._bound

            def bet(champion: Floats, challenger: Floats) -> Floats:
                return above_increment(challenger, bound)
        else:

            def bet(champion: Floats, challenger: Floats) -> Floats:
                return harm_increment(champion, challenger, level, tolerance)

        on_grid = self.margin is None
        race = Race(bet, self.metric.bins, level, mean, math.log(self.harm_limit), legs, on_grid=on_grid)
        return blocks_until(race, (*self._seed, 1, round(mean * 1e9)))

    def _harm_block(self) -> tuple[float, float]:
        """Seconds of a block that is bet for harm, and the share of the rows that are in one."""
        # Slices are bet when they are complete, and looked at once per tick.
        seconds = max(self._tick, slice_seconds(self.bucket_seconds))
        least, in_slices = self._spec.gate.min_block_rows, self._rate * seconds
        if self.margin is None or in_slices >= least:
            return seconds, 1.0
        rows, in_bucket = float(least), self._rate * self.bucket_seconds
        # What is left at the end of a bucket is lost: on average half a block.
        used = 1 - rows / (2 * in_bucket) if in_bucket >= 2 * rows else _poisson_at_least(least - 1, in_bucket)
        return min(rows / self._rate, float(self.bucket_seconds)), used

    @property
    def _rate(self) -> float:
        """Rows per second of both versions."""
        return self._champion_rate + self._challenger_rate

    def _legs(self, length: float, used: float, seconds: float) -> list[Leg]:
        rows, others = self._challenger_rate * length * used, self._champion_rate * length * used
        return [Leg(others, rows, max(1.0, seconds / length))] if used > 0 else []


def _poisson_at_least(least: int, mean: float) -> float:
    """Probability of at least so many events where ``mean`` are expected; tiny ones are 0."""
    if least <= 0:
        return 1.0
    if mean <= 0:
        return 0.0
    fewer = math.fsum(math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(least))
    return 0.0 if fewer > 1 - 1e-6 else 1 - fewer
