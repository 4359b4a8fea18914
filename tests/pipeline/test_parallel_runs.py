"""Runs of Dagster that really go on at the same moment, each in a process of its own, with and without its limits.

What one endpoint gets must not depend on Dagster's queue and pools: they save work, the ledger keeps order.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
import yaml

from release_pipeline.errors import WorkspaceUnreachable
from release_pipeline.operate.dagster_api import DagsterApi
from release_pipeline.rollout.ledger import Action, Entry, Phase
from release_pipeline.rollout.state import Stage, current_release, queued
from release_pipeline.spec import parse_spec
from release_pipeline.workspace import tracking
from release_pipeline.workspace.registry import SUPERSEDED, TAG_STATUS
from tests.conftest import RunningWorkspace, free_port
from tests.faults.observer import Observer
from tests.faults.user import User
from tests.pipeline.conftest import Model, eventually, note_run, write_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

LIMITED = Path(__file__).parents[2] / "dagster.yaml"
#: Every run starts as soon as it is asked for, whatever its tags are; no daemon has a say in it.
UNLIMITED = {
    "telemetry": {"enabled": False},
    "run_coordinator": {"module": "dagster.core.run_coordinator", "class": "DefaultRunCoordinator"},
}
DEFINITIONS = """
from pathlib import Path

import dagster as dg
import yaml

from release_pipeline.build import build_release
from release_pipeline.spec import parse_spec

