"""A whole release of a model that needs a secret: the served model has it, and it stands nowhere else."""

import hashlib
import hmac
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
from click.testing import CliRunner
from dagster import DagsterInstance
from databricks.sdk import WorkspaceClient

from release_pipeline.cli import main
from release_pipeline.gate.verdict import Action
from release_pipeline.spec_file import read_spec
from tests.conftest import RunningWorkspace
from tests.local_workspace.conftest import wait_for
from tests.pipeline.checkpoint import World
from tests.pipeline.conftest import Model, write_folder
from tests.pipeline.test_assets import Project

pytestmark = [
    pytest.mark.slow,
    # mlflow's evaluation uses what pydantic and pandas have renamed; it is theirs to change.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow.*", "ignore::FutureWarning:mlflow.*"),
]

RELEASE = "20260101-000001"


@pytest.fixture
def secret(client: WorkspaceClient) -> Iterator[tuple[str, str]]:
    """A reference, and the value behind it, which the model's file does not hold either."""
    scope, value = f"scope-{uuid.uuid4().hex[:8]}", f"sesame-{uuid.uuid4().hex}"
    client.secrets.create_scope(scope)
    client.secrets.put_secret(scope, "signing", string_value=value)
    yield f"{{{{secrets/{scope}/signing}}}}", value
    client.secrets.delete_scope(scope)


@pytest.fixture
def project(
    workspace: RunningWorkspace, instance: DagsterInstance, tmp_path: Path, secret: tuple[str, str]
) -> Iterator[Project]:
    """The folder of a model that signs, whose endpoint is deleted after the test."""
    file = write_folder(
        tmp_path,
        f"signs{uuid.uuid4().hex[:6]}",
        model={"source": "keyed_agent.py", "config": None},
        endpoint={"environment": {"SIGNING_KEY": secret[0]}, "tracing": True},
        evaluation={"dataset": "evaluation.jsonl", "thresholds": {"answered": 1.0}},
    )
    (tmp_path / "evaluation.jsonl").write_text('{"inputs": {"input": [{"role": "user", "content": "hello"}]}}\n')
    model = Model(read_spec(file), _unused)
    yield Project(file, model, instance)
    model.parts().endpoint.delete()


def _unused(config: str) -> Any:
    raise AssertionError("the chain logs its models itself")


def asked(model: Model, text: str, **options: Any) -> requests.Response:
    """The endpoint's answer to one request."""
    headers = {"Authorization": f"Bearer {os.environ['DATABRICKS_TOKEN']}"}
    body = {"input": [{"role": "user", "content": text}], "databricks_options": options}
    return requests.post(model.parts().endpoint.query_url, json=body, headers=headers, timeout=60)


def traces_of(request_id: str, experiment: str) -> str:
    """The trace of a request, whole, as the tracking server gives it back."""

    def stored() -> list[Any]:
        wanted = f"trace.client_request_id = '{request_id}'"
        return list(mlflow.search_traces(locations=[experiment], filter_string=wanted, return_type="list"))

    (trace,) = wait_for(stored)
    return str(trace.to_json())


def trace_files(workspace: RunningWorkspace) -> str:
    """Everything that the tracking server keeps of traces: its database and the files beside it."""
    files = [*workspace.data_dir.glob("mlflow.db*"), *workspace.data_dir.glob("files/**/traces.json")]
    return "\n".join(file.read_bytes().decode(errors="replace") for file in files)


@pytest.mark.timeout(300)
def test_the_served_model_has_the_secret_and_nothing_else_has_it(
    project: Project, secret: tuple[str, str], client: WorkspaceClient, workspace: RunningWorkspace
) -> None:
    (reference, value), model, spec = secret, project.model, project.model.spec
    assert project.run("release", RELEASE).success
    signed = hmac.new(value.encode(), b"hello", hashlib.sha256).hexdigest()
    assert asked(model, "hello").json()["output"][0]["content"][0]["text"] == signed
    broken = asked(model, "break", return_trace=True)
    assert (broken.status_code, value in broken.text) == (400, False)
    broken_id = broken.headers["x-request-id"]
    project.until(RELEASE, Action.PROMOTE)
    assert project.run("promote", RELEASE).success
    assert World.of(model).shares == {"1": 100}

    parts = model.parts()
    version, served = parts.registry.get("1"), parts.endpoint.read()
    assert version is not None
    assert served is not None
    run, entity = parts.workspace.mlflow.get_run(version.run_id), served.entities[0].name
    failed = traces_of(broken_id, run.info.experiment_id)
    logs = [
        CliRunner().invoke(main, ["logs", spec.name, "--spec", str(project.file), *more]).output
        for more in ([], ["--build"])
    ]
    places = {
        "the YAML": (project.file.read_text(), reference),
        "Dagster's events and metadata": (
            "\n".join(
                str(entry) for each in project.instance.get_runs() for entry in project.instance.all_logs(each.run_id)
            ),
            entity,
        ),
        "the endpoint": (json.dumps(client.serving_endpoints.get(spec.endpoint_name).as_dict()), reference),
        "the version": (str(version), "promoted"),
        "the run": (str(run.to_dictionary()), spec.model.registered_name),
        "the log": (logs[0], "signing with "),
        "the build log": (logs[1], entity),
        "the server's log": (workspace.log(), ""),
        "the trace of what failed": (failed, "cannot sign with [REDACTED]"),
        "every trace in the workspace's files": (trace_files(workspace), broken_id),
        **{
            table: (json.dumps(parts.workspace.warehouse.execute(f"SELECT * FROM {table}"), default=str), held)
            for table, held in (
                (spec.ledger_table, reference),
                (spec.evidence_table, "errors"),
                (spec.payload_table, signed),
            )
        },
    }
    for place, (text, held) in places.items():
        assert held in text, f"{place} was looked at"
        assert value not in text, f"{place} holds the secret"
