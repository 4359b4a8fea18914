"""What becomes of a model between its log and its load: copies, ids, paths of the author, versions as text."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from databricks.sdk import WorkspaceClient
from mlflow.exceptions import MlflowException

from tests.conftest import RunningWorkspace
from tests.local_workspace.conftest import MODELS, said, say

REGISTRY = "/api/2.0/mlflow/unity-catalog"
ARTIFACTS = "/WorkspaceInternal/Mlflow/Artifacts"


@dataclass
class Logged:
    name: str
    info: Any
    run_id: str
    experiment_id: str
    source: Path


@pytest.fixture(scope="module")
def agent(workspace: RunningWorkspace, tmp_path_factory: pytest.TempPathFactory) -> Logged:
    """An agent that was logged in a run and registered; its author's folder is gone by now."""
    source = tmp_path_factory.mktemp("author") / "agent.py"
    shutil.copy(MODELS / "echo_responses_agent.py", source)
    name = f"main.default.facts_{uuid.uuid4().hex[:8]}"
    experiment = mlflow.set_experiment("/Shared/facts").experiment_id
    with mlflow.start_run() as run:
        info = mlflow.pyfunc.log_model(name="agent", python_model=str(source), pip_requirements=["mlflow"])
        mlflow.log_text("hello", "notes/a.txt")
    mlflow.register_model(info.model_uri, name)
    shutil.rmtree(source.parent)
    return Logged(name, info, run.info.run_id, str(experiment), source)


def paths(client: WorkspaceClient, folder: str) -> set[str]:
    """Names of what a folder of the Files API holds."""
    return {str(entry.name) for entry in client.files.list_directory_contents(folder)}


def raw_version(client: WorkspaceClient, name: str, version: Any = "1") -> dict[str, Any]:
    answer = client.api_client.do("GET", f"{REGISTRY}/model-versions/get", query={"name": name, "version": version})
    assert isinstance(answer, dict)
    return dict(answer["model_version"])


def test_a_logged_model_is_ready_and_knows_its_run(agent: Logged) -> None:
    logged = mlflow.get_logged_model(agent.info.model_id)
    assert re.fullmatch(r"m-[0-9a-f]{32}", logged.model_id)
    assert (logged.status.value, logged.source_run_id) == ("READY", agent.run_id)
    root = f"dbfs:/databricks/mlflow-tracking/{agent.experiment_id}"
    assert logged.artifact_location == f"{root}/models/{logged.model_id}/artifacts"


def test_an_agent_gets_its_task_and_its_signature_by_itself(agent: Logged) -> None:
    info = mlflow.models.get_model_info(f"models:/{agent.name}/1")
    assert info.metadata["task"] == "agent/v1/responses"
    assert "input" in info.signature.inputs.input_names()


def test_artifacts_go_by_the_files_api_and_not_by_the_clients_silent_fallback(
    client: WorkspaceClient, workspace: RunningWorkspace, agent: Logged
) -> None:
    runs = f"{ARTIFACTS}/{agent.experiment_id}/Runs"
    assert paths(client, f"{runs}/{agent.run_id}/artifacts/notes") == {"a.txt"}
    # When the Files API fails, the client asks for credentials instead, and says so in a debug log only.
    assert "credentials-for" not in workspace.log()


def test_registering_makes_a_second_copy(client: WorkspaceClient, agent: Logged) -> None:
    logged = f"{ARTIFACTS}/{agent.experiment_id}/Runs/models/{agent.info.model_id}/artifacts"
    registered = f"/Models/{agent.name.replace('.', '/')}/1"
    assert {"MLmodel", "agent.py"} <= paths(client, logged) & paths(client, registered)
    client.files.upload(f"{logged}/later.txt", io.BytesIO(b"x"))
    assert "later.txt" in paths(client, logged) - paths(client, registered)


def test_a_version_keeps_the_workspace_of_its_run(client: WorkspaceClient, agent: Logged) -> None:
    found = raw_version(client, agent.name)
    assert found["run_tracking_server_id"] == str(client.get_workspace_id())
    assert found["run_id"] == agent.run_id


def test_the_authors_path_stays_in_the_model_and_is_not_needed(agent: Logged, tmp_path: Path) -> None:
    folder = mlflow.artifacts.download_artifacts(f"models:/{agent.name}/1", dst_path=str(tmp_path))
    written = yaml.safe_load((Path(folder) / "MLmodel").read_text())["flavors"]["python_function"]
    # A leak of the client's making: whoever may read the model sees where its author keeps the code.
    assert written["model_code_path"] == str(agent.source)
    assert not agent.source.exists()
    assert said(mlflow.pyfunc.load_model(folder).predict(say("hi"))) == "echo: hi"


def test_a_version_that_is_sent_as_a_number_comes_back_as_text(client: WorkspaceClient, agent: Logged) -> None:
    body = {"name": agent.name, "alias": "numbered", "version": 1}
    client.api_client.do("POST", f"{REGISTRY}/registered-models/alias", body=body)
    found = raw_version(client, agent.name, 1)
    assert (found["version"], found["aliases"]) == ("1", [{"alias": "numbered", "version": "1"}])
    model = client.api_client.do("GET", f"{REGISTRY}/registered-models/get", query={"name": agent.name})
    assert isinstance(model, dict)
    assert model["registered_model"]["aliases"] == [{"alias": "numbered", "version": "1"}]


@pytest.mark.parametrize("experiment", [None, "0"], ids=["none", "set"])
def test_a_prediction_before_the_deployment_ends(
    workspace: RunningWorkspace, agent: Logged, tmp_path: Path, experiment: str | None
) -> None:
    # The model traces; without an experiment, and with a 500 for that, this process would stay for four minutes.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_EXPERIMENT_")}
    environment |= {"MLFLOW_EXPERIMENT_ID": experiment} if experiment else {}
    call = "mlflow.models.predict(model_uri=sys.argv[1], input_data=json.loads(sys.argv[2]), env_manager='local', "
    script = f"import json, sys, mlflow\n{call}output_path=sys.argv[3])"
    command = [sys.executable, "-c", script, f"models:/{agent.name}/1", json.dumps(say("hi")), str(tmp_path / "answer")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    assert said(json.loads((tmp_path / "answer").read_text())) == "echo: hi"


def test_a_prediction_in_this_environment_takes_no_variables_of_its_own(agent: Logged) -> None:
    with pytest.raises(MlflowException, match="Extra environment variables are only supported"):
        mlflow.models.predict(f"models:/{agent.name}/1", say("hi"), env_manager="local", extra_envs={"A": "b"})
