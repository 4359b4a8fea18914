"""Releases from log to alias of other models than the usual agent: ChatAgent, LangGraph, OpenAI SDK, classical."""

import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from dagster import DagsterInstance

from release_pipeline.gate.verdict import Action
from release_pipeline.spec import parse_spec
from release_pipeline.workspace.client import connect
from release_pipeline.workspace.foundation_models import foundation_models
from tests.conftest import RunningWorkspace
from tests.pipeline.checkpoint import World
from tests.pipeline.conftest import Model, write_folder
from tests.pipeline.test_assets import Project

pytestmark = [
    pytest.mark.slow,
    # mlflow's evaluation uses what pydantic and pandas have renamed; it is theirs to change.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow.*", "ignore::FutureWarning:mlflow.*"),
    # It would rather have type hints, which a model of tables cannot give.
    pytest.mark.filterwarnings("ignore:.*[Tt]ype hint.*:UserWarning"),
]

LANGGRAPH = pytest.param(
    "langgraph_agent",
    marks=pytest.mark.skipif(
        importlib.util.find_spec("langgraph") is None, reason="the package langgraph is not installed"
    ),
)


@dataclass(frozen=True)
class Case:
    """One kind of model.

    Attributes:
        source: The model's file.
        config: Its configuration: a YAML file, or the mapping itself.
        request: A request as clients send it; the example that is logged.
        answer: What the endpoint's answer holds.
        rows: Requests of the evaluation set, the same question in every form that there is.
        expected: What stands in the answer to each row, as JSON.
        streamed: The text of the stream that answers the request; None where the model does not stream.
        asks: Task of the foundation model that it asks, whose name is found at run time; empty where it asks none.
    """

    source: str
    config: str | dict[str, Any] | None
    request: dict[str, Any]
    answer: dict[str, Any]
    rows: tuple[dict[str, Any], ...]
    expected: str
    streamed: str | None = None
    asks: str = ""


MESSAGES = {"messages": [{"role": "user", "content": "hello"}], "custom_inputs": {"tenant": "north"}}
SPLIT = {"dataframe_split": {"columns": ["area"], "data": [[2.0], [5.0]]}}
RECORDS = {"dataframe_records": [{"area": 2.0}, {"area": 5.0}]}
TEXTS = {"inputs": ["a word", "words and words"]}
GREETING = {"input": [{"role": "user", "content": "hello"}]}
QUESTION = {"input": [{"role": "user", "content": "What is 6 * 7?"}], "custom_inputs": {"session": "s-1"}}

CASES = {
    "chat_agent": Case(
        "chat_agent.py",
        "first.yaml",
        MESSAGES,
        {
            "messages": [{"role": "assistant", "content": "first: hello", "id": "message-1"}],
            "custom_outputs": {"tenant": "north"},
        },
        (MESSAGES,),
        "first: hello",
        "first: hello ",
    ),
    "table_model": Case(
        "price_model.py",
        {"rate": 3.0},
        SPLIT,
        {"predictions": [{"area": 6.0}, {"area": 15.0}]},
        (SPLIT, RECORDS, {"inputs": {"area": [2.0, 5.0]}}),
        '{"area": 15.0}',
    ),
    "text_model": Case(
        "length_model.py", None, TEXTS, {"predictions": ["short", "long"]}, (TEXTS,), '["short", "long"]'
    ),
    "langgraph_agent": Case(
        "langgraph_agent.py",
        "first.yaml",
        QUESTION,
        {
            "output": [
                {
                    "type": "function_call",
                    "id": "call-1",
                    "call_id": "call-1",
                    "name": "multiply",
                    "arguments": '{"a": 6, "b": 7}',
                },
                {"type": "function_call_output", "call_id": "call-1", "output": "42"},
                {
                    "type": "message",
                    "id": "message-3",
                    "role": "assistant",
                    "content": [{"type": "output_text", "text": "first: the tool multiply says 42", "annotations": []}],
                },
            ],
            "custom_outputs": {"session": "s-1"},
        },
        (QUESTION,),
        "the tool multiply says 42",
        "first: the tool multiply says 42",
    ),
    # Its framework is installed apart: see tests/dspy.
    "dspy_agent": Case(
        "dspy_agent.py",
        {"says": "first"},
        QUESTION,
        {
            "output": [
                {
                    "type": "message",
                    "id": "item-1",
                    "role": "assistant",
                    "content": [{"type": "output_text", "text": "first: the tool says 42", "annotations": []}],
                },
            ],
            "custom_outputs": {"session": "s-1"},
        },
        (QUESTION,),
        "the tool says 42",
        "first: the tool says 42",
    ),
    "openai_agent": Case(
        "openai_agent.py",
        {"says": "first"},
        GREETING,
        {
            "output": [
                {
                    "type": "message",
                    "id": "item-1",
                    "role": "assistant",
                    "content": [{"type": "output_text", "text": "first: You said: hello", "annotations": []}],
                },
            ],
        },
        (GREETING,),
        "You said: hello",
        "first: You said: hello",
        "llm/v1/chat",
    ),
}


