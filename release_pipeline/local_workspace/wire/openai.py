"""The routes of the OpenAI client, whose base URL is ``<host>/serving-endpoints`` and whose model is an endpoint."""

import json
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from release_pipeline.local_workspace.serving.router import Router
from release_pipeline.local_workspace.wire.body import json_object, text

if TYPE_CHECKING:
    from release_pipeline.local_workspace.app import LocalWorkspace


def routes(workspace: "LocalWorkspace") -> list[Route]:
    """``chat/completions`` and ``responses``, streamed or not."""
    router: Router = workspace.serving.router

    async def responses(request: Request) -> Response:
        body = await json_object(request)
        endpoint = text(body, "model")
        if isinstance(body.get("input"), str):
            body["input"] = [{"role": "user", "content": body["input"]}]
        return await router.invoke(request, endpoint, body=json.dumps(body).encode())

    async def chat_completions(request: Request) -> Response:
        endpoint = text(await json_object(request), "model")
        return await router.invoke(request, endpoint, rewrite=_chat_rewrite(endpoint))

    return [
        Route("/serving-endpoints/responses", responses, methods=["POST"]),
        Route("/serving-endpoints/chat/completions", chat_completions, methods=["POST"]),
    ]


def _chat_rewrite(endpoint: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Turns a ChatAgent's answers and chunks into chat completions; what has ``choices`` already stays."""
    completion_id, created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())

    def rewrite(answer: dict[str, Any]) -> dict[str, Any]:
        envelope: dict[str, Any] = {"id": completion_id, "created": created, "model": endpoint}
        extra = {key: answer[key] for key in ("usage", "custom_outputs", "databricks_output") if key in answer}
        if "messages" in answer:
            last = answer["messages"][-1] if answer["messages"] else {"role": "assistant", "content": ""}
            choice = {"index": 0, "message": last, "finish_reason": answer.get("finish_reason") or "stop"}
            return envelope | {"object": "chat.completion", "choices": [choice]} | extra
        if "delta" in answer:
            choice = {"index": 0, "delta": answer["delta"], "finish_reason": answer.get("finish_reason")}
            return envelope | {"object": "chat.completion.chunk", "choices": [choice]} | extra
        if "databricks_output" in answer and "choices" not in answer:
            return envelope | {"object": "chat.completion.chunk", "choices": []} | extra
        return answer

    return rewrite
