"""The endpoint's counters against its table: what is missing is found, and nothing is invented."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from release_pipeline.rollout.reconciliation import Reading, Reconciliation
from release_pipeline.workspace.endpoint_counters import Counters, MetricsPage, parse_counters


def readings(*errors: int) -> Reconciliation:
    """A reading every 10 s, with ten requests between two."""
    found = Reconciliation()
    for index, count in enumerate(errors):
        found = found.read(Reading(10.0 * index, 10 * index, count))
    return found


def test_failures_that_were_counted_and_not_logged_are_unlogged() -> None:
    found = readings(0, 3, 7)
    due = found.due(25.0)
    assert due == Reading(20.0, 20, 7)
    assert found.compare(due, 7).unlogged_errors() == 0
    compared = found.compare(due, 2)
    assert compared.unlogged_errors() == 5
    assert compared.waiting == ()
    assert compared.last == due


def test_a_reading_waits_until_the_table_is_complete_up_to_it() -> None:
    found = readings(0, 3, 7)
    assert found.due(9.9) is None
    assert found.due(10.0) == Reading(10.0, 10, 3)


def test_a_failure_on_either_side_of_a_reading_evens_out() -> None:
    found = readings(0, 1, 2)
    early = found.compare(found.waiting[0], 0)
    assert early.unlogged_errors() == 1
    assert early.compare(found.waiting[1], 2).unlogged_errors() == 0


def test_a_restart_of_the_counters_begins_anew_and_keeps_what_was_found() -> None:
    found = readings(0, 9)
    found = found.compare(found.waiting[0], 4).read(Reading(20.0, 0, 0))
    assert found.reconciled == Reading(20.0, 0, 0)
    assert found.waiting == ()
    assert found.unlogged_errors() == 5


def test_what_a_sampled_table_leaves_out_by_chance_is_not_unlogged() -> None:
    found = readings(0, 400)
    assert found.compare(found.waiting[0], 95, sampling_fraction=0.25).unlogged_errors() == 0
    assert found.compare(found.waiting[0], 0, sampling_fraction=0.25).unlogged_errors() > 200


def test_requests_between_two_times_are_those_between_the_readings_inside() -> None:
    found = readings(0, 0, 0, 0)
    assert found.requests_between(5.0, 35.0) == 20
    assert found.requests_between(5.0, 12.0) == 0
    assert found.requests_between(50.0, 60.0) == 0
    assert Reconciliation().requests_between(0.0, 60.0) == 0


@given(st.lists(st.integers(0, 9), min_size=1, max_size=300))
def test_many_waiting_readings_are_thinned_and_the_newest_stays(steps: list[int]) -> None:
    found = Reconciliation()
    total = 0
    for index, step in enumerate(steps):
        total += step
        found = found.read(Reading(float(index), index, total))
    assert len(found.waiting) <= 64
    assert found.last == Reading(float(len(steps) - 1), len(steps) - 1, total)
    assert Reconciliation.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_counters_of_several_replicas_are_added_and_other_lines_are_none() -> None:
    text = """# HELP request_count_total Requests.
