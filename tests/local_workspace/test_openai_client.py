"""The OpenAI client, with nothing but a base URL and a token."""

from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest

from tests.conftest import RunningWorkspace
from tests.local_workspace.conftest import AGENT, CHAT

Shared = Callable[[str], str]


@pytest.fixture
def openai_client(workspace: RunningWorkspace) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{workspace.url}/serving-endpoints", api_key=workspace.token, max_retries=0) as client:
        yield client


def test_responses(openai_client: openai.OpenAI, shared_endpoint: Shared) -> None:
    answer = openai_client.responses.create(model=shared_endpoint(AGENT), input="hello")
    assert answer.output_text == "echo: hello"
    messages = [{"role": "user", "content": "hello again"}]
    assert (
        openai_client.responses.create(model=shared_endpoint(AGENT), input=messages).output_text == "echo: hello again"
    )


def test_streamed_responses(openai_client: openai.OpenAI, shared_endpoint: Shared) -> None:
    stream = openai_client.responses.create(model=shared_endpoint(AGENT), input="one two", stream=True)
    *deltas, item = list(stream)
    assert "".join(event.delta for event in deltas) == "echo: one two"
    assert {event.type for event in deltas} == {"response.output_text.delta"}
    assert item.type == "response.output_item.done"
    assert item.item.content[0].text == "echo: one two"


def test_a_stream_that_breaks_says_so_in_its_last_event(openai_client: openai.OpenAI, shared_endpoint: Shared) -> None:
    stream = openai_client.responses.create(model=shared_endpoint(AGENT), input="one break", stream=True)
    *_, last = list(stream)
    assert last.model_extra["databricks_output"]["error"]["error_code"] == "BAD_REQUEST"


def test_custom_inputs(openai_client: openai.OpenAI, shared_endpoint: Shared) -> None:
    answer = openai_client.responses.create(
        model=shared_endpoint(AGENT), input="hello", extra_body={"custom_inputs": {"session": "s1"}}
    )
    assert answer.model_extra["custom_outputs"] == {"session": "s1"}


def test_chat_completions(openai_client: openai.OpenAI, shared_endpoint: Shared) -> None:
    answer = openai_client.chat.completions.create(
        model=shared_endpoint(CHAT), messages=[{"role": "user", "content": "hello"}]
    )
    assert answer.object == "chat.completion"
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("echo: hello", "stop")


def test_streamed_chat_completions(openai_client: openai.OpenAI, shared_endpoint: Shared) -> None:
    stream = openai_client.chat.completions.create(
        model=shared_endpoint(CHAT), messages=[{"role": "user", "content": "one two"}], stream=True
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content for chunk in chunks) == "echo: one two "
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1


def test_chat_chunks_arrive_while_the_agent_still_works(
    openai_client: openai.OpenAI, shared_endpoint: Shared, tmp_path: Path
) -> None:
    signal = tmp_path / "go"
    stream = openai_client.chat.completions.create(
        model=shared_endpoint(CHAT), messages=[{"role": "user", "content": f"one {signal} two"}], stream=True
    )
    assert [next(stream).choices[0].delta.content for _ in range(2)] == ["echo: ", "one "]
    signal.touch()  # the agent goes on only now
    assert [chunk.choices[0].delta.content for chunk in stream] == [f"{signal} ", "two "]


def test_a_chat_stream_that_breaks_says_so_in_its_last_chunk(
    openai_client: openai.OpenAI, shared_endpoint: Shared
) -> None:
    stream = openai_client.chat.completions.create(
        model=shared_endpoint(CHAT), messages=[{"role": "user", "content": "one break two"}], stream=True
    )
    *chunks, last = list(stream)
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["echo: ", "one "]
    error = last.model_extra["databricks_output"]["error"]
    assert error["error_code"] == "BAD_REQUEST"
    assert "the tool did not answer" in error["message"]


def test_errors(openai_client: openai.OpenAI, shared_endpoint: Shared) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        openai_client.responses.create(model="no-such-endpoint", input="hello")
    assert missing.value.body["error_code"] == "RESOURCE_DOES_NOT_EXIST"
    with pytest.raises(openai.BadRequestError, match="asked to fail"):
        openai_client.responses.create(model=shared_endpoint(AGENT), input="fail")
