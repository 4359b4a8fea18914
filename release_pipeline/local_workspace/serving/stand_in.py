"""The stand-in for a foundation model: chat completions without a model, the same answer to the same messages.

It says again what it was told, which is enough to try a client or an agent. It needs neither mlflow nor weights, so its
process is small.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from release_pipeline.local_workspace.serving.scoring_error import ScoringError


class StandIn:
    """Answers as a chat model's endpoint does: ``chat.completion``, or ``chat.completion.chunk`` events.

    ``max_tokens`` counts words; every other option of the request is accepted and changes nothing.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def predict(self, body: dict[str, Any] | bytes, content_type: str, request_id: str, invoker: str = "") -> bytes:
        """Answer one request; JSON.

        Raises:
            ScoringError: The request has no messages, or no number of tokens where it gives one.
        """
        asked, words, reason = _read(body)
        message = {"role": "assistant", "content": " ".join(words)}
        usage = {"prompt_tokens": asked, "completion_tokens": len(words), "total_tokens": asked + len(words)}
        choice = {"index": 0, "message": message, "finish_reason": reason}
        answer = self._envelope(body, "chat.completion") | {"choices": [choice], "usage": usage}
        return json.dumps(answer).encode()

    def predict_stream(self, body: dict[str, Any], request_id: str, invoker: str = "") -> Iterator[bytes]:
        """The same answer as events, a word each, and the reason of the end in the last.

        Raises:
            ScoringError: As `predict`, before the first event.
        """
        _, words, reason = _read(body)
        envelope = self._envelope(body, "chat.completion.chunk")
        for number, word in enumerate(words):
            delta = {"role": "assistant", "content": f" {word}" if number else word}
            yield json.dumps(envelope | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}).encode()
        yield json.dumps(envelope | {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}).encode()

    def close(self) -> None:
        """Nothing waits to be sent."""

    def _envelope(self, body: Any, kind: str) -> dict[str, Any]:
        # From the messages, and no time: equal requests have equal answers.
        digest = hashlib.sha256(json.dumps(body["messages"], sort_keys=True).encode()).hexdigest()
        return {"id": f"chatcmpl-{digest[:24]}", "object": kind, "created": 0, "model": self._name}


def _read(body: Any) -> tuple[int, list[str], str]:
    """Words of the request, words of the answer, and why the answer ends."""
    messages = body.get("messages") if isinstance(body, dict) else None
    if not isinstance(messages, list) or not messages or not all(isinstance(each, dict) for each in messages):
        raise _refused("messages must be a list with at least one object that has a role and a content")
    limit = body.get("max_tokens")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise _refused("max_tokens must be a whole number, 1 or more")
    texts = [_text(each.get("content")) for each in messages]
    users = [text for each, text in zip(messages, texts, strict=True) if each.get("role") == "user"]
    words = f"You said: {users[-1] if users else ''}".split()
    return sum(len(text.split()) for text in texts), words[:limit], "length" if limit and limit < len(words) else "stop"


def _text(content: Any) -> str:
    """What a message says; its content is text or a list of parts."""
    if isinstance(content, list):
        return " ".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _refused(sentence: str) -> ScoringError:
    return ScoringError(400, "INVALID_PARAMETER_VALUE", f"The request's {sentence}.")
