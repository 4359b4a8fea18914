"""``databricks_options.return_trace``: the trace of a request comes back with its answer."""

from collections.abc import Iterator
from typing import Any

import mlflow
import openai
import pytest
from databricks.sdk import WorkspaceClient
from mlflow.deployments import get_deploy_client
from mlflow.entities import Trace

from tests.conftest import RunningWorkspace
from tests.local_workspace.conftest import CHAT, create, entity, register, say, wait_for

pytestmark = pytest.mark.slow

ASKED = {"databricks_options": {"return_trace": True}}


@pytest.fixture
def openai_client(workspace: RunningWorkspace) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{workspace.url}/serving-endpoints", api_key=workspace.token, max_retries=0) as client:
        yield client


def traced(client: WorkspaceClient, name: str, **model: str) -> str:
    """An endpoint whose requests are traced; the experiment of the traces."""
    experiment = str(mlflow.set_experiment(f"/Shared/{name}").experiment_id)
    create(client, name, entity("only", **model, ENABLE_MLFLOW_TRACING="true", MLFLOW_EXPERIMENT_ID=experiment))
    return experiment


def stored(experiment: str, request_id: str) -> Trace:
    """The trace as the tracking server has it."""
    (found,) = wait_for(
        lambda: mlflow.search_traces(
            locations=[experiment],
            filter_string=f"trace.client_request_id = '{request_id}'",
            return_type="list",
        )
    )
    return found


def spans(trace: Trace) -> list[tuple[Any, ...]]:
    """What was done, without what a server adds."""
    return [
        (span.span_id, span.name, span.parent_id, span.start_time_ns, span.end_time_ns, span.inputs, span.outputs)
        for span in trace.data.spans
    ]


def test_the_trace_comes_back_and_is_the_one_that_is_stored(client: WorkspaceClient, endpoint_name: str) -> None:
    experiment = traced(client, endpoint_name)
    deployments = get_deploy_client("databricks")
    answer = deployments.predict(endpoint=endpoint_name, inputs=say("hello", **ASKED))
    output = answer["databricks_output"]
    trace = Trace.from_dict(output["trace"])
    assert trace.info.client_request_id == output["databricks_request_id"]
    assert trace.info.state.value == "OK"
    assert trace.data.spans[0].outputs["output"][0]["content"][0]["text"] == "echo: hello"
    kept = stored(experiment, output["databricks_request_id"])
    assert kept.info.trace_id == trace.info.trace_id
    assert spans(kept) == spans(trace)
    # Nobody gets what was not asked for.
    plain = deployments.predict(endpoint=endpoint_name, inputs=say("hello"))
    assert "databricks_output" not in plain


def test_the_trace_is_the_last_event_of_a_stream(
    client: WorkspaceClient, openai_client: openai.OpenAI, endpoint_name: str
) -> None:
    experiment = traced(client, endpoint_name)
    stream = openai_client.responses.create(model=endpoint_name, input="one two", stream=True, extra_body=ASKED)
    *events, last = list(stream)
    assert "".join(event.delta for event in events[:-1]) == "echo: one two"
    assert events[-1].type == "response.output_item.done"
    output = last.model_extra["databricks_output"]
    trace = Trace.from_dict(output["trace"])
    assert trace.info.state.value == "OK"
    assert spans(stored(experiment, output["databricks_request_id"])) == spans(trace)
    # A stream that breaks ends with its error, as ever.
    broken = openai_client.responses.create(model=endpoint_name, input="one break", stream=True, extra_body=ASKED)
    *_, last = list(broken)
    assert set(last.model_extra["databricks_output"]) == {"error"}


def test_it_comes_with_chat_completions_too(
    client: WorkspaceClient, openai_client: openai.OpenAI, endpoint_name: str
) -> None:
    model = f"main.default.{endpoint_name.replace('-', '_')}"
    traced(client, endpoint_name, model=model, version=register("traced_chat_agent.py", model))
    hello: Any = [{"role": "user", "content": "hello"}]
    answer = openai_client.chat.completions.create(model=endpoint_name, messages=hello, extra_body=ASKED)
    assert answer.choices[0].message.content == "echo: hello"
    trace = Trace.from_dict(answer.model_extra["databricks_output"]["trace"])
    agent, tool = trace.data.spans
    assert (agent.name, agent.span_type, agent.parent_id) == ("predict", "AGENT", None)
    assert (tool.name, tool.span_type, tool.parent_id, tool.outputs) == ("look_up", "TOOL", agent.span_id, "hello")
    stream = openai_client.chat.completions.create(model=endpoint_name, messages=hello, stream=True, extra_body=ASKED)
    *_, last = list(stream)
    assert last.choices == []
    assert Trace.from_dict(last.model_extra["databricks_output"]["trace"]).info.state.value == "OK"


def test_an_agent_that_leaves_no_trace_has_none_to_return(
    client: WorkspaceClient, openai_client: openai.OpenAI, endpoint_name: str
) -> None:
    traced(client, endpoint_name, model=CHAT)
    hello: Any = [{"role": "user", "content": "hello"}]
    answer = openai_client.chat.completions.create(model=endpoint_name, messages=hello, extra_body=ASKED)
    assert list(answer.model_extra["databricks_output"]) == ["databricks_request_id"]
