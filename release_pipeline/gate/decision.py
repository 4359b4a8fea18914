"""The rule: evidence and health in, one verdict out.

1. A guard metric that was shown to be worse rolls back, whatever else holds: evidence of harm does not expire.
2. A fault of the data or of the endpoint holds, by name.
3. Every required metric shown to be worse by less than its margin, or below its bound (an intersection-union test, so
   each at ``alpha`` without a correction), on this step's traffic alone, after the step's shortest time, and with no
   rows left that could undo it: advance, or promote at the last.
4. Anything else holds. A deadline changes what the hold is called, and nothing more.

A metric with segments is judged segment by segment: its share of alpha is split evenly over them for harm, and every
segment must be shown, so the worst one decides. Rows of rare or new labels make up the segment ``other``, which can
roll back, but is waited for only if it had enough rows before the release.
"""

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from release_pipeline.gate.betting import (
    below_increment,
    bin_values,
    e_value,
    noninferiority_increment,
    requests_left,
)
from release_pipeline.gate.doubts import doubtful
from release_pipeline.gate.evidence import Bet, EvidenceState, MetricEvidence
from release_pipeline.gate.holds import no_data, share_mismatch, unhealthy, updating
from release_pipeline.gate.observations import Counts, Series
from release_pipeline.gate.verdict import (
    Action,
    GoReason,
    HoldReason,
    MetricState,
    MetricVerdict,
    Signals,
    Verdict,
    compared,
    e_text,
    percent,
    points,
)
from release_pipeline.spec import ReleaseSpec
from release_pipeline.spec_gate import Metric

__all__ = [
    "Action",
    "GoReason",
    "HoldReason",
    "MetricState",
    "MetricVerdict",
    "Signals",
    "Verdict",
    "decide",
    "decide_first_release",
]

#: Rows that the frozen level counts for when the champion's present rate is estimated for ``requests_left``.
_LEVEL_ROWS: Final = 20
#: Between two blocks nothing is bet, so most looks ask for what the look before has asked for.
_kept_e_value = lru_cache(maxsize=1024)(e_value)
#: Metrics that a sentence names before it says how many more there are.
_MOST_NAMED: Final = 3


def decide(state: EvidenceState, signals: Signals, spec: ReleaseSpec, step: int) -> Verdict:
    """The verdict on ramp step ``step`` (0 is the first) of a release that has a champion.

    ADVANCE means: go to the next step. PROMOTE takes its place at the last step. Equal arguments give equal verdicts.
    """
    metrics = tuple(
        _compare(state, spec, metric, segment, signals.configured_share, step)
        for metric in spec.gate.metrics
        for segment in state.segments(metric.name)
    )
    place = f"step {step + 1} of {len(spec.ramp.steps)} ({percent(signals.configured_share)})"
    held = (
        _rolled_back(state, metrics, place)
        or unhealthy(signals, spec, metrics)
        or no_data(metrics, place)
        or share_mismatch(signals, metrics)
    )
    if held:
        return held
    required = [metric for metric in metrics if metric.required]
    missing = [metric for metric in required if not metric.shown]
    if missing:
        return _undecided(missing, signals, spec, metrics, _leftover(state, missing, step))
    remaining = signals.step_started_at + spec.ramp.min_step_seconds - signals.now
    if remaining > 0:
        sentence = f"Hold: {place} has {remaining:.0f} s of its shortest time of {spec.ramp.min_step_seconds} s to go."
        return Verdict(Action.HOLD, HoldReason.NOT_ENOUGH, sentence, metrics)
    for metric in required:
        if state.metric(metric.name, metric.segment).watermark <= signals.step_started_at:
            sentence = f"Hold: rows of {metric.title} are complete only up to a time before the start of {place}."
            return Verdict(Action.HOLD, HoldReason.NOT_ENOUGH, sentence, metrics)
    doubt = doubtful(state, signals, spec, required, metrics, step)
    if doubt:
        return doubt
    action = Action.PROMOTE if step >= len(spec.ramp.steps) - 1 else Action.ADVANCE
    if not required:
        sentence = f"{_verb(action)} from {place}: its time is over; no metric is required, so nothing was proven."
        return Verdict(action, GoReason.NOTHING_REQUIRED, sentence, metrics)
    return Verdict(action, GoReason.SHOWN, f"{_verb(action)} from {place}: {_proof(state, required, step)}.", metrics)


