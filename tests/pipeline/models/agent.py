"""A ResponsesAgent that behaves as its configuration says: answers, raises, dies, sleeps, or leaves its stream open."""

import builtins
import os
import time
from collections.abc import Generator

import mlflow
from mlflow.models import ModelConfig
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR
from mlflow.pyfunc import ResponsesAgent
from mlflow.types.responses import ResponsesAgentRequest, ResponsesAgentResponse, ResponsesAgentStreamEvent


class ConfiguredAgent(ResponsesAgent):
    def __init__(self) -> None:
        self.config = ModelConfig(development_config={}).to_dict()
        wanted = self.config.get("needs_variable")
        if wanted and wanted not in os.environ:
            raise RuntimeError(f"the weights need the variable {wanted}")
        # Where the variable names no file, as in the process that logs the model, there is nothing to miss.
        if not os.path.exists(os.environ.get(self.config.get("needs_file_of", ""), "/")):
            raise RuntimeError("the weights are gone")

    def predict(self, request: ResponsesAgentRequest) -> ResponsesAgentResponse:
        text = self._answer(request)
        return ResponsesAgentResponse(output=[self.create_text_output_item(text=text, id="item-1")])

    def predict_stream(self, request: ResponsesAgentRequest) -> Generator[ResponsesAgentStreamEvent, None, None]:
        text = self._answer(request)
        yield ResponsesAgentStreamEvent(**self.create_text_delta(delta=text, item_id="item-1"))
        if raises := self.config.get("raises_in_stream"):
            raise getattr(builtins, raises)("the tool did not answer")
        if not self.config.get("leaves_stream_open"):
            item = self.create_text_output_item(text=text, id="item-1")
            yield ResponsesAgentStreamEvent(type="response.output_item.done", item=item)

    def _answer(self, request: ResponsesAgentRequest) -> str:
        content = request.input[-1].model_dump()["content"]
        text = content if isinstance(content, str) else str(content[0]["text"])
        word = self.config.get("raises_on")
        if word and word in text:
            raise ValueError(f"cannot answer about {word}")
        if self.config.get("fails_on", "\0") in text:
            time.sleep(float(self.config.get("hangs", 0)))
            raise mlflow.MlflowException("the index is gone", error_code=INTERNAL_ERROR)
        if self.config.get("dies_on", "\0") in text:
            os._exit(7)
        time.sleep(float(self.config.get("sleeps", 0)))
        return f"{self.config.get('says', 'echo')}: {text}"


mlflow.models.set_model(ConfiguredAgent())
