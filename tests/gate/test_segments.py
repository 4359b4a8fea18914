"""Segments and shares of alpha: what each series is held against, and that the worst one decides."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from release_pipeline.gate.decision import decide
from release_pipeline.gate.evidence import EvidenceState, fold
from release_pipeline.gate.observations import OTHER, Baseline, Series
from release_pipeline.gate.verdict import Action, HoldReason
from release_pipeline.spec_gate import GatePart, Metric
from tests.gate.conftest import every

ERRORS = Metric(name="errors", kind="errors", segments="language")
SLOW = Metric(name="slow", kind="slow")
BASELINES = [Baseline.freeze(ERRORS, rows, 1, None, label) for label, rows in (("de", 999), ("fr", 999), (OTHER, 99))]
GOOD, BAD, NONE = ((19_000, 190), (1_000, 10)), ((3_800, 38), (200, 30)), ((0, 0), (0, 0))


@pytest.fixture
def verdict_on(make_spec, make_signals, observe):
    """The verdict on (champion, challenger) rows per segment."""

    def make(*metrics, baselines=BASELINES, **segments):
        spec = make_spec(*(metrics or (ERRORS,)))
        rows = [observe(*arms, segment=label, bucket=1200.0) for label, arms in segments.items()]
        return decide(fold(rows, baselines, spec.gate, buckets=every(spec.gate)), make_signals(), spec, 0)

    return make


def test_a_metric_has_the_segments_that_were_frozen_with_it_and_one_for_the_rest():
    gate = GatePart(metrics=(ERRORS, SLOW))
    state = EvidenceState.start(BASELINES, gate, buckets=every(gate))
    assert state.segments("errors") == ("de", "fr", OTHER)
    assert state.segments("slow") == ("",)
    fresh = EvidenceState.start((), gate, buckets=every(gate))
    assert fresh.segments("errors") == (OTHER,)
    assert fresh.levels[Series("errors", OTHER)] == 0.01


def test_every_segment_must_be_shown_and_the_rare_ones_are_not_waited_for(verdict_on):
    assert verdict_on(de=GOOD, fr=GOOD).action is Action.ADVANCE
    held = verdict_on(de=GOOD, fr=NONE)
    assert (held.action, held.reason) == (Action.HOLD, HoldReason.NOT_ENOUGH)
    assert "errors of fr has no challenger requests" in held.sentence


def test_the_other_segment_is_waited_for_where_it_holds_much_of_the_traffic(verdict_on):
    much = [Baseline.freeze(ERRORS, rows, 1, None, label) for label, rows in (("de", 60), (OTHER, 940))]
    held = verdict_on(baselines=much, de=GOOD)
    assert "errors of other has no challenger requests" in held.sentence
    assert verdict_on(baselines=much, de=GOOD, other=GOOD).action is Action.ADVANCE


def test_one_bad_segment_rolls_back_however_good_the_others_are(verdict_on):
    for bad in ("de", "fr", OTHER):
        verdict = verdict_on(**{"de": GOOD, "fr": GOOD, bad: BAD})
        assert verdict.action is Action.ROLL_BACK
        assert f"errors of {bad} is 15 % of 200 challenger requests" in verdict.sentence
        assert "alpha is split over 3 segments" in verdict.sentence


def test_alpha_is_split_over_guards_and_segments(verdict_on):
    alone = verdict_on(de=GOOD).metrics
    assert {metric.harm_limit for metric in alone} == {3 / 0.05}
    beside = verdict_on(ERRORS, SLOW, de=GOOD).metrics
    assert [metric.harm_limit for metric in beside] == [120.0, 120.0, 120.0, 40.0]
    assert {metric.noninferiority_limit for metric in beside} == {20.0}


def test_without_rows_from_before_the_release_all_rows_are_one_segment_that_is_required(verdict_on):
    verdict = verdict_on(baselines=[], other=GOOD)
    assert verdict.action is Action.ADVANCE
    assert [(metric.title, metric.required) for metric in verdict.metrics] == [("errors of other", True)]


def test_many_segments_that_are_not_shown_are_counted_not_listed(verdict_on):
    labels = [f"s{number}" for number in range(6)]
    frozen = [Baseline.freeze(ERRORS, 99, 1, None, label) for label in labels]
    thin = ((950, 9), (50, 1))
    verdict = verdict_on(baselines=frozen, **dict.fromkeys(labels, thin))
    assert verdict.sentence.count("not shown to be within") == 3
    assert "; and 3 more. About" in verdict.sentence


def test_rows_of_a_segment_that_was_not_frozen_are_the_observers_mistake_and_are_not_bet(observe):
    gate = GatePart(metrics=(ERRORS,))
    state = EvidenceState.start(BASELINES, gate, buckets=every(gate))
    assert not state.add([observe(*GOOD, segment="it")]).metrics


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.01, 0.3), min_size=1, max_size=4), st.integers(0, 3), st.booleans())
def test_the_guards_never_spend_more_than_alpha(shares, without, muted_too):
    metrics = [Metric(name=f"m{number}", kind="slow", alpha_share=share) for number, share in enumerate(shares)] + [
        Metric(name=f"w{number}", kind="slow") for number in range(without)
    ]
    if muted_too:
        metrics.append(Metric(name="quiet", kind="errors", muted=True, alpha_share=0.9))
    if sum(shares) > 1 or (without and sum(shares) >= 1):
        with pytest.raises(ValidationError, match="alpha_share of the guards adds up to"):
            GatePart(metrics=tuple(metrics))
        return
    gate = GatePart(metrics=tuple(metrics))
    assert sum(gate.alpha_of(guard) for guard in gate.guards) <= gate.alpha * (1 + 1e-9)
    assert all(gate.alpha_of(metric) > 0 for metric in gate.metrics)
