"""One model on a workspace with a proxy, a runner, an observer and users: where releases meet their faults."""

import itertools
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from release_pipeline.assets.deployed_endpoint import send_tracers, served_entity
from release_pipeline.errors import TableMissing
from release_pipeline.evaluation.comparison import TAG_EVALUATION
from release_pipeline.rollout import endpoint_settings
from release_pipeline.rollout.ledger import Entry
from release_pipeline.rollout.mending import DriftLook, look_for_drift
from release_pipeline.rollout.parts import Parts, connect_parts
from release_pipeline.rollout.state import ReleaseState, current_release
from release_pipeline.spec import parse_spec
from release_pipeline.workspace import tracking
from release_pipeline.workspace.client import connect
from release_pipeline.workspace.endpoint import EndpointState
from release_pipeline.workspace.registry import CHALLENGER_ALIAS, TAG_DIGEST, TAG_REASON, TAG_RELEASE, TAG_STATUS
from release_pipeline.workspace.sql.warehouse import quoted
from tests.conftest import RunningWorkspace
from tests.faults.calls import Call
from tests.faults.observer import Observer, Sight
from tests.faults.proxy import FaultyProxy
from tests.faults.runner_client import Runner
from tests.faults.user import User
from tests.faults.world import World, tags_of
from tests.pipeline.conftest import DIGEST, MODELS, attributes, note_run, write_folder

CHAMPION, CHALLENGER, NEXT = "1", "2", "3"
#: Rows of the challenger on a step before the gate is asked for the next.
ROWS = 2
#: The stage of a release whose model is logged, and nothing else; the others are names of the recorded ones.
LOGGED = "logged"
#: What the endpoint is given beside its configuration: a write each.
SETTINGS = {
    "tags": {"team": "assistants"},
    "rate_limits": [{"calls": 100_000}],
    "permissions": [{"group": "callers", "level": "CAN_QUERY"}],
}
#: The evaluation set.
EXAMPLES = "evaluation.jsonl"
WAIT_SECONDS = 30.0


