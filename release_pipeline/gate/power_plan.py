"""What a plan of a ramp says: requests, times and probabilities, per metric and step. Times are hours."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from release_pipeline.gate.verdict import percent
from release_pipeline.spec_gate import Metric


@dataclass(frozen=True, slots=True)
class PlannedSeries:
    """A metric, or one segment of it, as it is expected to be while both versions are equal."""

    metric: Metric
    segment: str
    """Label; empty where the metric has no segments, or where they are not known and taken to be alike."""
    level: float
    """The champion's mean badness, in (0, 1)."""
    rows: float
    """Rows of this series per request to the endpoint, in (0, 1]."""
    alike: int = 1
    """How many segments this one stands for."""
    labels: int = 1
    """Segments that the metric's share of alpha is split over, the one of rare labels included."""
    required: bool = True
    """Whether it has to be shown before a step advances."""

    @property
    def title(self) -> str:
        """What people call the series."""
        if self.alike > 1:
            return f"{self.metric.name} (each of {self.alike} segments)"
        return f"{self.metric.name} ({self.segment})" if self.segment else self.metric.name


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a plan assumes, or has measured, of the endpoint."""

    requests_per_second: float
    lag_seconds: float
    """From a request to its row."""
    series: tuple[PlannedSeries, ...]
    notes: tuple[str, ...] = ()
    """Where the figures come from, one sentence each."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Challenger requests and hours: the median of all releases, and what 90 % of them need at most."""

    requests: float
    requests_90: float
    hours: float
    hours_90: float


@dataclass(frozen=True, slots=True)
class Regression:
    """A challenger that is worse than the champion, until it is rolled back."""

    name: str
    mean: float
    """Its mean badness."""
    wait: Wait


@dataclass(frozen=True, slots=True)
class SeriesStep:
    """What one series can show on one step of the ramp."""

    title: str
    metric: str
    segment: str
    step: int
    percent: int
    level: float
    serious: float
    """Mean badness that a release must not get away with: what is not good enough, or 5 times the level."""
    aim: float | None
    """The margin that has to be shown, or the bound where there is no margin."""
    bounded: bool
    bucket_seconds: int
    advance: Wait | None
    """Until an equal version is shown; None where the metric is not required."""
    false_advance: float | None
    """Probability that a version exactly at the margin, or bound, is shown before the deadline."""
    regressions: tuple[Regression, ...]
    """Until typical regressions are rolled back; empty where the metric is no guard."""
    curve: tuple[Regression, ...]
    """The same for sizes from small to large."""
    found_in_step: float | None
    """Smallest mean badness that 90 % of releases roll back by the time an equal version advances."""
    found_in_ramp: float | None
    """The same before the ramp's deadline."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """How long an equal version stays on one step."""

    step: int
    percent: int
    requests_per_hour: float
    """The challenger's."""
    hours: float
    hours_90: float
    slowest: str
    """The series that takes longest, or empty where only the shortest time of a step counts."""


@dataclass(frozen=True, slots=True)
class FalseRollback:
    """How often an equal version is rolled back by one series over the whole ramp."""

    title: str
    at_most: float
    """Proven."""
    simulated: float
    """Counted, so by chance it may be a little above what is proven."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is known about a ramp before it starts."""

    name: str
    alpha: float
    ramp: tuple[int, ...]
    deadline_hours: float
    traffic: Traffic
    problems: tuple[str, ...]
    """What will not work, or hardly, as it is written; empty where all is well."""
    suggestions: tuple[str, ...]
    """What would."""
    hours: float
    """Median time of the whole ramp of an equal version; infinite where it does not end."""
    hours_90: float
    by_deadline: float
    """Share of equal versions that pass the last step before the deadline."""
    steps: tuple[StepTime, ...]
    series: tuple[SeriesStep, ...]
    false_rollback: tuple[FalseRollback, ...]
    false_rollback_in_all: float
    """Simulated, over all guards; at most alpha is proven."""

    def to_dict(self) -> dict[str, Any]:
        """JSON: what does not end is null, figures have four digits, a metric is its name."""
        plain: dict[str, Any] = _plain(self)
        return plain

    @property
    def sentence(self) -> str:
        """The plan in one or two sentences, what is hopeless first."""
        ramp = "/".join(map(str, self.ramp))
        rate = requests_text(self.traffic.requests_per_second)
        if self.problems:
            return " ".join((*self.problems, *self.suggestions))
        return (
            f"At {rate} an equal version passes the ramp {ramp} % in {hours_text(self.hours)} (median), 90 % within "
            f"{hours_text(self.hours_90)}; the deadline is {hours_text(self.deadline_hours)}. It is falsely rolled "
            f"back: simulated {percent(self.false_rollback_in_all)}, proven at most {percent(self.alpha)}."
        )


def hours_text(hours: float) -> str:
    """A time for people: `40 s`, `45 min`, `3.2 h`, `17 days`, or `never`."""
    if math.isinf(hours):
        return "never"
    if hours < 0.03:
        return f"{hours * 3600:.0f} s"
    if hours < 1.5:
        return f"{hours * 60:.0f} min"
    return f"{hours:.2g} h" if hours < 72 else f"{hours / 24:.2g} days" if hours < 2400 else f"{hours / 24:,.0f} days"


def requests_text(per_second: float) -> str:
    """A rate for people, in the unit that gives it the fewest digits before the point."""
    for unit, seconds in (("s", 1), ("min", 60), ("h", 3600)):
        if per_second * seconds >= 1 - 1e-9:
            number = f"{per_second * seconds:.3g}"
            return f"{number} {'request' if number == '1' else 'requests'}/{unit}"
    return f"{per_second * 86400:.3g} requests/day"


def _plain(value: Any) -> Any:
    if isinstance(value, Metric):
        return value.name
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return value
