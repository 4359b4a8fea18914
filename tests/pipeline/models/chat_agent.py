"""A ChatAgent that speaks as its configuration says, and answers nobody who does not say which tenant is asking."""

from collections.abc import Generator
from typing import Any

import mlflow
from mlflow.models import ModelConfig
from mlflow.pyfunc import ChatAgent
from mlflow.types.agent import ChatAgentChunk, ChatAgentMessage, ChatAgentResponse, ChatContext


class TenantsAgent(ChatAgent):
    def __init__(self) -> None:
        self.says = str(ModelConfig(development_config={"says": "under development"}).get("says"))

    def predict(
        self,
        messages: list[ChatAgentMessage],
        context: ChatContext | None = None,
        custom_inputs: dict[str, Any] | None = None,
    ) -> ChatAgentResponse:
        message = ChatAgentMessage(role="assistant", content=f"{self.says}: {messages[-1].content}", id="message-1")
        return ChatAgentResponse(messages=[message], custom_outputs={"tenant": _tenant(custom_inputs)})

    def predict_stream(
        self,
        messages: list[ChatAgentMessage],
        context: ChatContext | None = None,
        custom_inputs: dict[str, Any] | None = None,
    ) -> Generator[ChatAgentChunk, None, None]:
        tenant = _tenant(custom_inputs)
        for word in (f"{self.says}:", *str(messages[-1].content).split()):
            yield ChatAgentChunk(
                delta=ChatAgentMessage(role="assistant", content=f"{word} ", id="message-1"),
                custom_outputs={"tenant": tenant},
            )


def _tenant(custom_inputs: dict[str, Any] | None) -> str:
    if not custom_inputs or "tenant" not in custom_inputs:
        raise ValueError("the request names no tenant in its custom_inputs")
    return str(custom_inputs["tenant"])


mlflow.models.set_model(TenantsAgent())
