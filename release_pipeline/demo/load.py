"""A load generator: real questions to an endpoint at a steady rate, each answer noted in a file.

Run as a process of its own: ``python -m release_pipeline.demo.load --endpoint NAME --questions FILE --log FILE``.
The workspace is the environment's ``DATABRICKS_HOST`` and ``DATABRICKS_TOKEN``. It ends by itself on SIGTERM.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SEED = 7
TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class Answer:
    """One request: when it was sent (unix seconds), its HTTP status (0: none), milliseconds, and who answered."""

    sent_at: float
    status: int
    milliseconds: float
    served_entity: str


def read_log(path: Path) -> Iterator[Answer]:
    """The answers noted so far; a last line that is still being written is left out."""
    if path.exists():
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                yield Answer(*json.loads(line))


async def run(endpoint: str, questions: list[str], log: Path, per_second: float) -> None:
    """Send questions at ``per_second``, spaced like independent users, until SIGTERM or SIGINT."""
    import aiohttp

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    url = f"{os.environ['DATABRICKS_HOST']}/serving-endpoints/{endpoint}/invocations"
    headers = {"Authorization": f"Bearer {os.environ['DATABRICKS_TOKEN']}"}
    chance = random.Random(SEED)
    tasks: set[asyncio.Task[None]] = set()
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    with log.open("a", buffering=1) as noted:
        async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:

            async def ask(question: str) -> None:
                sent_at, started = time.time(), time.perf_counter()
                status, entity = 0, ""
                try:
                    body = {"input": [{"role": "user", "content": question}]}
                    async with session.post(url, json=body) as answer:
                        await answer.read()
                        status, entity = answer.status, answer.headers.get("served-model-name", "")
                except (aiohttp.ClientError, TimeoutError):
                    status = 0
                milliseconds = round(1000 * (time.perf_counter() - started), 2)
                noted.write(json.dumps([sent_at, status, milliseconds, entity]) + "\n")

            following = loop.time()
            while not stop.is_set():
                task = asyncio.create_task(ask(chance.choice(questions)))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                following += chance.expovariate(per_second)
                pause = following - loop.time()
                if pause > 0:
                    await asyncio.sleep(pause)
            await asyncio.gather(*tasks)


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--questions", required=True, type=Path, help="one question per line")
    parser.add_argument("--log", required=True, type=Path, help="JSON lines: sent at, status, milliseconds, entity")
    parser.add_argument("--rate", type=float, default=30.0, help="requests per second")
    options = parser.parse_args()
    questions = [line for line in options.questions.read_text().splitlines() if line.strip()]
    asyncio.run(run(options.endpoint, questions, options.log, options.rate))


if __name__ == "__main__":
    main()
