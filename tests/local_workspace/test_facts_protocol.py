"""What every answer of the workspace must have, whatever was asked: its header, its shape, and never a 5xx."""

import contextlib
import http.client
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from databricks.sdk import WorkspaceClient

from tests.conftest import RunningWorkspace
from tests.local_workspace.conftest import AGENT, say

SERVING = "/api/2.0/serving-endpoints"
REGISTRY = "/api/2.0/mlflow/unity-catalog"
# No field of any request has one of these in every place.
WRONG: tuple[Any, ...] = (5, "x", True, [5], [None], ["x"], [[]], [{}], {"x": 5}, {"x": [None]})


@pytest.fixture
def session(workspace: RunningWorkspace) -> Iterator[requests.Session]:
    with requests.Session() as made:
        made.headers["Authorization"] = f"Bearer {workspace.token}"
        yield made


@pytest.fixture
def connection(workspace: RunningWorkspace) -> Iterator[http.client.HTTPConnection]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", workspace.port, timeout=60)) as made:
        yield made


def test_a_client_is_built_without_a_warning(workspace: RunningWorkspace, caplog: pytest.LogCaptureFixture) -> None:
    # mlflow builds one for every single call; a probe that is answered with 404 would warn each time.
    with caplog.at_level(logging.WARNING):
        WorkspaceClient().get_workspace_id()
    assert caplog.records == []


def test_every_kind_of_answer_names_the_workspace(
    workspace: RunningWorkspace, session: requests.Session, shared_endpoint: Callable[[str], str]
) -> None:
    # mlflow reads the header at registration and drops the run's server where it is missing.
    invocations = f"/serving-endpoints/{shared_endpoint(AGENT)}/invocations"
    answers = [
        session.get(f"{workspace.url}/.well-known/databricks-config"),
        session.get(f"{workspace.url}/api/2.0/mlflow/experiments/get", params={"experiment_id": "0"}),
        session.get(f"{workspace.url}/api/2.0/no-such-call"),
        session.head(f"{workspace.url}/api/2.0/fs/directories/none"),
        session.get(f"{workspace.url}/presigned/files/x"),
        session.post(workspace.url + invocations, json=say("hello")),
        session.post(workspace.url + invocations, json=say("hello", stream=True)),
        session.post(workspace.url + invocations, data=b"{"),
        requests.get(f"{workspace.url}{SERVING}", timeout=60),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 404, 404, 403, 200, 200, 400, 401]
    assert {answer.headers["x-databricks-org-id"] for answer in answers} == {answers[0].json()["workspace_id"]}


@pytest.mark.parametrize(
    ("path", "token", "status"),
    [
        (f"{SERVING}/none", "", 401),
        ("/api/2.0/no-such-call", "right", 404),
        ("/api/2.0/fs/files/none", "right", 404),
        ("/api/2.0/mlflow/experiments/get?experiment_id=abc", "right", 400),
        ("/presigned/files/x", "", 403),
    ],
)
def test_a_head_that_is_refused_has_no_body_either(
    workspace: RunningWorkspace, connection: http.client.HTTPConnection, path: str, token: str, status: int
) -> None:
    headers = {"Authorization": f"Bearer {workspace.token}"}
    connection.request("HEAD", path, headers=headers if token else {})
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (status, b"")
    # What had come as a body would now be read as the next answer of this connection.
    connection.request("GET", "/.well-known/databricks-config", headers=headers)
    assert connection.getresponse().status == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", f"{SERVING}/none", 404, "RESOURCE_DOES_NOT_EXIST"),
        ("GET", f"{REGISTRY}/registered-models/get?name=main.default.x", 404, "RESOURCE_DOES_NOT_EXIST"),
        ("GET", "/api/2.0/fs/files/none", 404, "NOT_FOUND"),
        ("DELETE", "/api/2.0/fs/files/none", 404, "NOT_FOUND"),
        ("GET", "/api/2.0/fs/directories/none", 404, "NOT_FOUND"),
        ("GET", "/api/2.1/unity-catalog/tables/main.default.none", 404, "TABLE_DOES_NOT_EXIST"),
        ("GET", "/api/2.0/mlflow/runs/get?run_id=", 400, "INVALID_PARAMETER_VALUE"),
        ("GET", f"/api/2.0/mlflow/experiments/get?experiment_id={'9' * 30}", 400, "INVALID_PARAMETER_VALUE"),
        ("PATCH", f"{SERVING}/none/telemetry", 404, "ENDPOINT_NOT_FOUND"),
    ],
)  # fmt: skip
def test_an_error_has_the_code_that_clients_branch_on(
    workspace: RunningWorkspace, session: requests.Session, method: str, path: str, status: int, code: str
) -> None:
    answer = session.request(method, workspace.url + path, json={} if method == "PATCH" else None)
    assert (answer.status_code, answer.json()["error_code"]) == (status, code)
    assert answer.json()["message"]


def with_wrong(body: dict[str, Any], *path: str) -> Iterator[dict[str, Any]]:
    """Copies of a body with a wrong value at the end of a path of keys."""
    key, *rest = path
    if not rest:
        yield from ({**body, key: value} for value in WRONG)
        return
    inner = body.get(key, {})
    for changed in with_wrong(inner[0] if isinstance(inner, list) else inner, *rest):
        yield {**body, key: [changed] if isinstance(inner, list) else changed}


