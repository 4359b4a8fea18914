"""The rule after a promotion: the new champion alone, held against what the old one did, and against absolute bounds.

There is no champion beside it any more, so each guard is a bet on one arm: the mean badness of the rows since the
promotion is above a *ceiling*, which is the metric's bound, or the old champion's rate plus the margin, whichever is
lower. The old champion's rate is not known, only rows of it: those from before the release and those of the ramp. Its
upper confidence bound takes its place, one that holds at every look at once, and a tenth of the guard's alpha pays for
the chance that it is wrong. The bet has the other nine tenths, so a version that is worse than the champion by no more
than the margin is taken back in at most ``alpha`` of all bakes.

That needs the champion's rate to be still what it was: nothing is measured beside it. Where the champion was *shown* to
be worse in the ramp than before, its rate in the ramp counts, which is the nearest in time.

Only rows that are complete are bet on, those of slices of event time that the watermark has passed, as always where one
arm is alone. The bets of one bound add up over blocks, so no account of them is kept: they follow from the counts.
"""

from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np

from release_pipeline.gate.betting import Floats, above_increment, below_increment, e_value
from release_pipeline.gate.champion_rate import Champion, champion_before, rows_and_badness, rows_of_ramp
from release_pipeline.gate.doubts import excess_unjudged
from release_pipeline.gate.evidence import Bet, EvidenceState, MetricEvidence
from release_pipeline.gate.holds import unhealthy
from release_pipeline.gate.observations import Series, slice_seconds
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
)
from release_pipeline.spec import ReleaseSpec
from release_pipeline.spec_gate import Metric

#: Share of a guard's alpha that pays for the champion's rate being an estimate; the bet has the rest.
LEVEL_SHARE: Final = 0.1
#: Metrics that a sentence names before it says how many more there are.
_MOST_NAMED: Final = 3


class _Watched(NamedTuple):
    """One series in the bake, with what a doubt needs to bet once more."""

    verdict: MetricVerdict
    metric: Metric
    rows: Floats
    """Complete rows per value bin."""
    waiting: int
    """Rows that are not complete yet."""
    ceiling: float | None
    believed: float
    champion: Champion | None
    ramp_n: int
    """Champion rows of the ramp alone: how many of those before could not be judged is not kept."""


def decide_bake(
    state: EvidenceState, signals: Signals, spec: ReleaseSpec, step: int, *, first_release: bool = False
) -> Verdict:
    """The verdict on a release after its promotion; equal arguments give equal verdicts.

    ROLL_BACK, or a hold: for a fault of the data by name, so that nobody takes a bake for watched that was not, or
    BAKING. When ``promotion.bake_seconds`` are over it is still BAKING, with a sentence that says so.

    Args:
        state: The evidence.
        signals: Health; ``step_started_at`` is the time of the promotion.
        spec: The release's spec, with the gate that was frozen with it.
        step: The step that the rows since the promotion belong to, the one after the last of the ramp.
        first_release: There is no old champion, so bounds are all there is, and harm calls a person: to go back would
            be to take the endpoint from its users.
    """
    watched = [
        _watch(state, spec, metric, segment, step, first_release)
        for metric in spec.gate.metrics
        for segment in state.segments(metric.name)
    ]
    metrics = tuple(each.verdict for each in watched)
    guards = [each for each in watched if each.metric.guards and each.ceiling is not None]
    for each in guards:
        if each.verdict.harmful:
            return _harmed(each, metrics, first_release)
    return (
        unhealthy(signals, spec, metrics)
        or _doubtful(guards, signals, metrics)
        or _baking(watched, signals, spec.promotion.bake_seconds)
    )


