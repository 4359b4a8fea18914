"""The older table of ratings, which the service stopped filling: silence that is no chance holds a release by name."""

import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

import pytest
import requests

from release_pipeline.gate.holds import unhealthy
from release_pipeline.gate.verdict import Action, HoldReason, Signals
from release_pipeline.rollout.table_reads import Findings
from release_pipeline.spec import ReleaseSpec
from release_pipeline.workspace.assessment_logs import LoggedFeedback
from release_pipeline.workspace.score_source import Silence
from tests.conftest import RunningWorkspace
from tests.pipeline.conftest import Model, eventually
from tests.pipeline.payload_tables import START, Logged, create, insert, moment, warehouse
from tests.pipeline.test_feedback import HELPFUL, LOGS, StoppedClock, score_table
from tests.pipeline.test_holds import TOLERANT, ask_and_look, in_ramp, look

LAG = timedelta(minutes=10)
RATED = HELPFUL.model_copy(update={"source": "assessment_logs"})


class Ratings:
    """A table of ratings beside requests, by the minute; minute 0 is now, by the real clock of the commits."""

    def __init__(self, minutes: Iterable[int]) -> None:
        self._now = (datetime.now(UTC) - START).total_seconds() // 60
        payload = create(warehouse(), "gateway")
        insert(warehouse(), payload, "gateway", [Logged(f"r{at}", 60 * (self._now + at)) for at in minutes])
        self.clock = StoppedClock(0)
        table = f"{payload}_assessment_logs"
        warehouse().execute(f"CREATE TABLE {table} ({LOGS})")
        self.source = LoggedFeedback(table, (RATED,), score_table(payload), self.clock)

    def rate(self, *minutes: int) -> None:
        """One commit of ratings, of any name."""
        rows = ", ".join(
            f"('r{at}', NULL, NULL, timestamp_millis({round(self.at(at).timestamp() * 1000)}), NULL)" for at in minutes
        )
        warehouse().execute(f"INSERT INTO {self.source.name} VALUES {rows}")

    def at(self, minute: int) -> datetime:
        return moment(60 * (self._now + minute))

    def silence(self, minute: int, since: int = -10_000) -> tuple[int, int, int] | None:
        """Age of the newest row in minutes, requests since, and ratings that were expected, at a minute."""
        self.clock.seconds = 60 * (self._now + minute)
        found = self.source.silence(self.at(since), LAG)
        return found and (round((self.at(minute) - found.newest).total_seconds() / 60), *found[1:])


def test_ratings_that_stop_while_requests_go_on_are_told_with_numbers(workspace: RunningWorkspace) -> None:
    ratings = Ratings(range(-100, 300))
    assert ratings.silence(200) is None, "a table that never had a row proves nothing"
    ratings.rate(*range(-100, -1, 2))
    for minute in (1, 11, 50):
        assert ratings.silence(minute) is None, "so few requests may happen not to be rated"
    # One request more or less, by the second at which the test runs.
    assert ratings.silence(80) in ((82, 69, 34), (82, 68, 33))


def test_few_ratings_may_be_silent_for_long(workspace: RunningWorkspace) -> None:
    ratings = Ratings(range(-100, 300))
    ratings.rate(-90, -70, -50, -30, -10)
    assert ratings.silence(290) is None


def test_without_requests_no_rating_is_missed(workspace: RunningWorkspace) -> None:
    ratings = Ratings(range(-100, 0))
    ratings.rate(*range(-100, -1))
    assert ratings.silence(1000) is None


def test_ratings_with_the_times_of_old_requests_are_no_silence_while_they_are_written(
    workspace: RunningWorkspace,
) -> None:
    ratings = Ratings(range(-400, 300))
    ratings.rate(*range(-400, -200))
    assert ratings.silence(10) is None, "written a moment ago"
    assert ratings.silence(290) is not None


