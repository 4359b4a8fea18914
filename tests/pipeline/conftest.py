"""One small agent, logged once per session and configuration; a spec and registered versions of its own per test."""

import itertools
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from release_pipeline.assets.canary_traffic import take_step
from release_pipeline.assets.deployed_endpoint import send_tracers, served_entity
from release_pipeline.assets.promoted_alias import promote
from release_pipeline.automation.next_run import resume_run
from release_pipeline.rollout.observer import Observed
from release_pipeline.rollout.parts import Parts, connect_parts
from release_pipeline.rollout.state import ReleaseState
from release_pipeline.spec import ReleaseSpec, parse_spec
from release_pipeline.workspace import tracking
from release_pipeline.workspace.client import connect
from release_pipeline.workspace.registry import TAG_DIGEST, TAG_RELEASE
from release_pipeline.workspace.tracer import PREFIX
from tests.conftest import RunningWorkspace
from tests.pipeline.checkpoint import Checkpoint

MODELS = Path(__file__).parent / "models"
EXPERIMENT = "/Shared/pipeline-tests"
#: Of the content of every release that nobody has logged.
DIGEST = "0123456789abcdef"
WAIT_SECONDS = 60


class TurnedClock:
    """The machine's clock, turned forward by hand."""

    def __init__(self) -> None:
        self._ahead = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self._ahead

    def advance(self, seconds: float) -> None:
        self._ahead += timedelta(seconds=seconds)


def attributes(name: str, **parts: Any) -> dict[str, Any]:
    """The attributes of a small, quick release; ``parts`` replace or extend them, part by part."""
    written: dict[str, Any] = {
        "name": name,
        "model": {
            "registered_name": f"main.default.{name}",
            "source": "agent.py",
            "config": "first.yaml",
            "experiment": EXPERIMENT,
            "input_example": {"input": [{"role": "user", "content": "hello"}]},
        },
        "predeploy_predict": {"environment": "local"},
        "endpoint": {"name": name, "tracing": False, "ready_timeout_seconds": 60},
        "ramp": {"steps": [25, 50], "min_step_seconds": 0},
        "gate": {
            "bucket_seconds": 1,
            "metrics": [{"name": "errors", "kind": "errors", "margin": 0.3, "bound": 0.3}],
            "min_block_rows": 5,
        },
        "promotion": {"bake_seconds": 60},
    }
    for part, fields in parts.items():
        both = isinstance(fields, dict) and isinstance(written.get(part), dict)
        written[part] = {**written[part], **fields} if both else fields
    return written


@pytest.fixture
def make_spec() -> Callable[..., ReleaseSpec]:
    """A validated spec under a name of its own."""

    def make(**parts: Any) -> ReleaseSpec:
        name = parts.pop("name", f"m{uuid.uuid4().hex[:8]}")
        return parse_spec(attributes(name, **parts), file=MODELS / "defs.yaml")

    return make


@pytest.fixture(scope="session")
def logged(workspace: RunningWorkspace) -> Callable[[str], tracking.ReleaseRun]:
    """The run in which the agent was logged with one configuration, by the configuration's name."""
    runs: dict[str, tracking.ReleaseRun] = {}
    spec = parse_spec(attributes("logged_agent"), file=MODELS / "defs.yaml")

    def log(config: str) -> tracking.ReleaseRun:
        if config not in runs:
            runs[config] = tracking.log_model(
                connect(),
                spec,
                f"session-{config}",
                source=MODELS / "agent.py",
                config=MODELS / f"{config}.yaml",
                folder=MODELS,
            )
        return runs[config]

    return log


@dataclass
class Model:
    """One registered model of a test, with its endpoint, and what moves and sees its releases."""

    spec: ReleaseSpec
    logged: Callable[[str], tracking.ReleaseRun]
    clock: TurnedClock = field(default_factory=TurnedClock)
    said: list[str] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def parts(self, actor: str = "test") -> Parts:
        """New parts, as every run and every tick connects its own."""
        return connect_parts(self.spec, actor=actor, progress=self.said.append, clock=self.clock)

    def register(self, config: str) -> str:
        """A new version with one configuration, with the alias of a challenger; its number."""
        import mlflow

        version = str(mlflow.register_model(self.logged(config).model_uri, self.spec.model.registered_name).version)
        self.parts().registry.set_alias("challenger", version)
        return version

    def release(self) -> str:
        """A new release key."""
        return f"20260101-{next(self._numbers):06d}"

    def deploy(self, release: str, version: str) -> ReleaseState:
        """What the asset deployed_endpoint does, tracers included."""
        parts = self.parts()
        latest = parts.payload.latest()
        state = parts.rollout.deploy(release, version, self.entity(version), table_version=latest[0] if latest else 0)
        send_tracers(parts, self.spec, state)
        return state

    def entity(self, version: str) -> Any:
        """The served entity of a version."""
        return served_entity(self.spec, version, self.logged("first").experiment_id)

    def champion(self, config: str = "first") -> str:
        """A first release, promoted; its version."""
        version, release = self.register(config), self.release()
        self.deploy(release, version)
        self.promote(release)
        return version

    def config(self) -> int:
        """Version of the endpoint's active configuration."""
        state = self.parts().endpoint.read()
        return state.config_version if state else 0

    def step(self, release: str, step: int = 0) -> ReleaseState:
        """Take a ramp step without asking the gate."""
        return self.parts().rollout.set_traffic(
            release, step=step, expected_config=self.config(), evidence_digest="", reason="by the test"
        )

    def promote(self, release: str) -> ReleaseState:
        """Promote without asking the gate."""
        return self.parts().rollout.promote(
            release, expected_config=self.config(), evidence_digest="", reason="by the test"
        )

    def ask(self, count: int, text: str = "hello") -> list[int]:
        """Real requests to the endpoint; their statuses."""
        url, token = self.parts().endpoint.query_url, os.environ["DATABRICKS_TOKEN"]
        body = {"input": [{"role": "user", "content": text}]}
        with requests.Session() as session:
            session.headers["Authorization"] = f"Bearer {token}"
            return [session.post(url, json=body, timeout=60).status_code for _ in range(count)]

    def rows(self, count: int) -> None:
        """Wait until the inference table holds ``count`` rows of users."""
        parts = self.parts()
        eventually(lambda: self.counted(parts) >= count)

    def counted(self, parts: Parts) -> int:
        """Rows of users, and not of tracers, in the inference table."""
        found = parts.workspace.warehouse.execute(
            f"SELECT count(*) AS n FROM {self.spec.payload_table} "
            f"WHERE client_request_id IS NULL OR client_request_id NOT LIKE '{PREFIX}%'"
        )
        return int(found[0]["n"] or 0)


