"""Scorers on a fixed sample of logged requests: what they see, what is kept of it, and the job that runs them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from release_pipeline.automation.judge import waiting_for_judges
from release_pipeline.build import build_release
from release_pipeline.errors import ReleaseError, SpecError
from release_pipeline.evaluation.judge_run import MOST_ROWS, JudgeOutcome, run_judge
from release_pipeline.evaluation.judging import Judge, answer_of
from release_pipeline.spec_gate import Metric
from release_pipeline.workspace.counts import MetricPlan, Window
from release_pipeline.workspace.inference_table import InferenceTable
from release_pipeline.workspace.judge_sample import LAG, LONGEST, Bodies, JudgeSample
from release_pipeline.workspace.late_sources import late_sources
from release_pipeline.workspace.score_table import ScoreTable, score_table_name
from release_pipeline.workspace.tracer import tracer_id
from tests.conftest import RunningWorkspace
from tests.pipeline.conftest import MODELS, Model
from tests.pipeline.killer import Killer, Kills
from tests.pipeline.payload_tables import SHAPES, Logged, RecordingWarehouse, create, insert, moment, stream, warehouse
from tests.pipeline.test_feedback import counted, score_table, stored

pytestmark = pytest.mark.slow

SCORERS = '''
"""Judges of a test."""

from mlflow.entities import Feedback
from mlflow.genai.judges import make_judge
from mlflow.genai.scorers import RegexMatch, scorer


def text(outputs):
    return outputs["output"][-1]["content"][0]["text"]


@scorer
def politeness(inputs, outputs):
    grade = int(text(outputs).split()[-1])
    if grade < 0:
        raise ValueError(f"cannot grade {outputs}")
    return Feedback(value=grade, rationale=f"about {inputs}")


def echoes(inputs, outputs):
    return inputs["input"] in text(outputs)


def out_of_reach(outputs):
    raise TimeoutError(str(outputs))


def wants_truth(outputs, expectations):
    return True


def many(outputs):
    return [Feedback(name="a", value=True), Feedback(name="b", value=True)]


graded = RegexMatch(name="graded", pattern="[0-9]$")
traced = make_judge(name="traced", instructions="Is {{ trace }} short?", model="databricks:/judge")
expecting = make_judge(name="e", instructions="Is {{ outputs }} {{ expectations }}?", model="databricks:/judge")
unaskable = make_judge(name="unaskable", instructions="Is {{ outputs }} good?", model="endpoints:/judge")
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with scorers beside the YAML."""
    (tmp_path / "scorers.py").write_text(SCORERS)
    return tmp_path


def metric(scorer: str = "scorers.py:politeness", **fields: Any) -> Metric:
    return Metric.model_validate(
        {"name": "polite", "kind": "judge", "scorer": scorer, "sample": 1.0, "worst": 1, "best": 5, **fields}
    )


def question(text: str = "my secret question") -> str:
    return json.dumps({"input": text})


def answer(text: str) -> str:
    message = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}
    return json.dumps({"output": [message]})


def graded(request_id: str, grade: int, at: float = 0, **fields: Any) -> Logged:
    return Logged(request_id, at, request=question(), response=answer(f"my secret answer {grade}"), **fields)


def judged(
    folder: Path, scores: ScoreTable, of: Metric, said: list[str] | None = None, *, now: float = 3600
) -> JudgeOutcome:
    """One run of a judge over everything."""
    say = [] if said is None else said
    return run_judge(Judge(of, folder), JudgeSample(scores), moment(0), moment(now), say.append)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (answer("hi"), json.loads(answer("hi"))),
        (stream({"type": "response.output_item.done", "item": {"id": 1}}, {"type": "end"}), {"output": [{"id": 1}]}),
        (json.dumps([{"type": "response.output_item.done", "item": {"id": 1}}]), {"output": [{"id": 1}]}),
        (stream({"delta": "he"}, {"delta": "llo"}), json.loads(answer("hello"))),
        (stream({"choices": [{"delta": {"content": "hello"}}]}) + "data: [DONE]\n\n", json.loads(answer("hello"))),
        (json.dumps({"predictions": [1.5]}), {"predictions": [1.5]}),
        ("plain words", "plain words"),
        ("[1, 2]", [1, 2]),
    ],
)
def test_a_logged_response_is_read_as_the_answer_that_it_was(response: str, expected: Any) -> None:
    assert answer_of(response) == expected


