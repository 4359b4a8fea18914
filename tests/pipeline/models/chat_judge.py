"""A chat model that judges by a rule: what is worth a number gets it, else idiots are no and all others are yes."""

import json
import re
from typing import Any

import mlflow
from mlflow.pyfunc.model import ChatModel
from mlflow.types.llm import ChatChoice, ChatCompletionResponse, ChatMessage, ChatParams


class ChatJudge(ChatModel):
    def predict(  # type: ignore[override]
        self, context: Any, messages: list[ChatMessage], params: ChatParams
    ) -> ChatCompletionResponse:
        asked = str(messages[-1].content)
        worth = re.search(r"worth ([0-9])", asked)
        result: int | str = int(worth[1]) if worth else "no" if "idiot" in asked else "yes"
        said = json.dumps({"rationale": "by the rule", "result": result}) if "mumble" not in asked else "hm, hm"
        choice = ChatChoice(message=ChatMessage(role="assistant", content=said))
        return ChatCompletionResponse(id="answer-1", model="chat_judge", choices=[choice])


mlflow.models.set_model(ChatJudge())
