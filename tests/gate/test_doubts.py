"""Rows that were never bet: they hold a release that they could change, and no other."""

import pytest

from release_pipeline.gate.decision import decide, decide_first_release
from release_pipeline.gate.evidence import Bet, fold
from release_pipeline.gate.observations import Baseline
from release_pipeline.gate.verdict import Action, HoldReason
from release_pipeline.spec_gate import Metric
from tests.gate.conftest import every

ERRORS = Metric(name="errors", kind="errors")
BASELINE = [Baseline.freeze(ERRORS, 9_999, 99)]
GOOD = ((19_000, 190), (1_000, 10))


@pytest.fixture
def look(make_spec, make_signals):
    def make(*rows, metric=ERRORS, first=False, **signals):
        spec = make_spec(metric)
        state = fold(rows, BASELINE, spec.gate, buckets=every(spec.gate))
        if first:
            return decide_first_release(state, make_signals(configured_share=1.0, **signals), spec)
        return decide(state, make_signals(**signals), spec, 0)

    return make


def test_bad_rows_that_come_after_their_bucket_was_bet_hold_the_release(look, observe):
    on_time = observe(*GOOD, bucket=1200.0, watermark=2000.0)
    assert look(on_time).action is Action.ADVANCE
    late = observe((3, 0), (36, 36), ingest=1, bucket=1200.0, watermark=2300.0)
    held = look(on_time, late)
    assert (held.action, held.reason) == (Action.HOLD, HoldReason.LATE_ROWS)
    assert "36 challenger rows with 100 % came after the rows of their time had been bet" in held.sentence


def test_late_rows_that_could_change_nothing_hold_nothing(look, observe):
    on_time = observe(*GOOD, bucket=1200.0, watermark=2000.0)
    late = observe((3, 0), (40, 0), ingest=1, bucket=1200.0, watermark=2300.0)
    assert look(on_time, late).action is Action.ADVANCE


def test_late_rows_are_remembered_when_their_block_is_given_up(look, observe, make_spec):
    gate = make_spec().gate
    rows = [
        observe(*GOOD, bucket=1200.0, watermark=2000.0),
        observe((3, 0), (36, 36), ingest=1, bucket=1200.0, watermark=2300.0),
        observe(ingest=2, watermark=90_000.0),
    ]
    state = fold(rows, BASELINE, gate, buckets=every(gate))
    account = state.metric("errors").account(Bet.NONINFERIORITY)
    assert not account.open
    assert account.late(0, 300, 90_000.0).challenger == (0, 36)
    assert look(*rows).reason == HoldReason.LATE_ROWS


def test_late_rows_of_a_table_without_a_change_feed_are_taken_as_bad(look, observe):
    on_time = observe(*GOOD, bucket=1200.0, watermark=2000.0)
    assert look(on_time, late_rows=1).action is Action.ADVANCE, "one row could change nothing"
    held = look(on_time, late_rows=60)
    assert (held.action, held.reason) == (Action.HOLD, HoldReason.LATE_ROWS)
    assert "60 challenger rows came after the rows of their time had been read" in held.sentence
    score = Metric(name="errors", kind="judge", scorer="Safety", margin=0.02)
    assert "60 challenger rows" not in look(on_time, metric=score, late_rows=60).sentence, "it has a feed of its own"


def test_rows_of_a_bucket_that_has_not_ended_wait_and_are_no_doubt(look, observe):
    rows = [observe(*GOOD, bucket=1200.0, watermark=2000.0), observe((0, 0), (40, 40), ingest=1, bucket=1800.0)]
    rows[1] = observe((3, 0), (4, 4), ingest=1, bucket=1800.0, watermark=2000.0)
    assert look(*rows).action is Action.ADVANCE


def test_challenger_rows_that_cannot_be_judged_are_taken_as_bad(look, observe):
    held = look(observe(*GOOD, bucket=1200.0, unjudged=(0, 60)))
    assert (held.action, held.reason) == (Action.HOLD, HoldReason.UNJUDGED_ROWS)
    assert "60 of its challenger rows cannot be judged, 60 more than the champion's 0 explain" in held.sentence
    assert held.metrics[0].challenger_unjudged == 60


def test_rows_that_cannot_be_judged_in_both_arms_alike_hold_nothing(look, observe):
    assert look(observe(*GOOD, bucket=1200.0, unjudged=(19_000, 1_000))).action is Action.ADVANCE
    assert look(observe(*GOOD, bucket=1200.0, unjudged=(0, 1))).action is Action.ADVANCE


