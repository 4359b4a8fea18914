"""A LangGraph agent with tools, as a ResponsesAgent; its chat model is deterministic and runs where it stands.

It is asked for arithmetic such as ``3 * 4`` or ``add 3 and 4``: the model calls a tool, the graph runs it, and the
model answers with what the tool said.
"""

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import mlflow
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool, tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from mlflow.models import ModelConfig
from mlflow.pyfunc import ResponsesAgent
from mlflow.types.responses import (
    ResponsesAgentRequest,
    ResponsesAgentResponse,
    ResponsesAgentStreamEvent,
    output_to_responses_items_stream,
    to_chat_completions_input,
)

SIGNS = {"add": "+", "multiply": "*"}


@tool
def add(a: int, b: int) -> int:
    """The sum of two numbers."""
    return a + b


@tool
def multiply(a: int, b: int) -> int:
    """The product of two numbers."""
    return a * b


class Arithmetician(BaseChatModel):
    """A chat model without weights: it calls the tool that the question names, then says what the tool said."""

    says: str
    tools: tuple[str, ...] = ()

    @property
    def _llm_type(self) -> str:
        return "arithmetician"

    def bind_tools(
        self, tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool], **options: Any
    ) -> Runnable[Any, AIMessage]:
        names = tuple(each.name for each in tools if isinstance(each, BaseTool))
        return self.model_copy(update={"tools": names})

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **options: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._answer(messages))])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **options: Any,
    ) -> Iterator[ChatGenerationChunk]:
        answer = self._answer(messages)
        if answer.tool_calls:
            chunk = AIMessageChunk(content="", id=answer.id, tool_calls=answer.tool_calls)
            yield ChatGenerationChunk(message=chunk)
        for word in re.findall(r"\S+\s*", str(answer.content)):
            piece = ChatGenerationChunk(message=AIMessageChunk(content=word, id=answer.id))
            if run_manager is not None:
                run_manager.on_llm_new_token(word, chunk=piece)
            yield piece

    def _answer(self, messages: list[BaseMessage]) -> AIMessage:
        last = messages[-1]
        number = f"message-{len(messages)}"
        if isinstance(last, ToolMessage):
            return AIMessage(content=f"{self.says}: the tool {last.name} says {last.content}", id=number)
        text = str(last.text)
        found = [int(digits) for digits in re.findall(r"\d+", text)]
        wanted = [name for name in self.tools if name in text or SIGNS[name] in text]
        if len(found) != 2 or not wanted:
            return AIMessage(content=f"{self.says}: ask for a sum or a product of two numbers", id=number)
        call = {"name": wanted[0], "args": {"a": found[0], "b": found[1]}, "id": f"call-{len(messages)}"}
        return AIMessage(content="", id=number, tool_calls=[call])


def graph(says: str) -> Any:
    """Model, tools and the way between them: a question goes round until the model calls no tool any more."""
    tools = [add, multiply]
    model = Arithmetician(says=says).bind_tools(tools)
    made = StateGraph(MessagesState)
    made.add_node("model", lambda state: {"messages": [model.invoke(state["messages"])]})
    made.add_node("tools", ToolNode(tools))
    made.add_edge(START, "model")
    made.add_conditional_edges("model", tools_condition)
    made.add_edge("tools", "model")
    return made.compile()


class GraphAgent(ResponsesAgent):
    """The graph behind the interface that is served."""

    def __init__(self) -> None:
        self._graph = graph(str(ModelConfig(development_config={"says": "draft"}).get("says")))

    def predict(self, request: ResponsesAgentRequest) -> ResponsesAgentResponse:
        events = self.predict_stream(request)
        items = [event.item for event in events if event.type == "response.output_item.done"]
        return ResponsesAgentResponse(output=items, custom_outputs=request.custom_inputs)

    def predict_stream(self, request: ResponsesAgentRequest) -> Generator[ResponsesAgentStreamEvent, None, None]:
        messages = to_chat_completions_input([item.model_dump() for item in request.input])
        for kind, news in self._graph.stream({"messages": messages}, stream_mode=["updates", "messages"]):
            if kind == "updates":
                for update in news.values():
                    yield from output_to_responses_items_stream(update["messages"])
            elif isinstance(news[0], AIMessageChunk) and news[0].content:
                yield ResponsesAgentStreamEvent(
                    **self.create_text_delta(delta=str(news[0].content), item_id=str(news[0].id))
                )


mlflow.models.set_model(GraphAgent())
