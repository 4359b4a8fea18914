"""A closed loop of requests in a process of its own, so that measuring takes no time from what is measured.

The order comes as one line of JSON on standard input (it holds a token, which has no place in a list of processes),
the result goes to standard output.
"""

import asyncio
import json
import math
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Order:
    """What to send.

    Attributes:
        url: Where to.
        headers: Sent with every request.
        body: JSON text, the same each time.
        expect: What every answer must contain; any other answer is a failure.
        concurrency: Requests that are under way at any time, each on a connection of its own.
        warm_up: Seconds before the measurement.
        seconds: Length of the measurement.
    """

    url: str
    headers: dict[str, str] = field(repr=False)
    body: str
    expect: str
    concurrency: int
    warm_up: float
    seconds: float


@dataclass(frozen=True)
class Result:
    """What came back: of the measurement, except ``sent`` and ``failures``, which count the warm-up too."""

    sent: int
    failures: int
    per_second: float
    p50_ms: float
    p95_ms: float


def run(order: Order) -> Result:
    """Run one order in a new process.

    Raises:
        RuntimeError: The process failed, or an answer was not the expected one.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load_client"],
        input=json.dumps(asdict(order)),
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    if done.returncode:
        raise RuntimeError(f"The load client failed: {done.stderr.strip().splitlines()[-1]}")
    result = Result(**json.loads(done.stdout))
    if result.failures:
        raise RuntimeError(f"{result.failures} of {result.sent} answers of {order.url} were not the expected one.")
    return result


async def _send(order: Order) -> Result:
    import aiohttp

    body, expect = order.body.encode(), order.expect.encode()
    latencies: list[float] = []
    sent = failures = 0
    begin = time.perf_counter() + order.warm_up
    end = begin + order.seconds

    async def loop(session: aiohttp.ClientSession) -> None:
        nonlocal sent, failures
        while (started := time.perf_counter()) < end:
            async with session.post(order.url, data=body, headers=order.headers) as response:
                answer = await response.read()
                status = response.status
            finished = time.perf_counter()
            sent += 1
            failures += status != 200 or expect not in answer
            if started >= begin and finished <= end:
                latencies.append(finished - started)

    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        await asyncio.gather(*(loop(session) for _ in range(order.concurrency)))
    if not latencies:
        raise RuntimeError("no request was answered within the time of the measurement")
    latencies.sort()
    # Requests that began in the warm-up or ended late are left out of both, so about one per connection is missing.
    return Result(
        sent, failures, len(latencies) / order.seconds, _quantile(latencies, 0.50), _quantile(latencies, 0.95)
    )


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] * 1000


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(_send(Order(**json.load(sys.stdin)))))))
