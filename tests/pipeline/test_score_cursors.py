"""From which version of the score table a release reads, and what the choice of a judge's requests looks at."""

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from release_pipeline.errors import StatementFailed
from release_pipeline.rollout.evidence_fold import so_far
from release_pipeline.rollout.state import ReleaseState, Stage, StepWindow
from release_pipeline.rollout.table_reads import Findings, freeze_sources, read_sources
from release_pipeline.spec_gate import GatePart, Metric
from release_pipeline.workspace.counts import Cursor
from release_pipeline.workspace.inference_table import InferenceTable
from release_pipeline.workspace.judge_sample import JudgeSample
from release_pipeline.workspace.score_source import ScoreSource
from release_pipeline.workspace.score_table import ScoreTable
from tests.conftest import RunningWorkspace
from tests.pipeline.payload_tables import Logged, RecordingWarehouse, create, insert, moment, warehouse
from tests.pipeline.test_feedback import HELPFUL, said, score_table

JUDGE = Metric(name="safe", kind="judge", scorer="Safety", sample=1.0)


@pytest.fixture
def gateway(workspace: RunningWorkspace) -> str:
    return create(warehouse(), "gateway")


class Forgetful(ScoreTable):
    """A score table whose log has forgotten its first commits, as Delta's does after a month."""

    oldest = 5

    def history(self) -> list[Cursor]:
        now = datetime.now(UTC)
        return [Cursor(version, now - timedelta(minutes=1)) for version in range(self.oldest + 3, self.oldest - 1, -1)]


def test_where_the_log_knows_young_commits_only_a_release_reads_from_the_oldest_of_them(gateway: str) -> None:
    table = Forgetful(warehouse(), "main.default.any_scores", InferenceTable(warehouse(), gateway))
    source, now = ScoreSource("s", (HELPFUL,), table), datetime.now(UTC)
    assert source.version_before(now) == 4
    table.oldest = 0
    assert source.version_before(now) == 0
    assert source.version_before(now + timedelta(hours=1)) == 3


def test_a_table_that_could_not_be_asked_at_the_first_look_is_read_from_before_the_release_later(
    gateway: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, rated = GatePart(metrics=(HELPFUL,)), HELPFUL
    scores = score_table(gateway)
    insert(warehouse(), gateway, "gateway", [Logged("old", 1), Logged("new", 100)])
    scores.add(rated, [said("old", 1.0)], moment(0), moment(60))
    before = scores.latest()
    assert before is not None

    class Source(ScoreSource):
        def version_before(self, moment: datetime) -> int:
            raise StatementFailed("SQL warehouse w: [BUSY] x")

    seen = Findings()
    _, cursors = freeze_sources([Source("s", (rated,), scores)], moment(0), moment(60), [], seen)
    assert cursors == {}, "not from the beginning, which VACUUM may have taken"
    for statement in (f"OPTIMIZE {scores.name}", f"VACUUM {scores.name} RETAIN 0 HOURS"):
        scores.warehouse.execute(statement)
    vacuumed = scores.latest()
    assert vacuumed is not None
    scores.add(rated, [said("new", 0.0)], moment(0), moment(200))
    source = ScoreSource("s", (rated,), scores)
    monkeypatch.setattr(source, "version_before", lambda start: vacuumed.version)
    step = StepWindow(0, 10, moment(90), None)
    state = ReleaseState("r", Stage.RAMPING, "2", "1", {}, None, (step,), moment(90), None, 3)
    (read,) = read_sources([source], state, replace(so_far([], gate), cursors={"payload": 1}), Findings(), 300.0)
    assert (read.delta.from_version, read.delta.rows) == (vacuumed.version + 1, 1)


def test_requests_for_a_judge_are_chosen_by_the_sample_first_and_within_the_time_looked_at(gateway: str) -> None:
    recording = RecordingWarehouse(warehouse())
    scores = ScoreTable(recording, f"main.default.s{uuid.uuid4().hex[:8]}", InferenceTable(recording, gateway))
    scores.create()
    insert(warehouse(), gateway, "gateway", [Logged("a", 10), Logged("b", 20), Logged("c", 30)])
    scores.add(JUDGE, [said("b", 0.0)], moment(0), moment(60))
    recording.sent.clear()
    waiting = JudgeSample(scores).waiting(JUDGE, moment(5), moment(60), 10)
    assert [each.request_id for each in waiting] == ["a", "c"]
    (sent,) = recording.sent
    assert sent.parameters["since"] == moment(5), "scores of other times are not looked through"
    condition = sent.statement.split("AS canonical", 1)[1]
    assert condition.index("md5(request_id)") < condition.index("response"), "no body is parsed for nothing"
