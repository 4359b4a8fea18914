"""What ticks cost while many models of one code location are in a canary at once.

Run as ``python -m benchmarks.canaries``. On a local workspace every model gets an endpoint with a champion that serves
95 % and a challenger that serves 5 %, by the pipeline's own verified writes, and users who ask it. Then ``dagster dev``
runs with every gate sensor on, at the pace that the YAML has by default. No step is due, so that a tick does what it
does most of the time: it reads what is new, asks the gate, and says what it waits for. A tick's time is Dagster's own,
from its beginning until its outcome is stored.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import requests
import yaml

from benchmarks.figures import Figure, add_json_option, report
from benchmarks.scale import LOCATION, start_dagster
from benchmarks.serving_sides import Server, act_on, start_workspace
from release_pipeline.gate.verdict import HoldReason
from release_pipeline.operate.doctor import SETTINGS
from release_pipeline.rollout.parts import Parts, connect_parts
from release_pipeline.spec import ReleaseSpec, parse_spec

MODEL = Path(__file__).parents[1] / "tests" / "local_workspace" / "models" / "echo_responses_agent.py"
ASK = {"input": [{"role": "user", "content": "hello"}]}
P95_SECONDS = 5.0
CHAMPION, CHALLENGER = "20260101-000001", "20260101-000002"
SETUP_THREADS = 4
PROCESSES = {"daemon": "dagster._daemon", "code server": "dagster api grpc"}
"""What Dagster's processes are called by, and a part of their command."""


def main() -> int:
    """Measure, print, and return 1 when a goal is missed."""
    parser = argparse.ArgumentParser(prog="benchmarks.canaries", description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=100, help="models that are in a canary")
    parser.add_argument("--seconds", type=float, default=300.0, help="how long ticks are watched")
    parser.add_argument("--warm-up", type=float, default=60.0, metavar="SECONDS", help="how long before that")
    parser.add_argument("--requests", type=float, default=20.0, help="requests of users per second, to all of them")
    add_json_option(parser)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-canaries-") as name, ExitStack() as stack:
        folder = Path(name)
        workspace, url, token = start_workspace(folder)
        stack.callback(workspace.stop)
        act_on(url, token, folder)
        specs = write_location(folder, given.models)
        begin = time.perf_counter()
        begin_canaries(specs)
        _say(f"{given.models} canaries after {time.perf_counter() - begin:.0f} s")
        users = stack.enter_context(Users(specs, url, token, given.requests))
        dagster, _ = start_dagster(folder)
        stack.callback(dagster.stop)
        time.sleep(given.warm_up)
        sent = users.sent
        figures = _watch(dagster, workspace, folder, given.models, given.seconds)
        figures.append(Figure("users' requests", (users.sent - sent) / given.seconds, "1/s"))
        figures.append(Figure("users' requests that failed", users.failed, "", at_most=0))
    return report("canaries", figures, given.json)


def write_location(folder: Path, count: int) -> list[ReleaseSpec]:
    """A code location with so many models whose sensors are on; their specifications."""
    (folder / "models").mkdir()
    (folder / "models" / "__init__.py").touch()
    (folder / "location.py").write_text(LOCATION)
    (folder / "workspace.yaml").write_text("load_from: [{python_module: {module_name: location}}]")
    (folder / "dagster.yaml").write_text(SETTINGS.read_text())
    specs = []
    for number in range(count):
        model = folder / "models" / f"canary_{number:04}"
        model.mkdir()
        written: dict[str, Any] = {
            "name": model.name,
            "model": {
                "registered_name": f"main.default.{model.name}",
                "source": str(MODEL),
                "input_example": ASK,
            },
            "endpoint": {"name": model.name.replace("_", "-"), "tracing": False},
            "ramp": {"steps": [5, 25, 50], "min_step_seconds": 86_400},
            "gate": {"metrics": [{"name": "errors", "kind": "errors", "margin": 0.01}]},
            "automation": {"gate_sensor": "on"},
        }
        document = {"type": "release_pipeline.ReleasePipelineComponent", "attributes": written}
        (model / "defs.yaml").write_text(yaml.safe_dump(document))
        specs.append(parse_spec(written, file=model / "defs.yaml"))
    return specs


def begin_canaries(specs: Sequence[ReleaseSpec]) -> None:
    """Bring every model to the first step of its second release."""
    import mlflow

    mlflow.set_experiment("/Shared/canaries")
    with mlflow.start_run():
        logged = mlflow.pyfunc.log_model(name="model", python_model=MODEL).model_uri
    done = itertools.count(1)

    def begin(spec: ReleaseSpec) -> None:
        _begin_canary(spec, logged)
        number = next(done)
        if number % 10 == 0:
            _say(f"{number} of {len(specs)} models are in a canary")

    with ThreadPoolExecutor(SETUP_THREADS) as pool:
        list(pool.map(begin, specs))


