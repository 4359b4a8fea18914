"""The way of a request: an entity by weight, its scoring process, a row for the inference table, the answer.

The path of every request, so it does little: the body is passed on as it came, and only looked into when it carries
a ``client_request_id``.
"""

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from release_pipeline.local_workspace.access import Access
from release_pipeline.local_workspace.caller import caller
from release_pipeline.local_workspace.errors import NotFound
from release_pipeline.local_workspace.serving.derived_rows import FEEDBACK
from release_pipeline.local_workspace.serving.endpoint import NOT_THERE, Endpoint, feedback_entity
from release_pipeline.local_workspace.serving.logged_row import is_logged, logged_row
from release_pipeline.local_workspace.serving.metrics import RequestCounters
from release_pipeline.local_workspace.serving.supervisor import POLL_SECONDS
from release_pipeline.local_workspace.serving.turn import Turn
from release_pipeline.local_workspace.settings import Settings
from release_pipeline.local_workspace.state.endpoint_configuration import ServedEntity

if TYPE_CHECKING:
    from starlette.requests import Request

COLD_START_SECONDS = 30.0
"""How long a request waits for a process that is being started again."""
CLIENT_GONE = 499
"""The status of the row of a stream whose client left before its end."""
EVENT_STREAM = "text/event-stream"
DONE = b"data: [DONE]"

Rewrite = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(slots=True)
class Exchange:
    """One request on its way, and what is needed to record it at its end."""

    endpoint: Endpoint
    entity: ServedEntity
    settings: Settings
    body: bytes
    content_type: str
    request_id: str
    arrived: float
    started: float
    requester: str

    def finish(self, status: int, response: bytes | None) -> None:
        """Count the request and write its row; nothing of the answer's end may be sent before.

        Args:
            status: The answer's HTTP status.
            response: The answer's body; None for one that is too large to be kept.
        """
        duration_ms = (time.perf_counter() - self.started) * 1000
        endpoint, faults = self.endpoint, self.settings.faults
        endpoint.counters[self.entity.name].count(status, duration_ms)
        logs = [endpoint.usage] if endpoint.usage is not None else []
        if endpoint.log is not None and is_logged(faults, self.request_id, status):
            logs.append(endpoint.log)
        if logs:
            row = logged_row(faults, endpoint.record.name, self.entity, self.body, response)
            row |= {
                "databricks_request_id": self.request_id,
                "request_ms": int(self.arrived * 1000),
                "status_code": status,
                "execution_duration_ms": int(duration_ms),
                "requester": self.requester,
                "ended": time.time(),
            }
            for log in logs:
                log.append(row)

    def headers(self) -> dict[str, str]:
        """What every answer carries."""
        return {"served-model-name": self.entity.name, "x-request-id": self.request_id}


class Router:
    """Sends requests to scoring processes."""

    def __init__(self, endpoints: dict[str, Endpoint], settings: Settings, access: Access) -> None:
        self._endpoints = endpoints
        self._access = access
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Open the connection pool."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
            # Processes answer on loopback; whatever proxy the user has is not for them.
            trust_env=False,
        )

    async def stop(self) -> None:
        """Close the connection pool."""
        if self._session is not None:
            await self._session.close()

    async def invoke(
        self,
        request: "Request",
        name: str,
        entity: str | None = None,
        *,
        body: bytes | None = None,
        rewrite: Rewrite | None = None,
    ) -> Response:
        """Answer one request to an endpoint, or to one of its entities.

        Args:
            request: What the client sent.
            name: The endpoint.
            entity: The served entity, when the client names it; otherwise the weights decide.
            body: What to send in place of the request's own body.
            rewrite: Applied to each JSON answer or event on its way to the client, not to what is logged.

        Raises:
            NotFound: There is no such endpoint or entity, or it is not deployed yet.
            PermissionDenied: The sender may not query the endpoint.
        """
        arrived, started = time.time(), time.perf_counter()
        content = await request.body() if body is None else body
        endpoint = self._endpoints.get(name)
        if endpoint is None:
            raise NotFound(NOT_THERE)
        self._access.require_endpoint(endpoint, "CAN_QUERY")
        requester = caller(self._settings.user_name)
        content_type = request.headers.get("content-type", "application/json")

        def exchange_with(served: ServedEntity) -> Exchange:
            request_id = str(uuid.uuid4())
            return Exchange(
                endpoint, served, self._settings, content, content_type, request_id, arrived, started, requester
            )

        if entity == FEEDBACK and (taker := feedback_entity(endpoint, self._settings.faults)) is not None:
            return _accept_feedback(exchange_with(taker))
        deployment = endpoint.choose() if entity is None else endpoint.named(entity)
        exchange = exchange_with(deployment.entity)
        if endpoint.limit is not None and not endpoint.limit.admit(requester):
            return self._refuse(
                exchange, 429, "RATE_LIMIT_EXCEEDED", "The rate limit of the endpoint is reached; try again later."
            )
        turn = Turn(deployment)
        try:
            if not await turn.begin(COLD_START_SECONDS):
                return self._refuse(
                    exchange,
                    429,
                    "REQUEST_LIMIT_EXCEEDED",
                    "Exceeded max number of parallel requests of the served entity; try again later, or give it a "
                    "larger workload size.",
                )
            upstream = await self._send(exchange, turn)
            if upstream is None:
                return self._refuse(
                    exchange, 503, "TEMPORARILY_UNAVAILABLE", "The served entity is being started; try again later."
                )
            if upstream.content_type == EVENT_STREAM:
                return _RelayedStream(exchange, turn.handed_over(), upstream, rewrite)
            try:
                answer = await upstream.read()
            except aiohttp.ClientError:
                return self._refuse(
                    exchange, 503, "TEMPORARILY_UNAVAILABLE", "The scoring process ended during the request."
                )
            exchange.finish(upstream.status, answer)
            if rewrite is not None and upstream.status == 200:
                answer = json.dumps(rewrite(json.loads(answer))).encode()
            return Response(answer, upstream.status, exchange.headers(), upstream.content_type)
        finally:
            turn.end()

    async def _send(self, exchange: Exchange, turn: Turn) -> aiohttp.ClientResponse | None:
        assert self._session is not None
        give_up = time.monotonic() + COLD_START_SECONDS
        while (process := turn.process) is not None:
            headers = {
                "content-type": exchange.content_type,
                "x-worker-key": process.key,
                "x-request-id": exchange.request_id,
            }
            if token := process.token_for(exchange.requester):
                headers["x-invoker-token"] = token
            try:
                return await self._session.post(process.url, data=exchange.body, headers=headers)
            except aiohttp.ClientConnectorError:
                # Nothing was sent: the process ended a moment ago, and another, or the next, can answer.
                if time.monotonic() > give_up:
                    return None
                await asyncio.sleep(POLL_SECONDS)
                await turn.again(COLD_START_SECONDS)
            except aiohttp.ClientError:
                return None
        return None

    def _refuse(self, exchange: Exchange, status: int, error_code: str, message: str) -> Response:
        answer = json.dumps({"error_code": error_code, "message": message}).encode()
        exchange.finish(status, answer)
        return Response(answer, status, exchange.headers(), "application/json")


