"""A query through the local workspace against ``mlflow models serve``, in one run, on the same logged model.

Run as ``python -m benchmarks.serving``. Three sides answer the same request: an endpoint of the local workspace
(routing and inference table on), ``mlflow models serve --env-manager local``, and a scoring process of the workspace
asked directly, which tells what the router alone adds. Sides take turns within each repetition, and every figure is a
median over the repetitions, because the machine may have other work.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import requests
from databricks.sdk import WorkspaceClient

from benchmarks.figures import Figure, add_json_option, report
from benchmarks.load_client import Order, Result, run
from benchmarks.serving_sides import (
    Server,
    act_on,
    answers,
    client_seconds,
    create_endpoint,
    machine_busy_seconds,
    rows_logged,
    start_mlflow,
    start_worker,
    start_workspace,
)

MODELS = Path(__file__).parents[1] / "tests" / "local_workspace" / "models"
WORKSPACE, MLFLOW, WORKER = "workspace", "mlflow", "worker"
WARM_UP_SECONDS = 1.0
SETTLE_SECONDS = 1.0  # for rows that are still on their way into the table, whose cost belongs to the turn
LOGGED_SECONDS = 60.0
"""Longest time that the rows of a run may take into the inference table."""

# Goals. Throughput has one where requests overlap; with one request at a time it is only the inverse of the latency.
ADDED_P50_MS = 1.5
MEMORY_RATIO = 0.6
FIRST_ANSWER_RATIO = 0.5
WORKSPACE_START_S = 4.0
IDLE_PERCENT = 1.0
IDLE_SECONDS = 20.0


@dataclass(frozen=True)
class Scenario:
    """One model and how it is asked; ``throughput`` is the goal relative to mlflow."""

    name: str
    file: str
    traced: bool
    body: dict[str, Any]
    expect: str
    throughput: float

    @property
    def registered_name(self) -> str:
        """The model's name in the workspace."""
        return f"main.default.{Path(self.file).stem}"


_ASK = {"input": [{"role": "user", "content": "hello"}]}
# Traces are on or off on both sides: they cost an agent more than everything else here.
SCENARIOS = (
    Scenario("plain", "doubling_model.py", False, {"dataframe_records": [{"x": 1.5}]}, "[3.0]", 0.9),
    Scenario("agent", "echo_responses_agent.py", False, _ASK, "echo: hello", 1.0),
    Scenario("agent-traced", "echo_responses_agent.py", True, _ASK, "echo: hello", 1.0),
)


Targets = dict[str, tuple[str, dict[str, str]]]
"""By side: where to send and with which headers."""
Turn = tuple[Result, float]
"""What the client saw, and milliseconds of processor time per request in the processes of the side."""


@dataclass(frozen=True)
class Options:
    """What the command line asks for; see its help."""

    concurrency: list[int]
    seconds: float
    repetitions: int


def main() -> int:
    """Measure, print, and return 1 when a goal is missed, 2 when the machine was too busy to tell."""
    parser = argparse.ArgumentParser(prog="benchmarks.serving", description=__doc__.splitlines()[0])
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 64], help="requests under way at a time")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement")
    parser.add_argument("--repetitions", type=int, default=3, help="turns of every side")
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("--scenario", nargs="+", choices=names, default=names, help="which models")
    add_json_option(parser)
    given = parser.parse_args()
    options = Options(given.concurrency, given.seconds, given.repetitions)
    with tempfile.TemporaryDirectory(prefix="bench-serving-") as folder, ExitStack() as stack:
        chosen = [scenario for scenario in SCENARIOS if scenario.name in given.scenario]
        figures, other_work = _measure_all(chosen, options, Path(folder), stack)
    return report("serving", figures, given.json, other_work=other_work)


def _measure_all(
    scenarios: Iterable[Scenario], options: Options, folder: Path, stack: ExitStack
) -> tuple[list[Figure], float]:
    begin = time.perf_counter()
    server, url, token = start_workspace(folder)
    stack.callback(server.stop)
    starts = {"workspace: start": time.perf_counter() - begin}
    # mlflow's part, which is loaded beside it, answers a little later; this is the whole of a start.
    requests.get(f"{url}/api/2.0/mlflow/experiments/get?experiment_id=0", auth=("token", token), timeout=60)
    starts["workspace: start, until tracking answers"] = time.perf_counter() - begin
    figures = [Figure(name, seconds, "s", at_most=WORKSPACE_START_S) for name, seconds in starts.items()]
    act_on(url, token, folder)
    logged: dict[str, Path] = {}
    other_work: list[float] = []
    for scenario in scenarios:
        if scenario.file not in logged:
            logged[scenario.file] = _log(scenario, folder / Path(scenario.file).stem)
        comparison = _Comparison(scenario, options, logged[scenario.file], folder, server)
        figures += comparison.figures()
        other_work += comparison.other_work
    return figures, median(other_work)


