"""MLflow's own judges ask a chat model that an endpoint of the workspace serves, in the gate and in the evaluation."""

import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from databricks.sdk import WorkspaceClient

from release_pipeline.errors import ReleaseError, SpecError
from release_pipeline.evaluation.comparison import score_model, stored_scores
from release_pipeline.evaluation.dataset import Example
from release_pipeline.evaluation.judge_run import JudgeOutcome, run_judge
from release_pipeline.evaluation.judging import Judge
from release_pipeline.spec_gate import Metric
from release_pipeline.workspace import tracking
from release_pipeline.workspace.counts import MetricPlan, Window
from release_pipeline.workspace.judge_sample import JudgeSample
from release_pipeline.workspace.score_source import ScoreSource
from release_pipeline.workspace.score_table import ScoreTable
from tests.conftest import RunningWorkspace
from tests.local_workspace.conftest import create as create_endpoint
from tests.local_workspace.conftest import entity
from tests.pipeline.conftest import EXPERIMENT, MODELS
from tests.pipeline.payload_tables import Logged, create, insert, moment, warehouse
from tests.pipeline.test_feedback import counted, score_table, stored
from tests.pipeline.test_judge import answer, question

pytestmark = pytest.mark.slow

SCORERS = """
from mlflow.genai.judges import make_judge
from mlflow.genai.scorers import Guidelines, Safety

safe = Safety(model="endpoints:/{endpoint}")
polite = Guidelines(name="polite", guidelines="The answer is polite.", model="databricks:/{endpoint}")
worth = make_judge(
    name="worth",
    instructions="How good is {{{{ outputs }}}} as an answer to {{{{ inputs }}}}, from 1 to 5?",
    model="databricks:/{endpoint}",
    feedback_value_type=int,
)
nowhere = Safety(model="databricks:/no-such-endpoint")
"""


@pytest.fixture(scope="module")
def judge_endpoint(workspace: RunningWorkspace) -> Iterator[str]:
    """The name of an endpoint that serves the chat model which judges."""
    client, name = WorkspaceClient(), f"judge-{uuid.uuid4().hex[:8]}"
    model = f"main.default.{name.replace('-', '_')}"
    mlflow.set_experiment(EXPERIMENT)
    with mlflow.start_run(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mlflow's own, about the defaults of its parameters
        logged = mlflow.pyfunc.log_model(
            name="model", python_model=MODELS / "chat_judge.py", pip_requirements=["mlflow"]
        )
    version = mlflow.register_model(logged.model_uri, model).version
    create_endpoint(client, name, entity("judge", model, str(version)))
    yield name
    client.serving_endpoints.delete(name)


@pytest.fixture
def folder(tmp_path: Path, judge_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with scorers that ask the endpoint, and nobody else."""
    monkeypatch.setenv("MLFLOW_MODEL_CATALOG_URI", "")
    (tmp_path / "scorers.py").write_text(SCORERS.format(endpoint=judge_endpoint))
    return tmp_path


@pytest.fixture
def scores(workspace: RunningWorkspace) -> ScoreTable:
    """A score table beside a payload table with four answers of two versions."""
    payload = create(warehouse(), "gateway")
    texts = ("it is worth 4, my friend", "worth 1, you idiot", "it may be worth 9", "mumble, mumble")
    rows = [
        Logged(f"r{at}", at, entity=f"m/{1 + at % 2}", request=question(), response=answer(text))
        for at, text in enumerate(texts)
    ]
    insert(warehouse(), payload, "gateway", rows)
    return score_table(payload)


def metric(scorer: str, **fields: Any) -> Metric:
    return Metric.model_validate({"name": "judged", "kind": "judge", "scorer": scorer, "sample": 1.0, **fields})


def judged(metric: Metric, folder: Path, scores: ScoreTable) -> JudgeOutcome:
    return run_judge(Judge(metric, folder), JudgeSample(scores), moment(0), moment(60), lambda line: None)


def test_a_judge_of_instructions_grades_by_an_endpoint(folder: Path, scores: ScoreTable) -> None:
    worth = metric("scorers.py:worth", worst=1, best=5)
    assert judged(worth, folder, scores) == JudgeOutcome("judged", scored=2, unjudged=2)
    # 9 is outside the scale, and what was mumbled is no JSON.
    assert stored(scores) == [("r0", "0.25"), ("r1", "1.0"), ("r2", None), ("r3", None)]
    groups = counted(ScoreSource("scores", (worth,), scores), MetricPlan(worth, 3600), Window(0, moment(0), None))
    found = {group.served_entity_id: (group.counts[5], group.counts[20], group.unjudged) for group in groups}
    assert found == {"m/1": (1, 0, 1), "m/2": (0, 1, 1)}


@pytest.mark.parametrize("scorer", ["scorers.py:safe", "scorers.py:polite", "Safety"])
def test_a_built_in_scorer_judges_by_an_endpoint(
    scorer: str, folder: Path, judge_endpoint: str, workspace: RunningWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_GENAI_JUDGE_DEFAULT_MODEL", f"databricks:/{judge_endpoint}")
    payload = create(warehouse(), "gateway")
    texts = ("good day", "good night, you idiot")
    insert(warehouse(), payload, "gateway", [
        Logged(f"r{at}", at, request=question(), response=answer(text)) for at, text in enumerate(texts)
    ])  # fmt: skip
    table = score_table(payload)
    assert judged(metric(scorer), folder, table) == JudgeOutcome("judged", scored=2, unjudged=0)
    assert stored(table) == [("r0", "0.0"), ("r1", "1.0")]


# mlflow's evaluation uses what pydantic and pandas have renamed; it is theirs to change.
@pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow.*", "ignore::FutureWarning:mlflow.*")
def test_judges_score_an_evaluation_set_by_an_endpoint(
    folder: Path,
    judge_endpoint: str,
    logged: Callable[[str], tracking.ReleaseRun],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_GENAI_JUDGE_DEFAULT_MODEL", f"databricks:/{judge_endpoint}")
    run = logged("first")
    examples = [Example({"input": [{"role": "user", "content": text}]}, {}) for text in ("good day", "you idiot")]
    scorers = ["answered", "Safety", "scorers.py:polite"]
    scores = score_model(run.model_uri, examples, scorers, folder, run_id=run.run_id)
    assert scores == {"answered": 1.0, "Safety": 0.5, "scorers.py:polite": 0.5}
    assert stored_scores(run.run_id, examples, scorers, folder) == scores
    with pytest.raises(SpecError, match=r"evaluation.scorers: Guidelines cannot be made without parameters"):
        score_model(run.model_uri, examples, ["Guidelines"], folder, run_id=run.run_id)


def test_an_endpoint_that_is_not_there_uses_up_no_request(folder: Path, scores: ScoreTable) -> None:
    with pytest.raises(ReleaseError, match=r"failed on all 4 requests .* 4 of them with MlflowException"):
        judged(metric("scorers.py:nowhere"), folder, scores)
    assert stored(scores) == []
