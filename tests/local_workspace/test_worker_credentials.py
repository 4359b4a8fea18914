"""The short-lived credentials of scoring processes: what they open, how they are renewed, and when they end."""

import io
import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import AlreadyExists, PermissionDenied, Unauthenticated

from tests.conftest import RunningWorkspace
from tests.local_workspace.agents_that_read import (
    DECLARES_ALL,
    DECLARES_NOTHING,
    OTHER,
    OTHER_QUERY,
    READER,
    TABLE,
    TABLE_QUERY,
)
from tests.local_workspace.conftest import AGENT, create, entity, said, say, traffic, update, wait_for

pytestmark = pytest.mark.slow

ARTIFACTS = "/WorkspaceInternal/Mlflow/Artifacts"
NAME, HELPER = "reads-by-itself", "reader-helper"
ALL, NOTHING = entity("all", READER, DECLARES_ALL), entity("nothing", READER, DECLARES_NOTHING)


@pytest.fixture(scope="module")
def helper(workspace: RunningWorkspace, models: None, reader: None) -> Iterator[WorkspaceClient]:
    """A client, while the endpoint is there that the agent declares."""
    client = WorkspaceClient()
    create(client, HELPER, entity("only", AGENT))
    yield client
    client.serving_endpoints.delete(HELPER)


@pytest.fixture
def endpoint(helper: WorkspaceClient) -> Iterator[str]:
    """An endpoint that serves the agent with and without declared resources."""
    create(helper, NAME, ALL, NOTHING, traffic=traffic(all=100, nothing=0))
    yield NAME
    helper.serving_endpoints.delete(NAME)


def told(workspace: RunningWorkspace, endpoint: str, text: str) -> str:
    url = f"{workspace.url}/serving-endpoints/{endpoint}/invocations"
    answer = requests.post(url, json=say(text), headers={"Authorization": f"Bearer {workspace.token}"}, timeout=60)
    return said(answer.json()) if answer.status_code == 200 else str(json.loads(answer.text)["message"])


def credential_files(workspace: RunningWorkspace) -> set[Path]:
    return set((workspace.data_dir / "serving" / "credentials").glob("*/model-dependencies-oauth-token"))


def trace_in(experiment: str, trace_id: str = "tr-1", **more: object) -> dict[str, object]:
    place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}
    info = {"trace_id": trace_id, "trace_location": place, "request_time": "2026-11-21T00:00:00Z", "state": "OK"}
    return {"trace": {"trace_info": info | more}}


def token_in(file: Path) -> str:
    return str(json.loads(file.read_text())["OAUTH_TOKEN"][0]["oauthTokenValue"])


def writes_traces_of_its_own_and_no_others(own: WorkspaceClient) -> None:
    """A trace is written once, without votes and without what looks like a token of the workspace."""
    trace_id = f"tr-{uuid.uuid4().hex}"
    vote = {"assessment_name": "helpful", "trace_id": trace_id, "feedback": {"value": True}}
    trace = trace_in("0", trace_id, assessments=[vote], tags={"said": f"dapi{'0' * 32}"})
    file = f"{ARTIFACTS}/0/Runs/traces/{trace_id}/artifacts/traces.json"
    own.api_client.do("POST", "/api/3.0/mlflow/traces", body=trace)
    own.files.upload(file, io.BytesIO(json.dumps({"spans": [f"dapi{'1' * 32}"]}).encode()))
    client = WorkspaceClient()
    stored = client.api_client.do("GET", f"/api/3.0/mlflow/traces/{trace_id}")["trace"]["trace_info"]
    assert (stored["tags"]["said"], stored.get("assessments", [])) == ("[REDACTED]", [])
    held = client.files.download(file).contents
    assert held is not None
    assert json.loads(held.read()) == {"spans": ["[REDACTED]"]}
    with pytest.raises(PermissionDenied, match="begins a trace once"):
        own.api_client.do("POST", "/api/3.0/mlflow/traces", body=trace)
    with pytest.raises(AlreadyExists):
        own.files.upload(file, io.BytesIO(b"{}"), overwrite=True)


def test_a_served_model_uses_what_it_declared_and_nothing_else(
    workspace: RunningWorkspace, helper: WorkspaceClient, endpoint: str
) -> None:
    assert told(workspace, endpoint, f"model: {TABLE_QUERY}") == "[['41']]"
    assert told(workspace, endpoint, f"model: query {HELPER}") == "echo: hello"
    itself = told(workspace, endpoint, "model: me")
    assert itself not in [each.application_id for each in helper.service_principals_v2.list()]
    assert itself not in [each.user_name for each in helper.users_v2.list()]
    for statement, words in (
        (OTHER_QUERY, "did not declare `main`.`people`.`hidden`"),
        (f"SELECT 1 FROM {TABLE} WHERE EXISTS (SELECT 1 FROM {OTHER})", "did not declare"),
        (f"SELECT * FROM table_changes('{OTHER}', 0)", "did not declare"),
        (f"INSERT INTO {TABLE} VALUES (1)", "may only read"),
        (f"DELETE FROM {TABLE}", "may only read"),
        (f"DROP TABLE {TABLE}", "may only query"),
        (f"DESCRIBE HISTORY {OTHER}", "may only query"),
        (f"OPTIMIZE {TABLE}", "may only query"),
        ("SELECT * FROM main.information_schema.tables", "may only query"),
    ):
        assert words in told(workspace, endpoint, f"model: {statement}"), statement
    assert "do not have permission to query" in told(workspace, endpoint, f"model: query {NAME}")
    nothing = f"{endpoint}/served-models/nothing"
    assert "do not have permission to use the SQL warehouse" in told(workspace, nothing, f"model: {TABLE_QUERY}")
    assert told(workspace, nothing, "model: me") != itself