def test_a_table_that_was_silent_for_all_the_time_of_the_levels_is_frozen_at_once(workspace: RunningWorkspace) -> None:
    ratings = Ratings(range(-50, 0))
    ratings.rate(-3000)
    assert ratings.silence(1, since=-100) == (3001, 41, 0)
    assert ratings.silence(1, since=-5) is None, "no request that could have been rated"


@pytest.mark.parametrize(
    ("expected", "words"),
    [(34, "69 requests since should have brought about 34, going by"), (0, "older than all of the 69 requests")],
)
def test_silence_holds_whatever_decides_and_is_a_note_beside_what_does_not(
    expected: int, words: str, make_spec: Callable[..., ReleaseSpec]
) -> None:
    silence, seen, spec = Silence(moment(0), 69, expected), Findings(), make_spec()
    watched = RATED.model_copy(update={"guard": False, "required": False})
    seen.add_frozen("the.ratings.table", silence, [watched])
    assert (seen.frozen, len(seen.notes)) == ([], 1)
    seen.add_frozen("the.ratings.table", silence, [watched, RATED.model_copy(update={"required": False})])
    now = moment(82 * 60).timestamp()
    signals = Signals(configured_share=0.5, now=now, step_started_at=now, ramp_started_at=now, frozen=seen.frozen[0])
    held = unhealthy(signals, spec, ())
    assert held is not None
    assert held.reason == HoldReason.TABLE_FROZEN
    assert "the.ratings.table is 82 min old" in held.sentence
    assert words in held.sentence


@pytest.mark.slow
@pytest.mark.parametrize("decides", [True, False])
def test_a_release_is_not_steered_by_a_table_that_nobody_writes(
    decides: bool, make_model: Callable[..., Model], set_faults: Callable[..., requests.Response]
) -> None:
    set_faults(derived_tables=0)
    metric = {
        "name": "correct", "kind": "feedback", "source": "assessment_logs", "assessment": "answer_correct",
        "margin": 0.3, "required": False, "settle_minutes": 0, **({} if decides else {"guard": False}),
    }  # fmt: skip
    gate = {"bucket_seconds": 1, "min_block_rows": 5, "max_lag_minutes": 1, "metrics": [TOLERANT, metric]}
    model = make_model(gate=gate, ramp={"steps": [50]})
    release = in_ramp(model, "second")
    ask_and_look(model, release, 30)
    executor, table = model.parts().workspace.warehouse, f"{model.spec.payload_table}_assessment_logs"
    url, headers = model.parts().endpoint.query_url, {"Authorization": f"Bearer {os.environ['DATABRICKS_TOKEN']}"}
    feedback = f"{url.removesuffix('/invocations')}/served-models/feedback/invocations"
    ids = executor.execute(f"SELECT databricks_request_id AS id FROM {model.spec.payload_table} LIMIT 30")
    for row in ids:
        said = {"ratings": {"answer_correct": {"value": "positive"}}}
        record = {"source": {"id": "u", "type": "human"}, "request_id": row["id"], "text_assessments": [said]}
        assert requests.post(feedback, json={"dataframe_records": [record]}, headers=headers, timeout=60).ok
    eventually(lambda: executor.execute(f"SELECT count(*) AS n FROM {table}")[0]["n"] == str(len(ids)))
    set_faults(derived_tables=None)
    seen = ask_and_look(model, release, 60)
    assert seen.evidence.metric("correct").total().challenger_n > 0
    assert seen.verdict.reason != HoldReason.TABLE_FROZEN, "they may still come"
    model.clock.advance(90)
    seen = look(model, release)
    if decides:
        assert (seen.verdict.action, seen.verdict.reason) == (Action.HOLD, HoldReason.TABLE_FROZEN)
        assert table in seen.verdict.sentence
        assert "requests since should have brought about" in seen.verdict.sentence
    else:
        assert seen.verdict.reason != HoldReason.TABLE_FROZEN
        assert any(table in note and "nothing is written to it any more" in note for note in seen.notes)
