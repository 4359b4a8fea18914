"""An agent of the OpenAI SDK: it asks a foundation model of the workspace, whose name its configuration says."""

from collections.abc import Generator

import mlflow
import openai
from databricks.sdk import WorkspaceClient
from mlflow.models import ModelConfig
from mlflow.pyfunc import ResponsesAgent
from mlflow.types.responses import (
    ResponsesAgentRequest,
    ResponsesAgentResponse,
    ResponsesAgentStreamEvent,
    to_chat_completions_input,
)


class OpenAIAgent(ResponsesAgent):
    """Hands the conversation on, and the answer back as it comes."""

    def __init__(self) -> None:
        config = ModelConfig(development_config={"says": "draft", "llm_endpoint": ""})
        self._says, self._endpoint = str(config.get("says")), str(config.get("llm_endpoint"))

    def predict(self, request: ResponsesAgentRequest) -> ResponsesAgentResponse:
        events = self.predict_stream(request)
        items = [event.item for event in events if event.type == "response.output_item.done"]
        return ResponsesAgentResponse(output=items, custom_outputs=request.custom_inputs)

    def predict_stream(self, request: ResponsesAgentRequest) -> Generator[ResponsesAgentStreamEvent, None, None]:
        workspace = WorkspaceClient()
        token = workspace.config.authenticate()["Authorization"].removeprefix("Bearer ")
        text = f"{self._says}: "
        yield ResponsesAgentStreamEvent(**self.create_text_delta(delta=text, item_id="item-1"))
        with openai.OpenAI(base_url=f"{workspace.config.host}/serving-endpoints", api_key=token) as client:
            answer = client.chat.completions.create(
                model=self._endpoint,
                messages=to_chat_completions_input([item.model_dump() for item in request.input]),
                stream=True,
            )
            for chunk in answer:
                if piece := chunk.choices[0].delta.content:
                    text += piece
                    yield ResponsesAgentStreamEvent(**self.create_text_delta(delta=piece, item_id="item-1"))
        yield ResponsesAgentStreamEvent(
            type="response.output_item.done", item=self.create_text_output_item(text=text, id="item-1")
        )


mlflow.models.set_model(OpenAIAgent())
