"""One serving endpoint while the server runs: its stored record, its deployments, its routing table."""

import asyncio
import random
import uuid
from bisect import bisect
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from release_pipeline.local_workspace.access import ENDPOINT_LEVELS, EVERYBODY
from release_pipeline.local_workspace.errors import NotFound
from release_pipeline.local_workspace.serving.deployment import Deployment
from release_pipeline.local_workspace.serving.derived_rows import FEEDBACK
from release_pipeline.local_workspace.serving.gateway import RateLimits
from release_pipeline.local_workspace.serving.inference_log import TableLog
from release_pipeline.local_workspace.serving.metrics import RequestCounters
from release_pipeline.local_workspace.serving.supervisor import ABORTED, CREATING, FAILED, READY
from release_pipeline.local_workspace.settings import Faults
from release_pipeline.local_workspace.state.endpoint_configuration import EndpointConfig, ServedEntity
from release_pipeline.local_workspace.state.endpoints import UPDATE_FAILED, EndpointRecord

# The service's own words; clients that wait for an endpoint look for them.
NOT_THERE = (
    "The given endpoint does not exist, please retry after checking the specified model and version deployment exists."
)


class Endpoint:
    """The running side of an `EndpointRecord`.

    Attributes:
        deployments: What serves the entities of the active and the pending configuration, by entity id.
        log: Where rows of the inference table go, None when it is not enabled.
        usage: Where requests are noted, None when usage is not tracked.
        update: The task that brings the pending configuration up.
        manageable: Whether anybody may change or delete it.
    """

    manageable = True

    def __init__(self, record: EndpointRecord) -> None:
        self.record = record
        self.deployments: dict[str, Deployment] = {}
        self.counters: dict[str, RequestCounters] = {}
        self.log: TableLog | None = None
        self.usage: TableLog | None = None
        self.limit: RateLimits | None = None
        self.update: asyncio.Task[None] | None = None
        self._routed: list[Deployment] = []
        self._weights: list[int] = []

    def activate(self) -> None:
        """Route by the record's active configuration from now on."""
        config = self.record.config
        assert config is not None
        by_name = {entity.name: self.deployments[entity.id] for entity in config.entities}
        for name in by_name:
            self.counters.setdefault(name, RequestCounters())
        routes = [(by_name[name], percentage) for name, percentage in config.traffic.items() if percentage > 0]
        self._routed = [deployment for deployment, _ in routes]
        self._weights = list(accumulate(percentage for _, percentage in routes))

    def choose(self) -> Deployment:
        """A deployment, by the weights of the active routes.

        Raises:
            NotFound: Nothing is served yet.
        """
        if not self._routed:
            raise NotFound(NOT_THERE)
        if len(self._routed) == 1:
            return self._routed[0]
        return self._routed[bisect(self._weights, random.random() * 100)]

    def named(self, entity_name: str) -> Deployment:
        """The deployment of one active entity, whatever its share of the traffic.

        Raises:
            NotFound: No active entity has that name.
        """
        config = self.record.config
        entity = config.entity(entity_name) if config else None
        if entity is None:
            raise NotFound(NOT_THERE)
        return self.deployments[entity.id]

    def known_entity(self, entity_name: str) -> ServedEntity:
        """An entity of the active or the pending configuration, the pending one first.

        Raises:
            NotFound: Neither has an entity of that name.
        """
        for config in (self.record.pending, self.record.config):
            if config is not None and (entity := config.entity(entity_name)):
                return entity
        raise NotFound(f"Endpoint {self.record.name!r} has no served entity {entity_name!r}.")

    def entity_ids(self) -> set[str]:
        """Ids of all entities that a configuration mentions."""
        configs = (self.record.config, self.record.pending)
        return {entity.id for config in configs if config for entity in config.entities}

    def view(self, url: str, reader: str, admin: str) -> dict[str, Any]:
        """The endpoint as the API shows it to ``reader``; ``url`` and ``admin`` are the workspace's."""
        record = self.record
        serving = record.config is not None and all(
            self.deployments[entity.id].state == READY for entity in record.config.entities
        )
        answer: dict[str, Any] = {
            "name": record.name,
            "id": record.id,
            "creator": record.creator,
            "creation_timestamp": record.created_ms,
            "last_updated_timestamp": record.updated_ms,
            "state": {"ready": "READY" if serving else "NOT_READY", "config_update": record.config_update},
            "route_optimized": False,
            "endpoint_url": f"{url}/serving-endpoints/{record.name}/invocations",
        }
        if level := "CAN_MANAGE" if reader == admin else self.level_of(reader):
            answer["permission_level"] = level
        if record.config is not None:
            answer["config"] = record.config.view(self._states(record.config))
        if record.pending is not None:
            pending = record.pending.view(self._states(record.pending))
            answer["pending_config"] = {**pending, "start_time": record.pending.started_ms}
        if record.tags:
            answer["tags"] = tags_view(record.tags)
        if record.ai_gateway:
            answer["ai_gateway"] = record.ai_gateway
        if record.description:
            answer["description"] = record.description
        return answer

    def level_of(self, reader: str) -> str | None:
        """The highest that ``reader`` was given on this endpoint, or everybody; whoever made it may manage it."""
        if reader == self.record.creator:
            return "CAN_MANAGE"
        names = {reader, *EVERYBODY}
        given = [grant["permission_level"] for grant in self.record.permissions if names & set(grant.values())]
        return max(given, key=ENDPOINT_LEVELS.index, default=None)

    def _states(self, config: EndpointConfig) -> dict[str, Mapping[str, str]]:
        return {entity.id: self._state(entity) for entity in config.entities}

    def _state(self, entity: ServedEntity) -> dict[str, str]:
        if entity.id in self.record.failures:
            state, message = FAILED, self.record.failures[entity.id]
        elif deployment := self.deployments.get(entity.id):
            state, message = deployment.state, deployment.message
        else:
            state, message = (ABORTED if self.record.config_update == UPDATE_FAILED else CREATING), ""
        return {"deployment": state, "deployment_state_message": message}


def feedback_entity(endpoint: Endpoint, faults: Faults) -> ServedEntity | None:
    """The entity that takes feedback on an agent beside its versions, as `agents.deploy` used to add one.

    It is there while derived tables are, unless the endpoint serves an entity of that name; no configuration lists it.
    """
    config = endpoint.record.config
    if faults.derived_tables is None or config is None or config.entity(FEEDBACK) is not None:
        return None
    model = config.entities[0].entity_name.rsplit(".", 1)[0] + f".{FEEDBACK}"
    identity = uuid.uuid5(uuid.UUID(endpoint.record.id), FEEDBACK).hex
    return ServedEntity(identity, FEEDBACK, model, "1", "Small", "CPU", True, {}, endpoint.record.creator, 0)


def tags_view(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Tags as the API lists them, by key."""
    return [{"key": key, "value": tags[key]} for key in sorted(tags)]