def _begin_canary(spec: ReleaseSpec, logged: str) -> None:
    from release_pipeline.assets.canary_traffic import look, renew_tracers, take_step

    parts = connect_parts(spec, actor="benchmark", progress=lambda line: None)
    _deploy(parts, spec, CHAMPION, logged)
    config = parts.endpoint.read()
    parts.rollout.promote(
        CHAMPION, expected_config=config.config_version if config else 0, evidence_digest="", reason="the first"
    )
    parts.rollout.retire(CHAMPION)
    _deploy(parts, spec, CHALLENGER, logged)
    before = take_step(parts, spec, CHALLENGER)
    renew_tracers(parts, spec, before, look(parts, CHALLENGER, ingest=True))


def _deploy(parts: Parts, spec: ReleaseSpec, release: str, logged: str) -> None:
    import mlflow

    from release_pipeline.assets.deployed_endpoint import prove_challenger, served_entity

    version = str(mlflow.register_model(logged, spec.model.registered_name).version)
    latest = parts.payload.latest()
    entity = served_entity(spec, version, "0")
    state = parts.rollout.deploy(release, version, entity, table_version=latest.version if latest else 0)
    prove_challenger(parts, spec, state)


class Users:
    """A thread that asks all endpoints in turn, at a steady rate.

    Attributes:
        sent: Requests so far.
        failed: Those that did not get their answer.
    """

    def __init__(self, specs: Sequence[ReleaseSpec], url: str, token: str, per_second: float) -> None:
        self._urls = [f"{url}/serving-endpoints/{spec.endpoint_name}/invocations" for spec in specs]
        self._headers = {"authorization": f"Bearer {token}"}
        self._pause = 1.0 / per_second
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.sent = self.failed = 0

    def __enter__(self) -> "Users":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _ask(self) -> None:
        with requests.Session() as session:
            session.trust_env = False
            begin = time.monotonic()
            for url in itertools.cycle(self._urls):
                if self._over.wait(max(0.0, begin + self.sent * self._pause - time.monotonic())):
                    return
                self.sent += 1
                try:
                    answer = session.post(url, json=ASK, headers=self._headers, timeout=60)
                    self.failed += answer.status_code != 200 or "echo: hello" not in answer.text
                except requests.RequestException:
                    self.failed += 1


def _watch(dagster: Server, workspace: Server, folder: Path, models: int, seconds: float) -> list[Figure]:
    """Figures of the ticks that begin and end in the next ``seconds``."""
    _say(f"watching ticks for {seconds:.0f} s")
    begin, now = time.time(), time.perf_counter()
    before = {name: dagster.cpu_seconds(command) for name, command in PROCESSES.items()}
    served = workspace.cpu_seconds()
    time.sleep(seconds)
    passed = time.perf_counter() - now
    used = {name: dagster.cpu_seconds(command) - before[name] for name, command in PROCESSES.items()}
    served = workspace.cpu_seconds() - served
    ticks = _ticks(folder, begin)
    told = Counter(reason for _, _, reason in ticks)
    unknown = {reason: count for reason, count in told.items() if reason not in set(HoldReason)}
    sensors = {sensor for sensor, _, _ in ticks}
    if unknown or len(sensors) != models:
        raise RuntimeError(f"{len(sensors)} of {models} sensors ticked, and not all watched a canary: {unknown}")
    _say(f"what the ticks told: {dict(told)}")
    lengths = sorted(length for _, length, _ in ticks)
    return [
        Figure("canaries", models, ""),
        Figure("ticks a minute of one canary", 60 * len(ticks) / models / passed, ""),
        Figure("a tick, median", statistics.median(lengths), "s"),
        Figure("a tick, 95th percentile", _quantile(lengths, 0.95), "s", at_most=P95_SECONDS),
        Figure("a tick, longest", lengths[-1], "s"),
        *(Figure(f"{name}, of one processor", 100 * spent / passed, "%") for name, spent in used.items()),
        Figure("local workspace, of one processor", 100 * served / passed, "%"),
        Figure("memory of all of Dagster's processes", dagster.memory_mb(), "MB"),
    ]


def _ticks(folder: Path, after: float) -> list[tuple[str, float, str]]:
    """Sensor, seconds and the hold reason of every tick since then that has ended."""
    from dagster import DagsterInstance
    from dagster._core.definitions.run_request import InstigatorType
    from dagster._core.scheduler.instigation import TickStatus

    found = []
    with DagsterInstance.from_config(str(folder)) as instance:
        for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
            if not state.name.endswith("_gate"):
                continue
            for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, after=after):
                if tick.status is not TickStatus.STARTED and tick.end_timestamp is not None:
                    reason = (tick.skip_reason or tick.status.value).partition(":")[0]
                    found.append((state.name, tick.end_timestamp - tick.timestamp, reason))
    return found


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
