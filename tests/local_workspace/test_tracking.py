"""MLflow tracking through the mounted server: runs, artifacts, traces, assessments, and what the service refuses."""

import os
import subprocess
import sys
import uuid
from pathlib import Path

import mlflow
import pytest
import requests
from mlflow.entities import AssessmentSource, AssessmentSourceType
from mlflow.exceptions import RestException

from tests.conftest import RunningWorkspace


@pytest.fixture
def experiment_id(workspace: RunningWorkspace) -> str:
    return str(mlflow.set_experiment(f"/Shared/tracking-{uuid.uuid4().hex[:8]}").experiment_id)


def _post(workspace: RunningWorkspace, path: str, body: object) -> requests.Response:
    return requests.post(workspace.url + path, json=body, auth=("token", workspace.token), timeout=60)


def test_a_run_keeps_its_parameters_metrics_tags_and_artifacts(experiment_id: str, tmp_path: Path) -> None:
    with mlflow.start_run() as run:
        mlflow.log_params({"depth": 3})
        for step in range(3):
            mlflow.log_metric("loss", 1.0 / (step + 1), step=step)
        mlflow.set_tag("stage", "test")
        mlflow.log_text("hello", "notes/a.txt")
    found = mlflow.get_run(run.info.run_id)
    assert found.data.params == {"depth": "3"}
    assert found.data.tags["stage"] == "test"
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
    assert [metric.step for metric in history] == [0, 1, 2]
    assert found.info.artifact_uri.startswith("dbfs:/databricks/mlflow-tracking/")
    assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/notes/a.txt") == "hello"
    assert [run.info.run_id for run in mlflow.search_runs([experiment_id], output_format="list")] == [run.info.run_id]


def test_traces_and_feedback_on_them(experiment_id: str) -> None:
    @mlflow.trace
    def answer(question: str) -> str:
        return question.upper()

    assert answer("why") == "WHY"
    mlflow.flush_trace_async_logging()
    (trace,) = mlflow.search_traces(locations=[experiment_id], return_type="list")
    assert trace.data.spans[0].outputs == "WHY"
    person = AssessmentSource(source_type=AssessmentSourceType.HUMAN, source_id="reader@example.com")
    mlflow.log_feedback(trace_id=trace.info.trace_id, name="helpful", value=True, source=person, rationale="clear")
    found = mlflow.get_trace(trace.info.trace_id)
    assert found is not None
    (assessment,) = found.info.assessments
    assert (assessment.name, assessment.value, assessment.rationale) == ("helpful", True, "clear")


@pytest.mark.parametrize("experiment", ["", None, "abc"])
def test_a_trace_without_an_experiment_is_the_clients_mistake(
    workspace: RunningWorkspace, experiment: str | None
) -> None:
    # With mlflow's own answer, a 500, the client would try again for minutes.
    place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}
    info = {"trace_id": "tr-1", "trace_location": place, "request_time": "2026-11-21T00:00:00Z", "state": "OK"}
    answer = _post(workspace, "/api/3.0/mlflow/traces", {"trace": {"trace_info": info}})
    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert "MLFLOW_EXPERIMENT_ID" in answer.json()["message"]


def test_a_process_that_traces_without_an_experiment_ends(workspace: RunningWorkspace) -> None:
    # The scoring process of a prediction has no active experiment; it must not hang at its exit.
    script = "import mlflow\n@mlflow.trace\ndef f(x):\n    return x\nprint(f(7), flush=True)\n"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_EXPERIMENT_")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "7"
    assert "INVALID_PARAMETER_VALUE" in done.stderr


@pytest.mark.parametrize(
    "path",
    ["/api/2.0/mlflow/runs/create", "/api/2.0/mlflow/logged-models", "/api/3.0/mlflow/logged-models"],
)
def test_an_empty_experiment_id_is_the_clients_mistake(workspace: RunningWorkspace, path: str) -> None:
    answer = _post(workspace, path, {"experiment_id": "", "name": "x"})
    assert answer.status_code in (400, 404)
    assert answer.json()["error_code"] in ("INVALID_PARAMETER_VALUE", "ENDPOINT_NOT_FOUND")


def test_an_experiment_id_that_is_no_number_is_refused_in_a_query_too(workspace: RunningWorkspace) -> None:
    url = f"{workspace.url}/api/2.0/mlflow/experiments/get"
    answer = requests.get(url, params={"experiment_id": "abc"}, auth=("token", workspace.token), timeout=60)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")


def test_an_experiment_name_must_be_absolute(workspace: RunningWorkspace) -> None:
    with pytest.raises(RestException, match="absolute") as refused:
        mlflow.set_experiment("relative")
    assert refused.value.error_code == "INVALID_PARAMETER_VALUE"
    client = mlflow.MlflowClient()
    experiment = client.create_experiment(f"/Users/developer@localhost/{uuid.uuid4().hex}")
    with pytest.raises(RestException, match="absolute"):
        client.rename_experiment(experiment, "relative")


@pytest.mark.parametrize("key", ["artifact_location", "artifactLocation"])
def test_artifacts_go_nowhere_else(workspace: RunningWorkspace, tmp_path: Path, key: str) -> None:
    body = {"name": f"/Shared/{uuid.uuid4().hex}", key: tmp_path.as_uri()}
    answer = _post(workspace, "/api/2.0/mlflow/experiments/create", body)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert "omit artifact_location" in answer.json()["message"]


@pytest.mark.parametrize(
    "path",
    [
        "/api/4.0/mlflow/traces/search-long-running",
        "/api/5.0/mlflow/traces",
        "/api/3.0/mlflow/no-such-call",
        "/api/2.0/mlflow/unity-catalog/no-such-call",
        "/api/2.0/no-such-call",
    ],
)
def test_unknown_routes_say_so_in_the_services_words(workspace: RunningWorkspace, path: str) -> None:
    answer = _post(workspace, path, {})
    assert (answer.status_code, answer.json()["error_code"]) == (404, "ENDPOINT_NOT_FOUND")
    assert answer.headers["x-databricks-org-id"]
    assert f"no route for POST {path}" in workspace.log()


def test_a_missing_run_and_experiment_are_not_found(workspace: RunningWorkspace) -> None:
    for look in (lambda: mlflow.get_run("0" * 32), lambda: mlflow.MlflowClient().get_experiment("999999")):
        with pytest.raises(RestException) as missing:
            look()
        assert missing.value.error_code == "RESOURCE_DOES_NOT_EXIST"


@pytest.mark.filterwarnings("ignore:Starting with pandas version 4")  # raised in mlflow's own digest of the rows
def test_an_evaluation_with_a_scorer_of_ones_own(experiment_id: str) -> None:
    @mlflow.genai.scorer
    def shouted(outputs: str) -> bool:
        return outputs.isupper()

    rows = [{"inputs": {"question": "why"}}, {"inputs": {"question": "how"}}]
    result = mlflow.genai.evaluate(data=rows, predict_fn=lambda question: question.upper(), scorers=[shouted])
    assert result.metrics["shouted/mean"] == 1.0
    assert mlflow.get_run(result.run_id).data.metrics["shouted/mean"] == 1.0
