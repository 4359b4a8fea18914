"""A ResponsesAgent that repeats what it is told, or misbehaves when it is told to."""

import asyncio
import base64
import os
import pathlib
import sys
import time
from collections.abc import Generator

import mlflow
from mlflow.pyfunc import ResponsesAgent
from mlflow.types.responses import ResponsesAgentRequest, ResponsesAgentResponse, ResponsesAgentStreamEvent

if os.path.exists(os.environ.get("UNLOADABLE_WHILE", "")):
    raise RuntimeError("the weights are missing for a while")


if "UNLOADABLE_WITH" in os.environ:
    raise RuntimeError(f"it does not load with {os.environ['UNLOADABLE_WITH']}")


class EchoAgent(ResponsesAgent):
    def predict(self, request: ResponsesAgentRequest) -> ResponsesAgentResponse:
        text = _last_text(request)
        if text == "fail":
            raise ValueError(f"asked to fail, token {_credentials()}")
        if text == "exit":
            sys.exit("asked to exit")
        if text.startswith("tell "):
            _tell(text)
        if text.startswith("length "):
            text = str(len(os.environ[text.split()[1]]))
        if text == "die":
            os._exit(7)
        if text.startswith("sleep "):
            time.sleep(float(text.split()[1]))
        if text.startswith("env "):
            text = os.environ.get(text.split()[1], "unset")
        usage = {"input_tokens": 7, "output_tokens": 5, "total_tokens": 12} if text == "count" else None
        details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
        item = self.create_text_output_item(text=f"echo: {text}", id="item-1")
        return ResponsesAgentResponse(
            output=[item], custom_outputs=request.custom_inputs, usage=usage and usage | details
        )

    def predict_stream(self, request: ResponsesAgentRequest) -> Generator[ResponsesAgentStreamEvent, None, None]:
        text = _last_text(request)
        if text == "fail":
            raise ValueError("asked to fail")
        if text == "exit":
            sys.exit("asked to exit")
        if text.startswith("tell "):
            _tell(text)
        words = ["echo:", *text.split()]
        for number, word in enumerate(words):
            if word == "break":
                raise TimeoutError("the tool did not answer")
            if word == "cancelled":
                raise asyncio.CancelledError("a loop of its own was ended")
            if word == "unfinished":
                raise NotImplementedError("the tool is not written")
            if word == "die":
                os._exit(7)
            while word.startswith("/") and not os.path.exists(word):
                time.sleep(0.01)
            space = " " if number else ""
            yield ResponsesAgentStreamEvent(**self.create_text_delta(delta=space + word, item_id="item-1"))
        item = self.create_text_output_item(text=" ".join(words), id="item-1")
        yield ResponsesAgentStreamEvent(type="response.output_item.done", item=item)


def _tell(text: str) -> None:
    value = os.environ[text.split()[1]]
    print("printed", value, "and", base64.b64encode(value.encode()).decode(), flush=True)
    raise ValueError(f"the variable is {value}")


def _credentials() -> str:
    return (pathlib.Path(os.environ["SERVING_CREDENTIALS_DIR"]) / "model-dependencies-oauth-token").read_text()


def _last_text(request: ResponsesAgentRequest) -> str:
    content = request.input[-1].model_dump()["content"]
    return content if isinstance(content, str) else str(content[0]["text"])


mlflow.models.set_model(EchoAgent())