@pytest.mark.parametrize(
    ("scorer", "response", "badness", "error"),
    [
        ("scorers.py:politeness", answer("4"), 0.25, ""),
        ("scorers.py:politeness", answer("-1"), None, "ValueError"),
        ("scorers.py:politeness", answer("9"), None, ""),
        ("scorers.py:politeness", "no JSON", None, "TypeError"),
        ("scorers.py:politeness", None, None, ""),
        ("scorers.py:echoes", answer("you said my secret question"), 0.0, ""),
        ("scorers.py:echoes", answer("no"), 1.0, ""),
        ("scorers.py:many", answer("no"), None, ""),
        ("scorers.py:graded", answer("4"), 0.0, ""),
        ("PIIDetection", answer("write to me@example.com"), 1.0, ""),
        ("PIIDetection", answer("hello"), 0.0, ""),
    ],
)
def test_scorers_of_mlflow_and_of_the_user_judge_a_request(
    folder: Path, scorer: str, response: str | None, badness: float | None, error: str
) -> None:
    opinion = Judge(metric(scorer), folder).opinion(Bodies(question(), response))
    assert (opinion.badness, opinion.error) == (badness, error)


@pytest.mark.parametrize(
    ("scorer", "problem"),
    [
        ("NoSuchScorer", "is not a class in mlflow.genai.scorers; use one, such as Safety"),
        ("scorer", "is not a class in mlflow.genai.scorers"),
        ("Guidelines", "cannot be made without parameters .*scorers.py with `polite = Guidelines"),
        ("RetrievalGroundedness", "needs trace, which a logged request does not have"),
        ("UserFrustration", "needs session, which"),
        (
            "Safety",
            "polite, asks Databricks' own judge, which needs the package databricks-agents; install it, or name",
        ),
        ("scorers.py:traced", "needs trace, which"),
        ("scorers.py:expecting", "needs expectations, which"),
        ("scorers.py:unaskable", "cannot ask endpoints:/judge without the package litellm; write databricks:/judge"),
        ("scorers.py:wants_truth", "needs expectations, which"),
        ("scorers.py:nothing", "gate.metrics: .*scorers.py has no function nothing"),
        ("other.py:politeness", "gate.metrics: other.py:politeness is not known"),
    ],
)
def test_a_scorer_that_cannot_judge_logged_requests_is_refused(
    workspace: RunningWorkspace, folder: Path, scorer: str, problem: str
) -> None:
    with pytest.raises(SpecError, match=problem):
        Judge(metric(scorer), folder)


@pytest.mark.parametrize("shape", SHAPES)
def test_scores_are_kept_and_nothing_else(workspace: RunningWorkspace, folder: Path, shape: str) -> None:
    payload = create(warehouse(), shape)
    rows = [
        graded("a", 5, 1, entity="m/1"),
        graded("b", 1, 2, entity="m/2"),
        graded("c", -1, 3),
        Logged("d", 4, request=question(), response=None),
        graded("too-long", 3, 5),
        graded("failed", 1, 6, status=500),
        Logged("failed-in-stream", 7, response=stream({"databricks_output": {"error": {"message": "no"}}})),
        graded("tracer", 1, 8, client=tracer_id("1")),
    ]
    insert(warehouse(), payload, shape, [*rows, rows[0]])
    warehouse().execute(
        f"UPDATE {payload} SET response = repeat('x', {LONGEST}) WHERE "
        f"{'invocation_id' if shape == 'unity' else 'databricks_request_id'} = 'too-long'"
    )
    scores, said = score_table(payload), list[str]()
    assert judged(folder, scores, metric(), said) == JudgeOutcome("polite", scored=2, unjudged=3)
    assert stored(scores, "request_id, served_entity_id, badness") == [
        *(("a", "m/1", "0.0"), ("b", "m/2", "1.0"), ("c", "m/1", None), ("d", "m/1", None)),
        ("too-long", "m/1", None),
    ]
    everything = str(scores.warehouse.execute(f"SELECT * FROM {scores.name}")) + str(said)
    assert "secret" not in everything
    assert said == ["polite: 5 of 5 requests"]
    assert judged(folder, scores, metric()) == JudgeOutcome("polite", 0, 0)


def test_the_sample_depends_on_the_requests_and_not_on_when_they_are_read(
    workspace: RunningWorkspace, folder: Path
) -> None:
    payload = create(warehouse(), "gateway")
    rows = [graded(f"request-{at}", 5, at) for at in range(400)]
    insert(warehouse(), payload, "gateway", rows[200:])
    scores = score_table(payload)
    sample = JudgeSample(scores)

    def ids(share: float) -> set[str]:
        return {each.request_id for each in sample.waiting(metric(sample=share), moment(0), moment(3600), 1000)}

    early = ids(0.25)
    insert(warehouse(), payload, "gateway", rows[:200])
    quarter, half = ids(0.25), ids(0.5)
    assert early < quarter < half < ids(1.0) == {row.id for row in rows}
    assert early == {request_id for request_id in quarter if int(request_id.split("-")[1]) >= 200}
    assert 60 < len(quarter) < 140 < len(half) < 260
    ordered = sample.waiting(metric(), moment(0), moment(3600), 3)
    assert [each.request_id for each in ordered] == ["request-0", "request-1", "request-2"]


