"""A ResponsesAgent that needs a key to do its work, and is careless with it: it prints what it was given."""

import hashlib
import hmac
import os

import mlflow
from mlflow.pyfunc import ResponsesAgent
from mlflow.types.responses import ResponsesAgentRequest, ResponsesAgentResponse


def nested(key: str) -> list[object]:
    """A value that is too deep for whoever walks through it without care."""
    value: list[object] = [key]
    for _ in range(300):
        value = [value]
    return value


class KeyedAgent(ResponsesAgent):
    """Signs what it is told with the key in its environment."""

    def predict(self, request: ResponsesAgentRequest) -> ResponsesAgentResponse:
        content = request.input[-1].model_dump()["content"]
        text = content if isinstance(content, str) else str(content[0]["text"])
        key = os.environ.get("SIGNING_KEY", "")  # there is none where the model is only tried
        print(f"signing with {key!r}")
        signed = hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest() if key else "not signed"
        if text == "break":
            mlflow.update_current_trace(tags={"signed with": key}, metadata={key: "key"}, request_preview=key)
            with mlflow.start_span(f"signing with {key}") as span:
                span.set_attributes({key: key, "deep": nested(key)})
            raise ValueError(f"cannot sign with {key}")
        return ResponsesAgentResponse(output=[self.create_text_output_item(text=signed, id="item-1")])


mlflow.models.set_model(KeyedAgent())
