"""Resources and scopes of the YAML reach the logged model and, through MLflow, the registry."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import mlflow
import pytest
import yaml
from databricks.sdk import WorkspaceClient

from release_pipeline.spec import ReleaseSpec, Resource
from release_pipeline.workspace.client import connect
from release_pipeline.workspace.tracking import log_model
from tests.conftest import RunningWorkspace
from tests.pipeline.conftest import MODELS

DECLARED = {
    "serving_endpoint": "helper",
    "sql_warehouse": "local",
    "function": "main.default.lookup",
    "table": "main.default.facts",
    "vector_search_index": "main.default.documents",
    "genie_space": "space-1",
    "uc_connection": "search",
}
SCOPES = ["sql.statement-execution", "serving.serving-endpoints"]


@pytest.mark.slow
def test_every_kind_of_resource_and_every_scope_arrives(
    workspace: RunningWorkspace, client: WorkspaceClient, make_spec: Callable[..., ReleaseSpec], tmp_path: Path
) -> None:
    spec = make_spec(
        model={
            "source": "length_model.py",
            "config": None,
            "input_example": {"inputs": ["a word"]},
            "resources": [{"type": kind, "name": name} for kind, name in DECLARED.items()],
            "user_api_scopes": SCOPES,
        }
    )
    assert set(DECLARED) == set(get_args(Resource.model_fields["type"].annotation))
    run = log_model(connect(), spec, "20260101-000000", source=MODELS / spec.model.source, config=None, folder=MODELS)
    version = mlflow.register_model(run.model_uri, spec.model.registered_name).version
    uri = f"models:/{spec.model.registered_name}/{version}"
    folder = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path)))
    policy = yaml.safe_load((folder / "MLmodel").read_text())["auth_policy"]
    system = policy["system_auth_policy"]["resources"]["databricks"]
    assert {kind: [each["name"] for each in entries] for kind, entries in system.items()} == {
        kind: [name] for kind, name in DECLARED.items()
    }
    assert sorted(policy["user_auth_policy"]["api_scopes"]) == sorted(SCOPES)
    # What MLflow tells the registry besides; of the others it knows no kind there.
    asked = {"name": spec.model.registered_name, "version": str(version)}
    answer = client.api_client.do("GET", "/api/2.0/mlflow/unity-catalog/model-versions/get", query=asked)
    assert isinstance(answer, dict)
    kept = {each["name"] for each in answer["model_version"]["model_version_dependencies"]}
    assert kept == {name for kind, name in DECLARED.items() if kind not in ("sql_warehouse", "genie_space")}
