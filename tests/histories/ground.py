"""One model with warm processes, on which one history after the other is played."""

import itertools
import os
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import requests

from release_pipeline.assets.deployed_endpoint import served_entity
from release_pipeline.errors import TableMissing
from release_pipeline.rollout.parts import connect_parts
from release_pipeline.spec import ReleaseSpec, parse_spec
from release_pipeline.spec_rollout import PromotionPart, RampPart
from release_pipeline.workspace import tracking
from release_pipeline.workspace.client import connect
from release_pipeline.workspace.endpoint import EndpointState, ServedEntity
from release_pipeline.workspace.registry import CHALLENGER_ALIAS, TAG_REASON, TAG_RELEASE, TAG_STATUS
from release_pipeline.workspace.sql.warehouse import quoted
from tests.pipeline.conftest import MODELS, TurnedClock, attributes

#: Version 3 fails on every question.
CONFIGS = {"1": "first", "2": "second", "3": "failing", "4": "first"}
CHAMPION, STRANGER = "1", "4"
CHALLENGERS = ("2", "3")
STEPS = (40, 70)
BAKE_SECONDS = 3600
#: Histories begin so long ago, so that rows, whose times are the server's, are never from before their step.
PAST = timedelta(days=30)
WAIT_SECONDS = 60.0


class Ground:
    """A model, its versions and its endpoint, which outlive histories; ledger and evidence do not."""

    def __init__(self) -> None:
        name = f"h{uuid.uuid4().hex[:8]}"
        written = attributes(
            name,
            ramp={"steps": list(STEPS)},
            gate={
                "metrics": [{"name": "errors", "kind": "errors", "margin": 0.3, "required": False}],
                "max_lag_minutes": 1e6,
            },
            promotion={"automatic": True, "bake_seconds": BAKE_SECONDS},
        )
        self._spec = parse_spec(written, file=MODELS / "defs.yaml")
        self._numbers = itertools.count()
        self.hand = connect_parts(self._spec, actor="stagehand", progress=lambda line: None)
        self._http = requests.Session()
        self._http.headers["Authorization"] = f"Bearer {os.environ['DATABRICKS_TOKEN']}"
        self._register()
        entities = [self.entity(version) for version in CONFIGS]
        self._create(entities[0])
        self.set_endpoint(entities, {entity.name: 25 for entity in entities})

    def close(self) -> None:
        """Delete the endpoint."""
        self._http.close()
        self.hand.endpoint.delete()

    def spec(self, ramp: dict[str, Any], promotion: dict[str, Any]) -> ReleaseSpec:
        """The model's YAML with other rules for its releases."""
        now = self._spec
        return now.model_copy(
            update={
                "ramp": RampPart(**{**now.ramp.model_dump(), **ramp}),
                "promotion": PromotionPart(**{**now.promotion.model_dump(), **promotion}),
            }
        )

    def reset(self, *, served: bool) -> TurnedClock:
        """As if there had been no release: version 1 serves everybody, or nothing does; a clock for the history."""
        registry, endpoint, warehouse = self.hand.registry, self.hand.endpoint, self.hand.workspace.warehouse
        for table in (self._spec.ledger_table, self._spec.evidence_table):
            if served:  # the tables of a model that was released before are there
                with suppress(TableMissing):
                    warehouse.execute(f"DELETE FROM {quoted(table)}")
            else:
                warehouse.execute(f"DROP TABLE IF EXISTS {quoted(table)}")
        self.settle()
        champion = self.entity(CHAMPION)
        if not served:
            endpoint.delete()
            registry.delete_alias("champion")
        else:
            now = endpoint.read()
            if now is None:
                self._create(champion)
            elif now.update_failed or now.entities != (champion,) or dict(now.routes) != {champion.name: 100}:
                self.set_endpoint([champion], {champion.name: 100})
            if registry.version_of_alias("champion") != CHAMPION:
                registry.set_alias("champion", CHAMPION)
        registry.delete_alias(CHALLENGER_ALIAS)
        for version in CONFIGS:
            found = registry.get(version)
            tags = {"approval": "", TAG_STATUS: "", TAG_REASON: "", TAG_RELEASE: ""}
            stale = {key: "" for key in tags if found is not None and found.tags.get(key)}
            registry.tag(version, stale)
        clock = TurnedClock()
        clock.advance(-PAST.total_seconds())
        return clock

    def new_release(self) -> str:
        """A release's key."""
        return f"20260101-{next(self._numbers):06d}"

    def entity(self, version: str) -> ServedEntity:
        """How a version is served."""
        return served_entity(self._spec, version, "0")

    def read(self) -> EndpointState | None:
        """The endpoint, once no update is in progress."""
        self.settle()
        return self.hand.endpoint.read()

    def settle(self) -> None:
        """Wait until no update is in progress."""
        wait_for(lambda: (now := self.hand.endpoint.read()) is None or not now.updating)

    def set_endpoint(self, entities: list[ServedEntity], routes: dict[str, int]) -> None:
        """Change the endpoint by hand."""
        self.hand.endpoint.update(tuple(entities), routes)
        self.hand.endpoint.wait(timeout_seconds=WAIT_SECONDS, progress=lambda line: None)

    def users_ask(self, text: str, count: int) -> list[int]:
        """Requests to each entity that has traffic, and one to the endpoint, whose status is returned first.

        Which entity answers is not left to chance: the same history has the same rows.
        """
        now = self.hand.endpoint.read()
        if now is None:
            return []
        before, base = self._rows(), f"{self.hand.workspace.host}/serving-endpoints/{now.name}"
        serving = [entity.name for entity in now.entities if now.routes.get(entity.name)]
        urls = [f"{base}/invocations"] + [f"{base}/served-models/{name}/invocations" for name in serving] * count
        body = {"input": [{"role": "user", "content": text}]}
        found = [self._http.post(url, json=body, timeout=WAIT_SECONDS).status_code for url in urls]
        wait_for(lambda: self._rows() >= before + len(urls), pause_seconds=0.15)
        return found

    def _rows(self) -> int:
        rows = self.hand.workspace.warehouse.execute(f"SELECT count(*) AS n FROM {quoted(self._spec.payload_table)}")
        return int(rows[0]["n"] or 0)

    def _create(self, entity: ServedEntity) -> None:
        from release_pipeline.rollout.verified_write import OWNER_TAG
        from release_pipeline.workspace.endpoint import InferenceTableName

        model = self._spec.model
        table = InferenceTableName(model.catalog, model.schema_name, model.short_name)
        self.hand.endpoint.create(entity, tags={OWNER_TAG: self._spec.name}, inference_table=table)
        self.hand.endpoint.wait(timeout_seconds=WAIT_SECONDS, progress=lambda line: None)

    def _register(self) -> None:
        import mlflow

        runs: dict[str, tracking.ReleaseRun] = {}
        for config in CONFIGS.values():
            if config not in runs:
                runs[config] = tracking.log_model(
                    connect(),
                    self._spec,
                    f"histories-{config}",
                    source=MODELS / "agent.py",
                    config=MODELS / f"{config}.yaml",
                    folder=Path(MODELS),
                )
            mlflow.register_model(runs[config].model_uri, self._spec.model.registered_name)


def wait_for(condition: Callable[[], Any], *, pause_seconds: float = 0.06) -> None:
    """Wait for a condition to come true; fails after a long time without."""
    deadline, pause = time.monotonic() + WAIT_SECONDS, threading.Event()  # sleep is in a hurry here
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        pause.wait(pause_seconds)
