"""What nobody would send: schemathesis asks every route that the workspace describes; what is worse is written out."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import APIOperation, Case, GenerationMode

from release_pipeline.local_workspace.serving.foundation_model import ENDPOINT
from tests.conftest import RunningWorkspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROJECT = Path(__file__).parents[2]
MODEL, SERVED = "main.default.fuzzed", "fuzzed"
ENTITY = {"name": "only", "entity_name": MODEL, "entity_version": "1", "workload_size": "Small"}
SERVE = """
import json, sys
from databricks.sdk import WorkspaceClient
from databricks.sdk.service.serving import ServedEntityInput
from mlflow.models import infer_signature
from tests.local_workspace.conftest import create, register
model, endpoint, entity = sys.argv[1:]
assert register("doubling_model.py", model, signature=infer_signature(["a"], ["a"])) == "1"
create(WorkspaceClient(), endpoint, ServedEntityInput.from_dict(json.loads(entity)))
"""
#: Beside what schemathesis makes up for a part of a path, what is there, so that a request gets past the first look.
KNOWN = {
    "name": [SERVED, ENDPOINT, "main"],
    "entity": ["only", "feedback"],
    "full_name": ["main", "main.default", "main.default.fuzzed_rows", MODEL],
    "type": ["catalog", "schema", "table", "function"],
    "warehouse_id": ["local"],
    "id": ["local", "1"],
    "path": ["/Volumes/a/b.txt", "/Volumes", "/Volumes/a"],
    "index": ["0", "1"],
    "file": ["review.js"],
    "endpoint": [ENDPOINT],
}
#: The same for the fields of bodies and queries.
FIELDS: dict[str, list[Any]] = {
    "name": [MODEL, ENDPOINT],
    "version": ["1", 1],
    "alias": ["champion"],
    "key": ["k"],
    "value": ["v"],
    "scope": ["fuzzed"],
    "principal": ["developer@localhost", "users"],
    "permission": ["READ"],
    "string_value": ["secret"],
    "warehouse_id": ["local"],
    "statement": ["SELECT 1", "SELECT * FROM main.default.fuzzed_rows WHERE x = :x", "SHOW TABLES"],
    "wait_timeout": ["0s", "10s"],
    "catalog_name": ["main"],
    "schema_name": ["default"],
    "user_name": ["ada@example.com", "developer@localhost"],
    "source": ["dbfs:/databricks/mlflow-tracking/0/a/artifacts/model"],
    "max_results": [10],
    "filter": [f"name='{MODEL}'"],
    "path": ["/Volumes/a/b.txt"],
    "messages": [[{"role": "user", "content": "hello"}]],
    "input": [[{"role": "user", "content": "hello"}]],
    "model": [ENDPOINT],
    "config": [{"served_entities": [ENTITY]}],
    "served_entities": [[ENTITY]],
    "tags": [[{"key": "k", "value": "v"}]],
    "add_tags": [[{"key": "k", "value": "v"}]],
}
#: A request that takes longer hangs.
PATIENCE_SECONDS = 30.0
#: What is no JSON, or JSON that nobody could store or write again.
BODIES = {
    "not a number": b'{"name": NaN, "description": NaN, "config": {"x": Infinity}}',
    "half a character": b'{"name": "\\ud800", "description": "\\ud800", "user_name": "\\udfff"}',
    "too large a number": b'{"name": 1e400, "config": -1e400}',
    "deep": b'{"name": ' + b"[" * 500 + b"]" * 500 + b"}",
    "too deep": b'{"name": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "too long a number": b'{"max_results": ' + b"9" * 5_000 + b"}",
    "no text": b"\xff\xfe\x00",
    "a list": b"[1, 2]",
    "a text": b'"name"',
    "an end": b'{"name": ',
}


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorkspace]:
    """A workspace of its own: what is left of it afterwards nobody could use."""
    running = RunningWorkspace(tmp_path_factory.mktemp("fuzzed"))
    # In a process of its own: mlflow remembers in which workspace it was.
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("DATABRICKS_", "MLFLOW_"))},
        "DATABRICKS_HOST": running.url,
        "DATABRICKS_TOKEN": running.token,
        "MLFLOW_TRACKING_URI": "databricks",
        "MLFLOW_REGISTRY_URI": "databricks-uc",
    }
    served = [sys.executable, "-c", SERVE, MODEL, SERVED, json.dumps(ENTITY)]
    subprocess.run(served, env=environment, cwd=PROJECT, check=True, timeout=PATIENCE_SECONDS * 4)
    statement = {"statement": "CREATE TABLE main.default.fuzzed_rows (x INT)", "warehouse_id": "local"}
    assert asked(running, "POST", "/api/2.0/sql/statements", json=statement).json()["status"]["state"] == "SUCCEEDED"
    yield running
    running.stop()


def asked(workspace: RunningWorkspace, method: str, path: str, **options: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {workspace.token}"}
    return requests.request(method, workspace.url + path, headers=headers, timeout=PATIENCE_SECONDS, **options)


def operations(workspace: RunningWorkspace) -> list[APIOperation]:
    schema = schemathesis.openapi.from_dict(asked(workspace, "GET", "/openapi.json").json())
    return [found.ok() for found in schema.get_all_operations()]


def described(operation: APIOperation) -> st.SearchStrategy[Case]:
    """Requests to one route, as it is described and otherwise."""

    @st.composite
    def request(draw: st.DrawFn) -> Case:
        mode = draw(st.sampled_from([GenerationMode.POSITIVE, GenerationMode.POSITIVE, GenerationMode.NEGATIVE]))
        case = draw(operation.as_strategy(mode))
        in_path = {} if operation.method == "delete" else KNOWN  # what is there stays there
        for part, known in ((case.path_parameters, in_path), (case.query, FIELDS), (case.body, FIELDS)):
            for key in part if isinstance(part, dict) else ():
                if key in known and draw(st.sampled_from([True, True, False])):
                    part[key] = draw(st.sampled_from(known[key]))
        return case

    return request()


def answers(workspace: RunningWorkspace, operation: APIOperation) -> tuple[list[str], bool]:
    """Requests to one route that the server failed to answer, to send them again; and whether it did what one asked."""
    headers = {"Authorization": f"Bearer {workspace.token}"}
    failed: list[str] = []
    done: list[int] = []

    @settings(max_examples=15, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(described(operation))
    def ask(case: Case) -> None:
        request = case.as_transport_kwargs(base_url=workspace.url)
        request["headers"] = {**(request.get("headers") or {}), **headers}  # the token is what is right about all
        answer = requests.request(**request, timeout=PATIENCE_SECONDS)
        if answer.ok:
            done.append(answer.status_code)
        if answer.status_code >= 500:
            failed.append(f"{answer.status_code} {case.as_curl_command()[:600]}: {answer.text[:300]}")

    ask()
    return failed, bool(done)


def test_no_route_answers_with_a_failure_of_the_server_or_not_at_all(fuzzed: RunningWorkspace) -> None:
    found = operations(fuzzed)
    assert len(found) > 100
    seen = {operation.label: answers(fuzzed, operation) for operation in found}
    assert {label: failed for label, (failed, _) in seen.items() if failed} == {}
    done = [label for label, (_, did) in seen.items() if did]
    assert len(done) > 50, "many requests have to come past the first look"
    changed = {"PATCH /api/2.0/serving-endpoints/{name}/tags", "PUT /api/2.0/serving-endpoints/{name}/ai-gateway"}
    assert changed <= set(done), "an endpoint was changed, whose settings have to be shown again"
    # And it can still say what it holds.
    for path in ("/api/2.0/serving-endpoints", "/api/2.0/mlflow/unity-catalog/registered-models/search"):
        assert asked(fuzzed, "GET", path).status_code == 200
    assert "Traceback" not in fuzzed.log()


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_no_body_is_too_strange(fuzzed: RunningWorkspace, body: bytes) -> None:
    document = asked(fuzzed, "GET", "/openapi.json").json()
    json_type = {"content-type": "application/json"}
    headers = {"Authorization": f"Bearer {fuzzed.token}", **json_type}
    answers: dict[str, int] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if "application/json" in operation.get("requestBody", {}).get("content", {}):
                url = fuzzed.url + path.format(**{key: values[0] for key, values in KNOWN.items()})
                answer = requests.request(method, url, data=body, headers=headers, timeout=PATIENCE_SECONDS)
                answers[f"{method} {path}"] = answer.status_code
    assert len(answers) > 40
    assert {name: status for name, status in answers.items() if not 400 <= status < 500} == {}
    assert asked(fuzzed, "GET", "/api/2.0/serving-endpoints").status_code == 200
