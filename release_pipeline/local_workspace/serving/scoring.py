"""The HTTP face of a scoring process: a bare ASGI application, because it is in the path of every request."""

import asyncio
import hmac
import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from release_pipeline.local_workspace.serving.redaction import traceback_text
from release_pipeline.local_workspace.serving.scoring_error import ScoringError

DONE = b"[DONE]"


class Model(Protocol):
    """What answers requests: :class:`model.ServedModel`, or :class:`stand_in.StandIn`."""

    def predict(self, body: dict[str, Any] | bytes, content_type: str, request_id: str, invoker: str = "") -> bytes:
        """The answer to one request."""
        ...

    def predict_stream(self, body: dict[str, Any], request_id: str, invoker: str = "") -> Iterator[bytes]:
        """The events of one streamed answer."""
        ...

    def close(self) -> None:
        """Send what is not sent."""
        ...


class ScoringApp:
    """Answers ``POST`` with the model's answer, as JSON or as server-sent events when ``"stream": true``.

    Args:
        model: What answers.
        key: What each request must carry as ``x-worker-key``.
        threads: How many requests it answers at a time.
    """

    def __init__(self, model: Model, key: str, threads: int) -> None:
        self._model = model
        self._key = key.encode()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="predict")

    def close(self) -> None:
        """Give the threads back and send what is not sent."""
        self._model.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; uvicorn calls this."""
        headers = dict(scope["headers"])
        raw = await _read(receive)
        if raw is None:
            return
        if not hmac.compare_digest(headers.get(b"x-worker-key", b""), self._key):
            await _answer(send, 401, b"{}")
            return
        request_id = headers.get(b"x-request-id", b"").decode()
        invoker = headers.get(b"x-invoker-token", b"").decode()
        content_type = headers.get(b"content-type", b"application/json").decode()
        try:
            body = _parse(raw, content_type)
            if isinstance(body, dict) and body.get("stream") is True and ("input" in body or "messages" in body):
                await self._stream(body, request_id, invoker, receive, send)
                return
            loop = asyncio.get_running_loop()
            answer = await loop.run_in_executor(
                self._threads, self._model.predict, body, content_type, request_id, invoker
            )
        except ScoringError as error:
            _log(error)
            await _answer(send, error.status, json.dumps(error.body).encode())
        else:
            await _answer(send, 200, answer)

    async def _stream(self, body: dict[str, Any], request_id: str, invoker: str, receive: Receive, send: Send) -> None:
        events: asyncio.Queue[bytes | ScoringError] = asyncio.Queue()
        gone = threading.Event()
        loop = asyncio.get_running_loop()

        def produce() -> None:
            # One thread runs the whole generator: mlflow binds its context to the thread that started it.
            last: bytes | ScoringError = DONE
            try:
                for event in self._model.predict_stream(body, request_id, invoker):
                    if gone.is_set():
                        break
                    loop.call_soon_threadsafe(events.put_nowait, event)
            except ScoringError as error:
                last = error
            except BaseException as error:  # whatever it is, somebody waits for the end of the stream
                last = ScoringError(500, "INTERNAL_ERROR", "The stream could not be made.")
                last.__cause__ = error
            loop.call_soon_threadsafe(events.put_nowait, last)

        self._threads.submit(produce)
        event = await events.get()
        if isinstance(event, ScoringError):
            raise event  # nothing was sent yet, so it is an ordinary error
        listener = asyncio.create_task(_wait_for_disconnect(receive, gone))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _headers(b"text/event-stream")})
            while event is not DONE and not gone.is_set():
                if isinstance(event, ScoringError):
                    _log(event)
                    event = json.dumps({"databricks_output": {"error": event.body}}).encode()
                    await send(_chunk(event))
                    break
                await send(_chunk(event))
                event = await events.get()
            await send(_chunk(DONE))
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.set()
            listener.cancel()


def _parse(raw: bytes, content_type: str) -> dict[str, Any] | bytes:
    if not content_type.startswith("application/json"):
        return raw
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ScoringError(400, "BAD_REQUEST", "The request body is not valid JSON.") from error
    if not isinstance(body, dict):
        raise ScoringError(400, "BAD_REQUEST", "The request body must be a JSON object.")
    return body


def _log(error: ScoringError) -> None:
    if error.__cause__ is not None:
        sys.stderr.write(traceback_text(error.__cause__))
        sys.stderr.flush()


async def _read(receive: Receive) -> bytes | None:
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def _wait_for_disconnect(receive: Receive, gone: threading.Event) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    gone.set()


def _headers(content_type: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"content-type", content_type)]


def _chunk(event: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": b"data: " + event + b"\n\n", "more_body": True}


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [*_headers(b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