# TYPE request_count_total counter
request_count_total{endpoint_name="e",served_model_name="new",replica="1"} 7
request_count_total{endpoint_name="e",served_model_name="new",replica="2"} 5
request_5xx_count_total{endpoint_name="e",served_model_name="new"} 2
request_4xx_count_total{endpoint_name="e",served_model_name="new"} 4
request_count_total{endpoint_name="e",served_model_name="old"} 1.0e+03
cpu_usage_percentage{served_model_name="new"} 3.5
nonsense
"""
    assert parse_counters(text) == MetricsPage({"new": Counters(12, 2, 4), "old": Counters(1000, 0)})


def test_a_time_beside_a_sample_is_the_end_of_the_minute_that_it_counts() -> None:
    text = 'request_count_total{served_model_name="new"} 7 1795244340000\n'
    assert parse_counters(text) == MetricsPage({"new": Counters(7, 0)}, 1795244340.0)


def test_single_minutes_are_compared_one_by_one_and_never_twice() -> None:
    found = Reconciliation()
    for end, errors in ((60.0, 5), (60.0, 5), (240.0, 3)):
        found = found.read(Reading(end, 10, errors, end - 60.0))
    assert len(found.waiting) == 2
    assert found.requests_between(0.0, 300.0) == 20
    first = found.due(500.0)
    assert first is not None
    assert found.window(first) == (0.0, 60.0)
    found = found.compare(first, 5)
    second = found.due(500.0)
    assert second is not None
    assert found.window(second) == (180.0, 240.0), "minutes in between were not read, so they are not compared"
    assert found.compare(second, 1).unlogged_errors() == 2


@pytest.mark.parametrize("text", ["", "request_count_total 3\n", 'request_count_total{a="b"} 3\n'])
def test_a_page_without_served_models_gives_no_counters(text: str) -> None:
    assert parse_counters(text) == MetricsPage({})


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=20), st.integers(4, 50))
def test_counters_that_lost_failures_with_a_replica_hide_none_that_come_later(
    lost: list[tuple[int, int]], missing: int
) -> None:
    found, end = Reconciliation(), 0.0
    for counted, more in lost:
        end += 60.0
        minute = Reading(end, 99, counted, end - 60.0)
        found = found.read(minute).compare(minute, counted + more)
    before = found.unlogged_errors()
    assert before == 0, "a table that has more is no fault"
    minute = Reading(end + 60.0, 99, missing, end)
    assert missing - 3 <= found.read(minute).compare(minute, 0).unlogged_errors() <= missing


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=300))
def test_every_minute_is_kept_however_many_wait(minutes: list[tuple[int, bool]]) -> None:
    found, end, errors = Reconciliation(), 0.0, 0
    for count, seen in minutes:
        end += 60.0
        if seen or end == 60.0 * len(minutes):
            reading = Reading(end, 10 * count, count, end - 60.0)
            assert found.has_missed(reading)
            found = found.read(reading)
            assert not found.has_missed(reading)
            errors += count
    gaps = sum(not seen for _, seen in minutes)
    if not gaps:
        assert len(found.waiting) <= 64
        assert sum(each.errors for each in found.waiting) == errors
        assert found.requests_between(0.0, end) == 10 * errors
    for earlier, later in itertools.pairwise(found.waiting):
        assert later.since is not None
        assert earlier.at <= later.since, "no minute is in two readings"


def test_a_counter_has_missed_nothing() -> None:
    assert not Reconciliation().has_missed(None)
    assert not readings(0, 3).has_missed(Reading(99.0, 99, 9))


def test_refusals_are_compared_for_themselves_and_hold_nothing() -> None:
    found = Reconciliation().read(Reading(0.0, 0, 0, refused=0)).read(Reading(10.0, 90, 4, refused=40))
    compared = found.compare(found.waiting[0], 4, refused=12)
    assert (compared.unlogged_errors(), compared.unlogged_refusals()) == (0, 28)
    again = compared.read(Reading(20.0, 99, 4, refused=41))
    assert again.compare(again.waiting[0], 0, refused=1).unlogged_refusals() == 28
    assert Reconciliation.from_dict(json.loads(json.dumps(compared.to_dict()))) == compared


def test_a_reading_of_an_earlier_version_has_no_refusals() -> None:
    kept = {"reconciled": [10.0, 20, 3, None], "waiting": [[20.0, 40, 5, None]], "unlogged": 1.0}
    found = Reconciliation.from_dict(kept)
    assert found.reconciled == Reading(10.0, 20, 3)
    assert (found.waiting, found.unlogged_errors(), found.unlogged_refusals()) == ((Reading(20.0, 40, 5),), 1, 0)


def test_refusals_from_before_they_were_counted_are_none_that_the_table_lacks() -> None:
    found = Reconciliation.from_dict({"reconciled": [10.0, 1000, 0, None], "waiting": [[20.0, 1000, 0, None]]})
    for at, refused, logged in ((20.0, None, 3), (30.0, 500, 3), (40.0, 507, 3)):
        if found.last is None or found.last.at < at:
            found = found.read(Reading(at, 1000, 0, refused=refused))
        found = found.compare(found.waiting[-1], 0, refused=logged)
        assert found.unlogged_refusals() == (4 if at == 40.0 else 0), "counters began long before the release"
    assert Reconciliation.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 60)), max_size=60), st.integers(1, 30))
def test_failures_that_hang_as_long_as_they_may_are_missing_nowhere(asked: list[tuple[int, int]], every: int) -> None:
    # Both sides count an answer when it is done, whenever it was asked for.
    done = sorted(at + seconds for at, seconds in asked)
    found = Reconciliation().read(Reading(0.0, 0, 0))
    for until in range(every, 200 + every, every):
        count = sum(at < until for at in done)
        found = found.read(Reading(float(until), count, count))
        since, end = found.window(found.waiting[-1])
        found = found.compare(found.waiting[-1], sum(since <= at < end for at in done))
        assert found.unlogged_errors() == 0
