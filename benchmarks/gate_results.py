"""What a cell of `benchmarks.gate` measured: rates and medians, their 95 % intervals, the floors under them."""

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from benchmarks.gate_rules import LIMIT
from benchmarks.gate_traffic import Firsts, Floats

#: Name of this project's rule among the others.
OURS: Final = "this gate"
_Z: Final = 1.959963984540054


@dataclass(frozen=True)
class Measured:
    """One number of this project's rule, with what it has to keep.

    Rates are shares of all releases. Medians and means are numbers of challenger requests, or minutes.
    """

    goal: str
    cell: str
    what: str
    unit: str
    value: float
    low: float | None
    high: float | None
    releases: int
    at_most: float | None = None
    mean: float | None = None
    floor: float | None = None

    @property
    def met(self) -> bool:
        """Whether the goal is kept; true without one."""
        return self.at_most is None or self.value <= self.at_most


@dataclass(frozen=True)
class Compared:
    """A rate of one rule, ours or another's, in one column of the comparison."""

    column: str
    rule: str
    value: float
    low: float
    high: float


@dataclass
class Cell:
    """All that one cell brings."""

    measured: list[Measured] = field(default_factory=list)
    compared: list[Compared] = field(default_factory=list)
    firsts: dict[str, Firsts] = field(default_factory=dict)
    """For the plots: by rule, or by what was measured."""

    def rate(self, goal: str, cell: str, what: str, events: int, releases: int, at_most: float | None = None) -> None:
        """Note a rate of this project's rule."""
        low, high = wilson(events, releases)
        self.measured.append(Measured(goal, cell, what, "share", events / releases, low, high, releases, at_most))

    def median(
        self,
        goal: str,
        cell: str,
        what: str,
        firsts: Firsts,
        floor: float | None,
        at_most: float | None,
        *,
        unit: str = "requests",
    ) -> None:
        """Note the median of the challenger requests, or of what stands for them; infinite where under half decided."""
        low, high = median_interval(firsts.requests)
        value, mean, releases = float(np.median(firsts.requests)), float(firsts.requests.mean()), len(firsts.requests)
        self.measured.append(
            Measured(goal, cell, what, unit, value, low, high, releases, at_most, mean, floor)
        )  # fmt: skip

    def compare(self, column: str, rule: str, events: int, releases: int) -> None:
        """Note a rate in the comparison of rules."""
        self.compared.append(Compared(column, rule, events / releases, *wilson(events, releases)))


def wilson(events: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a rate."""
    rate, z2 = events / trials, _Z**2
    middle = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    reach = _Z / (1 + z2 / trials) * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials**2))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def median_interval(values: Floats) -> tuple[float, float]:
    """A 95 % interval of the median, between two of the ordered values."""
    ordered, n = np.sort(values), len(values)
    reach = _Z * math.sqrt(n) / 2
    low, high = max(0, math.floor(n / 2 - reach)), min(n - 1, math.ceil(n / 2 + reach))
    return float(ordered[low]), float(ordered[high])


def wald_floor(truth: ArrayLike, other: ArrayLike) -> float:
    """Mean number of rows of Wald's sequential test between two known distributions: ln(1 / alpha) / KL.

    Nothing that errs in at most alpha of the cases needs fewer on average, and it is told both distributions.

    Args:
        truth: Probabilities of the value bins as they are.
        other: The same if the null hypothesis held.
    """
    p, q = np.asarray(truth, dtype=np.float64), np.asarray(other, dtype=np.float64)
    seen = p > 0
    return LIMIT / float(np.sum(p[seen] * np.log(p[seen] / q[seen])))