def _watch(
    state: EvidenceState, spec: ReleaseSpec, metric: Metric, segment: str, step: int, first_release: bool
) -> _Watched:
    """One series against its ceiling."""
    series, labels = Series(metric.name, segment), len(state.segments(metric.name))
    evidence, alpha = state.metric(*series), spec.gate.alpha_of(metric) / labels
    # The margin that the last step was shown by.
    margin = None if first_release else metric.margin_at(max(step - 1, 0))
    champion = None if margin is None else champion_before(state, series, step, LEVEL_SHARE * alpha)
    allowed = max(margin or 0.0, metric.tolerance)
    ceiling = _ceiling(metric, champion, allowed)
    believed = min(metric.bound or 1.0, state.levels[series] + allowed)
    rows, waiting = _complete(evidence, metric, step, state.buckets[metric.name])
    harm_e = good_e = 1.0
    if ceiling is not None:
        harm_e = e_value(above_increment(rows, ceiling, believed).tolist())
        good_e = e_value(below_increment(rows, ceiling).tolist())
    harm_limit, good_limit = 1 / ((1 - LEVEL_SHARE) * alpha), 1 / spec.gate.alpha
    seen, ramp = evidence.seen(step), rows_of_ramp(evidence, step)
    challenger_n, challenger_bad = rows_and_badness(seen.challenger)
    champion_unjudged = sum(old for at, (old, _) in evidence.unjudged.items() if at < step)
    verdict = MetricVerdict(
        name=metric.name,
        segment=segment,
        segments=labels,
        kind=metric.kind,
        guard=metric.guards,
        required=metric.requires and series not in state.small,
        champion_n=champion.rows if champion else 0,
        champion_bad=champion.bad if champion else 0.0,
        challenger_n=challenger_n,
        challenger_bad=challenger_bad,
        champion_unjudged=champion_unjudged,
        challenger_unjudged=evidence.unjudged.get(step, (0, 0))[1],
        challenger_failed=evidence.failed.get(step, 0),
        harm_e=harm_e,
        harm_limit=harm_limit,
        noninferiority_e=good_e,
        noninferiority_limit=good_limit,
        margin=None,
        bound=ceiling,
        state=MetricState.of(harm_e, harm_limit, good_e, good_limit),
        requests_left=None,
    )
    return _Watched(verdict, metric, rows, waiting, ceiling, believed, champion, ramp.champion_n)


def _ceiling(metric: Metric, champion: Champion | None, allowed: float) -> float | None:
    """What the mean badness may be at most; None where nothing below 1 is known."""
    found = [metric.bound] if metric.bound is not None else []
    if champion is not None:
        if metric.bound is not None and champion.least > metric.bound:
            found = []  # the version that a rollback would bring back is above it, too
        found.append(champion.most + allowed)
    lowest = min(found, default=1.0)
    return lowest if lowest < 1 else None


def _complete(evidence: MetricEvidence, metric: Metric, step: int, bucket_seconds: float) -> tuple[Floats, int]:
    """Challenger rows of a step up to the watermark, per value bin, and the number of those beyond it.

    Slices stay open in these bets at least until the watermark has passed their end.
    """
    part = slice_seconds(bucket_seconds)
    bet = Bet.BELOW if metric.margin is None else Bet.NONINFERIORITY
    rows, waiting = np.zeros(metric.bins), 0
    seen = evidence.seen(step)
    if seen.challenger:
        rows += seen.challenger
    for (at, start), (arms, _) in evidence.account(bet).open.items():
        if at == step and start + part > evidence.watermark and arms.challenger:
            rows -= arms.challenger
            waiting += arms.challenger_n
    return rows, waiting


def _harmed(each: _Watched, metrics: tuple[MetricVerdict, ...], first_release: bool) -> Verdict:
    metric, rows = each.verdict, int(each.rows.sum())
    split = f"; alpha is split over {metric.segments} segments" if metric.segments > 1 else ""
    facts = (
        f"{compared(metric)}{_champion(each)}; shown to be above {percent(each.ceiling)} over the {rows} that are "
        f"complete (evidence {e_text(metric.harm_e)}, limit {e_text(metric.harm_limit)}{split})"
    )
    if not first_release:
        return Verdict(Action.ROLL_BACK, GoReason.GUARD, f"Roll back during the bake: {facts}.", metrics)
    sentence = (
        f"Hold: during the bake of the first release, {facts}. There is no version to go back to, and the endpoint is "
        "not taken from its users: a person must decide, on a release of a better version or on a rollback by hand, "
        "which deletes the endpoint."
    )
    return Verdict(Action.HOLD, HoldReason.FROZEN, sentence, metrics)


