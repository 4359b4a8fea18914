"""A DSPy agent with tools, as a ResponsesAgent; its language model is deterministic and runs where it stands.

It is asked for arithmetic such as ``3 * 4``: DSPy's ReAct asks the model for a thought and a tool, runs the tool, asks
again until the model has finished, and then for the answer.
"""

import json
import re
from collections.abc import Generator

import dspy
import mlflow
from dspy.lm15 import Message, Request, Response, TextPart, Usage
from mlflow.models import ModelConfig
from mlflow.pyfunc import ResponsesAgent
from mlflow.types.responses import (
    ResponsesAgentRequest,
    ResponsesAgentResponse,
    ResponsesAgentStreamEvent,
    to_chat_completions_input,
)


def add(a: int, b: int) -> int:
    """The sum of two numbers."""
    return a + b


def multiply(a: int, b: int) -> int:
    """The product of two numbers."""
    return a * b


SIGNS = {"add": "+", "multiply": "*"}


class Arithmetician:
    """An engine of DSPy's without weights: it answers in the fields that it is asked for."""

    def complete(self, request: Request) -> Response:
        """One answer to one request."""
        asked = request.messages[-1].text or ""
        fields = self._act(asked) if "[[ ## next_tool_name ## ]]" in asked else self._answer(asked)
        text = "\n\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in {**fields, "completed": ""}.items())
        usage = Usage(input_tokens=0, output_tokens=0, total_tokens=0)
        return Response(None, "arithmetician", Message.assistant([TextPart(text)]), "stop", usage)

    def _act(self, asked: str) -> dict[str, str]:
        question = _field(asked, "question")
        numbers = [int(digits) for digits in re.findall(r"\d+", question)]
        tools = [name for name, sign in SIGNS.items() if sign in question]
        if "observation_0" in asked or len(numbers) != 2 or not tools:
            return {"next_thought": "That is all.", "next_tool_name": "finish", "next_tool_args": "{}"}
        arguments = json.dumps({"a": numbers[0], "b": numbers[1]})
        return {"next_thought": "A tool knows.", "next_tool_name": tools[0], "next_tool_args": arguments}

    def _answer(self, asked: str) -> dict[str, str]:
        said = re.search(r"\[\[ ## observation_0 ## \]\]\s*(-?\d+)", asked)
        answer = f"the tool says {said[1]}" if said else "ask for a sum or a product of two numbers"
        return {"reasoning": "The tool's answer is the answer.", "answer": answer}


def _field(asked: str, name: str) -> str:
    found = re.search(rf"\[\[ ## {name} ## \]\]\s*(.*?)\s*(?=\[\[ ## |\Z)", asked, re.DOTALL)
    return found[1] if found else ""


class DspyAgent(ResponsesAgent):
    """DSPy's program behind the interface that is served."""

    def __init__(self) -> None:
        self._says = str(ModelConfig(development_config={"says": "draft"}).get("says"))
        self._program = dspy.ReAct("question -> answer", tools=[add, multiply], max_iters=3)
        self._program.set_lm(dspy.LM("arithmetician", engine=Arithmetician(), cache=False))

    def predict(self, request: ResponsesAgentRequest) -> ResponsesAgentResponse:
        events = self.predict_stream(request)
        items = [event.item for event in events if event.type == "response.output_item.done"]
        return ResponsesAgentResponse(output=items, custom_outputs=request.custom_inputs)

    def predict_stream(self, request: ResponsesAgentRequest) -> Generator[ResponsesAgentStreamEvent, None, None]:
        messages = to_chat_completions_input([item.model_dump() for item in request.input])
        text = f"{self._says}: {self._program(question=str(messages[-1]['content'])).answer}"
        for word in re.findall(r"\S+\s*", text):
            yield ResponsesAgentStreamEvent(**self.create_text_delta(delta=word, item_id="item-1"))
        yield ResponsesAgentStreamEvent(
            type="response.output_item.done", item=self.create_text_output_item(text=text, id="item-1")
        )


mlflow.models.set_model(DspyAgent())