def _log(scenario: Scenario, folder: Path) -> Path:
    """Log and register the model; the folder that it was downloaded to again."""
    import mlflow
    import pandas as pd
    from mlflow.models import infer_signature

    mlflow.set_experiment("/Shared/benchmark")
    # Only a model of tables needs one; mlflow infers an agent's.
    table = scenario.file == "doubling_model.py"
    signature = infer_signature(pd.DataFrame({"x": [1.5]}), [1.5]) if table else None
    with mlflow.start_run(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        options = {"signature": signature} if signature else {}
        info = mlflow.pyfunc.log_model(name="model", python_model=MODELS / scenario.file, **options)
    mlflow.register_model(info.model_uri, scenario.registered_name)
    return Path(mlflow.artifacts.download_artifacts(info.model_uri, dst_path=str(folder)))


class _Comparison:
    """One scenario on all sides.

    Attributes:
        other_work: Share in [0, 1] of all processors that other processes used, by turn.
    """

    def __init__(self, scenario: Scenario, options: Options, model: Path, folder: Path, workspace: Server) -> None:
        self._scenario = scenario
        self._options = options
        self._model = model
        self._folder = folder
        self._workspace = workspace
        self._client = WorkspaceClient()
        self._url, self._token = os.environ["DATABRICKS_HOST"], os.environ["DATABRICKS_TOKEN"]
        self._body = json.dumps(scenario.body)
        self.other_work: list[float] = []

    def figures(self) -> list[Figure]:
        """Start every side several times, load the last ones, and stop them."""
        traced, name = self._scenario.traced, self._scenario.name
        starts: dict[str, list[float]] = {WORKSPACE: [], MLFLOW: []}
        with ExitStack() as stack:
            for number in range(self._options.repetitions):
                stack.pop_all().close()  # the sides of the turn before
                endpoint = f"{name}-{number}"
                starts[WORKSPACE].append(self._start_endpoint(endpoint))
                stack.callback(self._client.serving_endpoints.delete, endpoint)
                mlflow, mlflow_url, seconds = self._start_mlflow()
                stack.callback(mlflow.stop)
                starts[MLFLOW].append(seconds)
            worker, worker_url, key = start_worker(self._model, self._folder, self._url, self._token, traced=traced)
            stack.callback(worker.stop)
            servers = {WORKSPACE: self._workspace, MLFLOW: mlflow, WORKER: worker}
            targets = {
                WORKSPACE: (self._endpoint_url(endpoint), {"authorization": f"Bearer {self._token}"}),
                MLFLOW: (mlflow_url, {}),
                WORKER: (worker_url, {"x-worker-key": key, "x-request-id": "benchmark"}),
            }
            figures: list[Figure] = []
            sent = 1  # the request that was the first answer
            for concurrency in self._options.concurrency:
                results = self._load(targets, servers, concurrency)
                sent += sum(result.sent for result, _ in results[WORKSPACE])
                figures += self._of_load(results, concurrency)
            self._check_rows(endpoint, sent)
            idle = self._idle_percent()
            first = median(starts[WORKSPACE]) / median(starts[MLFLOW])
            memory = self._workspace.memory_mb("local_workspace.serving"), mlflow.memory_mb()
            return [
                *figures,
                Figure(f"{name}: first answer, workspace", median(starts[WORKSPACE]), "s"),
                Figure(f"{name}: first answer, mlflow", median(starts[MLFLOW]), "s"),
                Figure(f"{name}: first answer, ratio", first, "x", at_most=FIRST_ANSWER_RATIO),
                Figure(f"{name}: memory per served entity, workspace", memory[0], "MB"),
                Figure(f"{name}: memory per served entity, mlflow", memory[1], "MB"),
                Figure(f"{name}: memory, ratio", memory[0] / memory[1], "x", at_most=MEMORY_RATIO),
                Figure(f"{name}: idle workspace, of one processor", idle, "%", at_most=IDLE_PERCENT),
            ]

    def _endpoint_url(self, endpoint: str) -> str:
        return f"{self._url}/serving-endpoints/{endpoint}/invocations"

    def _start_endpoint(self, endpoint: str) -> float:
        """Seconds from the request to create it to its first answer."""
        begin = time.perf_counter()
        create_endpoint(self._client, endpoint, self._scenario.registered_name, traced=self._scenario.traced)
        headers = {"authorization": f"Bearer {self._token}"}
        self._wait_for_answer(self._workspace, self._endpoint_url(endpoint), headers)
        return time.perf_counter() - begin

    def _start_mlflow(self) -> tuple[Server, str, float]:
        begin = time.perf_counter()
        server, url = start_mlflow(self._model, self._folder, traced=self._scenario.traced)
        self._wait_for_answer(server, url, {})
        return server, url, time.perf_counter() - begin

    def _wait_for_answer(self, server: Server, url: str, headers: dict[str, str]) -> None:
        headers = {"content-type": "application/json", **headers}
        with requests.Session() as session:
            session.trust_env = False
            server.until(lambda: answers(session, url, headers, self._body, self._scenario.expect))

    def _load(self, targets: Targets, servers: dict[str, Server], concurrency: int) -> dict[str, list[Turn]]:
        turns: dict[str, list[Turn]] = {side: [] for side in targets}
        for number in range(self._options.repetitions):
            # Every other turn backwards, so that no side always follows the same one.
            for side in list(targets)[:: -1 if number % 2 else 1]:
                url, headers = targets[side]
                headers = {"content-type": "application/json", **headers}
                order = (url, headers, self._body, self._scenario.expect, concurrency)
                begin, busy = time.perf_counter(), machine_busy_seconds() - client_seconds()
                before = {name: server.cpu_seconds() for name, server in servers.items()}
                result = run(Order(*order, WARM_UP_SECONDS, self._options.seconds))
                time.sleep(SETTLE_SECONDS)
                used = {name: server.cpu_seconds() - before[name] for name, server in servers.items()}
                others = machine_busy_seconds() - client_seconds() - busy - sum(used.values())
                self.other_work.append(others / (time.perf_counter() - begin) / (os.cpu_count() or 1))
                turns[side].append((result, 1000 * used[side] / result.sent))
                _say(f"{self._scenario.name}, {concurrency} at a time, {side}: {result.per_second:.0f}/s")
        return turns

    def _of_load(self, turns: dict[str, list[Turn]], concurrency: int) -> list[Figure]:
        cell = f"{self._scenario.name}, {concurrency} at a time"
        labels = {WORKSPACE: "workspace", MLFLOW: "mlflow", WORKER: "worker alone"}
        p50 = {side: median(result.p50_ms for result, _ in turns[side]) for side in turns}
        p95 = {side: median(result.p95_ms for result, _ in turns[side]) for side in turns}
        figures: list[Figure] = []
        for side, label in labels.items():
            rate = median(result.per_second for result, _ in turns[side])
            figures.append(Figure(f"{cell}: requests, {label}", rate, "1/s"))
            figures.append(Figure(f"{cell}: p50, {label}", p50[side], "ms"))
            figures.append(Figure(f"{cell}: p95, {label}", p95[side], "ms"))
            cpu = median(milliseconds for _, milliseconds in turns[side])
            figures.append(Figure(f"{cell}: processor time of a request, {label}", cpu, "ms"))
        pairs = zip(turns[WORKSPACE], turns[MLFLOW], strict=True)
        ratio = median(ours.per_second / theirs.per_second for (ours, _), (theirs, _) in pairs)
        goal = self._scenario.throughput if concurrency > 1 else None
        figures.append(Figure(f"{cell}: requests, workspace / mlflow", ratio, "x", at_least=goal))
        for side in (WORKER, MLFLOW):
            limit = ADDED_P50_MS if (concurrency, side) == (1, WORKER) else None
            added = p50[WORKSPACE] - p50[side], p95[WORKSPACE] - p95[side]
            figures.append(Figure(f"{cell}: p50, workspace - {labels[side]}", added[0], "ms", at_most=limit))
            figures.append(Figure(f"{cell}: p95, workspace - {labels[side]}", added[1], "ms"))
        return figures

    def _idle_percent(self) -> float:
        """Share of one processor, in %, that the workspace and its scoring process use while nobody asks anything."""
        give_up, before = time.monotonic() + LOGGED_SECONDS, 0.0
        while self._workspace.cpu_seconds() - before > 0.1 and time.monotonic() < give_up:  # traces on their way
            before = self._workspace.cpu_seconds()
            time.sleep(SETTLE_SECONDS)
        before = self._workspace.cpu_seconds()
        time.sleep(IDLE_SECONDS)
        return 100 * (self._workspace.cpu_seconds() - before) / IDLE_SECONDS

    def _check_rows(self, endpoint: str, sent: int) -> None:
        """Raise unless every answer became a row: a log that is off or behind would flatter the figures."""
        give_up = time.monotonic() + LOGGED_SECONDS
        while (rows := rows_logged(self._client, endpoint)) < sent and time.monotonic() < give_up:
            time.sleep(0.5)
        if rows != sent:
            raise RuntimeError(f"The inference table of {endpoint} has {rows} rows for {sent} answers.")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
