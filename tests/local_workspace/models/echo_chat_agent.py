"""A ChatAgent that repeats the last message, at once or word by word."""

import os
import time
from collections.abc import Generator
from typing import Any

import mlflow
from mlflow.pyfunc import ChatAgent
from mlflow.types.agent import ChatAgentChunk, ChatAgentMessage, ChatAgentResponse, ChatContext


class EchoChatAgent(ChatAgent):
    def predict(
        self,
        messages: list[ChatAgentMessage],
        context: ChatContext | None = None,
        custom_inputs: dict[str, Any] | None = None,
    ) -> ChatAgentResponse:
        answer = ChatAgentMessage(role="assistant", content=f"echo: {messages[-1].content}", id="message-1")
        return ChatAgentResponse(messages=[answer])

    def predict_stream(
        self,
        messages: list[ChatAgentMessage],
        context: ChatContext | None = None,
        custom_inputs: dict[str, Any] | None = None,
    ) -> Generator[ChatAgentChunk, None, None]:
        for word in ("echo:", *str(messages[-1].content).split()):
            if word == "break":
                raise TimeoutError("the tool did not answer")
            while word.startswith("/") and not os.path.exists(word):
                time.sleep(0.01)
            yield ChatAgentChunk(delta=ChatAgentMessage(role="assistant", content=word + " ", id="message-1"))


mlflow.models.set_model(EchoChatAgent())
