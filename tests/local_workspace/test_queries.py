"""Requests to endpoints: what goes in, what comes out, and what a model's mistakes look like."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import BadRequest, ResourceDoesNotExist

from tests.conftest import RunningWorkspace
from tests.local_workspace.conftest import (
    AGENT,
    CHAT,
    PLAIN,
    create,
    entity,
    inference_table,
    said,
    say,
    traffic,
    wait_for,
)
from tests.local_workspace.test_inference_log import rows_of

Shared = Callable[[str], str]


def post(workspace: RunningWorkspace, path: str, body: Any, **options: Any) -> requests.Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {workspace.token}", "Content-Type": "application/json"}
    headers |= options.pop("headers", {})
    return requests.post(workspace.url + path, data=data, headers=headers, timeout=60, **options)


def ask(workspace: RunningWorkspace, endpoint: str, body: Any, **options: Any) -> requests.Response:
    return post(workspace, f"/serving-endpoints/{endpoint}/invocations", body, **options)


def events(response: requests.Response) -> Iterator[Any]:
    """The events of a stream; ends with the text [DONE]."""
    for line in response.iter_lines():
        if line:
            data = line.removeprefix(b"data: ").decode()
            yield data if data == "[DONE]" else json.loads(data)


def test_agent_answers_through_the_sdks_raw_call(client: WorkspaceClient, shared_endpoint: Shared) -> None:
    path = f"/serving-endpoints/{shared_endpoint(AGENT)}/invocations"
    answer = client.api_client.do("POST", path, body=say("hello", custom_inputs={"session": "s1"}))
    assert said(answer) == "echo: hello"
    assert answer["custom_outputs"] == {"session": "s1"}


def test_sdk_query_drops_the_output_of_an_agent(client: WorkspaceClient, shared_endpoint: Shared) -> None:
    # The trap that makes the pipeline ask by other ways.
    answer = client.serving_endpoints.query(shared_endpoint(AGENT), input=say("hello")["input"])
    assert "output" not in answer.as_dict()
    assert answer.served_model_name == "only"


def test_every_answer_names_its_entity_and_its_request(workspace: RunningWorkspace, shared_endpoint: Shared) -> None:
    answers = [ask(workspace, shared_endpoint(AGENT), say(text)) for text in ("hello", "fail")]
    assert [answer.headers["served-model-name"] for answer in answers] == ["only", "only"]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 2


def test_platform_fields_do_not_reach_the_model(workspace: RunningWorkspace, shared_endpoint: Shared) -> None:
    body = say("hello", client_request_id="c-1", databricks_options={"return_trace": True})
    answer = ask(workspace, shared_endpoint(AGENT), body)
    assert said(answer.json()) == "echo: hello"
    # Who asks for the trace is told the request's id, which feedback needs.
    assert answer.json()["databricks_output"] == {"databricks_request_id": answer.headers["x-request-id"]}


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_records": [{"x": 1.5}, {"x": 4.0}]},
        {"dataframe_split": {"columns": ["x"], "data": [[1.5], [4.0]]}},
        {"inputs": {"x": [1.5, 4.0]}},
        {"instances": [{"x": 1.5}, {"x": 4.0}]},
    ],
    ids=lambda body: next(iter(body)),
)
def test_classical_inputs(workspace: RunningWorkspace, shared_endpoint: Shared, body: dict[str, Any]) -> None:
    assert ask(workspace, shared_endpoint(PLAIN), body).json() == {"predictions": [3.0, 8.0]}


def test_csv_input(workspace: RunningWorkspace, shared_endpoint: Shared) -> None:
    answer = ask(workspace, shared_endpoint(PLAIN), b"x\n1.5\n", headers={"Content-Type": "text/csv"})
    assert answer.json() == {"predictions": [3.0]}


def test_classical_query_through_the_sdk(client: WorkspaceClient, shared_endpoint: Shared) -> None:
    answer = client.serving_endpoints.query(shared_endpoint(PLAIN), dataframe_records=[{"x": 2.0}])
    assert answer.predictions == [4.0]


def test_chat_agent_answers_its_messages(workspace: RunningWorkspace, shared_endpoint: Shared) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}]}
    assert ask(workspace, shared_endpoint(CHAT), body).json()["messages"][0]["content"] == "echo: hello"


@pytest.mark.parametrize("body", [b"{", b"[1]", b""])
def test_a_body_that_is_no_json_object_is_a_bad_request(
    workspace: RunningWorkspace, shared_endpoint: Shared, body: bytes
) -> None:
    answer = ask(workspace, shared_endpoint(AGENT), body)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "BAD_REQUEST")


def test_a_models_exception_is_a_bad_request_without_traceback_or_token(
    workspace: RunningWorkspace, client: WorkspaceClient, shared_endpoint: Shared
) -> None:
    answer = ask(workspace, shared_endpoint(AGENT), say("fail"))
    assert answer.status_code == 400
    assert answer.json()["error_code"] == "BAD_REQUEST"
    assert "ValueError: asked to fail" in answer.json()["message"]
    log = client.serving_endpoints.logs(shared_endpoint(AGENT), "only").logs
    assert "Traceback" in log
    assert "Traceback" not in answer.text
    assert "[REDACTED]" in answer.text
    assert workspace.token not in answer.text + log
    assert "dapi" not in answer.text + log


def test_input_that_does_not_fit_the_schema_is_refused(workspace: RunningWorkspace, shared_endpoint: Shared) -> None:
    answer = ask(workspace, shared_endpoint(AGENT), {"messages": [{"role": "user", "content": "hello"}]})
    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    answer = ask(workspace, shared_endpoint(PLAIN), {"dataframe_records": [{"y": 1}]})
    assert answer.status_code == 400


def test_unknown_endpoint_and_entity(client: WorkspaceClient, shared_endpoint: Shared) -> None:
    with pytest.raises(ResourceDoesNotExist):
        client.serving_endpoints.query("no-such-endpoint", inputs=[1])
    path = f"/serving-endpoints/{shared_endpoint(AGENT)}/served-models/other/invocations"
    with pytest.raises(ResourceDoesNotExist):
        client.api_client.do("POST", path, body=say("hello"))


def test_stream_of_deltas_closed_by_an_item(workspace: RunningWorkspace, shared_endpoint: Shared) -> None:
    response = ask(workspace, shared_endpoint(AGENT), say("one two", stream=True), stream=True)
    *deltas, item, done = list(events(response))
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["served-model-name"] == "only"
    assert [event["delta"] for event in deltas] == ["echo:", " one", " two"]
    assert {event["item_id"] for event in deltas} == {item["item"]["id"]}
    assert (item["type"], done) == ("response.output_item.done", "[DONE]")


def test_events_arrive_while_the_model_still_works(
    workspace: RunningWorkspace, shared_endpoint: Shared, tmp_path: Path
) -> None:
    signal = tmp_path / "go"
    response = ask(workspace, shared_endpoint(AGENT), say(f"one {signal} two", stream=True), stream=True)
    arriving = events(response)
    assert next(arriving)["delta"] == "echo:"
    assert next(arriving)["delta"] == " one"
    signal.touch()  # the model goes on only now
    assert list(arriving)[-1] == "[DONE]"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("break", "TimeoutError: the tool did not answer"),
        ("unfinished", "NotImplementedError: the tool is not written"),
        ("cancelled", "CancelledError: a loop of its own was ended"),
    ],
)
def test_an_error_after_the_stream_began_is_its_last_event(
    word: str, message: str, workspace: RunningWorkspace, shared_endpoint: Shared
) -> None:
    response = ask(workspace, shared_endpoint(AGENT), say(f"one {word} two", stream=True), stream=True)
    *_, one, failure, done = list(events(response))
    assert (response.status_code, one["delta"], done) == (200, " one", "[DONE]")
    assert failure["databricks_output"]["error"] == {
        "error_code": "BAD_REQUEST",
        "message": message,
    }


def test_a_process_that_dies_in_a_stream_ends_it_with_an_error(
    workspace: RunningWorkspace, client: WorkspaceClient, endpoint_name: str, tmp_path: Path
) -> None:
    prefix, signal = endpoint_name.replace("-", "_"), tmp_path / "go"
    create(client, endpoint_name, entity("only"), ai_gateway=inference_table(prefix))
    response = ask(workspace, endpoint_name, say(f"one {signal} die", stream=True), stream=True)
    arriving = events(response)
    assert [next(arriving)["delta"] for _ in range(2)] == ["echo:", " one"]
    signal.touch()  # the model goes on, and dies, only now
    *_, failure, done = list(arriving)
    assert (response.status_code, done) == (200, "[DONE]")
    assert failure["databricks_output"]["error"] == {
        "error_code": "TEMPORARILY_UNAVAILABLE",
        "message": "The scoring process ended during the stream.",
    }
    (row,) = rows_of(client, f"main.default.{prefix}_payload", 1)
    assert row["status_code"] == "200"
    assert "The scoring process ended during the stream." in row["response"], "the gate's errors count it by that"
    wait_for(lambda: ask(workspace, endpoint_name, say("hello")).status_code == 200)


def test_an_error_before_the_first_event_is_an_ordinary_error(
    workspace: RunningWorkspace, shared_endpoint: Shared
) -> None:
    response = ask(workspace, shared_endpoint(AGENT), say("fail", stream=True))
    assert (response.status_code, response.json()["error_code"]) == (400, "BAD_REQUEST")


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_wants_to_exit_has_failed_and_serves_on(
    workspace: RunningWorkspace, shared_endpoint: Shared, stream: bool
) -> None:
    response = ask(workspace, shared_endpoint(AGENT), say("exit", stream=stream))
    assert (response.status_code, response.json()["error_code"]) == (400, "BAD_REQUEST")
    assert "SystemExit: asked to exit" in response.json()["message"]
    assert ask(workspace, shared_endpoint(AGENT), say("hello")).status_code == 200


def test_the_environment_of_a_model(workspace: RunningWorkspace, client: WorkspaceClient, endpoint_name: str) -> None:
    create(client, endpoint_name, entity("only", GREETING="good day", RETURN_REQUEST_ID_IN_RESPONSE="true"))
    answers = {
        name: ask(workspace, endpoint_name, say(f"env {name}"))
        for name in ("GREETING", "DATABRICKS_HOST", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "PYTEST_VERSION")
    }
    assert {name: said(answer.json()).removeprefix("echo: ") for name, answer in answers.items()} == {
        "GREETING": "good day",
        "DATABRICKS_HOST": workspace.url,
        "MLFLOW_TRACKING_URI": "databricks",
        "MLFLOW_EXPERIMENT_ID": "0",  # never empty: mlflow would wait for minutes
        "PYTEST_VERSION": "unset",  # what the server was started with is not the model's
    }
    answer = answers["GREETING"]
    assert answer.json()["databricks_output"]["databricks_request_id"] == answer.headers["x-request-id"]


def test_requests_are_traced_only_when_asked(
    workspace: RunningWorkspace, client: WorkspaceClient, endpoint_name: str
) -> None:
    experiment = mlflow.set_experiment(f"/Shared/{endpoint_name}").experiment_id
    traced = entity("traced", ENABLE_MLFLOW_TRACING="true", MLFLOW_EXPERIMENT_ID=experiment)
    untraced = entity("untraced", MLFLOW_EXPERIMENT_ID=experiment)
    create(client, endpoint_name, traced, untraced, traffic=traffic(traced=100, untraced=0))
    ids = set()
    for name in ("untraced", "traced"):
        path = f"/serving-endpoints/{endpoint_name}/served-models/{name}/invocations"
        for body in (say("hello"), say("hello", stream=True)):
            answer = post(workspace, path, body)
            assert answer.status_code == 200
            if name == "traced":
                ids.add(answer.headers["x-request-id"])
    # Ending the processes sends what is still queued.
    client.serving_endpoints.delete(endpoint_name)

    def traces() -> list[Any]:
        found = mlflow.search_traces(locations=[experiment], return_type="list")
        return list(found) if len(found) >= len(ids) else []

    found = wait_for(traces)
    assert {trace.info.client_request_id for trace in found} == ids
    for trace in found:
        labels = trace.info.trace_metadata
        assert (labels["endpoint_name"], labels["served_entity_name"]) == (endpoint_name, "traced")
        assert (labels["model_name"], labels["model_version"]) == (AGENT, "1")


def test_bad_request_is_what_the_sdk_raises(client: WorkspaceClient, shared_endpoint: Shared) -> None:
    with pytest.raises(BadRequest):
        client.serving_endpoints.query(shared_endpoint(PLAIN), inputs={"y": [1.0]})
