"""The rule of this project and those of others, in a shape that watches many simulated releases at once.

What stands for another system is its kind of rule with the values of its own documentation, not its code. Each is
written to decide one thing, a rollback or an advance; two of them watch the same traffic for both.
"""

import math
from collections.abc import Callable
from typing import Final

import numpy as np

from benchmarks.gate_traffic import Bools, Counts, Floats, Rule
from release_pipeline.gate.betting import LAMBDAS, bin_values, log_e_value

ALPHA: Final = 0.05
LIMIT: Final = -math.log(ALPHA)
_Z: Final = 1.6448536269514722
_Z_ONE_PERCENT: Final = 2.3263478740408408

#: A variance from fewer rows is no estimate; the rules that use one wait for so many of each arm.
_LEAST_ROWS: Final = 100

Increment = Callable[[Counts, Counts, float, float], Floats]
Make = Callable[[int], Rule]


class Bet:
    """This project's rule: every look is a block; a hit where the e-value is at least 1 / alpha."""

    def __init__(self, releases: int, increment: Increment, level: float, shift: float, every: int = 1) -> None:
        """With `every` > 1, that many looks of few rows make one block."""
        self._increment, self._level, self._shift, self._every = increment, level, shift, every
        self._capital = np.zeros((releases, len(LAMBDAS)))

    def hits(self, champion: Counts, challenger: Counts) -> Bools:
        """See `Rule`."""
        releases, looks, bins = champion.shape
        shape = (releases, looks // self._every, self._every, bins)
        old, new = champion.reshape(shape).sum(axis=2), challenger.reshape(shape).sum(axis=2)
        won = self._increment(old, new, self._level, self._shift)
        path = self._capital[:, None] + won.cumsum(axis=1)
        self._capital = path[:, -1]
        hits = np.zeros((releases, looks), dtype=bool)
        hits[:, self._every - 1 :: self._every] = log_e_value(path) >= LIMIT
        return hits


class _Means:
    """Running rows, means and variances of both arms."""

    _pools = False
    """Whether both arms are given the variance of all rows when no difference is the null hypothesis."""

    def __init__(self, releases: int, sign: float, shift: float) -> None:
        """The sign is 1 to roll back and -1 to advance; the shift is what is tolerated, or the margin."""
        self._sums = np.zeros((2, releases, 3))
        self._sign, self._shift = sign, shift

    def update(self, champion: Counts, challenger: Counts) -> tuple[Floats, Floats, Floats]:
        """Rows and variances of both arms, each (2, releases, looks), and how far the challenger is beyond the shift.

        The champion is the first.
        """
        values = bin_values(champion.shape[-1])
        powers = np.stack([np.ones_like(values), values, values**2], axis=-1)
        sums = self._sums[:, :, None] + (np.stack([champion, challenger]) @ powers).cumsum(axis=2)
        self._sums = sums[:, :, -1]
        n, mean, variance = self._moments(sums)
        if self._pools and self._sign > 0:
            variance = np.broadcast_to(self._moments(sums.sum(axis=0))[2], variance.shape)
        return n, variance, self._sign * (mean[1] - mean[0] - self._shift)

    @staticmethod
    def _moments(sums: Floats) -> tuple[Floats, Floats, Floats]:
        n = sums[..., 0]
        mean = sums[..., 1] / np.maximum(n, 1)
        return n, mean, np.maximum(sums[..., 2] / np.maximum(n, 1) - mean**2, 0)


class NaiveZ(_Means):
    """A one-sided z-test of all rows so far, at every look after the first 100 challenger rows."""

    _pools = True

    def hits(self, champion: Counts, challenger: Counts) -> Bools:
        """See `Rule`."""
        n, variance, beyond = self.update(champion, challenger)
        error = np.sqrt((variance / np.maximum(n, 1)).sum(axis=0))
        hits: Bools = (n.min(axis=0) >= _LEAST_ROWS) & (error > 0) & (beyond > _Z * error)
        return hits


class AsymptoticSequence(_Means):
    """GrowthBook-like: a one-sided asymptotic confidence sequence, with that system's tuning for 5,000 rows.

    It looks after the first 100 challenger rows, too.
    """

    _TUNED_FOR: Final = 5000

    def hits(self, champion: Counts, challenger: Counts) -> Bools:
        """See `Rule`."""
        n, variance, beyond = self.update(champion, challenger)
        both = n.sum(axis=0)
        log_two_alpha = math.log(2 * ALPHA)
        rho2 = (-2 * log_two_alpha + math.log(-2 * log_two_alpha + 1)) / self._TUNED_FOR
        spread = both * (variance / np.maximum(n, 1)).sum(axis=0)
        scale = both * rho2 + 1
        width = np.sqrt(spread * 2 * scale / (np.maximum(both, 1) ** 2 * rho2) * np.log1p(np.sqrt(scale) / (2 * ALPHA)))
        hits: Bools = (n.min(axis=0) >= _LEAST_ROWS) & (spread > 0) & (beyond > width)
        return hits


class Checks:
    """A threshold on the success rate of a window, checked over and over; a window without rows is not checked.

    Flagger-like and Argo-like rules: rolled back at the last failure that is allowed, promoted after enough checks
    before that.
    """

    def __init__(self, releases: int, every: int, least: float, failures: int, checks: int, promotes: bool) -> None:
        """A window of `every` looks needs a success rate of at least `least`, in all but `failures` - 1 of the checks.

        `promotes` tells whether a hit is the promotion or the rollback.
        """
        self._every, self._least, self._failures, self._checks, self._promotes = (
            every, least, failures, checks, promotes,
        )  # fmt: skip
        self._window, self._looks = np.zeros((releases, 2)), 0
        self._failed, self._checked = np.zeros(releases), np.zeros(releases)

    def hits(self, champion: Counts, challenger: Counts) -> Bools:
        """See `Rule`."""
        hits = np.zeros(challenger.shape[:2], dtype=bool)
        for look in range(challenger.shape[1]):
            self._window += challenger[:, look]
            self._looks += 1
            if self._looks % self._every:
                continue
            rows = self._window.sum(axis=1)
            self._failed += (rows > 0) & (self._window[:, 0] < self._least * rows)
            self._checked += 1
            over = self._failed >= self._failures
            hits[:, look] = (self._checked >= self._checks) & ~over if self._promotes else over
            self._window[:] = 0
        return hits


class RankJudge:
    """Kayenta-like: a Mann-Whitney interval on 60 error rates of a minute each, judged once an hour.

    The first judgement promotes or does not; to roll back, every hour has one. A metric is too high when the lower end
    of the 98 % interval of the shift is beyond a quarter of the estimated shift (that system's tolerance). A minute
    without rows counts as one without errors.
    """

    _POINTS: Final = 60
    _LOOKS_PER_POINT: Final = 2
    _TOLERANCE: Final = 0.25

    def __init__(self, releases: int, promotes: bool) -> None:
        """`promotes` tells whether a hit is the promotion or the rollback."""
        self._promotes, self._looks = promotes, 0
        self._window = np.zeros((2, releases, 2))
        self._rates = np.zeros((2, releases, self._POINTS))

    def hits(self, champion: Counts, challenger: Counts) -> Bools:
        """See `Rule`."""
        hits = np.zeros(challenger.shape[:2], dtype=bool)
        for look in range(challenger.shape[1]):
            self._window[0] += champion[:, look]
            self._window[1] += challenger[:, look]
            self._looks += 1
            if self._looks % self._LOOKS_PER_POINT:
                continue
            point = self._looks // self._LOOKS_PER_POINT - 1
            self._rates[..., point % self._POINTS] = self._window[..., 1] / np.maximum(self._window.sum(axis=-1), 1)
            self._window[:] = 0
            if (point + 1) % self._POINTS == 0 and not (self._promotes and point > self._POINTS):
                hits[:, look] = self._too_high() ^ self._promotes
        return hits

    def _too_high(self) -> Bools:
        shifts = (self._rates[1][:, :, None] - self._rates[0][:, None, :]).reshape(self._rates.shape[1], -1)
        pairs = self._POINTS**2
        lower = int(pairs / 2 - _Z_ONE_PERCENT * math.sqrt(pairs * (2 * self._POINTS + 1) / 12))
        ordered = np.partition(shifts, (lower, pairs // 2), axis=1)
        too_high: Bools = ordered[:, lower] > self._TOLERANCE * np.abs(ordered[:, pairs // 2])
        return too_high


def bet(increment: Increment, level: float, shift: float = 0.0, every: int = 1) -> Make:
    """This project's rule."""
    return lambda releases: Bet(releases, increment, level, shift, every)


def naive_z(shift: float | None = None) -> Make:
    """To roll back, or with a margin as the shift to advance."""
    return lambda releases: NaiveZ(releases, 1.0, 0.0) if shift is None else NaiveZ(releases, -1.0, shift)


def growthbook_like(shift: float | None = None) -> Make:
    """To roll back, or with a margin as the shift to advance."""
    if shift is None:
        return lambda releases: AsymptoticSequence(releases, 1.0, 0.0)
    return lambda releases: AsymptoticSequence(releases, -1.0, shift)


def flagger_like(promotes: bool = False) -> Make:
    """99 % of success in windows of a minute, 5 failed checks, 10 checks."""
    return lambda releases: Checks(releases, 2, 0.99, 5, 10, promotes)


def argo_like(promotes: bool = False) -> Make:
    """95 % of success in windows of 5 minutes, more than 3 failures, 10 measurements."""
    return lambda releases: Checks(releases, 10, 0.95, 4, 10, promotes)


def kayenta_like(promotes: bool = False) -> Make:
    """Once an hour."""
    return lambda releases: RankJudge(releases, promotes)
