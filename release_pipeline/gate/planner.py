"""What a ramp can show at a given traffic, before it starts: how soon it advances, and what it rolls back.

Every figure comes from running the gate's own bets on simulated traffic (:mod:`.power_simulation`); from the number of
blocks that a bet needs follow requests and hours. The time of a step has these parts:

- rows: the challenger's share of the requests, times the rows per request that the metric gives;
- buckets: evidence of being good enough counts a bucket of event time when it is over, and only if it has
  ``gate.min_block_rows`` in it; evidence of harm counts by the minute, as soon as there are as many rows;
- lag: rows come as much later as the table lags, and values as much later as they take to settle;
- the shortest time of a step, ``ramp.min_step_seconds``.

Not in it: the minutes that an update of the endpoint takes, and holds for faults.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from release_pipeline.gate.betting import Floats
from release_pipeline.gate.observations import DEFAULT_LEVELS
from release_pipeline.gate.power_advice import LIKELY, problems, suggestions
from release_pipeline.gate.power_course import Course
from release_pipeline.gate.power_plan import (
    FalseRollback,
    Plan,
    PlannedSeries,
    Regression,
    SeriesStep,
    StepTime,
    Traffic,
    Wait,
)
from release_pipeline.gate.power_simulation import RELEASES, Leg, quantile
from release_pipeline.spec import ReleaseSpec
from release_pipeline.spec_gate import GatePart, Metric

#: Raw rows of an inference table come 10 to 30 minutes after their request.
USUAL_LAG_SECONDS: Final = 1800.0
#: Requests that give a row, where nothing is known; of a judge it is ``sample``.
USUAL_ROWS: Final[Mapping[str, float]] = {"feedback": 0.05}
#: Segments that a metric is planned with, where they are not known.
USUAL_SEGMENTS: Final = 3

_DEFAULT_LEVEL: Final = 0.05
#: The smallest regression that is looked at: so many standard deviations of one row, or this part of the margin.
_LEAST_DEVIATIONS: Final = 0.04
_LEAST_OF_MARGIN: Final = 0.1
_FACTORS: Final = (2, 5)

_Curve = tuple[tuple[float, tuple[float, float]], ...]


def usual_rows(metric: Metric) -> float:
    """Rows per request of a metric of which nothing is known."""
    return metric.sample if metric.kind == "judge" else USUAL_ROWS.get(metric.kind, 1.0)


def usual_traffic(gate: GatePart, requests_per_second: float, segments: Mapping[str, int]) -> Traffic:
    """Traffic of which only the rate is known; muted metrics decide nothing and are left out.

    Args:
        gate: The gate.
        requests_per_second: Requests to the endpoint.
        segments: Number of equally large segments by metric, for those that have segments.
    """
    found = []
    for metric in gate.metrics:
        if not metric.muted:
            alike = segments.get(metric.name, USUAL_SEGMENTS) if metric.segments else 1
            found.append(
                PlannedSeries(
                    metric=metric,
                    segment="",
                    level=DEFAULT_LEVELS.get(metric.kind, _DEFAULT_LEVEL),
                    rows=usual_rows(metric) / alike,
                    alike=alike,
                    labels=alike + 1 if metric.segments else 1,
                    required=metric.requires,
                )
            )
    return Traffic(requests_per_second, USUAL_LAG_SECONDS, tuple(found))


def adjusted(
    traffic: Traffic, *, levels: Mapping[str, float], rows: Mapping[str, float], lag_seconds: float | None
) -> Traffic:
    """Traffic with some figures replaced.

    Args:
        traffic: What is known, or usual.
        levels: The champion's mean badness by metric, for all its segments.
        rows: Rows per request by metric, all its segments together.
        lag_seconds: From a request to its row; None keeps it.
    """
    series = []
    for each in traffic.series:
        name = each.metric.name
        of_metric = sum(other.rows * other.alike for other in traffic.series if other.metric.name == name)
        share = rows[name] / of_metric if name in rows else 1.0
        series.append(replace(each, level=levels.get(name, each.level), rows=min(1.0, each.rows * share)))
    lag = traffic.lag_seconds if lag_seconds is None else lag_seconds
    return replace(traffic, series=tuple(series), lag_seconds=lag)


@dataclass(frozen=True)
class StepSamples:
    """Hours that equal versions stay on one step, release by release."""

    whole: Floats
    """Until every required series is shown, and the shortest time is over."""
    by_series: Mapping[int, Floats]
    """Until one required series is shown, by its index in the traffic."""


def ramp_times(spec: ReleaseSpec, traffic: Traffic) -> list[StepSamples]:
    """How long equal versions stay on each step."""
    found = []
    for step in range(len(spec.ramp.steps)):
        whole, by_series = np.full(RELEASES, spec.ramp.min_step_seconds / 3600), {}
        for index, each in enumerate(traffic.series):
            if each.required:
                by_series[index] = Course(spec, traffic, index, step).hours_to_advance()
                # Series are simulated apart; which release of one belongs to which of another is drawn.
                pairing = np.random.default_rng((index, step))
                for _ in range(each.alike):
                    whole = np.maximum(whole, pairing.permutation(by_series[index]))
        found.append(StepSamples(whole, by_series))
    return found


def plan(spec: ReleaseSpec, traffic: Traffic) -> Plan:
    """The plan of a ramp against a champion; equal arguments give equal plans."""
    times = ramp_times(spec, traffic)
    steps = tuple(_step_time(spec, traffic, step, samples) for step, samples in enumerate(times))
    whole = np.sum([samples.whole for samples in times], axis=0)
    by_deadline = float((whole <= spec.ramp.deadline_hours).mean())
    series = tuple(
        _series_step(spec, traffic, Course(spec, traffic, index, step), samples.by_series.get(index), steps[step])
        for index in range(len(traffic.series))
        for step, samples in enumerate(times)
    )
    false = _false_rollbacks(spec, traffic, steps)
    return Plan(
        name=spec.name,
        alpha=spec.gate.alpha,
        ramp=spec.ramp.steps,
        deadline_hours=spec.ramp.deadline_hours,
        traffic=traffic,
        problems=problems(spec, traffic, steps, series, quantile(whole, 0.5), by_deadline),
        suggestions=suggestions(spec, traffic, ramp_times) if by_deadline < LIKELY else (),
        hours=quantile(whole, 0.5),
        hours_90=quantile(whole, 0.9),
        by_deadline=by_deadline,
        steps=steps,
        series=series,
        false_rollback=false,
        false_rollback_in_all=1 - math.prod((1 - each.simulated) for each in false),
    )


def _step_time(spec: ReleaseSpec, traffic: Traffic, step: int, samples: StepSamples) -> StepTime:
    middle = {index: quantile(hours, 0.5) for index, hours in samples.by_series.items()}
    slowest = max(middle, key=lambda index: middle[index], default=None)
    shortest = spec.ramp.min_step_seconds / 3600
    share = spec.ramp.steps[step]
    return StepTime(
        step=step,
        percent=share,
        requests_per_hour=traffic.requests_per_second * 36 * share,
        hours=quantile(samples.whole, 0.5),
        hours_90=quantile(samples.whole, 0.9),
        slowest=traffic.series[slowest].title if slowest is not None and middle[slowest] > shortest else "",
    )


def _series_step(
    spec: ReleaseSpec, traffic: Traffic, course: Course, hours: Floats | None, time: StepTime
) -> SeriesStep:
    metric, deadline = course.metric, 3600 * spec.ramp.deadline_hours
    advance = None
    if hours is not None:
        lag, rate = traffic.lag_seconds / 3600, time.requests_per_hour
        middle, most = quantile(hours, 0.5), quantile(hours, 0.9)
        advance = Wait((middle - lag) * rate, (most - lag) * rate, middle, most)
    curve = _curve(course, deadline) if metric.guards else ()
    typical = _typical(course) if metric.guards else {}
    return SeriesStep(
        title=course.series.title,
        metric=metric.name,
        segment=course.series.segment,
        step=course.step,
        percent=time.percent,
        level=course.level,
        serious=min(course.edge, max(_FACTORS) * course.level) if course.margin is not None else course.edge,
        aim=metric.bound if course.margin is None else course.margin,
        bounded=course.margin is None,
        bucket_seconds=course.bucket_seconds,
        advance=advance,
        false_advance=course.false_advance() if course.series.required else None,
        regressions=tuple(
            Regression(name, mean, course.wait(_between(curve, course.harmless, mean, deadline)))
            for name, mean in typical.items()
        ),
        curve=tuple(Regression("", mean, course.wait(seconds)) for mean, seconds in curve),
        found_in_step=_smallest(curve, course.harmless, min(3600 * time.hours, deadline) - traffic.lag_seconds),
        found_in_ramp=_smallest(curve, course.harmless, deadline - traffic.lag_seconds),
    )


def _curve(course: Course, deadline: float) -> _Curve:
    """Median and 90th percentile of the seconds until regressions of growing size are rolled back."""
    found: list[tuple[float, tuple[float, float]]] = []
    for mean in reversed(_means(course)):
        seconds = course.seconds_to_roll_back(mean, deadline)
        found.append((mean, (quantile(seconds, 0.5), quantile(seconds, 0.9))))
        if math.isinf(found[-1][1][0]):
            break  # Smaller ones take longer still.
    return tuple(reversed(found))


def _means(course: Course) -> list[float]:
    """Regressions from small to as large as there are, each twice the size of the one before.

    Where the level is next to 0, so is a row's standard deviation: the largest must not hang on it.
    """
    size = _LEAST_DEVIATIONS * math.sqrt(course.level * (1 - course.level))
    aim = course.metric.bound if course.margin is None else course.margin
    if aim:
        size = min(size, _LEAST_OF_MARGIN * aim)
    means = []
    while course.harmless + size < 1:
        means.append(course.harmless + size)
        size *= 2
    return [*means, 1.0]


def _typical(course: Course) -> dict[str, float]:
    """Regressions that people think in: so many times the level, and worse by the margin."""
    means = {f"{factor} times": factor * course.level for factor in _FACTORS}
    if course.margin is not None:
        means["by the margin"] = course.edge
    return {name: mean for name, mean in means.items() if course.harmless < mean < 1}


def _between(curve: _Curve, harmless: float, mean: float, deadline: float) -> tuple[float, float]:
    """Median and 90th percentile of the seconds at one mean, infinite beyond the deadline."""
    middle, most = (_interpolated(curve, harmless, mean, which) for which in (0, 1))
    return middle if middle <= deadline else math.inf, most if most <= deadline else math.inf


def _interpolated(curve: _Curve, harmless: float, mean: float, which: int) -> float:
    """Straight between points where both axes are logarithmic; smaller sizes need more by their inverse square."""
    points = [(each - harmless, seconds[which]) for each, seconds in curve if math.isfinite(seconds[which])]
    if not points:
        return math.inf
    size, (smallest, seconds) = mean - harmless, points[0]
    if size < smallest:
        return seconds * (smallest / size) ** 2
    sizes, waits = np.log(points).T
    return float(np.exp(np.interp(math.log(size), sizes, waits)))


def _smallest(curve: _Curve, harmless: float, seconds: float) -> float | None:
    """Smallest mean that 90 % of releases roll back within so many seconds of traffic; None where none is."""
    quick = [(mean, most) for mean, (_, most) in curve if most <= seconds]
    if not quick:
        return None
    mean, most = quick[0]
    # Requests grow with the inverse square of the size.
    return harmless + (mean - harmless) * math.sqrt(most / seconds)


def _false_rollbacks(spec: ReleaseSpec, traffic: Traffic, steps: Sequence[StepTime]) -> tuple[FalseRollback, ...]:
    """Equal versions, on each step for its median time or until the deadline, with the evidence carried along."""
    found = []
    for index, each in enumerate(traffic.series):
        if not each.metric.guards:
            continue
        courses = [Course(spec, traffic, index, step) for step in range(len(steps))]
        left, legs = spec.ramp.deadline_hours, list[Leg]()
        for course, step in zip(courses, steps, strict=True):
            here = min(step.hours, left)
            legs += course.harm_legs(3600 * here) if here > 0 else []
            left -= here
        one = courses[0].rolled_back(each.level, legs)
        at_most = each.alike / courses[0].harm_limit
        found.append(FalseRollback(each.title, at_most, 1 - (1 - one) ** each.alike))
    return tuple(found)