files = sorted(Path(__file__).parent.glob("*/defs.yaml"))
specs = [(file, parse_spec(yaml.safe_load(file.read_text())["attributes"], file=file)) for file in files]
defs = dg.Definitions.merge(*(build_release(spec, file.parent) for file, spec in specs))
"""
#: More than processes that start at the same moment take on a busy machine.
RUN_SECONDS = 240.0
POLICIES = ("refuse", "queue", "replace")
#: Of the model whose one release is moved by several runs at once.
MOVED = "moved"
ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


@dataclass(frozen=True)
class Dagster:
    """A running Dagster with its daemon, its database, and the models of its code location."""

    api: DagsterApi
    instance: dg.DagsterInstance
    models: dict[str, Model]
    limited: bool

    def at_once(self, *wanted: tuple[Model, str, str]) -> list[dg.DagsterRun]:
        """Launch these jobs of models and releases at the same moment, and wait until all have ended."""
        with ThreadPoolExecutor(len(wanted)) as pool:
            ids = list(pool.map(lambda each: self.api.launch(each[0].spec.name, each[1], each[2], {}), wanted))
        eventually(lambda: all(self._run(each).status in ENDED for each in ids), RUN_SECONDS)
        return [self._run(each) for each in ids]

    def overlapped(self, runs: Sequence[dg.DagsterRun]) -> bool:
        """Whether there was a moment at which all of them were being executed."""
        records = [self.instance.get_run_record_by_id(run.run_id) for run in runs]
        times = [(each.start_time, each.end_time) for each in records if each and each.start_time and each.end_time]
        assert len(times) == len(runs), "all of them were executed"
        return max(start for start, _ in times) < min(end for _, end in times)

    def _run(self, run_id: str) -> dg.DagsterRun:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run


@pytest.fixture(scope="module", params=["limits on", "limits off"])
def dagster(
    request: pytest.FixtureRequest,
    workspace: RunningWorkspace,
    logged: Callable[[str], tracking.ReleaseRun],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Dagster]:
    folder = tmp_path_factory.mktemp("parallel")
    models, letter = dict[str, Model](), "l" if request.param == "limits on" else "u"
    for policy in (*POLICIES, MOVED):
        second = "refuse" if policy == MOVED else policy
        name = f"parallel_{policy}_{letter}{os.getpid()}"
        file = write_folder(folder / name, name, ramp={"second_release": second})
        spec = parse_spec(yaml.safe_load(file.read_text())["attributes"], file=file)
        models[policy] = Model(spec, logged)
    (folder / "definitions.py").write_text(DEFINITIONS)
    home = folder / "home"
    home.mkdir()
    if request.param == "limits on":
        shutil.copy(LIMITED, home / "dagster.yaml")
    else:
        (home / "dagster.yaml").write_text(yaml.safe_dump(UNLIMITED))
    port = free_port()
    command = [Path(sys.prefix) / "bin" / "dagster", "dev", "-f", "definitions.py", "--host", "127.0.0.1"]
    with (folder / "dagster.log").open("wb") as log:
        process = subprocess.Popen(
            [*map(str, command), "--port", str(port)],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "DAGSTER_HOME": str(home)},
            start_new_session=True,
        )
    api = DagsterApi(f"http://127.0.0.1:{port}")
    try:
        for model in models.values():
            model.champion()
            model.parts().rollout.retire("20260101-000000")
        eventually(lambda: process.poll() is not None or _answers(api), RUN_SECONDS)
        assert process.poll() is None, (folder / "dagster.log").read_text()
        with dg.DagsterInstance.from_config(str(home)) as instance:
            yield Dagster(api, instance, models, request.param == "limits on")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with suppress(ProcessLookupError):  # what is left of the processes that it started
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for model in models.values():
            model.parts().endpoint.delete()


def _answers(api: DagsterApi) -> bool:
    try:
        return api.run_status("none")[0] == "RunNotFoundError"
    except WorkspaceUnreachable:
        return False


def registered(model: Model, config: str) -> str:
    """A release with a version of its own, as far as registered_version; its key."""
    version, release = model.register(config), model.release()
    note_run(model.parts(), model.spec, release, version, model.logged(config).model_uri)
    return release


def under_way(entries: Sequence[Entry]) -> list[str]:
    """Releases that have begun and are not over."""
    releases = dict.fromkeys(entry.release for entry in entries)
    states = [(release, current_release(entries, release)) for release in releases]
    return [release for release, state in states if state is not None and state.active]


@contextmanager
def watched(model: Model) -> Iterator[None]:
    """Users of the endpoint, none of whom may fail, and an observer of what must not be."""
    observer = Observer(model.parts(), model.parts())
    user = User(model.parts().endpoint.query_url, os.environ["DATABRICKS_TOKEN"])
    try:
        yield
    finally:
        user.stop()
        observer.stop()
    assert user.failures == []
    assert user.answered
    assert observer.violations == []


# One test, so that one Dagster is started for all of it, however tests are spread over processes.
def test_of_runs_at_the_same_moment_one_at_a_time_acts_on_an_endpoint(dagster: Dagster) -> None:
    raced = [two_releases_begin(policy, dagster) for policy in dagster.models if policy != MOVED]
    stepped = the_same_step_is_taken(dagster)
    raced.append(one_release_is_moved_and_rolled_back(dagster))
    # Without limits every race can be lost to a slow start of one of its processes, but not all of them.
    assert dagster.limited or any((*raced, stepped)), "no two runs went on at the same time"
    assert not (dagster.limited and stepped), "dagster.yaml lets one run of an endpoint go on at a time"


def two_releases_begin(policy: str, dagster: Dagster) -> bool:
    """Both are deployed at the same moment, and the YAML says what becomes of the second; whether they raced."""
    model = dagster.models[policy]
    keys = [registered(model, config) for config in ("second", "first")]
    with watched(model):
        runs = dagster.at_once(*((model, "deploy", key) for key in keys))
    one_at_a_time(model, policy, keys, [run.is_success for run in runs])
    return dagster.overlapped(runs)


def the_same_step_is_taken(dagster: Dagster) -> bool:
    """By two runs at the same moment: each step is taken by one of them; whether they raced.

    One that comes late may find rows enough for the next step.
    """
    model = dagster.models[MOVED]
    model.deploy(release := model.release(), model.register("second"))
    before = model.config()
    with watched(model):
        runs = dagster.at_once(*((model, "canary_step", release) for _ in range(2)))
    entries = model.parts().ledger.read()
    taken = [each for each in entries if each.release == release and each.action is Action.SET_TRAFFIC]
    steps = [each.after["step"] for each in taken if each.phase is Phase.INTENT]
    assert steps in ([0], [0, 1])
    assert [each.phase for each in taken] == [Phase.INTENT, Phase.DONE] * len(steps)
    assert model.config() == before + len(steps)
    state = current_release(entries, release)
    assert state is not None
    assert (state.stage, state.step) == (Stage.RAMPING, steps[-1])
    return dagster.overlapped(runs)


def one_release_is_moved_and_rolled_back(dagster: Dagster) -> bool:
    """By two runs at the same moment: the rollback wins; whether they raced."""
    model = dagster.models[MOVED]
    state = model.parts().rollout.state()
    assert state is not None
    with watched(model):
        runs = dagster.at_once(*((model, job, state.release) for job in ("canary_step", "rollback")))
    assert runs[-1].is_success, "a rollback comes to its end whatever else goes on"
    now = model.parts().rollout.state(state.release)
    assert now is not None
    assert (now.stage, now.open_intent) == (Stage.ROLLED_BACK, None)
    endpoint = model.parts().endpoint.read()
    assert endpoint is not None
    assert [entity.version for entity in endpoint.entities] == ["1"]
    return dagster.overlapped(runs)


def one_at_a_time(model: Model, policy: str, keys: Sequence[str], succeeded: Sequence[bool]) -> None:
    """What came of two releases that began at the same moment."""
    parts = model.parts()
    entries = parts.ledger.read()
    for count in range(len(entries) + 1):
        assert len(under_way(entries[:count])) <= 1, entries[count - 1]
    (active,) = under_way(entries)
    state = current_release(entries, active)
    assert state is not None
    assert (state.stage, state.step, state.open_intent) == (Stage.RAMPING, 0, None)
    endpoint = parts.endpoint.read()
    assert endpoint is not None
    assert {entity.version for entity in endpoint.entities} == {"1", state.challenger_version}
    (other,) = [key for key in keys if key != active]
    lost = current_release(entries, other)
    match policy:
        case "refuse":
            assert lost is None
            assert sorted(succeeded) == [False, True]
        case "queue":
            assert lost is None
            assert queued(entries) == [other]
            assert list(succeeded) == [True, True]
        case _:
            assert lost is None or lost.stage is Stage.ROLLED_BACK
            if lost is not None:
                version = parts.registry.get(lost.challenger_version)
                assert version is not None
                assert version.tags[TAG_STATUS] == SUPERSEDED