class Scene:
    """The model of one scenario.

    Args:
        workspace: A running local workspace that keeps processes warm.
        folder: An empty folder for the model's files.
        first: Whether the scenario is the first release of its model: no champion, no users.
    """

    def __init__(self, workspace: RunningWorkspace, folder: Path, *, first: bool = False) -> None:
        name = f"m{uuid.uuid4().hex[:8]}"
        self.first = first
        self.name = name
        parts: dict[str, Any] = {
            "evaluation": {"dataset": EXAMPLES, "scorers": ["answered"], "thresholds": {"answered": 0.9}},
            "ramp": {"steps": [40, 70], "second_release": "replace"},
            "gate": {"metrics": [{"name": "errors", "kind": "errors", "margin": 0.3, "required": False}]},
            "promotion": {"automatic": True, "bake_seconds": 0},
            "endpoint": SETTINGS,
        }
        file, written = write_folder(folder, name, **parts), attributes(name, **parts)
        (folder / EXAMPLES).write_text(json.dumps({"inputs": written["model"]["input_example"]}) + "\n")
        self.spec = parse_spec(written, file=file)
        self._numbers, self._version = itertools.count(), dict[str, str]()
        self.drifted = False
        self._workspace = workspace
        self.parts = self._connect()
        for _ in range(1 if first else 3):
            self._register()
        # The proxy asks before the runner is there.
        self.proxy = FaultyProxy(
            workspace.url, workspace.token, kill=lambda: self.runner.kill(), written=lambda call: self._written(call)
        )
        environment = {**os.environ, "DATABRICKS_HOST": self.proxy.url, **IMPATIENCE}
        self.runner = Runner(written, file, folder, environment)
        self.runner.warm_up("prime")
        self.observer: Observer | None = None
        self.user: User | None = None
        if not first:
            self.recorded = self._play_through()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """With the observer's eyes open, and with users where anybody is served."""
        self.observer = Observer(self._connect(), self._connect())
        self.user = None if self.first else User(self.parts.endpoint.query_url, self._workspace.token)
        yield
        if self.user is not None:
            self.user.stop()
        self.observer.stop()

    def close(self) -> None:
        """End everything that the scene has started."""
        self.runner.stop()
        self.proxy.stop()
        self.parts.endpoint.delete()

    @property
    def complaints(self) -> list[str]:
        """What observer and users have to say."""
        return [*(self.observer.violations if self.observer else []), *(self.user.failures if self.user else [])]

    def world(self, release: str) -> World:
        """What the workspace holds now."""
        assert self.observer is not None
        registry = self.parts.registry
        sight = self.observer.look()
        number = self._version.get(release, CHALLENGER)
        tags, others = tags_of(registry.get(number)), tags_of(registry.get(CHALLENGER) if number == NEXT else None)
        left = str(endpoint_settings.lacking(self.spec.endpoint, self.parts.endpoint)) if sight.endpoint else ""
        looked = look_for_drift(self.parts, self.spec) if self.drifted else DriftLook()
        drift = (*(finding.kind.value for finding in looked.findings), *filter(None, (looked.not_looked,)))
        world = World(release, sight, registry.version_of_alias(CHALLENGER_ALIAS), tags, others, left, drift, None)
        if sight.state_of(release) is not None:
            return world
        run = tracking.find_run(self.parts.workspace, self.spec, release)
        if run is None:
            return world
        made = [version for version in registry.versions() if version.run_id == run.run_id]
        return replace(
            world,
            run=run,
            registered=tuple((version.version, tags_of(version)) for version in made if version.status == "READY"),
        )

    def state(self, release: str) -> ReleaseState | None:
        """Where a release stands."""
        return current_release(self.parts.ledger.read(), release)

    def new_release(self) -> str:
        """A release's key."""
        return f"20260101-{next(self._numbers):06d}"

    def logged_release(self) -> str:
        """A release whose model is logged, beside a champion that was never scored; its key."""
        champion = self.parts.registry.get(CHAMPION)
        assert champion is not None
        if TAG_EVALUATION in self.parts.workspace.mlflow.get_run(champion.run_id).data.tags:
            self.parts.workspace.mlflow.delete_tag(champion.run_id, TAG_EVALUATION)
        note_run(self.parts, self.spec, release := self.new_release(), None, _logged())
        return release

    def registered_release(self, version: str = CHALLENGER) -> str:
        """A release whose version is registered; its key."""
        note_run(self.parts, self.spec, release := self.new_release(), version, _logged())
        self._version[release] = version
        return release

    def release_that_meets(self, stage: str) -> str:
        """A release of version 3 whose version is registered while that of version 2 is at ``stage``; its key."""
        self.set_back(stage)
        release = self.registered_release(NEXT)
        self.parts.registry.tag(NEXT, {TAG_STATUS: "challenger", TAG_REASON: "", TAG_RELEASE: release})
        self.parts.registry.set_alias(CHALLENGER_ALIAS, NEXT)
        return release

    def begin_to_prepare(self) -> str:
        """A release of which nothing is there yet, beside a champion; its key."""
        self.set_back("registered")
        for version in self.parts.registry.versions():
            if version.version not in (CHAMPION, CHALLENGER, NEXT):
                self.parts.workspace.mlflow.delete_model_version(self.spec.model.registered_name, version.version)
        return self.new_release()

    def settle(self) -> None:
        """Wait until no update is in progress."""
        wait_for(lambda: (now := self.parts.endpoint.read()) is None or not now.updating)

    def set_back(self, stage: str) -> str:
        """A new release of version 2 against version 1 that has come as far as ``stage``; its key."""
        assert self.observer is not None
        with self.observer.looking_away():
            return self._set_back(stage)

    def begin_anew(self) -> str:
        """A new first release, with nothing of the ones before it left; its key."""
        assert self.observer is not None
        registry = self.parts.registry
        with self.observer.looking_away():
            self.parts.endpoint.delete()
            registry.delete_alias("champion")
            registry.set_alias(CHALLENGER_ALIAS, CHAMPION)
            registry.tag(CHAMPION, {TAG_STATUS: "challenger", TAG_REASON: "", TAG_RELEASE: ""})
            self._forget()
            return self.registered_release(CHAMPION)

    def await_rows(self, release: str) -> None:
        """Wait until the inference table holds rows of the challenger on the present step."""
        mapping = self.parts.observer.evidence.mapping

        def enough() -> bool:
            found, known = self.asked(release), mapping()
            if any(entity not in known for entity in found):
                return len(found) >= 4 * ROWS
            return sum(known[entity] == self._version.get(release, CHALLENGER) for entity in found) >= ROWS

        wait_for(enough)

    def asked(self, release: str) -> list[str]:
        """Ids of the served entities that have answered on the present step, one of each row."""
        state = self.state(release)
        assert state is not None
        assert state.steps
        since = state.steps[-1].started_at
        where, values = self.parts.payload.shape().between(since, since.replace(year=since.year + 1), "rows")
        statement = f"SELECT served_entity_id AS entity FROM {self.spec.payload_table} AS payload WHERE {where}"
        return [row["entity"] or "" for row in self.parts.workspace.warehouse.execute(statement, values)]

    def _written(self, call: Call) -> None:
        if self.observer is not None and call.moves:
            self.observer.look()

    def _connect(self) -> Parts:
        """Parts that speak with the workspace itself, each with clients of its own."""
        from release_pipeline.workspace import client

        client._connect.cache_clear()
        return connect_parts(self.spec, actor="stagehand", progress=lambda line: None)

    def _register(self) -> None:
        import mlflow

        mlflow.register_model(_logged(), self.spec.model.registered_name, tags={TAG_DIGEST: DIGEST})

    def _forget(self) -> None:
        """Empty ledger and evidence, so that the thousandth release costs what the first does; who is who stays."""
        execute = self.parts.workspace.warehouse.execute
        with suppress(TableMissing):
            execute(f"DELETE FROM {quoted(self.spec.ledger_table)}")
            execute(f"DELETE FROM {quoted(self.spec.evidence_table)} WHERE kind NOT IN ('mapping', 'tracer')")

    def _take_settings(self, now: EndpointState) -> None:
        """Take away what the next deployment is to give the endpoint again."""
        serving = self.parts.workspace.client.serving_endpoints
        serving.patch(self.name, delete_tags=list(self.spec.endpoint.tags))
        gateway = serving.get(self.name).ai_gateway
        serving.put_ai_gateway(self.name, inference_table_config=gateway.inference_table_config if gateway else None)
        serving.set_permissions(now.id, access_control_list=[])

    def append(self, release: str, entry: Entry) -> None:
        """A row of the ledger as a release before has written it, written again for this one."""
        self.parts.ledger.append(
            self.parts.ledger.read(),
            release=release,
            actor="stagehand",
            action=entry.action,
            phase=entry.phase,
            before=entry.before,
            after=entry.after,
            config_version=entry.config_version,
            reason=entry.reason,
        )

    def _play_through(self) -> dict[str, tuple[Sight, str | None, tuple[Entry, ...]]]:
        """A champion, and one release of a challenger without faults: what the workspace holds at each stage."""
        registry, rollout, endpoint = self.parts.registry, self.parts.rollout, self.parts.endpoint
        for version in (CHAMPION, CHALLENGER):
            registry.set_alias(CHALLENGER_ALIAS, version)
            release, stages = self.new_release(), dict[str, tuple[Sight, str | None, tuple[Entry, ...]]]()

            def note(stage: str, release: str = release, stages: dict[str, Any] = stages) -> None:
                entries = self.parts.ledger.read()
                sight = Sight(endpoint.read(), registry.version_of_alias("champion"), tuple(entries))
                rows = tuple(entry for entry in entries if entry.release == release)
                stages[stage] = (sight, registry.version_of_alias(CHALLENGER_ALIAS), rows)

            note("registered")
            state = rollout.deploy(release, version, served_entity(self.spec, version, "0"), table_version=0)
            send_tracers(self.parts, self.spec, state)
            note("deployed")
            if version == CHALLENGER:
                for step in range(len(self.spec.ramp.steps)):
                    rollout.set_traffic(
                        release, step=step, expected_config=self._config(), evidence_digest="", reason="stagehand"
                    )
                    note(f"step {step + 1}")
            rollout.promote(release, expected_config=self._config(), evidence_digest="", reason="stagehand")
            note("promoted")
            if version == CHAMPION:
                rollout.retire(release)
        return stages

    def _config(self) -> int:
        now = self.parts.endpoint.read()
        return now.config_version if now else 0

    def _set_back(self, stage: str) -> str:
        sight, challenger_alias, rows = self.recorded[stage]
        assert sight.endpoint is not None
        registry, endpoint, release = self.parts.registry, self.parts.endpoint, self.registered_release()
        self.drifted = False
        self.settle()
        self._forget()
        now = endpoint.read()
        assert now is not None
        # As deployed: the names stay, and what the service adds to an entity is not sent back.
        if (now.routes, now.entities) != (sight.endpoint.routes, sight.endpoint.entities) or now.update_failed:
            endpoint.update(sight.endpoint.entities, sight.endpoint.routes)
            self.settle()
        assert sight.alias is not None
        registry.set_alias("champion", sight.alias)
        if challenger_alias is None:
            registry.delete_alias(CHALLENGER_ALIAS)
        else:
            registry.set_alias(CHALLENGER_ALIAS, challenger_alias)
        status = "promoted" if stage == "promoted" else "challenger"
        registry.tag(CHALLENGER, {TAG_STATUS: status, TAG_REASON: "", TAG_RELEASE: release})
        registry.tag(NEXT, {TAG_STATUS: "challenger"})
        if stage == "registered":
            self._take_settings(now)
        else:  # a release before may have been left without
            endpoint_settings.settle(self.spec.endpoint, endpoint, lambda: None)
        latest = self.parts.payload.latest()
        for row in rows:
            after = dict(row.after)
            if "table_version" in after:
                after["table_version"] = latest.version if latest else 0
            self.append(release, replace(row, after=after))
        state = self.state(release)
        if state is not None:
            send_tracers(self.parts, self.spec, state)
        return release


#: The clients' own settings, shorter than a real workspace could bear.
IMPATIENCE = {
    "MLFLOW_DATABRICKS_ENDPOINT_HTTP_RETRY_TIMEOUT": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}

_uris: list[str] = []


def _logged() -> str:
    """The agent, logged once per session."""
    if not _uris:
        spec = parse_spec(attributes("logged_for_faults"), file=MODELS / "defs.yaml")
        run = tracking.log_model(
            connect(),
            spec,
            "faults",
            source=MODELS / "agent.py",
            config=MODELS / "first.yaml",
            folder=Path(MODELS),
        )
        _uris.append(run.model_uri)
    return _uris[0]


def wait_for(condition: Callable[[], Any]) -> None:
    """Wait for a condition to come true; fails after a long time without."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.03)