def test_a_run_is_bounded_and_the_next_goes_on(workspace: RunningWorkspace, folder: Path) -> None:
    payload = create(warehouse(), "gateway")
    insert(warehouse(), payload, "gateway", [graded(f"r{at:03}", 5, at) for at in range(MOST_ROWS + 5)])
    scores = score_table(payload)
    assert [judged(folder, scores, metric()).scored for _ in range(3)] == [MOST_ROWS, 5, 0]


def test_a_row_that_is_logged_very_late_is_scored_in_the_end_and_no_look_reads_everything(
    workspace: RunningWorkspace, folder: Path
) -> None:
    recording, hour = RecordingWarehouse(warehouse()), 3600
    payload = create(recording, "gateway")
    insert(recording, payload, "gateway", [graded("first", 5, 10), graded("fresh", 5, 20 * hour - 60)])
    scores = ScoreTable(recording, f"{payload}_scores", InferenceTable(recording, payload))
    scores.create()
    judge, say = Judge(metric(), folder), list[str]().append

    def scored(hours: float) -> int:
        now = moment(hours * hour)
        found = sum(run_judge(judge, JudgeSample(scores), moment(0), now, say).scored for _ in range(4))
        assert JudgeSample(scores).waiting(metric(), moment(0), now, 1) == []
        return found

    assert scored(20) == 2, "both the fresh one and the one from before the judge began"
    insert(recording, payload, "gateway", [graded("late", 5, 30), graded("not-so-late", 5, 18 * hour)])
    assert scored(20.1) == 1, "the next pass is not due yet"
    recording.sent.clear()
    assert JudgeSample(scores).waiting(metric(), moment(0), moment(20.2 * hour), 1) == []
    (chosen,) = [sent for sent in recording.sent if "sampled_since" in sent.parameters]
    assert chosen.parameters["sampled_since"] == moment(20.2 * hour) - LAG
    insert(recording, payload, "gateway", [graded("fresh-again", 5, 21 * hour)])
    (late,) = JudgeSample(scores).waiting(metric(), moment(0), moment(21.1 * hour), 1)
    assert late.request_id == "late", "the oldest first"
    # A batch of what is far apart reads nothing between.
    recording.sent.clear()
    run_judge(judge, JudgeSample(scores), moment(0), moment(21.1 * hour), say)
    assert stored(scores, "request_id") == [
        (name,) for name in ("first", "fresh", "fresh-again", "late", "not-so-late")
    ]
    for sent in recording.sent:
        for since in ("logged_since", "sampled_since"):
            if since in sent.parameters and "SELECT request_id, min" not in sent.statement:
                until: Any = sent.parameters[since.replace("since", "until")]
                assert until - sent.parameters[since] < LAG
    assert scored(21.2) == 0


