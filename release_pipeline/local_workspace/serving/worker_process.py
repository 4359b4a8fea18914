"""Scoring processes as the supervisor sees them, forked from one that has the imports, or started on their own."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final, Protocol

from release_pipeline.local_workspace.serving.model_environments import Interpreter
from release_pipeline.local_workspace.state.endpoint_configuration import ServedEntity

#: Variables of an entity's own that nothing reads while it is imported. Others may say how a library starts.
READ_LATE: Final = frozenset(
    {"ENABLE_MLFLOW_TRACING", "ENABLE_LANGCHAIN_STREAMING", "MLFLOW_EXPERIMENT_ID", "RETURN_REQUEST_ID_IN_RESPONSE"}
)
_ITS_OWN: Final = READ_LATE | {"SERVING_CREDENTIALS_DIR", "DATABRICKS_CONFIG_FILE"}
LOST: Final = -signal.SIGKILL
"""Exit code of what ended with the fork server."""


class WorkerProcess(Protocol):
    """A scoring process."""

    @property
    def returncode(self) -> int | None:
        """How it ended; None while it runs."""

    async def wait(self) -> int:
        """Wait for its end; how it ended."""

    def terminate(self) -> None:
        """Ask it to end."""

    def kill(self) -> None:
        """End it."""

    def order(self, line: bytes) -> None:
        """Write to the pipe on which it takes its order."""

    def let_go(self) -> None:
        """Close the pipe, which ends what still runs."""


def may_fork(python: Interpreter, entity: ServedEntity) -> bool:
    """Whether a scoring process of the entity is the same when forked as when started on its own."""
    plain = python.executable == sys.executable and python.package_folder is None
    return sys.platform == "linux" and plain and READ_LATE.issuperset(entity.environment_vars)


async def start_worker(executable: str, variables: Mapping[str, str], output: int) -> WorkerProcess:
    """Start a scoring process on its own.

    Args:
        executable: Its Python.
        variables: Its whole environment.
        output: Where it writes what it prints, an open descriptor.
    """
    return _Started(
        await asyncio.create_subprocess_exec(
            executable,
            "-m",
            "release_pipeline.local_workspace.serving.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=variables,
            # Its own session: an interrupt typed at the server is the server's to handle.
            start_new_session=True,
        )
    )


class ForkServer:
    """Forks scoring processes from one that has imported what they need; see `fork_server`.

    It is started when the first is wanted, and again when it was killed.
    """

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._channel: socket.socket | None = None
        self._reader: asyncio.Task[None] | None = None
        self._asked: deque[asyncio.Future[_Forked]] = deque()
        self._running: dict[int, _Forked] = {}
        self._starting = asyncio.Lock()
        self._stopping = False

    async def start_worker(self, variables: Mapping[str, str], output: int) -> WorkerProcess:
        """Fork a scoring process; arguments as for `start_worker`.

        Raises:
            OSError: The fork server is gone.
        """
        async with self._starting:
            if self._stopping:
                raise ConnectionResetError("the workspace is being stopped")
            if self._process is None or self._reader is None or self._reader.done():
                await self._start(variables)
        assert self._channel is not None
        reading, writing = os.pipe()
        asked: asyncio.Future[_Forked] = asyncio.get_running_loop().create_future()
        asked.add_done_callback(lambda done: done.cancelled() or done.exception())  # it may have been given up
        try:
            with _in_memory(json.dumps(dict(variables)).encode()) as environment:
                socket.send_fds(self._channel, [b"f"], [environment, reading, output])
            self._asked.append(asked)
        except OSError:
            os.close(writing)
            raise
        finally:
            os.close(reading)
        try:
            forked = await asyncio.shield(asked)
        except BaseException:
            os.close(writing)  # which ends the worker, if there comes to be one
            raise
        forked.control = writing
        return forked

    async def stop(self) -> None:
        """End it for good, and whatever it has forked and is not ended, of which nobody is told."""
        self._stopping = True
        async with self._starting:
            await self._end()

    async def _start(self, variables: Mapping[str, str]) -> None:
        await self._end()
        mine, its = socket.socketpair()
        # Nothing here waits for it: a full socket is an error, and a request is a byte.
        mine.setblocking(False)
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "release_pipeline.local_workspace.serving.fork_server",
                stdin=its.fileno(),
                stdout=asyncio.subprocess.PIPE,
                # Of a worker's variables those that are not its own.
                env={name: value for name, value in variables.items() if name not in _ITS_OWN},
                start_new_session=True,
            )
        except BaseException:
            mine.close()
            raise
        finally:
            its.close()
        self._channel = mine
        assert self._process.stdout is not None
        self._reader = asyncio.create_task(self._read(self._process.stdout))

    async def _read(self, answers: asyncio.StreamReader) -> None:
        try:
            while line := await answers.readline():
                self._take(json.loads(line))
        finally:
            # They do not outlive it.
            for forked in () if self._stopping else self._running.values():
                forked.ended(LOST)
            for asked in self._asked:
                asked.set_exception(ConnectionResetError("the process that forks scoring processes has ended"))
            self._running.clear()
            self._asked.clear()

    def _take(self, told: Mapping[str, int]) -> None:
        if "error" in told:
            self._asked.popleft().set_exception(OSError(told["error"], os.strerror(told["error"])))
        elif "code" not in told:
            forked = self._running[told["pid"]] = _Forked(told["pid"])
            self._asked.popleft().set_result(forked)
        elif (ended := self._running.pop(told["pid"], None)) is not None:
            ended.ended(told["code"])

    async def _end(self) -> None:
        if self._channel is not None:
            self._channel.close()
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        if self._reader is not None:
            await asyncio.gather(self._reader, return_exceptions=True)
        self._process, self._channel, self._reader = None, None, None


class _Started:
    """A scoring process that was started on its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    async def wait(self) -> int:
        return await self._process.wait()

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    def order(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line)

    def let_go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()


class _Forked:
    """A scoring process that was forked; ``control`` is the writing end of the pipe with its order."""

    def __init__(self, pid: int) -> None:
        self.control = -1
        self._pid = pid
        self._code: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def returncode(self) -> int | None:
        return self._code.result() if self._code.done() else None

    async def wait(self) -> int:
        return await asyncio.shield(self._code)

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def order(self, line: bytes) -> None:
        with suppress(BrokenPipeError):  # it has ended, which is seen where its end is waited for
            os.write(self.control, line)

    def let_go(self) -> None:
        if self.control >= 0:
            os.close(self.control)
            self.control = -1

    def ended(self, code: int) -> None:
        if not self._code.done():
            self._code.set_result(code)

    def _send(self, number: int) -> None:
        if not self._code.done():
            with suppress(ProcessLookupError):
                os.kill(self._pid, number)


@contextmanager
def _in_memory(data: bytes) -> Iterator[int]:
    """A descriptor of a file that has no name, to be read from its beginning."""
    with os.fdopen(os.memfd_create("environment"), "w+b") as file:
        file.write(data)
        file.flush()
        file.seek(0)
        yield file.fileno()
