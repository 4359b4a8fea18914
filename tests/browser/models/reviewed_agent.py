"""An agent that says what reviewers have to see: sources, tool calls, HTML that must stay text, errors, its inputs."""

import json
import os
import time
import warnings
from collections.abc import Generator
from typing import Any

import mlflow
from mlflow.entities import SpanType
from mlflow.pyfunc import ResponsesAgent
from mlflow.types.responses import ResponsesAgentRequest, ResponsesAgentResponse, ResponsesAgentStreamEvent

HTML = "<img src=x onerror=\"document.title='taken over'\"><script>document.title='taken over'</script>"


class ReviewedAgent(ResponsesAgent):
    def predict(self, request: ResponsesAgentRequest) -> ResponsesAgentResponse:
        done = [event for event in self.predict_stream(request) if event.type == "response.output_item.done"]
        return ResponsesAgentResponse(output=[event.model_dump()["item"] for event in done])

    def predict_stream(self, request: ResponsesAgentRequest) -> Generator[ResponsesAgentStreamEvent, None, None]:
        said = [item.model_dump() for item in request.input]
        question = str(said[-1]["content"])
        self.retrieve(question)
        if question == "use a tool":
            call = self.create_function_call_item(id="c1", call_id="1", name="look_up", arguments='{"word": "x"}')
            yield ResponsesAgentStreamEvent(type="response.output_item.done", item=call)
            result = self.create_function_call_output_item(call_id="1", output=HTML)
            yield ResponsesAgentStreamEvent(type="response.output_item.done", item=result)
        yield ResponsesAgentStreamEvent(**self.create_text_delta(delta="I heard ", item_id="item-1"))
        if question.startswith("/"):
            while not os.path.exists(question):
                time.sleep(0.01)
        if question == "break":
            raise TimeoutError("the tool did not answer")
        rest = {"html": HTML, "inputs": json.dumps(request.custom_inputs)}.get(question, f"{len(said)} messages")
        yield ResponsesAgentStreamEvent(**self.create_text_delta(delta=rest, item_id="item-1"))
        item = self.create_text_output_item(text=f"I heard {rest}", id="item-1")
        yield ResponsesAgentStreamEvent(type="response.output_item.done", item=item)

    @mlflow.trace(name="shelves", span_type=SpanType.RETRIEVER)
    def retrieve(self, question: str) -> list[dict[str, Any]]:
        return [
            {"key": "a", "body": HTML, "where": "https://example.com/a"},
            {"key": "b", "body": f"about {question}", "where": "javascript:document.title='taken over'"},
        ]


with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # deprecated in open-source MLflow alone
    mlflow.models.set_retriever_schema(name="shelves", primary_key="key", text_column="body", doc_uri="where")
mlflow.models.set_model(ReviewedAgent())
