"""What could still change the answer although every required metric was shown: rows that the bets never saw.

A doubt only ever holds. Each asks the same question: is the metric still shown if these rows are added to the step's
bet, against a champion that keeps its rates of the step? If not, the release waits, under a name of its own.
"""

import math
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from release_pipeline.gate.betting import Floats, below_increment, bin_values, e_value, noninferiority_increment
from release_pipeline.gate.evidence import Bet, EvidenceState
from release_pipeline.gate.holds import EVERY_REQUEST
from release_pipeline.gate.observations import Series
from release_pipeline.gate.verdict import Action, HoldReason, MetricVerdict, Signals, Verdict, e_text, percent
from release_pipeline.spec import ReleaseSpec
from release_pipeline.spec_gate import Metric

#: The challenger's unjudged rows beyond the champion's share are doubtful only beyond this many standard deviations.
_DEVIATIONS: Final = 2.0


class _Doubt(NamedTuple):
    reason: HoldReason
    rows: Floats
    """Challenger rows per value bin, as bad as they may be."""
    words: str


def doubtful(
    state: EvidenceState,
    signals: Signals,
    spec: ReleaseSpec,
    required: list[MetricVerdict],
    metrics: tuple[MetricVerdict, ...],
    step: int,
) -> Verdict | None:
    """A hold if rows that were not bet could undo what was shown of a required metric."""
    by_name = {metric.name: metric for metric in spec.gate.metrics}
    for verdict in required:
        metric = by_name[verdict.name]
        found = list(_doubts(state, signals, verdict, metric, step))
        if len(found) > 1:
            # Each may be harmless, and all of them not.
            together = sum((doubt.rows for doubt in found), np.zeros(metric.bins))
            found.append(_Doubt(found[0].reason, together, " and ".join(doubt.words for doubt in found)))
        for doubt in found:
            e_value = _with(state, verdict, metric, doubt.rows, step)
            if e_value < verdict.noninferiority_limit:
                sentence = (
                    f"Hold: {verdict.title} is shown by the rows that were bet, but {doubt.words}; with them the "
                    f"evidence is {e_text(e_value)}, limit {e_text(verdict.noninferiority_limit)}."
                )
                return Verdict(Action.HOLD, doubt.reason, sentence, metrics)
    return None


def _doubts(
    state: EvidenceState, signals: Signals, verdict: MetricVerdict, metric: Metric, step: int
) -> Iterator[_Doubt]:
    evidence = state.metric(verdict.name, verdict.segment)
    bet = Bet.BELOW if verdict.margin is None else Bet.NONINFERIORITY
    late = evidence.account(bet).late(step, state.buckets[verdict.name], evidence.watermark)
    if late.challenger_n:
        rows = np.asarray(late.challenger, dtype=np.float64)
        bad = float(bin_values(metric.bins) @ rows)
        words = (
            f"{late.challenger_n} challenger rows with {percent(bad / late.challenger_n)} came after the rows of their "
            "time had been bet"
        )
        yield _Doubt(HoldReason.LATE_ROWS, rows, words)
    if metric.kind in EVERY_REQUEST and signals.late_rows:
        words = (
            f"{signals.late_rows} challenger rows came after the rows of their time had been read, from a table "
            "without a change feed; they are taken as bad"
        )
        yield _Doubt(HoldReason.LATE_ROWS, _all_bad(metric, signals.late_rows), words)
    excess = excess_unjudged(verdict)
    if excess:
        words = (
            f"{verdict.challenger_unjudged} of its challenger rows cannot be judged, {excess} more than the champion's "
            f"{verdict.champion_unjudged} explain; they are taken as bad"
        )
        yield _Doubt(HoldReason.UNJUDGED_ROWS, _all_bad(metric, excess), words)
    if metric.kind == "errors" and signals.unlogged_errors > 0:
        words = (
            f"the endpoint has counted {signals.unlogged_errors} failures of the challenger that are not in the "
            "inference table"
        )
        yield _Doubt(HoldReason.UNLOGGED_ERRORS, _all_bad(metric, signals.unlogged_errors), words)


def excess_unjudged(verdict: MetricVerdict) -> int:
    """Unjudged challenger rows that the champion's own share of unjudged rows does not explain.

    Rows to which a metric does not apply are as frequent in both arms; what the challenger alone leaves unjudged may
    be its failure. Rows that the metric's own SQL failed on are explained by nothing: whatever share of the others is
    unjudged, each of them may be bad. So they are taken as bad for the whole step, and advance only once it is shown
    that they are too few to matter.
    """
    if not verdict.challenger_unjudged:
        return 0
    rows = verdict.champion_n + verdict.champion_unjudged
    share = verdict.champion_unjudged / rows if rows else 0.0
    others = verdict.challenger_unjudged - verdict.challenger_failed
    expected = share * (verdict.challenger_n + others)
    return verdict.challenger_failed + max(0, math.ceil(others - expected - _DEVIATIONS * math.sqrt(expected)))


def _all_bad(metric: Metric, rows: int) -> Floats:
    counts = np.zeros(metric.bins)
    counts[-1] = rows
    return counts


def _with(state: EvidenceState, verdict: MetricVerdict, metric: Metric, rows: Floats, step: int) -> float:
    """The evidence of being good enough, with more challenger rows and the champion rows that belong to them."""
    evidence = state.metric(verdict.name, verdict.segment)
    if verdict.margin is None:
        assert verdict.bound is not None, "a metric that was shown has a margin or a bound"
        capitals = np.asarray(evidence.account(Bet.BELOW).at(step)) + below_increment(rows, verdict.bound)
    else:
        seen = evidence.seen(step)
        champion = np.asarray(seen.champion) * (float(rows.sum()) / max(1, seen.challenger_n))
        level = state.levels[Series(verdict.name, verdict.segment)]
        more = noninferiority_increment(champion, rows, level, verdict.margin)
        capitals = np.asarray(evidence.account(Bet.NONINFERIORITY).at(step)) + more
    return e_value(capitals.tolist())
