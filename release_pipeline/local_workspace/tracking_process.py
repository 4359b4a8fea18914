"""mlflow's tracking server as the workspace sees it: a process of its own, and the way of requests to it and back."""

import asyncio
import json
import logging
import secrets
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Final

import aiohttp
from starlette.requests import Request
from starlette.types import Receive, Scope, Send
from yarl import URL

from release_pipeline.local_workspace.errors import ApiError
from release_pipeline.local_workspace.tracking_server import KEY_HEADER, TrackingOrder

logger = logging.getLogger(__name__)

_STOP_SECONDS: Final = 10
#: Of a request and of its answer what belongs to one connection, and what only the workspace itself has to know.
_NOT_PASSED_ON: Final = frozenset(
    {
        b"authorization",
        b"connection",
        b"content-length",
        b"date",
        b"host",
        b"keep-alive",
        b"server",
        b"transfer-encoding",
    }
)
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class TrackingProcess:
    """The tracking server of mlflow over ``<data_dir>/mlflow.db``, as an ASGI application.

    What it stores costs processor time, 20 ms for a trace, which in the workspace's own process would be taken from the
    requests to served models. It takes seconds to start, which nobody but its own requests waits for. It is started
    again when it was killed.
    """

    def __init__(self, data_dir: Path) -> None:
        self._order = TrackingOrder(str(data_dir), secrets.token_hex(24))
        self._process: asyncio.subprocess.Process | None = None
        self._started: asyncio.Task[URL] | None = None
        self._session: aiohttp.ClientSession | None = None

    def start(self) -> None:
        """Begin to start it; must be called in the event loop that will pass requests on."""
        # As it comes: what is compressed stays so, and cookies are the client's own.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        )
        self._started = asyncio.create_task(self._start())

    async def stop(self) -> None:
        """End it; what it has answered is stored."""
        if self._started is not None:
            self._started.cancel()
            await asyncio.gather(self._started, return_exceptions=True)
        await self._end()
        if self._session is not None:
            await self._session.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on once the server runs, and its answer back as it comes.

        Raises:
            ApiError: It cannot be started, or ended during the request.
        """
        body = await Request(scope, receive).body()
        query = f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else ""
        path = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in _passed_on(scope["headers"])]
        headers.append((KEY_HEADER, self._order.key))
        answer = await self._send(scope["method"], URL(path + query, encoded=True), headers, body)
        async with answer:
            # An answer that breaks off breaks off here, too: uvicorn closes the connection.
            start = {"type": "http.response.start", "status": answer.status, "headers": _answered(answer)}
            await send(start)
            async for chunk in answer.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    async def _send(
        self, method: str, target: URL, headers: list[tuple[str, str]], body: bytes
    ) -> aiohttp.ClientResponse:
        assert self._session is not None
        for _ in range(2):
            try:
                server = await self._running()
            except OSError as error:
                logger.error("mlflow's tracking server does not start: %s", error)
                raise ApiError(
                    "The tracking server cannot be started; the log of the local workspace says why.",
                    status=503,
                    error_code="TEMPORARILY_UNAVAILABLE",
                ) from None
            try:
                return await self._session.request(
                    method, server.join(target), headers=headers, data=body or None, allow_redirects=False
                )
            except aiohttp.ClientError as error:
                if method not in _READS and not isinstance(error, aiohttp.ClientConnectorError):
                    break
                # It has ended, and either nothing was sent or nothing can have changed.
                if self._process is not None:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._process.wait(), _STOP_SECONDS)
        raise ApiError(
            "The tracking server ended during the request; try again.", status=503, error_code="TEMPORARILY_UNAVAILABLE"
        )

    async def _running(self) -> URL:
        """Where it listens; started again where it has ended."""
        assert self._started is not None, "start() comes first"
        ended = self._process is not None and self._process.returncode is not None
        if self._started.done() and (ended or self._started.cancelled() or self._started.exception()):
            self._started = asyncio.create_task(self._start())
        return await asyncio.shield(self._started)

    async def _start(self) -> URL:
        await self._end()
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "release_pipeline.local_workspace.tracking_server",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # Its own session: an interrupt typed at the server is the server's to handle.
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(asdict(self._order)).encode() + b"\n")
        if not (told := await process.stdout.readline()):
            raise ConnectionResetError(f"it ended with code {await process.wait()} before it listened")
        return URL(f"http://127.0.0.1:{json.loads(told)['port']}")

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()


def _passed_on(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name.lower() not in _NOT_PASSED_ON]


def _answered(answer: aiohttp.ClientResponse) -> list[tuple[bytes, bytes]]:
    length = answer.headers.get("content-length")
    kept = [(name.lower(), value) for name, value in _passed_on(list(answer.raw_headers))]
    return kept if length is None else [*kept, (b"content-length", length.encode())]