class Asked(Model):
    """A model that is asked with the request of its case."""

    request: dict[str, Any]

    def post(self, **more: Any) -> requests.Response:
        """One request to the endpoint."""
        headers = {"Authorization": f"Bearer {os.environ['DATABRICKS_TOKEN']}"}
        body = {**self.request, **more}
        return requests.post(self.parts().endpoint.query_url, json=body, headers=headers, timeout=60)

    def ask(self, count: int, text: str = "") -> list[int]:
        """Real requests to the endpoint; their statuses."""
        return [self.post().status_code for _ in range(count)]


@pytest.fixture
def make_project(
    workspace: RunningWorkspace, instance: DagsterInstance, tmp_path: Path
) -> Iterator[Callable[[str], Project]]:
    """The project of a case, whose endpoint is deleted after the test."""
    with ExitStack() as stack:

        def make(name: str) -> Project:
            case = CASES[name]
            found = [each.endpoint for each in foundation_models(connect(), case.asks)] if case.asks else []
            config = (
                {**case.config, "llm_endpoint": found[0]} if isinstance(case.config, dict) and found else case.config
            )
            file = write_folder(
                tmp_path / name,
                f"whole_{name}",
                model={
                    "source": case.source,
                    "config": config,
                    "input_example": case.request,
                    "resources": [{"type": "serving_endpoint", "name": each} for each in found],
                },
                evaluation={
                    "dataset": "evaluation.jsonl",
                    "scorers": ["answered", "contains_expected", "scorers.py:brief"],
                    "thresholds": {"answered": 1.0, "scorers.py:brief": 0.9},
                },
            )
            (file.parent / "scorers.py").write_text(SCORERS)
            rows = [{"inputs": row, "expectations": {"answer": case.expected}} for row in case.rows]
            (file.parent / "evaluation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            model = Asked(parse_spec(yaml.safe_load(file.read_text())["attributes"], file=file), _unused)
            model.request = case.request
            stack.callback(lambda: model.parts().endpoint.delete())
            return Project(file, model, instance)

        yield make


SCORERS = """
def brief(outputs, expectations):
    return len(str(outputs)) < 2000 and bool(expectations["answer"])
"""


def _unused(config: str) -> Any:
    raise AssertionError("the chain logs its models itself")


def text_of(stream: bytes) -> str:
    """The text that the events of a stream add up to."""
    events = [json.loads(line.removeprefix(b"data: ")) for line in stream.split(b"\n\n") if line.startswith(b"data: {")]
    deltas = [event["delta"] for event in events if "delta" in event]
    return "".join(delta if isinstance(delta, str) else delta["content"] for delta in deltas)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["chat_agent", "table_model", "text_model", LANGGRAPH, "openai_agent"])
def test_a_release_from_log_to_alias(name: str, make_project: Callable[[str], Project]) -> None:
    goes_from_log_to_alias(name, make_project)


def goes_from_log_to_alias(name: str, make_project: Callable[[str], Project]) -> None:
    """A first release of a case's model, evaluated, asked and promoted."""
    case, release = CASES[name], "20260101-000001"
    project = make_project(name)
    model = project.model
    assert isinstance(model, Asked)
    assert project.run("release", release).success
    assert project.metadata("evaluation", release)["contains_expected_challenger"] == 1.0
    assert project.metadata("evaluation", release)["brief_challenger"] == 1.0
    assert project.metadata("predeploy_predict", release)["requests"] == 1 + len(case.rows)
    answer = model.post().json()
    assert {key: answer[key] for key in case.answer} == case.answer
    if case.streamed is not None:
        assert text_of(model.post(stream=True).content) == case.streamed
    project.until(release, Action.PROMOTE)
    assert project.run("promote", release).success
    world = World.of(model)
    assert (world.alias, world.shares) == ("1", {"1": 100})
