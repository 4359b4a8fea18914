"""The first event of a stream is with the client before the last one is made, whichever client asks."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from mlflow.deployments import get_deploy_client

from tests.conftest import RunningWorkspace
from tests.local_workspace.conftest import AGENT, say

Shared = Callable[[str], str]


def by_deployments(workspace: RunningWorkspace, endpoint: str, text: str) -> Iterator[Any]:
    return iter(get_deploy_client("databricks").predict_stream(endpoint=endpoint, inputs=say(text)))  # type: ignore[no-untyped-call]


def by_openai(workspace: RunningWorkspace, endpoint: str, text: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{workspace.url}/serving-endpoints", api_key=workspace.token, max_retries=0) as client:
        for event in client.responses.create(model=endpoint, input=text, stream=True):
            yield event.model_dump()


@pytest.mark.parametrize("ask", [by_deployments, by_openai])
def test_events_arrive_while_the_model_still_works(
    ask: Callable[[RunningWorkspace, str, str], Iterator[Any]],
    workspace: RunningWorkspace,
    shared_endpoint: Shared,
    tmp_path: Path,
) -> None:
    signal = tmp_path / "go"
    arriving = ask(workspace, shared_endpoint(AGENT), f"one {signal} two")
    assert [next(arriving)["delta"] for _ in range(2)] == ["echo:", " one"]
    signal.touch()  # the model goes on only now
    *deltas, item = list(arriving)
    assert [event["delta"] for event in deltas] == [f" {signal}", " two"]
    assert item["type"] == "response.output_item.done"