def test_rows_that_a_metrics_sql_failed_on_are_doubted_until_they_are_too_few_to_matter(look, observe):
    # Half of all rows are none of the metric's, in both arms; of 60 of the challenger's nobody knows.
    failed = observe(bucket=900.0, unjudged=(0, 60), failed=60, watermark=1200.0)

    def good(times):
        rows = (19_000 * times, 190 * times), (1_000 * times, 10 * times)
        return observe(*rows, ingest=1, bucket=1200.0, unjudged=(19_000 * times, 1_000 * times))

    assert look(good(3)).action is Action.ADVANCE
    held = look(failed, good(3))
    assert (held.action, held.reason) == (Action.HOLD, HoldReason.UNJUDGED_ROWS), "2 % of 3,060 may be bad, not 1 %"
    assert "3060 of its challenger rows cannot be judged, 60 more than" in held.sentence
    assert look(failed, good(20)).action is Action.ADVANCE, "if all were bad, it would be 1.3 %"


def test_what_is_shown_with_failed_rows_is_no_more_than_if_they_had_been_judged_bad(look, observe):
    # Taken as bad afterwards, they weigh as much as if they had been bet as bad in blocks of their own time.
    for times in range(1, 30):
        rows = (9_500 * times, 95 * times), (500 * times, 5 * times)
        doubted = look(
            observe(bucket=900.0, unjudged=(0, 30), failed=30, watermark=1200.0),
            observe(*rows, ingest=1, bucket=1200.0),
        )
        judged = look(
            observe((570, 6), (30, 30), bucket=900.0, watermark=1200.0), observe(*rows, ingest=1, bucket=1200.0)
        )
        assert judged.metrics[0].shown or doubted.action is not Action.ADVANCE, times
    assert doubted.action is Action.ADVANCE


def test_failures_that_the_endpoint_counted_and_the_table_lacks_hold(look, observe):
    row = observe(*GOOD, bucket=1200.0)
    assert look(row, unlogged_errors=1).action is Action.ADVANCE
    held = look(row, unlogged_errors=50)
    assert (held.action, held.reason) == (Action.HOLD, HoldReason.UNLOGGED_ERRORS)
    assert "counted 50 failures of the challenger that are not in the inference table" in held.sentence


def test_doubts_that_are_harmless_one_by_one_hold_together(look, observe):
    good, late = observe(*GOOD, bucket=1200.0, watermark=2000.0), ((2, 0), (4, 4))
    one = observe(*GOOD, bucket=1200.0, watermark=2000.0, unjudged=(0, 4))
    with_late = observe(*late, ingest=1, bucket=1200.0, watermark=2300.0)
    assert look(good, with_late).action is Action.ADVANCE
    assert look(one).action is Action.ADVANCE
    assert look(good, unlogged_errors=4).action is Action.ADVANCE
    held = look(one, with_late, unlogged_errors=4)
    assert (held.action, held.reason) == (Action.HOLD, HoldReason.LATE_ROWS)
    assert held.sentence.count(" and ") >= 2


def test_a_doubt_never_stops_a_rollback_and_never_promotes(look, observe):
    bad = observe((3_800, 38), (200, 40), bucket=1200.0, unjudged=(0, 500))
    assert look(bad, unlogged_errors=500).action is Action.ROLL_BACK
    thin = observe((950, 9), (50, 0), bucket=1200.0)
    assert look(thin, unlogged_errors=500).reason == HoldReason.NOT_ENOUGH


def test_a_first_release_is_doubted_against_its_bound(look, observe):
    bounded = ERRORS.model_copy(update={"bound": 0.05})
    row = observe((0, 0), (600, 4), bucket=1200.0)
    assert look(row, metric=bounded, first=True).action is Action.PROMOTE
    assert look(row, metric=bounded, first=True, unlogged_errors=60).reason == HoldReason.UNLOGGED_ERRORS


def test_a_metric_without_a_margin_is_judged_by_its_bound_on_every_step(look, observe):
    absolute = Metric(name="errors", kind="errors", margin=None, bound=0.05)
    worse_than_champion = observe((19_000, 19), (1_000, 20), bucket=1200.0)
    verdict = look(worse_than_champion, metric=absolute)
    assert verdict.action is Action.ADVANCE
    assert "errors is 2 % of 1000 challenger requests, shown to be below 5 %" in verdict.sentence
    above = look(observe((3_800, 0), (200, 40), bucket=1200.0), metric=absolute)
    assert above.action is Action.ROLL_BACK
    assert "above 5 %" in above.sentence
