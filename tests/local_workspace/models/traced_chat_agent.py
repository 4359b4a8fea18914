"""A ChatAgent that traces what it does, with a tool in it; mlflow by itself traces no ChatAgent."""

from collections.abc import Generator
from typing import Any

import mlflow
from mlflow.pyfunc import ChatAgent
from mlflow.types.agent import ChatAgentChunk, ChatAgentMessage, ChatAgentResponse, ChatContext


@mlflow.trace(span_type="TOOL")
def look_up(text: str) -> str:
    return text


class TracedAgent(ChatAgent):
    @mlflow.trace(span_type="AGENT")
    def predict(
        self,
        messages: list[ChatAgentMessage],
        context: ChatContext | None = None,
        custom_inputs: dict[str, Any] | None = None,
    ) -> ChatAgentResponse:
        text = f"echo: {look_up(str(messages[-1].content))}"
        return ChatAgentResponse(messages=[ChatAgentMessage(role="assistant", content=text, id="message-1")])

    @mlflow.trace(span_type="AGENT")
    def predict_stream(
        self,
        messages: list[ChatAgentMessage],
        context: ChatContext | None = None,
        custom_inputs: dict[str, Any] | None = None,
    ) -> Generator[ChatAgentChunk, None, None]:
        for word in ("echo:", look_up(str(messages[-1].content))):
            yield ChatAgentChunk(delta=ChatAgentMessage(role="assistant", content=word, id="message-1"))


mlflow.models.set_model(TracedAgent())
