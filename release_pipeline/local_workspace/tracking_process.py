"""mlflow's tracking server as the workspace sees it: a process of its own, and the way of requests to it and back."""

import asyncio
import io
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
from starlette.requests import Request
from starlette.types import Receive, Scope, Send
from yarl import URL

from release_pipeline.local_workspace.errors import ApiError
from release_pipeline.local_workspace.tracking_start import KEY_HEADER, StartedServer, start_tracking_server

logger = logging.getLogger(__name__)

_START_SECONDS: Final = 120
_STOP_SECONDS: Final = 10
#: Between two starts where the first has failed: clients come again and again.
_PAUSE_SECONDS: Final = 5
#: How soon the end of a process is seen that no longer answers.
_END_SECONDS: Final = 2
#: Of a request and of its answer what belongs to one connection, and what only the workspace itself has to know.
_NOT_PASSED_ON: Final = frozenset(
    {b"authorization", b"connection", b"content-length", b"date", b"expect", b"host", b"keep-alive", b"server"}
    | {b"transfer-encoding", b"upgrade", KEY_HEADER.encode()}
)
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class _Server:
    """A process that listens, and where."""

    started: StartedServer
    address: str


class TrackingProcess:
    """The tracking server of mlflow over ``<data_dir>/mlflow.db``, as an ASGI application.

    What it stores costs processor time, 20 ms for a trace, which in the workspace's own process would be taken from the
    requests to served models. It takes seconds to start, which nobody but its own requests waits for. Where it has
    ended the next request starts another.

    Args:
        data_dir: The workspace's folder.
        started: A server over that folder that was started already; None: ``start`` does it.
    """

    def __init__(self, data_dir: Path, started: StartedServer | None) -> None:
        self._data_dir = data_dir
        self._started = started
        self._starting: asyncio.Task[_Server] | None = None
        self._failed_at = float("-inf")
        self._session: aiohttp.ClientSession | None = None

    def start(self) -> None:
        """Begin to wait for it; must be called in the event loop that will pass requests on."""
        # As it comes: what is compressed stays so, and cookies are the client's own.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        )
        self._starting = asyncio.create_task(self._wait_for(self._started))

    async def stop(self) -> None:
        """End it; what it has answered is stored."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        await self._end()
        if self._session is not None:
            await self._session.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on once the server runs, and its answer back as it comes.

        Raises:
            ApiError: It cannot be started, or does not answer.
        """
        body = await Request(scope, receive).body()
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        target = (scope["raw_path"] + query).decode("latin-1")
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in _passed_on(scope["headers"])]
        answer = await self._send(scope["method"], target, headers, body)
        async with answer:
            # An answer that breaks off breaks off here, too: uvicorn closes the connection.
            start = {"type": "http.response.start", "status": answer.status, "headers": _answered(answer)}
            await send(start)
            async for chunk in answer.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    async def _send(
        self, method: str, target: str, headers: list[tuple[str, str]], body: bytes
    ) -> aiohttp.ClientResponse:
        """Send a request, to the next server as well where the first has ended and nothing can have been done twice."""
        assert self._session is not None
        for again in (False, True):
            server = await self._running()
            # As it was sent: a path whose dots were resolved would be another than the one that was checked.
            url = URL(server.address + target, encoded=True)
            own = [*headers, (KEY_HEADER, server.started.key)]
            try:
                return await self._session.request(
                    method, url, headers=own, data=io.BytesIO(body) if body else None, allow_redirects=False
                )
            except aiohttp.ClientError as error:
                # aiohttp itself repeats some methods on a connection that broke, so that only these were not sent.
                unsent = isinstance(error, aiohttp.ClientConnectorError) and method in ("POST", "PATCH")
                ended = await asyncio.to_thread(server.started.ends_within, _END_SECONDS)
                if again or not ended or not (unsent or method in _READS):
                    break
        what = "ended during the request" if ended else "did not answer"
        raise _unavailable(f"The tracking server {what}; try again.")

    async def _running(self) -> _Server:
        """The process that listens; another one where it has ended.

        Raises:
            ApiError: It cannot be started.
        """
        assert self._starting is not None, "start() comes first"
        if self._starting.done() and not self._listens() and time.monotonic() - self._failed_at > _PAUSE_SECONDS:
            self._starting = asyncio.create_task(self._start())
        try:
            return await asyncio.shield(self._starting)
        except (OSError, ValueError):
            raise _unavailable(
                "The tracking server cannot be started; the log of the local workspace says why."
            ) from None

    def _listens(self) -> bool:
        return self._started is not None and not self._started.has_ended()

    async def _start(self) -> _Server:
        await self._end()
        return await self._wait_for(None)

    async def _wait_for(self, started: StartedServer | None) -> _Server:
        """The server once it listens; another one is started where none was."""
        try:
            self._started = started = started or start_tracking_server(self._data_dir)
            address = await asyncio.wait_for(asyncio.to_thread(started.address), _START_SECONDS)
            return _Server(started, address)
        except (OSError, ValueError, TimeoutError) as error:
            logger.error("mlflow's tracking server does not start: %s", error or f"not within {_START_SECONDS} s")
            await self._end()
            self._failed_at = time.monotonic()
            raise

    async def _end(self) -> None:
        started, self._started = self._started, None
        if started is not None:
            await asyncio.to_thread(started.end, _STOP_SECONDS)


def _unavailable(message: str) -> ApiError:
    return ApiError(message, status=503, error_code="TEMPORARILY_UNAVAILABLE")


def _passed_on(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name.lower() not in _NOT_PASSED_ON]


def _answered(answer: aiohttp.ClientResponse) -> list[tuple[bytes, bytes]]:
    length = answer.headers.get("content-length")
    kept = [(name.lower(), value) for name, value in _passed_on(list(answer.raw_headers))]
    return kept if length is None else [*kept, (b"content-length", length.encode())]
