"""MLflow's own API with what nobody would send: every call that its clients know, as it is described and otherwise."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mlflow.protos.service_pb2 import MlflowService
from mlflow.utils.rest_utils import extract_all_api_info_for_service

from release_pipeline.local_workspace.wire.tracking import _FAMILIES
from tests.conftest import RunningWorkspace
from tests.local_workspace.test_endpoints import linux
from tests.local_workspace.test_tracking_process import tracking_processes

pytestmark = [linux, pytest.mark.slow, pytest.mark.timeout(600)]

PATIENCE_SECONDS = 30.0
FAMILIES = {version: tuple(f"/api/{version}/mlflow/{family}" for family in _FAMILIES) for version in ("2.0", "3.0")}
JSON = {"Content-Type": "application/json"}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["a'b", "%", "\x00", "x" * 9000]
)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
#: What is there, so that a request gets past the first look.
KNOWN: dict[str, list[Any]] = {}


def values(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    """Values of a field: what is there, what its kind allows, or anything."""
    known = st.sampled_from(KNOWN[field.name]) if field.name in KNOWN else st.nothing()
    kinds = {
        FieldDescriptor.CPPTYPE_STRING: TEXTS,
        FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
        FieldDescriptor.CPPTYPE_DOUBLE: st.floats(),
        FieldDescriptor.CPPTYPE_FLOAT: st.floats(),
    }
    if field.message_type is not None:
        own = fields(field.message_type, depth - 1) if depth else st.just({})
    elif field.enum_type is not None:
        own = st.sampled_from([value.name for value in field.enum_type.values])
    else:
        own = kinds.get(field.cpp_type, st.integers(-(2**63), 2**64))
    good = known | known | own
    if field.is_repeated:
        good = st.lists(good, max_size=3)
    return st.one_of(good, good, good, ANY)


def fields(message: Descriptor, depth: int = 3) -> st.SearchStrategy[dict[str, Any]]:
    """Bodies with some of a message's fields."""
    return st.fixed_dictionaries({}, optional={field.name: values(field, depth) for field in message.fields})


def calls() -> dict[tuple[str, str], Descriptor]:
    """Message by method and path, of both versions of the API."""
    found = {}
    for version in FAMILIES:
        for message, routes in extract_all_api_info_for_service(MlflowService, f"/api/{version}").items():
            taken = [route for route in routes if route[0].startswith(FAMILIES[version])]
            found |= {(method, path): message.DESCRIPTOR for path, method in taken}
    # What deletes comes last, so that all else finds something.
    return dict(sorted(found.items(), key=lambda call: call[0][0] == "DELETE" or "delete" in call[0][1]))


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorkspace]:
    """A workspace of its own with a run, a logged model and a trace."""
    running = RunningWorkspace(tmp_path_factory.mktemp("tracked"))

    def post(path: str, body: dict[str, Any]) -> Any:
        answer = asked(running, "POST", f"/api/{path}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    experiment = post("2.0/mlflow/experiments/create", {"name": "/Shared/fuzzed"})["experiment_id"]
    run = post("2.0/mlflow/runs/create", {"experiment_id": experiment, "start_time": 1})["run"]["info"]["run_id"]
    model = post("2.0/mlflow/logged-models", {"experiment_id": experiment, "name": "m"})["model"]["info"]["model_id"]
    trace = f"tr-{0xF00D:032x}"
    info = {
        "trace_id": trace,
        "trace_location": {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}},
        "request_time": "2025-01-01T00:00:00Z",
        "state": "OK",
    }
    post("3.0/mlflow/traces", {"trace": {"trace_info": info}})
    feedback = {"assessment_name": "a", "trace_id": trace, "feedback": {"value": True}}
    feedback |= {"source": {"source_type": "HUMAN", "source_id": "me"}, "create_time": "2025-01-01T00:00:00Z"}
    feedback |= {"last_update_time": "2025-01-01T00:00:00Z"}
    noted = post(f"3.0/mlflow/traces/{trace}/assessments", {"assessment": feedback})["assessment"]["assessment_id"]
    KNOWN.update(
        {
            "experiment_id": [experiment],
            "experiment_ids": [experiment],
            "run_id": [run],
            "run_uuid": [run],
            "model_id": [model],
            "trace_id": [trace],
            "request_id": [trace],
            "trace_ids": [trace],
            "assessment_id": [noted],
            "key": ["k"],
            "metric_key": ["k"],
            "filter": ["metrics.k > 1", "tags.k = 'v'", "name LIKE '%'"],
            "order_by": ["metrics.k DESC", "creation_time", "attributes.start_time"],
            "max_results": [1, 10],
            "tag_key": ["k"],
        }
    )
    yield running
    running.stop()


def asked(workspace: RunningWorkspace, method: str, path: str, **options: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {workspace.token}"}
    headers |= options.pop("headers", {})
    return requests.request(method, workspace.url + path, headers=headers, timeout=PATIENCE_SECONDS, **options)


def test_no_call_of_mlflow_is_answered_with_a_failure_of_the_server_or_not_at_all(tracked: RunningWorkspace) -> None:
    failed: dict[str, str] = {}
    processes = tracking_processes(tracked)
    done: set[str] = set()

    def ask_all(method: str, path: str, message: Descriptor) -> None:
        @settings(max_examples=25, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        @given(fields(message), st.data())
        def ask(body: dict[str, Any], data: st.DataObject) -> None:
            parts = {part: data.draw(st.sampled_from([*KNOWN.get(part.split(".")[-1], ["k"]), "x"])) for part in names}
            filled = path
            for part, value in parts.items():
                filled = filled.replace("{" + part + "}", str(value))
            sent = {"params": body} if method == "GET" else {"data": json.dumps(body), "headers": JSON}
            answer = asked(tracked, method, filled, **sent)
            if answer.ok:
                done.add(f"{method} {path}")
            if answer.status_code >= 500:
                failed[f"{method} {path}"] = f"{parts} {json.dumps(body)[:300]}: {answer.text[:300]}"

        names = re.findall(r"{([^}]*)}", path)
        ask()

    for (method, path), message in calls().items():
        ask_all(method, path, message)
    assert failed == {}
    assert len(done) > 30, "many requests have to come past the first look"
    assert tracking_processes(tracked) == processes, "it has never ended"