def decide_first_release(state: EvidenceState, signals: Signals, spec: ReleaseSpec) -> Verdict:
    """The verdict on a release without a champion, at 100 % from its start: absolute bounds are all there is.

    A required metric without a bound cannot be shown, so it is not waited for. Without any required bound the release
    is promoted with the reason NO_BOUNDS as soon as the endpoint is not being updated, and nothing was proven.
    """
    metrics = tuple(
        _bound(state, spec, metric, segment, 0)
        for metric in spec.gate.metrics
        for segment in state.segments(metric.name)
    )
    place = "the first release"
    rolled_back = _rolled_back(state, metrics, place)
    if rolled_back:
        return rolled_back
    required = [metric for metric in metrics if metric.required and metric.bound is not None]
    if not required:
        if signals.update_in_progress:
            return updating(metrics)
        sentence = (
            "Promote the first release: there is no champion to compare with and no required metric has an absolute "
            "bound, so nothing was proven; set gate.metrics.bound to have the first release checked."
        )
        return Verdict(Action.PROMOTE, GoReason.NO_BOUNDS, sentence, metrics)
    held = unhealthy(signals, spec, metrics) or no_data(metrics, place)
    if held:
        return held
    missing = [metric for metric in required if not metric.shown]
    if missing:
        return _undecided(missing, signals, spec, metrics, 0)
    promote = Verdict(Action.PROMOTE, GoReason.SHOWN, f"Promote {place}: {_proof(state, required, 0)}.", metrics)
    return doubtful(state, signals, spec, required, metrics, 0) or promote


def _compare(
    state: EvidenceState, spec: ReleaseSpec, metric: Metric, segment: str, share: float, step: int
) -> MetricVerdict:
    """One series against the champion, or against its bound where it has no margin."""
    margin = metric.margin_at(step)
    if margin is None:
        return _bound(state, spec, metric, segment, step)
    evidence, level = state.metric(metric.name, segment), state.levels[Series(metric.name, segment)]
    rows, good = evidence.seen(step), evidence.account(Bet.NONINFERIORITY).at(step)
    good_e, left = _kept_e_value(good), None
    if 0 < share < 1 and good_e < 1 / spec.gate.alpha:
        rate, per_champion = _expected_rate(rows.champion, level), (1 - share) / share
        champion, challenger = [per_champion * (1 - rate), per_champion * rate], [1 - rate, rate]
        growth = noninferiority_increment(champion, challenger, level, margin)
        left = requests_left(good, growth, -math.log(spec.gate.alpha))
    harm_e = _kept_e_value(evidence.account(Bet.HARM).carried())
    return _verdict_of(state, spec, metric, segment, evidence, step, harm_e, good_e, left, margin=margin, bound=None)


def _bound(state: EvidenceState, spec: ReleaseSpec, metric: Metric, segment: str, step: int) -> MetricVerdict:
    """One series against its absolute bound, if it has one."""
    evidence = state.metric(metric.name, segment)
    rows, good = evidence.seen(step), evidence.account(Bet.BELOW).at(step)
    good_e, left = _kept_e_value(good), None
    if metric.bound is not None and good_e < 1 / spec.gate.alpha:
        rate = _expected_rate(rows.challenger, state.levels[Series(metric.name, segment)])
        left = requests_left(good, below_increment([1 - rate, rate], metric.bound), -math.log(spec.gate.alpha))
    harm_e = _kept_e_value(evidence.account(Bet.ABOVE).carried())
    return _verdict_of(
        state, spec, metric, segment, evidence, step, harm_e, good_e, left, margin=None, bound=metric.bound
    )


def _verdict_of(
    state: EvidenceState,
    spec: ReleaseSpec,
    metric: Metric,
    segment: str,
    evidence: MetricEvidence,
    step: int,
    harm_e: float,
    good_e: float,
    left: int | None,
    *,
    margin: float | None,
    bound: float | None,
) -> MetricVerdict:
    """The bets on one series held against their limits; alpha is split over guards and segments, for harm alone."""
    labels = state.segments(metric.name)
    harm_limit, good_limit = len(labels) / spec.gate.alpha_of(metric), 1 / spec.gate.alpha
    rows = evidence.seen(step)
    champion_n, champion_bad = _sums(rows.champion)
    challenger_n, challenger_bad = _sums(rows.challenger)
    unjudged = evidence.unjudged.get(step, (0, 0))
    return MetricVerdict(
        name=metric.name,
        segment=segment,
        segments=len(labels),
        kind=metric.kind,
        guard=metric.guards,
        required=metric.requires and Series(metric.name, segment) not in state.small,
        champion_n=champion_n,
        champion_bad=champion_bad,
        challenger_n=challenger_n,
        challenger_bad=challenger_bad,
        champion_unjudged=unjudged[0],
        challenger_unjudged=unjudged[1],
        challenger_failed=evidence.failed.get(step, 0),
        harm_e=harm_e,
        harm_limit=harm_limit,
        noninferiority_e=good_e,
        noninferiority_limit=good_limit,
        margin=margin,
        bound=bound,
        state=MetricState.of(harm_e, harm_limit, good_e, good_limit),
        requests_left=left or None,
    )