def test_the_credentials_open_no_other_route_and_end_with_the_version(
    workspace: RunningWorkspace, helper: WorkspaceClient, endpoint: str
) -> None:
    tokens, files = dict[str, str](), dict[str, Path]()
    for file in credential_files(workspace):
        with suppress(FileNotFoundError, Unauthenticated):  # of a version that another test has just taken off
            assert file.stat().st_mode & 0o777 == 0o600
            assert file.parent.stat().st_mode & 0o777 == 0o700
            own = WorkspaceClient(host=workspace.url, token=token_in(file))
            tokens[name := str(own.current_user.me().user_name)], files[name] = token_in(file), file
    token = tokens[me := told(workspace, endpoint, "model: me")]
    own = WorkspaceClient(host=workspace.url, token=token)
    statement = helper.statement_execution.execute_statement("SELECT 'private'", warehouse_id="local")
    for call in (
        lambda: list(own.secrets.list_scopes()),
        lambda: list(own.serving_endpoints.list()),
        lambda: own.tables.get(TABLE),
        lambda: own.users_v2.create(user_name="x@example.com"),
        lambda: own.api_client.do("PATCH", "/local/faults", body={}),
        lambda: own.api_client.do("POST", "/local/tokens", body={"user_name": "developer@localhost"}),
        lambda: own.api_client.do("GET", "/api/2.0/mlflow/unity-catalog/registered-models/search"),
        lambda: own.api_client.do("POST", "/api/2.0/mlflow/experiments/create", body={"name": "/Shared/x"}),
        lambda: own.serving_endpoints.delete(HELPER),
        lambda: own.serving_endpoints.get(NAME),
        # Of traces it may write those of its own requests; what people say of them is not its to say.
        lambda: own.api_client.do("POST", "/api/3.0/mlflow/traces", body=trace_in("999")),
        lambda: own.api_client.do("POST", "/api/3.0/mlflow/traces/tr-1/assessments", body={}),
        lambda: own.api_client.do("POST", "/api/3.0/mlflow/traces/search", body={}),
        lambda: own.api_client.do("POST", "/api/2.0/mlflow/traces/delete-traces", body={"experiment_id": "0"}),
        lambda: own.api_client.do("PATCH", "/api/3.0/mlflow/traces/tr-1/tags", body={"key": "k", "value": "v"}),
        lambda: own.files.upload(f"{ARTIFACTS}/999/Runs/traces/tr-1/artifacts/traces.json", io.BytesIO(b"{}")),
        lambda: own.files.upload(f"{ARTIFACTS}/0/Runs/1/artifacts/model.json", io.BytesIO(b"{}")),
        lambda: own.files.download(f"{ARTIFACTS}/0/Runs/traces/tr-1/artifacts/traces.json"),
    ):
        with pytest.raises(PermissionDenied):
            call()
    assert own.serving_endpoints.get(HELPER).name == HELPER
    writes_traces_of_its_own_and_no_others(own)
    # The result of somebody else's statement is not there for it.
    path = f"{workspace.url}/api/2.0/sql/statements/{statement.statement_id}"
    assert requests.get(path, headers={"Authorization": f"Bearer {token}"}, timeout=60).status_code == 404
    update(helper, NAME, NOTHING)
    assert wait_for(lambda: _refused(own)), "revoked with its version"
    assert wait_for(lambda: not files[me].exists())
    assert told(workspace, NAME, "model: me") in tokens, "the other version goes on"


def test_credentials_are_renewed_and_the_expired_are_refused(
    workspace: RunningWorkspace, helper: WorkspaceClient, set_faults: Callable[..., requests.Response]
) -> None:
    assert set_faults(credential_seconds=2).status_code == 200
    before = credential_files(workspace)
    create(helper, NAME, ALL)
    (file,) = credential_files(workspace) - before
    first = token_in(file)
    own = WorkspaceClient(host=workspace.url, token=first)
    kept = told(workspace, NAME, "kept: me")
    assert wait_for(lambda: token_in(file) != first)
    assert wait_for(lambda: _refused(own))
    # databricks-sdk keeps a token that it has read for five minutes: here one of the first seconds, which is soon over.
    assert wait_for(lambda: "Credential was not sent or is not valid" in told(workspace, NAME, "kept: me"))
    assert told(workspace, NAME, "model: me") == kept, "the same identity, by a new token"
    assert told(workspace, NAME, f"model: {TABLE_QUERY}") == "[['41']]"
    helper.serving_endpoints.delete(NAME)
    assert wait_for(lambda: not file.exists())


def test_a_models_own_variables_win_over_its_credentials(
    workspace: RunningWorkspace, helper: WorkspaceClient, endpoint_name: str
) -> None:
    # Manual authentication: credentials in the environment, by a secret.
    helper.secrets.create_scope("by-hand")
    helper.secrets.put_secret("by-hand", "token", string_value=workspace.token)
    served = entity("a", READER, DECLARES_NOTHING, DATABRICKS_TOKEN="{{secrets/by-hand/token}}")
    create(helper, endpoint_name, served)
    assert told(workspace, endpoint_name, "model: me") == "developer@localhost"
    assert told(workspace, endpoint_name, f"model: {OTHER_QUERY}") == "[['42']]"
    helper.secrets.delete_scope("by-hand")


def _refused(client: WorkspaceClient) -> bool:
    try:
        client.current_user.me()
    except Unauthenticated:
        return True
    return False
