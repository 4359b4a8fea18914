"""What is hopeless about a ramp at its traffic, and which weights or margins would do."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

import numpy as np

from release_pipeline.gate.betting import Floats
from release_pipeline.gate.power_plan import Regression, SeriesStep, StepTime, Traffic, hours_text, requests_text
from release_pipeline.gate.power_simulation import quantile
from release_pipeline.gate.verdict import percent
from release_pipeline.spec import ReleaseSpec

#: A ramp that fewer equal versions pass in time is doubtful; below one half it is hopeless.
LIKELY: Final = 0.9

_WEIGHTS: Final = (10, 25, 50)
_MARGINS: Final = (0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3)


class Samples(Protocol):
    """Hours on one step, release by release."""

    @property
    def whole(self) -> Floats:
        """Until every required series is shown."""

    @property
    def by_series(self) -> Mapping[int, Floats]:
        """Until one required series is shown."""


Times = Callable[[ReleaseSpec, Traffic], Sequence[Samples]]


def problems(
    spec: ReleaseSpec,
    traffic: Traffic,
    steps: Sequence[StepTime],
    series: Sequence[SeriesStep],
    hours: float,
    by_deadline: float,
) -> tuple[str, ...]:
    """What will not work, or hardly: one sentence each, the worst first.

    Args:
        spec: The release's spec.
        traffic: The traffic of the plan.
        steps: How long an equal version stays on each step.
        series: What each series can show.
        hours: Median time of the ramp.
        by_deadline: Share of equal versions that pass in time.
    """
    found = [_slow(spec, traffic, steps, hours, by_deadline)] if by_deadline < LIKELY else []
    for each in series:
        if each.bounded and each.step == 0 and each.advance and each.aim is not None and each.level >= each.aim:
            found.append(
                f"Hopeless: {each.title} at {percent(each.level)} is not below its bound of {percent(each.aim)}, so no "
                "traffic shows that it is; raise the bound."
            )
    missed = [
        f"{each.title} of {percent(worst.mean)} where {percent(each.level)} is usual"
        for each in series
        if each.step == 0 and (worst := _missed(each, spec.ramp.deadline_hours))
    ]
    if missed:
        found.append(
            f"Doubtful: half of all releases or more do not roll back, at {spec.ramp.steps[0]} % before the deadline: "
            f"{'; '.join(missed)}."
        )
    return tuple(found)


def _missed(series: SeriesStep, deadline_hours: float) -> Regression | None:
    """The worst regression that ought to be rolled back, and is not in time."""
    large = [one for one in series.regressions if one.mean >= series.serious and one.wait.hours > deadline_hours]
    return max(large, key=lambda one: one.mean, default=None)


def _slow(spec: ReleaseSpec, traffic: Traffic, steps: Sequence[StepTime], hours: float, by_deadline: float) -> str:
    slowest = max(steps, key=lambda step: step.hours)
    takes = f"takes {hours_text(hours)} (median)" if np.isfinite(hours) else "does not end"
    needs = f"needs {hours_text(slowest.hours)}" if np.isfinite(slowest.hours) else "does not end"
    because = slowest.slowest or "its shortest time"
    return (
        f"{'Hopeless' if by_deadline < 0.5 else 'Doubtful'}: at {requests_text(traffic.requests_per_second)} the ramp "
        f"{'/'.join(map(str, spec.ramp.steps))} % {takes} even if the versions are equal, and its deadline is "
        f"{hours_text(spec.ramp.deadline_hours)}; {percent(by_deadline)} pass in time, and step {slowest.step + 1} "
        f"({slowest.percent} %) {needs} because of {because}."
    )


def suggestions(spec: ReleaseSpec, traffic: Traffic, times: Times) -> tuple[str, ...]:
    """Weights, or margins, with which :data:`LIKELY` equal versions pass in time; empty where neither will do.

    Args:
        spec: The release's spec.
        traffic: The traffic of the plan.
        times: How long equal versions stay on each step.
    """
    found = [sentence for sentence in (_weights(spec, traffic, times), _margins(spec, traffic, times)) if sentence]
    if found:
        return tuple(found)
    largest = _with_steps(spec, (max(_WEIGHTS[-1], spec.ramp.steps[-1]),))
    both = _margins(largest, traffic, times)
    if both:
        return (both,)
    slow = sorted(_too_slow(largest, traffic, times(largest, traffic)))
    return (
        "Neither heavier steps nor wider margins would do: it needs more traffic, or `required: false` for "
        f"{', '.join(slow)}.",
    )


def _weights(spec: ReleaseSpec, traffic: Traffic, times: Times) -> str:
    for first in _WEIGHTS:
        steps = (first, *(step for step in spec.ramp.steps if step > first))
        if first > spec.ramp.steps[0]:
            whole = np.sum([each.whole for each in times(_with_steps(spec, steps), traffic)], axis=0)
            if quantile(whole, LIKELY) <= spec.ramp.deadline_hours:
                return (
                    f"With ramp.steps [{', '.join(map(str, steps))}] it takes {hours_text(quantile(whole, 0.5))} "
                    f"(90 % within {hours_text(quantile(whole, LIKELY))})."
                )
    return ""


def _margins(spec: ReleaseSpec, traffic: Traffic, times: Times) -> str:
    """The narrowest margins that do; only metrics that are too slow by themselves get a wider one."""
    wider: dict[str, float] = {}
    samples = times(spec, traffic)
    for margin in _MARGINS:
        wide_enough = {name for name, widest in _widest(spec).items() if widest >= margin}
        slow = _too_slow(spec, traffic, samples) - wide_enough
        if not slow:
            continue
        wider |= dict.fromkeys(slow, margin)
        samples = times(spec, _with_margins(traffic, wider))
        whole = np.sum([each.whole for each in samples], axis=0)
        if quantile(whole, LIKELY) <= spec.ramp.deadline_hours:
            named = " and ".join(f"{each:g} for {name}" for name, each in wider.items())
            return (
                f"With ramp.steps [{', '.join(map(str, spec.ramp.steps))}] and a margin of {named} it takes "
                f"{hours_text(quantile(whole, 0.5))} (90 % within {hours_text(quantile(whole, LIKELY))})."
            )
    return ""


def _too_slow(spec: ReleaseSpec, traffic: Traffic, samples: Sequence[Samples]) -> set[str]:
    """Names of the metrics that do not pass the ramp in time by themselves, or of the slowest if each would."""
    needed = {
        index: quantile(np.sum([each.by_series[index] for each in samples], axis=0), LIKELY)
        for index in samples[0].by_series
    }
    slow = [index for index, hours in needed.items() if hours > spec.ramp.deadline_hours]
    return {traffic.series[index].metric.name for index in slow or [max(needed, key=lambda index: needed[index])]}


def _widest(spec: ReleaseSpec) -> dict[str, float]:
    """The widest margin of each metric; those without one cannot get a wider one."""
    margins = {metric.name: metric.margin for metric in spec.gate.metrics}
    return {
        name: 1.0 if each is None else max(each) if isinstance(each, tuple) else each for name, each in margins.items()
    }


def _with_margins(traffic: Traffic, margins: Mapping[str, float]) -> Traffic:
    series = tuple(
        replace(each, metric=each.metric.model_copy(update={"margin": margins[each.metric.name]}))
        if each.metric.name in margins
        else each
        for each in traffic.series
    )
    return replace(traffic, series=series)


def _with_steps(spec: ReleaseSpec, steps: tuple[int, ...]) -> ReleaseSpec:
    return spec.model_copy(update={"ramp": spec.ramp.model_copy(update={"steps": steps})})