def _expected_rate(counts: Counts, level: float) -> float:
    """The rate that an arm is expected to show from now on: its own, drawn towards the frozen level."""
    rows, bad = _sums(counts)
    return (bad + _LEVEL_ROWS * level) / (rows + _LEVEL_ROWS)


def _sums(counts: Counts) -> tuple[int, float]:
    """Rows, and the sum of their badness."""
    if len(counts) == 2:
        return counts[0] + counts[1], float(counts[1])
    return (sum(counts), float(bin_values(len(counts)) @ counts)) if counts else (0, 0.0)


def _rolled_back(state: EvidenceState, metrics: tuple[MetricVerdict, ...], place: str) -> Verdict | None:
    for metric in metrics:
        if metric.guard and metric.harmful:
            total = state.metric(metric.name, metric.segment).total()
            worse = "worse than the champion's" if metric.bound is None else f"above {percent(metric.bound)}"
            split = f"; alpha is split over {metric.segments} segments" if metric.segments > 1 else ""
            sentence = (
                f"Roll back at {place}: {compared(metric)}; shown to be {worse} over {total.challenger_n} challenger "
                f"requests of the release (evidence {e_text(metric.harm_e)}, limit {e_text(metric.harm_limit)}{split})."
            )
            return Verdict(Action.ROLL_BACK, GoReason.GUARD, sentence, metrics)
    return None


def _leftover(state: EvidenceState, metrics: Iterable[MetricVerdict], step: int) -> int:
    """Challenger rows of the first of the metrics that no closed block holds."""
    for metric in metrics:
        bet = Bet.BELOW if metric.margin is None else Bet.NONINFERIORITY
        return state.metric(metric.name, metric.segment).leftover(bet, step)[1]
    return 0


def _undecided(
    missing: list[MetricVerdict], signals: Signals, spec: ReleaseSpec, metrics: tuple[MetricVerdict, ...], leftover: int
) -> Verdict:
    """Not shown: still hoping before the deadline, a matter for a person after it."""
    needs = []
    # The worst ones first where there are many, as with segments.
    worst = missing if len(missing) <= _MOST_NAMED else sorted(missing, key=lambda metric: metric.noninferiority_e)
    for metric in worst[:_MOST_NAMED]:
        aim = f"below {percent(metric.bound)}" if metric.margin is None else f"within {points(metric.margin)}"
        needs.append(
            f"{compared(metric)}, not shown to be {aim} (evidence {e_text(metric.noninferiority_e)}, limit "
            f"{e_text(metric.noninferiority_limit)})"
        )
    if len(missing) > _MOST_NAMED:
        needs.append(f"and {len(missing) - _MOST_NAMED} more")
    facts = "; ".join(needs)
    if signals.now - signals.ramp_started_at > 3600 * spec.ramp.deadline_hours:
        sentence = (
            f"Hold: the ramp's deadline of {spec.ramp.deadline_hours:g} h is over: {facts}. A person must decide."
        )
        return Verdict(Action.HOLD, HoldReason.INCONCLUSIVE, sentence, metrics)
    lefts = [metric.requests_left for metric in missing]
    known = [left for left in lefts if left is not None]
    if len(known) == len(lefts):
        outlook = f"About {max(known)} more challenger requests if it is as good as it should be"
    else:
        outlook = "More requests alone will not show it at this rate"
    waiting = f"; {leftover} wait for more champion rows or for late ones" if leftover else ""
    return Verdict(Action.HOLD, HoldReason.NOT_ENOUGH, f"Hold: {facts}. {outlook}{waiting}.", metrics)


def _proof(state: EvidenceState, required: list[MetricVerdict], step: int) -> str:
    """Why every required metric counts as good enough."""
    return "; ".join(
        f"{compared(metric)}, shown to be "
        + (f"below {percent(metric.bound)}" if metric.margin is None else f"within {points(metric.margin)}")
        + _by_fewer(metric, _leftover(state, [metric], step))
        + f" (evidence {e_text(metric.noninferiority_e)}, limit {e_text(metric.noninferiority_limit)})"
        for metric in required
    )


def _by_fewer(metric: MetricVerdict, leftover: int) -> str:
    """Where all rows by themselves look too bad: that those of complete times have shown it."""
    too_bad = leftover and metric.most is not None and (metric.challenger_rate or 0) > metric.most
    return f" by the {metric.challenger_n - leftover} whose time is complete" if too_bad else ""


def _verb(action: Action) -> str:
    return action.value.capitalize()
