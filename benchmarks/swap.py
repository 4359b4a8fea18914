"""Whether any request of users fails while releases come and go: ramp, promotion, rollback, retirement.

Run as ``python -m benchmarks.swap``. Users ask without a pause, on connections that are kept and on new ones, while the
pipeline's own verified writes deploy a version, take the steps of its ramp, promote it and retire the old champion, and
then deploy another one and roll it back, from the ramp and from the bake in turn, until there were enough requests.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, add_json_option, report
from benchmarks.serving_sides import act_on, start_workspace
from benchmarks.swap_load import Answers, Asking, Users
from release_pipeline.rollout.parts import Parts, connect_parts
from release_pipeline.spec import ReleaseSpec, parse_spec

MODEL = Path(__file__).parents[1] / "tests" / "local_workspace" / "models" / "echo_responses_agent.py"
ASK = {"input": [{"role": "user", "content": "hello"}]}
REQUESTS = 50_000
STEPS = (5, 25, 50)


class Releases:
    """The releases of one model, driven by the pipeline's transitions alone: here no gate waits for evidence."""

    def __init__(self, spec: ReleaseSpec) -> None:
        self.spec = spec
        self.done: Counter[str] = Counter()
        self._count = 0

    def good(self) -> None:
        """One release from its deployment to the end of its bake."""
        release = self._to_the_last_step()
        self._promote(release)
        self._parts().rollout.retire(release)
        self.done["retirement"] += 1

    def bad(self) -> None:
        """One release that is rolled back, on its ramp or in its bake by turns."""
        release = self._to_the_last_step()
        if self.done["rollback"] % 2:
            self._promote(release)
        self._parts().rollout.roll_back(release, reason="the benchmark's")
        self.done["rollback"] += 1

    def _to_the_last_step(self) -> str:
        import mlflow

        from release_pipeline.assets.deployed_endpoint import served_entity

        self._count += 1
        parts, release = self._parts(), f"20260101-{self._count:06d}"
        version = str(mlflow.register_model(_logged(), self.spec.model.registered_name).version)
        state = parts.rollout.deploy(release, version, served_entity(self.spec, version, "0"), table_version=0)
        self.done["deployment"] += 1
        if state.champion_version is not None:
            for step in range(len(STEPS)):
                parts.rollout.set_traffic(
                    release, step=step, expected_config=_config(parts), evidence_digest="", reason="the benchmark's"
                )
                self.done["step"] += 1
        return release

    def _promote(self, release: str) -> None:
        parts = self._parts()
        parts.rollout.promote(release, expected_config=_config(parts), evidence_digest="", reason="the benchmark's")
        self.done["promotion"] += 1

    def _parts(self) -> Parts:
        return connect_parts(self.spec, actor="benchmark", progress=lambda line: None)


def main() -> int:
    """Measure, print, and return 1 when a goal is missed."""
    parser = argparse.ArgumentParser(prog="benchmarks.swap", description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=REQUESTS, help="least number of requests")
    parser.add_argument("--connections", type=int, default=6, help="requests under way on connections that are kept")
    parser.add_argument("--newcomers", type=int, default=2, help="the same, each on a new connection")
    add_json_option(parser)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-swap-") as folder, ExitStack() as stack:
        releases = _champion(Path(folder), stack)
        begin, answers = time.perf_counter(), list[Answers]()
        while sum(each.sent for each in answers) < given.requests:
            with Asking(_users(releases.spec, given.connections, given.newcomers)) as asking:
                releases.good()
                releases.bad()
                answers.append(asking.end())
        seconds = time.perf_counter() - begin
    return report("swap", _figures(answers, releases.done, seconds, given.requests), given.json)


def _figures(answers: list[Answers], done: Counter[str], seconds: float, goal: int) -> list[Figure]:
    failures = sum((Counter(each.failures) for each in answers), Counter[str]())
    sent = sum(each.sent for each in answers)
    return [
        Figure("requests during releases", sent, "", at_least=goal),
        Figure("failed requests", sum(failures.values()), "", at_most=0),
        *(Figure(f"failed with {kind}", count, "") for kind, count in sorted(failures.items())),
        *(Figure(f"{kind}s meanwhile", count, "") for kind, count in sorted(done.items())),
        Figure("requests per second", sent / seconds, "1/s"),
        Figure("a request, median", max(each.p50_ms for each in answers), "ms"),
        Figure("a request, 99th percentile", max(each.p99_ms for each in answers), "ms"),
        Figure("a request, longest", max(each.longest_ms for each in answers), "ms"),
    ]


def _champion(folder: Path, stack: ExitStack) -> Releases:
    """A workspace with one model whose first version serves everybody."""
    server, url, token = start_workspace(folder)
    stack.callback(server.stop)
    act_on(url, token, folder)
    written: dict[str, Any] = {
        "name": "swapped",
        "model": {"registered_name": "main.default.swapped", "source": MODEL.name, "input_example": ASK},
        "endpoint": {"name": "swapped", "tracing": False},
        "ramp": {"steps": STEPS, "min_step_seconds": 0},
    }
    releases = Releases(parse_spec(written, file=MODEL.parent / "defs.yaml"))
    releases.good()
    releases.done.clear()
    return releases


def _users(spec: ReleaseSpec, connections: int, newcomers: int) -> Users:
    url = f"{os.environ['DATABRICKS_HOST']}/serving-endpoints/{spec.endpoint_name}/invocations"
    headers = {"authorization": f"Bearer {os.environ['DATABRICKS_TOKEN']}", "content-type": "application/json"}
    return Users(url, headers, json.dumps(ASK), "echo: hello", connections, newcomers)


def _config(parts: Parts) -> int:
    state = parts.endpoint.read()
    return state.config_version if state else 0


_uris: list[str] = []


def _logged() -> str:
    """The model, logged once."""
    import mlflow

    if not _uris:
        mlflow.set_experiment("/Shared/swap")
        with mlflow.start_run():
            _uris.append(mlflow.pyfunc.log_model(name="model", python_model=MODEL).model_uri)
    return _uris[0]


if __name__ == "__main__":
    sys.exit(main())
