"""The models of docs/authoring.md do what the page says of them."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.docs.test_docs import PROJECT, blocks

pytestmark = pytest.mark.slow


def model(number: int) -> Any:
    """The model that the page's Python block sets, made as MLflow makes it."""
    code = blocks((PROJECT / "docs" / "authoring.md").read_text(encoding="utf-8"), "python")[number]
    made: dict[str, Any] = {"__name__": "agent"}
    exec(compile(code, "agent.py", "exec"), made)
    name = re.findall(r"^mlflow\.models\.set_model\((\w+)\(\)\)", code, re.MULTILINE)
    return made[name[0]]() if name else made["GraphAgent"]


def asked(text: str, **more: Any) -> Any:
    """A request with one message."""
    from mlflow.types.responses import ResponsesAgentRequest

    return ResponsesAgentRequest.model_validate({"input": [{"role": "user", "content": text}], **more})


@pytest.fixture(autouse=True)
def traces_go_to_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No workspace is asked for the retriever's span."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/traces.db")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


def test_the_agent_streams_what_it_answers() -> None:
    agent = model(0)
    request = asked("When do I get refunds?", custom_inputs={"tenant": "north"})
    whole = agent.predict(request)
    text = "The handbook says: refunds take ten days"
    assert whole.output[0].content[0]["text"] == text
    assert whole.custom_outputs == {"tenant": "north", "found": 1}
    *deltas, done = list(agent.predict_stream(request))
    assert "".join(event.delta for event in deltas).strip() == text
    assert {event.item_id for event in deltas} == {done.item["id"]}
    assert done.type == "response.output_item.done"


def test_the_classical_model_takes_the_example_of_its_yaml() -> None:
    import pandas as pd

    assert model(2).predict(None, pd.DataFrame.from_records([{"area": 50.0}])) == [100000.0]


def test_a_graph_is_wrapped() -> None:
    from langchain_core.messages import AIMessage

    class Graph:
        def stream(self, state: dict[str, Any], stream_mode: str) -> Any:
            assert stream_mode == "updates"
            said = state["messages"][-1]["content"]
            yield {"model": {"messages": [AIMessage(content=f"heard {said}", id="message-1")]}}

    agent = model(1)(Graph())
    (event,) = agent.predict_stream(asked("hello"))
    assert event.item["content"][0]["text"] == "heard hello"
    assert agent.predict(asked("hello")).output[0].content[0]["text"] == "heard hello"