def _accept_feedback(exchange: Exchange) -> Response:
    """Answer feedback as the service does: with success, whatever it is; what cannot be read is lost later."""
    exchange.endpoint.counters.setdefault(exchange.entity.name, RequestCounters())
    answer = b'{"predictions": {"result": "success"}}'
    exchange.finish(200, answer)
    return Response(answer, 200, exchange.headers(), "application/json")


class _RelayedStream(Response):
    """Passes events on as they come; the last one only after the row is written."""

    def __init__(
        self, exchange: Exchange, turn: Turn, upstream: aiohttp.ClientResponse, rewrite: Rewrite | None
    ) -> None:
        super().__init__(None, 200, exchange.headers(), EVENT_STREAM)
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-cache"
        self._exchange = exchange
        self._turn = turn
        self._upstream = upstream
        self._rewrite = rewrite
        self._events: list[bytes] = []
        self._logged_bytes = 0
        self._recorded = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = CLIENT_GONE
        relay = asyncio.create_task(self._relay(send))
        listener = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait((relay, listener), return_when=asyncio.FIRST_COMPLETED)
            if relay.done():
                relay.result()
                status = 200
        finally:
            relay.cancel()
            listener.cancel()
            if status == 200:
                self._upstream.release()
            else:
                self._upstream.close()
                self._record(status)
            self._turn.end()
        if status == 200:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _relay(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        buffer, ended = b"", False
        try:
            async for data, _ in self._upstream.content.iter_chunks():
                *events, buffer = (buffer + data).split(b"\n\n")
                for event in events:
                    if event == DONE:
                        ended = True
                        continue
                    self._keep(event)
                    await send(_body(self._rewritten(event)))
        except aiohttp.ClientError:
            ended = False
        if not ended:
            error = {"error_code": "TEMPORARILY_UNAVAILABLE", "message": "The scoring process ended during the stream."}
            event = b"data: " + json.dumps({"databricks_output": {"error": error}}).encode()
            self._keep(event)
            await send(_body(event))
        self._record(200)
        await send(_body(DONE))

    def _keep(self, event: bytes) -> None:
        event = event.removeprefix(b"data: ")
        self._logged_bytes += len(event)
        if self._logged_bytes <= self._exchange.settings.faults.body_limit_bytes:
            self._events.append(event)
        else:
            self._events.clear()  # the row of a longer stream has none of it

    def _record(self, status: int) -> None:
        if not self._recorded:
            self._recorded = True
            whole = self._events or not self._logged_bytes
            self._exchange.finish(status, b"[" + b",".join(self._events) + b"]" if whole else None)

    def _rewritten(self, event: bytes) -> bytes:
        if self._rewrite is None:
            return event
        return b"data: " + json.dumps(self._rewrite(json.loads(event.removeprefix(b"data: ")))).encode()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _body(event: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": event + b"\n\n", "more_body": True}