@pytest.mark.parametrize(("moment_of_kill", "now"), [("before", 86_400), ("after", 3600)])
def test_a_run_that_is_killed_anywhere_and_repeated_leaves_the_same_table(
    workspace: RunningWorkspace, folder: Path, moment_of_kill: Any, now: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = create(warehouse(), "gateway")
    insert(
        warehouse(), payload, "gateway", [graded(f"r{at:02}", -1 if at == 7 else 1 + at % 5, at) for at in range(25)]
    )
    whole = score_table(payload)
    judged(folder, whole, metric(), now=now)
    expected = stored(whole)
    assert len(expected) == 25
    killer, at, done = Killer(monkeypatch), 0, False
    kills = Kills("calls", moment_of_kill)
    while not done:
        at += 1
        scores = ScoreTable(warehouse(), f"{payload}_scores_{at}", whole.payload)
        scores.create()
        done = not killer.kills(lambda: judged(folder, scores, metric(), now=now), at=at, kills=kills)  # noqa: B023
        judged(folder, scores, metric(), now=now)
        assert stored(scores) == expected, at
    assert at > 6, "several batches were written one by one"


def test_a_scorer_that_is_out_of_reach_uses_up_no_request(workspace: RunningWorkspace, folder: Path) -> None:
    payload = create(warehouse(), "gateway")
    insert(warehouse(), payload, "gateway", [graded(f"r{at:02}", 5, at) for at in range(25)])
    scores, broken = score_table(payload), metric("scorers.py:out_of_reach")
    with pytest.raises(
        ReleaseError,
        match=r"out_of_reach of metric polite failed on all 10 .* one after another, 10 of them with Timeout",
    ):
        judged(folder, scores, broken)
    assert stored(scores) == []
    (folder / "scorers.py").write_text(SCORERS.replace("raise TimeoutError(str(outputs))", "return True"))
    assert judged(folder, scores, broken) == JudgeOutcome("polite", 25, 0)


@pytest.fixture
def ramping(make_model: Callable[..., Model]) -> tuple[Model, str]:
    """A release on its first step, with a judge that finds fault with the challenger's answers."""
    judge = {
        "name": "graded",
        "kind": "judge",
        "scorer": "PIIDetection",
        "sample": 1.0,
        "bound": 0.3,
        "settle_minutes": 0,
    }
    errors = {"name": "errors", "kind": "errors", "margin": 0.3, "bound": 0.3}
    model = make_model(gate={"metrics": [errors, judge]})
    model.champion()
    release = model.release()
    model.deploy(release, model.register("second"))
    model.step(release)
    return model, release


def tick(model: Model, instance: dg.DagsterInstance) -> dg.RunRequest | str:
    """One tick of the judge's sensor: the run that it asks for, or why it asks for none."""
    repository = build_release(model.spec, MODELS).get_repository_def()
    (sensor,) = [each for each in repository.sensor_defs if each.name.endswith("_judge_sample")]
    context = dg.build_sensor_context(instance=instance, repository_def=repository)
    asked: Any = sensor(context)
    return str(asked.skip_message) if isinstance(asked, dg.SkipReason) else asked


def run(model: Model, instance: dg.DagsterInstance) -> Any:
    """The job, as Dagster runs it."""
    job = build_release(model.spec, MODELS).get_repository_def().get_job(f"{model.spec.name}_judge")
    return job.execute_in_process(instance=instance, raise_on_error=False)


def test_the_job_scores_what_the_ramp_answered_and_the_sensor_asks_for_it(
    ramping: tuple[Model, str], instance: dg.DagsterInstance
) -> None:
    model, release = ramping
    parts = model.parts()
    assert tick(model, instance) == "no request waits for a score"
    model.ask(9, "write to me@example.com")
    model.ask(3, "hello")
    model.rows(12)
    asked = tick(model, instance)
    assert isinstance(asked, dg.RunRequest)
    assert (asked.job_name, asked.partition_key) == (None, None), "it holds no release and no endpoint"
    result = run(model, instance)
    assert result.success
    assert tick(model, instance) == "no request waits for a score"
    assert run(model, instance).success
    (source,) = late_sources(parts.workspace, model.spec, model.spec.gate.metrics, parts.payload, model.clock)
    assert source.name == score_table_name(model.spec)
    state = parts.rollout.state(release)
    assert state is not None
    window = Window(0, state.steps[0].started_at, None)
    groups = counted(source, MetricPlan(source.metrics[0], 3600), window)
    assert (sum(group.counts[20] for group in groups), sum(group.counts[0] for group in groups)) == (9, 3)
    model.ask(1)
    model.rows(13)
    create_run_for_test(instance, job_name=f"{model.spec.name}_judge", status=dg.DagsterRunStatus.STARTED)
    assert str(tick(model, instance)).endswith("is scoring")
    parts.rollout.roll_back(release, reason="by the test")
    assert not waiting_for_judges(parts, model.spec)
    with dg.DagsterInstance.ephemeral() as idle:
        assert tick(model, idle) == "no request waits for a score"


def test_after_a_failed_run_the_sensor_rests(ramping: tuple[Model, str], instance: dg.DagsterInstance) -> None:
    model, _ = ramping
    metrics = [
        each.model_copy(update={"scorer": "NoSuch"}) if each.kind == "judge" else each
        for each in model.spec.gate.metrics
    ]
    gate = model.spec.gate.model_copy(update={"metrics": tuple(metrics)})
    model.spec = model.spec.model_copy(update={"gate": gate})
    model.ask(2)
    model.rows(2)
    assert isinstance(tick(model, instance), dg.RunRequest)
    result = run(model, instance)
    assert not result.success
    assert "is not a class in mlflow.genai.scorers" in str(result.get_step_failure_events()[0].event_specific_data)
    assert "failed; next try in" in str(tick(model, instance))


def test_without_a_judge_there_is_no_job_and_no_sensor(make_model: Callable[..., Model]) -> None:
    repository = build_release(make_model().spec, MODELS).get_repository_def()
    assert not [job.name for job in repository.get_all_jobs() if job.name.endswith("_judge")]
    assert not [each.name for each in repository.sensor_defs if "judge" in each.name]