def note_run(parts: Parts, spec: ReleaseSpec, release: str, version: str | None, model_uri: str) -> None:
    """The MLflow run of a release as logged_model leaves it, or, with a version, registered_version."""
    client = parts.workspace.mlflow
    tags = {
        TAG_RELEASE: release,
        TAG_DIGEST: DIGEST,
        tracking.TAG_NAME: spec.model.registered_name,
        tracking.TAG_MODEL: model_uri,
        **({tracking.TAG_VERSION: version} if version else {}),
    }
    run = client.create_run(tracking.experiment_id(parts.workspace, spec), tags=tags)
    client.set_terminated(run.info.run_id)


def next_tick(model: Model, release: str) -> bool:
    """What the sensor's next tick and the run that it requests do about an open intent; False where none is open."""
    parts = model.parts("next tick")
    state = parts.rollout.state(release)
    if state is None or state.open_intent is None:
        return False
    run = resume_run(state.open_intent)
    jobs: dict[str, Callable[[], Any]] = {
        "canary_step": lambda: take_step(parts, model.spec, release),
        "promote": lambda: promote(parts, release),
        "retire": lambda: parts.rollout.retire(release),
        "rollback": lambda: parts.rollout.roll_back(release, reason=run.reason),
    }
    jobs[run.job]()
    return True


def eventually(condition: Callable[[], Any], seconds: float = WAIT_SECONDS) -> Any:
    """The first true value of a condition; fails after a long time without one."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.05)
    raise AssertionError("the condition did not come true")


@pytest.fixture
def make_model(
    workspace: RunningWorkspace,
    logged: Callable[[str], tracking.ReleaseRun],
    make_spec: Callable[..., ReleaseSpec],
) -> Iterator[Callable[..., Model]]:
    """Models whose endpoints are deleted after the test."""
    with ExitStack() as stack:

        def make(**parts: Any) -> Model:
            model = Model(make_spec(**parts), logged)
            stack.callback(lambda: model.parts().endpoint.delete())
            return model

        yield make


@pytest.fixture
def model(make_model: Callable[..., Model]) -> Model:
    """A model with the usual spec."""
    return make_model()


@pytest.fixture(scope="session")
def beside_champion(
    workspace: RunningWorkspace, logged: Callable[[str], tracking.ReleaseRun]
) -> Iterator[tuple[Model, Checkpoint]]:
    """Versions 1 and 2 on one endpoint, version 2 at 0 %: started once, because processes cost seconds."""
    model = Model(parse_spec(attributes(f"m{uuid.uuid4().hex[:8]}"), file=MODELS / "defs.yaml"), logged)
    model.champion()
    model.deploy(release := model.release(), model.register("second"))
    yield model, Checkpoint.of(model, release)
    model.parts().endpoint.delete()


@pytest.fixture
def deployed(beside_champion: tuple[Model, Checkpoint]) -> tuple[Model, str]:
    """A new release of version 2, deployed at 0 % beside version 1, which may not take version 2 off the endpoint."""
    model, checkpoint = beside_champion
    release = checkpoint.restore(model)
    parts = model.parts()
    state = parts.rollout.state(release)
    assert state is not None
    send_tracers(parts, model.spec, state)
    return model, release


def write_folder(folder: Path, name: str, **parts: Any) -> Path:
    """A folder as a project has it: the YAML, the agent and its configurations; the YAML's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in MODELS.iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    document = {"type": "release_pipeline.ReleasePipelineComponent", "attributes": attributes(name, **parts)}
    (folder / "defs.yaml").write_text(yaml.safe_dump(document))
    return folder / "defs.yaml"


def together(*calls: Callable[[], Any]) -> list[Any]:
    """Results, or what was raised, of calls that start at the same moment."""
    barrier, results = threading.Barrier(len(calls)), [None] * len(calls)

    def run(index: int) -> None:
        barrier.wait()
        try:
            results[index] = calls[index]()
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def look(model: Model, release: str, *, ingest: bool = True) -> Observed:
    """What the sensor would see of a release that has begun."""
    observed = model.parts().observer.look(release, ingest=ingest)
    assert observed is not None
    return observed
