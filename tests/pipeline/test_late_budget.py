"""Late values are looked for a few seconds at a time: nothing takes a look too long, and nothing is left out."""

import itertools
from datetime import timedelta
from typing import Any

import pytest

from release_pipeline.workspace.budget import SLICE, Budget, slices
from release_pipeline.workspace.label_table import LabelSource
from release_pipeline.workspace.score_table import Pass, ScoreTable
from release_pipeline.workspace.swept_source import due_pass, end_of
from tests.conftest import RunningWorkspace
from tests.pipeline.payload_tables import Logged, RecordingWarehouse, create, insert, moment, warehouse
from tests.pipeline.test_feedback import StoppedClock, score_table, stored
from tests.pipeline.test_label import label, label_table, metric

HOUR, DAY = 3600.0, 86_400.0


class Stopwatch:
    """A monotonic clock that goes on by so many seconds each time that it is read."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self._at = seconds, 0.0

    def __call__(self) -> float:
        self._at += self.seconds
        return self._at


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("minutes", [3, 10, 50, 20_000])
def test_slices_cover_a_time_without_gaps(minutes: int, newest_first: bool) -> None:
    since, until = moment(0), moment(60 * minutes)
    found = sorted(slices(since, until, Budget(5, Stopwatch(0)), newest_first=newest_first))
    assert (found[0][0], found[-1][1]) == (since, until)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(found))
    assert len(found) < 10, "quick ones grow"
    assert not list(slices(until, since, Budget(5, Stopwatch(0)))), "no time, no slice"


def test_slices_end_with_the_budget_and_one_is_always_done() -> None:
    since, until = moment(0), moment(DAY)
    assert list(slices(since, until, Budget(0, Stopwatch(1)))) == [(since, since + SLICE)]
    assert list(slices(since, until, Budget(0, Stopwatch(0)))) == [(since, since + SLICE)]
    assert list(slices(since, until, Budget(0, Stopwatch(1)), newest_first=True)) == [(until - SLICE, until)]
    slow = list(slices(since, until, Budget(14, Stopwatch(4))))
    assert slow == [(since, since + SLICE)], "another one as slow would not fit"
    steady = list(slices(since, until, Budget(40, Stopwatch(9))))
    assert steady == [(since, since + SLICE), (since + SLICE, since + 2 * SLICE)], "slow ones do not grow"
    quick = list(slices(since, until, Budget(39, Stopwatch(4))))
    assert [end - start for start, end in quick] == [SLICE, 4 * SLICE, 16 * SLICE]


def test_a_budget_is_shared_evenly_and_what_one_leaves_goes_to_the_next() -> None:
    at = [0.0]
    budget = Budget(6, lambda: at[0])
    assert budget.share(3).left() == 2
    at[0] = 1
    assert budget.share(2).left() == 2.5
    at[0] = 9
    assert (budget.left(), budget.share(1).left()) == (0, 0)


def test_a_pass_is_ended_before_the_next_one_begins() -> None:
    since, now = moment(0), moment(5 * HOUR)
    first = due_pass(None, since, now)
    assert first == Pass(now, since, since)
    assert end_of(first) == now - timedelta(hours=1)
    half = first._replace(reached=moment(2 * HOUR))
    assert due_pass(half, since, moment(9 * HOUR)) == half, "however late it is"
    done = first._replace(reached=end_of(first))
    assert due_pass(done, since, moment(5.9 * HOUR)) is None
    later = moment(6 * HOUR)
    assert due_pass(done, since, later) == Pass(later, since, since)
    # Of another release: older requests were not looked through, and the oldest of this one are no reason to.
    assert due_pass(done, moment(-HOUR), now) == Pass(now, moment(-HOUR), moment(-HOUR))
    assert due_pass(half, moment(3 * HOUR), now) == half._replace(reached=moment(3 * HOUR))
    assert due_pass(half, moment(4.5 * HOUR), moment(5.5 * HOUR)) is None
    assert due_pass(None, moment(4.5 * HOUR), now) is None, "all requests are fresh"


@pytest.fixture
def days(workspace: RunningWorkspace) -> tuple[LabelSource, ScoreTable, list[str]]:
    """Labels of requests of three days, one every other hour, none of which is fresh."""
    payload = create(warehouse(), "gateway")
    ids = [f"r{number:02}" for number in range(36)]
    insert(warehouse(), payload, "gateway", [Logged(each, 2 * HOUR * at) for at, each in enumerate(ids)])
    table = label_table(payload, feed=False)
    values = ", ".join(f"('{each}', true, 1.0)" for each in ids)
    warehouse().execute(f"INSERT INTO {table} VALUES {values}")
    scores = score_table(payload)
    return LabelSource(table, (metric(table),), scores, StoppedClock(3 * DAY + HOUR)), scores, ids


def found_in(scores: ScoreTable) -> list[str | None]:
    return [row[0] for row in stored(scores)]


def test_a_look_without_time_does_one_slice_and_the_next_carries_on(
    days: tuple[LabelSource, ScoreTable, list[str]],
) -> None:
    labels, scores, ids = days
    labels.collect(moment(0), Budget(0, Stopwatch(1)))
    assert found_in(scores) == ids[:1]
    newest = scores.newest_pass(labels.metrics[0], moment(4 * DAY))
    assert newest == Pass(moment(3 * DAY + HOUR), moment(0), moment(0) + SLICE)
    counts, looks = [1], 0
    while counts[-1] < len(ids):
        labels.collect(moment(0), Budget(16, Stopwatch(1)))
        counts.append(len(found_in(scores)))
        looks += 1
        assert looks < 40
    assert found_in(scores) == ids
    assert looks > 1
    assert max(after - before for before, after in itertools.pairwise(counts)) < 30
    labels.collect(moment(0), Budget(60))
    notes = f"SELECT count(*) AS n FROM {scores.name} WHERE request_id IS NULL"
    before = warehouse().execute(notes)
    labels.collect(moment(0), Budget(60))
    assert warehouse().execute(notes) == before, "done, and not due again"


@pytest.mark.parametrize("lost", ["before", "after"])
def test_a_pass_that_is_killed_anywhere_leaves_nothing_out(
    lost: str, days: tuple[LabelSource, ScoreTable, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, scores, ids = days
    note, noted = ScoreTable.note_pass, []

    def dies(self: ScoreTable, *arguments: Any) -> None:
        noted.append(arguments)
        if lost == "after":
            note(self, *arguments)
        if len(noted) % 5 == 0:
            raise KeyboardInterrupt
        if lost == "before":
            note(self, *arguments)

    monkeypatch.setattr(ScoreTable, "note_pass", dies)
    for _ in range(20):
        try:
            labels.collect(moment(0), Budget(60))
        except KeyboardInterrupt:
            continue
        break
    assert found_in(scores) == ids, "each of them once"


def test_a_label_that_comes_behind_a_pass_is_found_by_the_next(
    days: tuple[LabelSource, ScoreTable, list[str]],
) -> None:
    labels, scores, ids = days
    clock = labels.clock
    assert isinstance(clock, StoppedClock)
    insert(warehouse(), scores.payload.name, "gateway", [Logged("late", 60)])
    labels.collect(moment(0), Budget(60))
    label(labels.name, ("late", True, None))
    labels.collect(moment(0), Budget(60))
    assert found_in(scores) == ids
    clock.seconds += HOUR
    labels.collect(moment(0), Budget(60))
    assert found_in(scores) == ["late", *ids]


def test_each_of_several_metrics_has_its_turn_although_there_is_never_time(
    days: tuple[LabelSource, ScoreTable, list[str]],
) -> None:
    labels, scores, _ = days
    both = (labels.metrics[0], metric(labels.name, name="lost", badness="label.amount"))
    source = LabelSource(labels.name, both, scores, labels.clock)
    for _ in range(2):
        source.collect(moment(0), Budget(0, Stopwatch(1)))
    assert stored(scores, "metric, request_id") == [("churn", "r00"), ("lost", "r00")]


def test_fresh_requests_come_first(days: tuple[LabelSource, ScoreTable, list[str]]) -> None:
    labels, scores, ids = days
    insert(warehouse(), scores.payload.name, "gateway", [Logged("young", 3 * DAY + HOUR - 60)])
    label(labels.name, ("young", True, None))
    recording = RecordingWarehouse(warehouse())
    first = LabelSource(labels.name, labels.metrics, ScoreTable(recording, scores.name, scores.payload), labels.clock)
    first.collect(moment(0), Budget(0, Stopwatch(1)))
    assert found_in(scores) == [ids[0], "young"]
    joins = [each for each in recording.sent if "JOIN" in each.statement]
    assert [each.parameters["inside_since"] for each in joins] == [moment(3 * DAY), moment(0)]


def test_the_time_before_a_release_is_looked_through_from_its_end(
    days: tuple[LabelSource, ScoreTable, list[str]],
) -> None:
    labels, scores, ids = days
    reached = labels.collect_before(moment(0), moment(70 * HOUR + 60), Budget(0, Stopwatch(1)))
    assert (found_in(scores), reached) == ([ids[-1]], moment(70 * HOUR + 60) - SLICE)
    assert labels.collect_before(moment(0), moment(3 * DAY), Budget(60)) == moment(0)
    assert found_in(scores) == ids
    assert scores.newest_pass(labels.metrics[0], moment(4 * DAY)) is None, "a release's own passes go forward"
