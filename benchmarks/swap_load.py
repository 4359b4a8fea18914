"""Requests without a pause, in a process of their own, until standard input ends: what users do during a release.

The order comes as one line of JSON on standard input (it holds a token), the result goes to standard output.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Users:
    """Who asks, and what.

    Attributes:
        url: Where to.
        headers: Sent with every request.
        body: JSON text, the same each time.
        expect: What every answer must contain; any other answer is a failure.
        connections: Requests that are under way at any time, each on a connection that is kept.
        newcomers: The same, with a new connection for every request.
    """

    url: str
    headers: dict[str, str] = field(repr=False)
    body: str
    expect: str
    connections: int
    newcomers: int


@dataclass(frozen=True)
class Answers:
    """What came back; ``failures`` counts by status, or by the error's name."""

    sent: int
    failures: dict[str, int]
    p50_ms: float
    p99_ms: float
    longest_ms: float


class Asking:
    """The process that asks; leave the block to end it."""

    def __init__(self, users: Users) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.swap_load"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(users)) + "\n")
        self._process.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def end(self) -> Answers:
        """Let the requests that are under way end, and count.

        Raises:
            RuntimeError: The process failed.
        """
        answer, _ = self._process.communicate(timeout=120)
        if self._process.returncode:
            raise RuntimeError("the process that asks has failed; its error is above")
        return Answers(**json.loads(answer))


async def _ask(users: Users) -> Answers:
    import aiohttp

    over = asyncio.Event()
    body, expect = users.body.encode(), users.expect.encode()
    seconds: list[float] = []
    failures: Counter[str] = Counter()

    async def one(session: aiohttp.ClientSession) -> None:
        started = time.perf_counter()
        try:
            async with session.post(users.url, data=body, headers=users.headers) as response:
                answer = await response.read()
                failure = "" if response.status == 200 and expect in answer else str(response.status)
        except (aiohttp.ClientError, TimeoutError) as error:
            failure = type(error).__name__
        seconds.append(time.perf_counter() - started)
        if failure:
            failures[failure] += 1

    async def loop(*, keep: bool) -> None:
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=not keep), timeout=timeout
        ) as session:
            while not over.is_set():
                await one(session)

    def ended() -> None:
        sys.stdin.read()
        running.call_soon_threadsafe(over.set)

    running = asyncio.get_running_loop()
    waiting = running.run_in_executor(None, ended)
    await asyncio.gather(
        *(loop(keep=True) for _ in range(users.connections)), *(loop(keep=False) for _ in range(users.newcomers))
    )
    await waiting
    seconds.sort()
    count = len(seconds)
    return Answers(
        count, dict(failures), *(1000 * seconds[min(count - 1, int(share * count))] for share in (0.5, 0.99, 1))
    )


if __name__ == "__main__":
    order = Users(**json.loads(sys.stdin.readline()))
    print(json.dumps(asdict(asyncio.run(_ask(order)))))
