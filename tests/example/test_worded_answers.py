"""The example agent with a language model: the stand-in of the local workspace, which repeats what it gets."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
import yaml
from dagster import DagsterInstance

from release_pipeline.spec import parse_spec
from tests.conftest import RunningWorkspace
from tests.example.test_agent import AGENT, ask, text_of
from tests.pipeline.conftest import Model, eventually
from tests.pipeline.test_assets import Project

QUESTION = "How are anonymous functions created in one expression?"


@pytest.fixture
def project(workspace: RunningWorkspace, instance: DagsterInstance, tmp_path: Path) -> Iterator[Project]:
    """The example's folder with the two lines changed that the documentation names."""
    folder = tmp_path / "worded"
    shutil.copytree(AGENT, folder, ignore=shutil.ignore_patterns("__pycache__"))
    written = yaml.safe_load((folder / "defs.yaml").read_text())["attributes"]
    written["name"], written["model"]["registered_name"] = "worded", "main.default.worded"
    written["model"]["config"] = "worded.yaml"
    (endpoint,) = {yaml.safe_load((folder / "worded.yaml").read_text())["llm_endpoint"]}
    written["model"]["resources"] = [{"type": "serving_endpoint", "name": endpoint}]
    written["endpoint"]["tracing"] = True
    written["predeploy_predict"] = {"environment": "local"}

    def unused(config: str) -> Any:
        raise AssertionError("the chain logs its models itself")

    yield Project(
        folder / "defs.yaml", model := Model(parse_spec(written, file=folder / "defs.yaml"), unused), instance
    )
    model.parts().endpoint.delete()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow.*", "ignore::FutureWarning:mlflow.*")
@pytest.mark.filterwarnings("ignore:.*[Tt]ype hint.*:UserWarning")
def test_a_language_model_words_the_answer_from_the_passages(project: Project, workspace: RunningWorkspace) -> None:
    assert project.run("release", "20260101-000001").success
    assert project.metadata("evaluation", "20260101-000001")["contains_expected_challenger"] >= 0.5

    url = f"{workspace.url}/serving-endpoints/{project.model.spec.endpoint_name}/invocations"
    headers = {"Authorization": f"Bearer {workspace.token}"}
    whole = requests.post(url, json=ask(QUESTION), headers=headers, timeout=60).json()
    assert text_of(whole).startswith(f"You said: {QUESTION}")
    assert "Lambdas (topic lambda)" in text_of(whole)
    assert whole["custom_outputs"]["topic"] == "lambda"

    streamed = requests.post(url, json=ask(QUESTION, stream=True), headers=headers, timeout=60)
    events = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert len(deltas) > 50, "word by word, as the language model says it"
    assert "".join(deltas) == text_of(whole)

    polite = requests.post(url, json=ask("zymurgy"), headers=headers, timeout=60).json()
    assert text_of(polite).startswith("I found nothing"), "there is nothing to word"

    def said() -> list[Any]:
        experiment = mlflow.get_experiment_by_name(project.model.spec.experiment)
        traces = mlflow.search_traces(locations=[experiment.experiment_id], return_type="list")
        return [span for trace in traces for span in trace.search_spans(span_type="CHAT_MODEL")]

    assert all(span.outputs.startswith("You said: ") for span in eventually(said))