ENTITY = {"name": "only", "entity_name": AGENT, "entity_version": "99"}
ROUTE = {"served_entity_name": "only", "traffic_percentage": 100}
TABLE = {"catalog_name": "main", "schema_name": "nowhere", "table_name_prefix": "p", "enabled": True}
CONFIG = {"served_entities": [ENTITY], "traffic_config": {"routes": [ROUTE]}}
GRANTS = "/api/2.1/unity-catalog/permissions/CATALOG/main"
# The bodies name what does not exist, so that nothing is made or changed however they are read.
CALLS: list[tuple[str, str, dict[str, Any], list[tuple[str, ...]]]] = [
    ("POST", SERVING, {"name": "made-by-mistake", "config": CONFIG}, [
        ("name",), ("config",), ("tags",), ("ai_gateway",), ("rate_limits",), ("description",),
    ]),
    ("PUT", SERVING + "/{shared}/config", CONFIG, [
        ("served_entities",), ("served_entities", "name"), ("served_entities", "entity_name"),
        ("served_entities", "entity_version"), ("served_entities", "workload_size"),
        ("served_entities", "environment_vars"), ("traffic_config",), ("traffic_config", "routes"),
        ("traffic_config", "routes", "served_entity_name"), ("traffic_config", "routes", "traffic_percentage"),
    ]),
    ("PUT", SERVING + "/{shared}/config", {"served_models": [ENTITY]}, [("served_models",)]),
    ("PATCH", SERVING + "/{shared}/tags", {"add_tags": [{"key": ""}]}, [("add_tags",), ("add_tags", "key")]),
    ("PATCH", SERVING + "/none/tags", {"add_tags": [{"key": "k"}]}, [("add_tags", "value"), ("delete_tags",)]),
    ("PUT", SERVING + "/{shared}/ai-gateway", {"inference_table_config": TABLE}, [
        ("inference_table_config",), ("inference_table_config", "catalog_name"),
        ("inference_table_config", "schema_name"), ("inference_table_config", "table_name_prefix"), ("rate_limits",),
    ]),
    ("PUT", SERVING + "/none/rate-limits", {}, [("rate_limits",)]),
    ("PATCH", SERVING + "/none/description", {}, [("description",)]),
    ("PATCH", "/api/2.0/permissions/serving-endpoints/{id}", {
        "access_control_list": [{"user_name": "u", "permission_level": "NONE"}],
    }, [("access_control_list",), ("access_control_list", "user_name"), ("access_control_list", "permission_level")]),
    ("PATCH", GRANTS, {"changes": [{"principal": ""}]}, [("changes",), ("changes", "principal"), ("changes", "add")]),
    ("POST", "/api/2.0/sql/statements", {"statement": "SELECT 1", "warehouse_id": "none"}, [
        ("statement",), ("warehouse_id",), ("wait_timeout",), ("parameters",), ("disposition",), ("catalog",),
    ]),
    ("POST", f"{REGISTRY}/registered-models/create", {"name": "none.none.m"}, [
        ("name",), ("tags",), ("description",),
    ]),
    ("POST", f"{REGISTRY}/model-versions/create", {"name": "main.default.none", "source": "s"}, [
        ("name",), ("source",), ("tags",), ("model_version_dependencies",), ("run_id",),
    ]),
    ("POST", f"{REGISTRY}/registered-models/alias", {"name": "main.default.none", "alias": "a", "version": "1"}, [
        ("name",), ("alias",), ("version",),
    ]),
    ("POST", "/api/2.0/mlflow/experiments/search", {"max_results": 1}, [("max_results",), ("filter",)]),
    ("POST", "/api/2.0/mlflow/runs/create", {"experiment_id": "99999"}, [
        ("experiment_id",), ("start_time",), ("tags",),
    ]),
    ("POST", "/api/2.0/mlflow/runs/log-batch", {"run_id": "0" * 32}, [("metrics",), ("params",), ("tags",)]),
    ("POST", "/api/2.0/mlflow/logged-models/search", {"experiment_ids": ["0"]}, [
        ("experiment_ids",), ("max_results",), ("filter",),
    ]),
    ("POST", "/api/3.0/mlflow/traces", {"trace": {}}, [("trace",), ("trace", "trace_info")]),
    ("POST", "/api/2.0/fs/create-download-url", {}, [("path",)]),
    ("POST", "/serving-endpoints/responses", {"model": "none"}, [("model",), ("input",)]),
    ("POST", "/serving-endpoints/chat/completions", {"model": "none"}, [("model",), ("messages",)]),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "fields"), CALLS, ids=[f"{call[0]} {call[1]}" for call in CALLS])
def test_no_mistake_of_a_client_is_answered_as_the_servers(
    workspace: RunningWorkspace,
    client: WorkspaceClient,
    session: requests.Session,
    shared_endpoint: Callable[[str], str],
    method: str,
    path: str,
    body: dict[str, Any],
    fields: list[tuple[str, ...]],
) -> None:
    # mlflow asks again for more than four minutes after any 5xx and after a 429.
    name = shared_endpoint(AGENT)
    shared = client.serving_endpoints.get(name)
    assert shared.ai_gateway is not None
    url = workspace.url + path.format(shared=name, id=shared.id)
    for field in fields:
        for wrong in with_wrong(body, *field):
            answer = session.request(method, url, json=wrong, timeout=60)
            assert answer.status_code < 429, f"{wrong} got {answer.status_code} {answer.text}"
            assert answer.status_code < 300 or answer.json()["error_code"]
    for raw in (b"{", b"[]", b"null", b"5", b'"x"', b"\xff", b""):
        answer = session.request(method, url, data=raw, headers={"Content-Type": "application/json"}, timeout=60)
        assert answer.status_code < 429, f"{raw!r} got {answer.status_code} {answer.text}"
    # Without a table, which is no mistake, it would no longer log for the tests that come after this one.
    client.serving_endpoints.put_ai_gateway(name, inference_table_config=shared.ai_gateway.inference_table_config)
