"""The fold: when blocks close, what is carried, and that the same rows always give the same state."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from release_pipeline.gate.betting import (
    above_increment,
    below_increment,
    harm_increment,
    log_e_value,
    noninferiority_increment,
)
from release_pipeline.gate.evidence import (
    GIVE_UP_AFTER_BUCKETS,
    Bet,
    EvidenceState,
    fold,
)
from release_pipeline.gate.observations import Arms, Baseline, Observation, Series, bucket_seconds_for, slice_seconds
from release_pipeline.gate.state_json import state_from_dict, state_to_dict
from release_pipeline.spec_gate import GatePart, Metric
from tests.gate.conftest import every

ERRORS = Metric(name="errors", kind="errors", margin=(0.03, 0.02, 0.01))
SLOW = Metric(name="slow", kind="slow", margin=0.05, bound=0.2)
GATE = GatePart(metrics=(ERRORS, SLOW))
BASELINES = (Baseline.freeze(ERRORS, 999, 9), Baseline.freeze(SLOW, 999, 49, 800))
LEVEL = 9.5 / 1000

unhurried = settings(deadline=None, max_examples=60)


def start(gate: GatePart = GATE) -> EvidenceState:
    return EvidenceState.start(BASELINES, gate, buckets=every(gate))


@st.composite
def releases(draw):
    """Observations of up to six ingests, as an observer may have seen them."""
    rows = []
    watermark = 0.0
    for ingest in range(draw(st.integers(1, 6))):
        watermark += draw(st.sampled_from([0.0, 60.0, 300.0, 700.0, 5000.0]))
        keys = draw(
            st.sets(
                st.tuples(
                    st.integers(0, 2), st.sampled_from([0.0, 60.0, 300.0, 600.0]), st.sampled_from(["errors", "slow"])
                ),
                min_size=1,
                max_size=8,
            )
        )
        for step, bucket, metric in sorted(keys):
            old, new = (draw(st.tuples(st.integers(0, 30), st.integers(0, 5))) for _ in range(2))
            rows.append(
                Observation(
                    ingest=ingest,
                    step=step,
                    bucket_start=bucket,
                    metric=metric,
                    champion=old,
                    challenger=new,
                    from_version=ingest,
                    to_version=ingest,
                    watermark=watermark,
                )
            )
    return rows


def test_harm_takes_complete_minutes_of_a_bucket_as_soon_as_they_have_forty_rows_of_both_arms(observe):
    # Minutes 0 and 1; the second is not complete, however many rows it has.
    rows = [observe((24, 1), (6, 1), watermark=60.0), observe((90, 0), (9, 0), bucket=60.0, watermark=60.0)]
    state = start().add(rows)
    assert not state.metric("errors").account(Bet.HARM).capitals
    assert state.metric("errors").leftover(Bet.HARM, 0) == (114, 15)

    state = state.add([observe((8, 0), (2, 0), ingest=1, bucket=60.0, watermark=119.0)])
    assert not state.metric("errors").account(Bet.HARM).capitals
    state = state.add([observe((5, 0), (1, 0), ingest=2, bucket=120.0, watermark=120.0)])
    first = harm_increment((121, 1), (16, 1), LEVEL)
    account = state.metric("errors").account(Bet.HARM)
    assert account.at(0) == tuple(first.tolist())
    assert set(account.open) == {(0, 120.0)}
    assert state.metric("errors").leftover(Bet.HARM, 0) == (5, 1)

    state = state.add([observe((25, 0), (15, 1), ingest=3, bucket=120.0, watermark=180.0)])
    second = harm_increment((30, 0), (15, 1), LEVEL)
    assert state.metric("errors").account(Bet.HARM).at(0) == tuple((second + first).tolist())


@pytest.mark.parametrize(("bet", "bucket"), [(Bet.HARM, 60.0), (Bet.NONINFERIORITY, 240.0)])
def test_rows_that_come_after_their_time_was_bet_are_told_and_never_bet(bet, bucket, observe):
    rows = [observe((300, 3), (60, 1), bucket=minute, watermark=300.0) for minute in (60.0, 240.0)]
    state = start().add(rows)
    before = state.metric("errors").account(bet)
    assert before.folded[0].champion_n == 600
    state = state.add([observe((200, 0), (90, 90), ingest=1, bucket=bucket, watermark=301.0)])
    # Another minute of the bucket is as late: the bucket was bet.
    state = state.add([observe((100, 0), (50, 50), ingest=2, bucket=120.0, watermark=301.0)])
    account = state.metric("errors").account(bet)
    assert account.capitals == before.capitals
    assert account.late(0, 300, 301.0) == Arms((300, 0), (0, 140))
    assert state.metric("errors").total().challenger_n == 260
    # However much later: nothing is bet that comes when its bucket has been forgotten.
    state = state.add([observe((40, 0), (9, 0), ingest=3, bucket=999_600.0, watermark=1e6)])
    account = state.metric("errors").account(bet)
    assert set(account.closed) == {(0, 999_600.0)}
    before = account
    state = state.add([observe((200, 0), (90, 90), ingest=4, bucket=bucket, watermark=1e6)])
    assert state.metric("errors").account(bet).capitals == before.capitals
    assert state.metric("errors").account(bet).late(0, 300, 1e6).challenger_n == 230


def test_a_bound_takes_late_rows_as_they_come(observe):
    state = start().add([observe((0, 0), (39, 12), metric="slow", watermark=300.0)])
    state = state.add([observe((0, 0), (10, 9), ingest=1, metric="slow", watermark=300.0)])
    evidence = state.metric("slow")
    assert np.array(evidence.account(Bet.ABOVE).at(0)) == pytest.approx(above_increment((28, 21), 0.2), abs=1e-12)
    assert evidence.account(Bet.BELOW).late(0, 300, 300.0) == Arms()


def test_noninferiority_waits_until_the_watermark_has_passed_the_bucket(observe):
    state = start().add([observe((100, 1), (30, 0), ingest=0, watermark=200.0)])
    state = state.add([observe((50, 1), (10, 1), ingest=1, watermark=299.0)])
    assert not state.metric("errors").account(Bet.NONINFERIORITY).capitals
    assert state.metric("errors").account(Bet.HARM).capitals  # of its complete minute

    # Rows of counts zero carry the watermark past the bucket's end: one block of both ingests.
    state = state.add([observe(ingest=2, bucket=300.0, watermark=300.0)])
    expected = noninferiority_increment((148, 2), (39, 1), LEVEL, 0.03)
    account = state.metric("errors").account(Bet.NONINFERIORITY)
    assert account.at(0) == tuple(expected.tolist())
    assert not account.open

    # A watermark never goes back.
    state = state.add([observe((100, 0), (30, 0), ingest=3, watermark=0.0)])
    assert state.metric("errors").watermark == 300.0
    assert state.metric("errors").account(Bet.NONINFERIORITY).folded[0].champion_n == 150


def test_harm_is_carried_over_steps_and_noninferiority_begins_again_with_the_steps_own_margin(observe):
    state = start().add([observe((900, 9), (100, 3), ingest=0, step=0, watermark=300.0)])
    state = state.add([observe((700, 7), (300, 9), ingest=1, step=1, bucket=300.0, watermark=600.0)])
    evidence = state.metric("errors")
    harm = harm_increment((891, 9), (97, 3), LEVEL) + harm_increment((693, 7), (291, 9), LEVEL)
    assert np.array(evidence.account(Bet.HARM).carried()) == pytest.approx(harm, abs=1e-12)
    for step, (old, new), margin in ((0, ((891, 9), (97, 3)), 0.03), (1, ((693, 7), (291, 9)), 0.02)):
        fresh = noninferiority_increment(old, new, LEVEL, margin)
        assert evidence.account(Bet.NONINFERIORITY).at(step) == tuple(fresh.tolist())
    assert set(evidence.account(Bet.NONINFERIORITY).at(2)) == {0.0}
    assert (evidence.total().champion_n, evidence.total().challenger_n) == (1600, 400)


def test_counts_of_different_buckets_are_never_pooled(observe):
    # Pooled, the challenger has 2.7 % against 1.1 %; bucket by bucket the arms are equal and the base rate moves.
    rows = [observe((4000, 20), (200, 1), bucket=0.0), observe((500, 30), (500, 30), bucket=300.0)]
    logs = start().add(rows).metric("errors").account(Bet.HARM).carried()
    pooled = harm_increment((4450, 50), (669, 31), LEVEL)
    assert log_e_value(pooled) > np.log(20)
    assert log_e_value(logs) < np.log(2)


def test_a_bound_is_bet_on_the_challenger_alone_and_waits_for_the_watermark(observe):
    state = start().add([observe((0, 0), (39, 12), metric="slow", watermark=10.0)])
    evidence = state.metric("slow")
    assert not evidence.account(Bet.ABOVE).capitals
    assert evidence.account(Bet.HARM).open  # too few to compare, and enough for a bound
    evidence = state.add([observe(ingest=1, metric="slow", watermark=300.0)]).metric("slow")
    assert evidence.account(Bet.ABOVE).at(0) == tuple(above_increment((27, 12), 0.2).tolist())
    assert evidence.account(Bet.BELOW).at(0) == tuple(below_increment((27, 12), 0.2).tolist())
    assert Bet.ABOVE not in start().add([observe((30, 0), (9, 0))]).metric("errors").accounts


def test_blocks_that_cannot_fill_are_given_up_so_that_the_state_stays_small(observe):
    state = start()
    for ingest in range(200):
        row = observe((5, 0), (1, 0), ingest=ingest, bucket=300.0 * ingest, watermark=300.0 * ingest)
        state = state.add([row])
    evidence = state.metric("errors")
    for bet in (Bet.HARM, Bet.NONINFERIORITY):
        assert len(evidence.account(bet).open) <= GIVE_UP_AFTER_BUCKETS + 1
        assert evidence.leftover(bet, 0) == (1000, 200)
    assert evidence.total().champion_n == 1000


@unhurried
@given(releases(), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rows, random):
    shuffled = list(rows)
    random.shuffle(shuffled)
    state = fold(shuffled, BASELINES, GATE, buckets=every(GATE))
    assert state == fold(rows, BASELINES, GATE, buckets=every(GATE))
    assert json.dumps(state_to_dict(state), sort_keys=True) == json.dumps(
        state_to_dict(fold(rows, BASELINES, GATE, buckets=every(GATE))), sort_keys=True
    )


@unhurried
@given(releases())
def test_stored_and_restored_after_every_ingest_it_is_the_same_bit_for_bit(rows):
    state = start()
    for ingest in sorted({row.ingest for row in rows}):
        state = state.add(row for row in rows if row.ingest == ingest)
        restored = state_from_dict(json.loads(json.dumps(state_to_dict(state), allow_nan=False)), GATE)
        assert restored == state
        state = restored
    assert state == fold(rows, BASELINES, GATE, buckets=every(GATE))


@unhurried
@given(releases())
def test_no_row_is_lost_or_counted_twice(rows):
    state = fold(rows, BASELINES, GATE, buckets=every(GATE))
    for name in ("errors", "slow"):
        evidence = state.metric(name)
        seen = sum(sum(row.champion) for row in rows if row.metric == name)
        assert evidence.total().champion_n == seen
        for bet in (Bet.HARM, Bet.NONINFERIORITY):
            account = evidence.account(bet)
            waiting = [block.arms for block in account.open.values()]
            parts = [*account.folded.values(), *account.given_up.values(), *waiting]
            assert sum(arms.champion_n for arms in parts) == seen


@unhurried
@given(releases(), st.integers(0, 1))
def test_which_blocks_close_does_not_depend_on_outcomes(rows, bad):
    def recoloured(counts):
        return tuple(sum(counts) if bin_ == bad else 0 for bin_ in range(2))

    other = [replace(row, champion=recoloured(row.champion), challenger=recoloured(row.challenger)) for row in rows]
    one, two = (fold(some, BASELINES, GATE, buckets=every(GATE)) for some in (rows, other))
    for series in one.metrics:
        for bet, account in one.metric(*series).accounts.items():
            twin = two.metric(*series).account(bet)
            assert account.open.keys() == twin.open.keys()
            assert {s: a.champion_n for s, a in account.folded.items()} == {
                s: a.champion_n for s, a in twin.folded.items()
            }


@unhurried
@given(releases())
def test_a_muted_metric_changes_nothing_for_the_others(rows):
    muted = GatePart(metrics=(ERRORS, SLOW.model_copy(update={"muted": True})))
    alone = GatePart(metrics=(ERRORS,))
    with_it = fold(rows, BASELINES, muted, buckets=every(muted))
    without = fold(rows, BASELINES, alone, buckets=every(alone))
    assert with_it.metric("errors") == without.metric("errors")


def test_rows_cannot_be_added_twice(observe):
    state = start().add([observe((30, 0), (2, 0), ingest=4)])
    for ingest in (3, 4):
        with pytest.raises(ValueError, match=f"cannot add ingest {ingest} after 4"):
            state.add([observe((30, 0), (2, 0), ingest=ingest)])
    with pytest.raises(ValueError, match="one at a time"):
        state.add([observe((30, 0), (2, 0), ingest=5), observe((30, 0), (2, 0), ingest=6)])
    with pytest.raises(ValueError, match="two observations of errors in step 0"):
        state.add([observe((30, 0), (2, 0), ingest=5)] * 2)
    assert state.add([]) is state


def test_observations_that_cannot_be_are_refused(observe):
    with pytest.raises(ValueError, match="negative"):
        observe((3, 4), (1, 0))
    good = observe((3, 1), (1, 0))
    with pytest.raises(ValueError, match="same bins"):
        replace(good, champion=(1, 2, 3))
    with pytest.raises(ValueError, match="bucket of errors is 0"):
        EvidenceState.start(BASELINES, GATE, buckets=every(GATE, 0))


def test_more_bins_than_two_are_folded_alike():
    row = Observation(
        ingest=0, step=0, bucket_start=0, metric="errors", champion=(40, 5, 5), challenger=(3, 1, 2),
        from_version=0, to_version=1, watermark=1000,
    )  # fmt: skip
    state = start().add([row])
    assert state.metric("errors").account(Bet.HARM).at(0) == tuple(
        harm_increment((40, 5, 5), (3, 1, 2), LEVEL).tolist()
    )
    assert state_from_dict(state_to_dict(state), GATE) == state


def test_a_baseline_without_rows_is_the_kinds_default():
    assert BASELINES[0].level == LEVEL
    assert BASELINES[1].threshold_ms == 800
    assert Baseline.freeze(ERRORS, 0, 0).level == 0.01
    assert Baseline.freeze(SLOW, 0, 0).level == 0.05
    assert 0 < Baseline.freeze(ERRORS, 50, 0).level < Baseline.freeze(ERRORS, 50, 50).level < 1
    with pytest.raises(ValueError, match="from 0 to 3"):
        Baseline.freeze(ERRORS, 3, 4)
    assert EvidenceState.start((), GATE, buckets=every(GATE, 60)).levels == {
        Series("errors"): 0.01,
        Series("slow"): 0.05,
    }


def test_buckets_are_sized_by_the_champions_traffic():
    assert bucket_seconds_for(GATE, 5.0) == 60
    assert bucket_seconds_for(GATE, 0.5) == 300
    assert bucket_seconds_for(GATE, 0.1) == 1200
    assert bucket_seconds_for(GATE, 0.00001) == 86400
    assert bucket_seconds_for(GATE, 0.0) == 3600, "nothing is known"
    assert bucket_seconds_for(GatePart(bucket_seconds=7), 0.0) == 7


def test_slices_divide_their_bucket():
    assert [slice_seconds(bucket) for bucket in (1, 7, 60, 300, 77, 86_400)] == [1, 7, 60, 60, 11, 60]


def test_a_stored_state_that_is_none_is_refused(observe):
    stored = state_to_dict(start().add([observe((30, 0), (2, 0))]))
    with pytest.raises(ValueError, match="levels"):
        state_from_dict({key: value for key, value in stored.items() if key != "levels"}, GATE)
    with pytest.raises(ValueError, match="no level of later"):
        state_from_dict(stored, GatePart(metrics=(ERRORS, Metric(name="later", kind="errors"))))