def _champion(each: _Watched) -> str:
    """What the ceiling rests on."""
    champion = each.champion
    if champion is None or not champion.rows:
        return ""
    return f", the old champion's {percent(champion.bad / champion.rows)} of {champion.rows} before"


def _doubtful(guards: list[_Watched], signals: Signals, metrics: tuple[MetricVerdict, ...]) -> Verdict | None:
    """A hold if a guard would strike with rows that it has not seen, or could not judge, taken as bad."""
    for each in guards:
        verdict = each.verdict
        unjudged = excess_unjudged(replace(verdict, champion_n=each.ramp_n))
        unlogged = signals.unlogged_errors if each.metric.kind == "errors" else 0
        for reason, bad, words in (
            (
                HoldReason.UNJUDGED_ROWS,
                unjudged,
                f"{verdict.challenger_unjudged} of its rows since the promotion cannot be judged, {unjudged} more than "
                "the old champion's explain; they are taken as bad",
            ),
            (
                HoldReason.UNLOGGED_ERRORS,
                unlogged,
                f"the endpoint has counted {unlogged} failures of the release that are not in the inference table",
            ),
        ):
            with_them = _with(each, bad)
            if bad and with_them >= verdict.harm_limit:
                sentence = (
                    f"Hold: {compared(verdict)}, but {words}; with them the evidence that it is above "
                    f"{percent(each.ceiling)} is {e_text(with_them)}, limit {e_text(verdict.harm_limit)}. The bake "
                    "does not end by itself like this."
                )
                return Verdict(Action.HOLD, reason, sentence, metrics)
    return None


def _with(each: _Watched, bad: int) -> float:
    """The evidence of harm with ``bad`` more rows, all of them bad."""
    rows = each.rows.copy()
    rows[-1] += bad
    return e_value(above_increment(rows, each.ceiling or 1.0, each.believed).tolist())


def _baking(watched: list[_Watched], signals: Signals, bake_seconds: int) -> Verdict:
    """Nothing is wrong: how long the bake lasts, and what the guards have seen so far, the nearest to harm first."""
    metrics = tuple(each.verdict for each in watched)
    left = signals.step_started_at + bake_seconds - signals.now
    time = f"its bake ends in {left:.0f} s" if left > 0 else "its bake is over"
    guards = [each for each in watched if each.metric.guards]
    seen = sorted(
        (each for each in guards if each.ceiling is not None),
        key=lambda each: each.verdict.harm_e / each.verdict.harm_limit,
        reverse=True,
    )
    facts = []
    for each in seen[:_MOST_NAMED]:
        metric = each.verdict
        waiting = f", {each.waiting} of them not complete yet" if each.waiting else ""
        facts.append(
            f"{compared(metric)}{waiting}, not shown to be above {percent(each.ceiling)} (evidence "
            f"{e_text(metric.harm_e)}, limit {e_text(metric.harm_limit)})"
        )
    if len(seen) > _MOST_NAMED:
        facts.append(f"and {len(seen) - _MOST_NAMED} more")
    blind = [each.verdict.title for each in guards if each.ceiling is None]
    if blind:
        facts.append(f"no guard watches {', '.join(blind)}, which has neither a bound nor rows of an old champion")
    if not guards:
        facts.append("no metric of the gate is a guard, so nothing watches it")
    sentence = f"Hold: the new version has all traffic, and {time}: {'; '.join(facts)}."
    return Verdict(Action.HOLD, HoldReason.BAKING, sentence, metrics)
