"""What an endpoint serves: its entities and routes, read from a request and written back to the client.

Shapes are those of the serving-endpoints API: ``served_entities`` and the older ``served_models`` are two views
of one list, and a route names an entity by ``served_entity_name`` or ``served_model_name`` (both are echoed).
Output-only fields that a client sends back (``state``, ``creator``, ...) are ignored, because clients build their
next request from the last answer.
"""

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from release_pipeline.local_workspace.errors import InvalidParameter

NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?")
ENTITY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
SECRET_REFERENCE = re.compile(r"\{\{\s*secrets/([^/{}]+)/([^/{}]+?)\s*\}\}")
CONCURRENCY = {"Small": 4, "Medium": 16, "Large": 64}
"""Highest provisioned concurrency by workload size: 4, 8 to 16, 16 to 64."""


@dataclass(frozen=True)
class ServedEntity:
    """One model version with the resources it is served with.

    Attributes:
        id: 32 hexadecimal digits, new for each creation; it appears in inference tables and never in an answer.
        name: Name within the endpoint; routes and metrics use it.
        entity_name: Registered model, ``catalog.schema.model``.
        entity_version: Version of it, digits as text.
        created_ms: When this entity was first part of an accepted configuration, epoch milliseconds.
        min_provisioned_concurrency: Given in place of a workload size; a laptop does not scale down to it.
        max_provisioned_concurrency: How many requests are answered at a time, in place of a workload size.
    """

    id: str
    name: str
    entity_name: str
    entity_version: str
    workload_size: str
    workload_type: str
    scale_to_zero_enabled: bool
    environment_vars: dict[str, str] = field(repr=False)
    creator: str
    created_ms: int
    min_provisioned_concurrency: int | None = None
    max_provisioned_concurrency: int | None = None

    @property
    def concurrency(self) -> int:
        """How many requests it answers at a time, scaled up as far as it goes."""
        return self.max_provisioned_concurrency or CONCURRENCY[self.workload_size]

    def serves_as(self, other: "ServedEntity") -> bool:
        """Whether a scoring process of the other can go on for this one."""
        return replace(self, id="", creator="", created_ms=0, scale_to_zero_enabled=False) == replace(
            other, id="", creator="", created_ms=0, scale_to_zero_enabled=False
        )

    def view(self, state: Mapping[str, str], *, as_model: bool = False) -> dict[str, Any]:
        """The entity as the API shows it; ``state`` is its deployment state."""
        answer: dict[str, Any] = {
            "name": self.name,
            "workload_type": self.workload_type,
            "scale_to_zero_enabled": self.scale_to_zero_enabled,
            "creator": self.creator,
            "creation_timestamp": self.created_ms,
            "state": dict(state),
        }
        if self.max_provisioned_concurrency is None:
            answer["workload_size"] = self.workload_size
        else:
            answer["min_provisioned_concurrency"] = self.min_provisioned_concurrency
            answer["max_provisioned_concurrency"] = self.max_provisioned_concurrency
        if self.environment_vars:
            answer["environment_vars"] = dict(self.environment_vars)
        names = ("model_name", "model_version") if as_model else ("entity_name", "entity_version")
        return answer | dict(zip(names, (self.entity_name, self.entity_version), strict=True))


@dataclass(frozen=True)
class EndpointConfig:
    """One numbered configuration: entities and the percentage of the traffic that each receives."""

    version: int
    entities: tuple[ServedEntity, ...]
    traffic: dict[str, int]
    started_ms: int

    def entity(self, name: str) -> ServedEntity | None:
        """The entity of that name, or None."""
        return next((entity for entity in self.entities if entity.name == name), None)

    def view(self, states: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
        """The configuration as the API shows it; ``states`` are deployment states by entity id."""
        return {
            "config_version": self.version,
            "served_entities": [entity.view(states[entity.id]) for entity in self.entities],
            "served_models": [entity.view(states[entity.id], as_model=True) for entity in self.entities],
            "traffic_config": {
                "routes": [
                    {"served_model_name": name, "served_entity_name": name, "traffic_percentage": percentage}
                    for name, percentage in self.traffic.items()
                ]
            },
        }


def config_from_json(data: Mapping[str, Any]) -> EndpointConfig:
    """The configuration from its `dataclasses.asdict`."""
    entities = tuple(ServedEntity(**entity) for entity in data["entities"])
    return EndpointConfig(data["version"], entities, dict(data["traffic"]), data["started_ms"])


def parse_config(
    body: Mapping[str, Any], *, version: int, creator: str, now_ms: int, active: EndpointConfig | None
) -> EndpointConfig:
    """Read a configuration from a request.

    An entity that can go on in the scoring process of an active one keeps that one's id and creation time.

    Raises:
        InvalidParameter: A field is missing or has a value that the service refuses.
    """
    raw = body.get("served_entities") or [_entity_of_model(model) for model in body.get("served_models") or []]
    if not isinstance(raw, list) or not raw:
        raise InvalidParameter("served_entities must hold at least one entity.")
    entities: list[ServedEntity] = []
    for item in raw:
        entity = _parse_entity(item, creator, now_ms)
        if any(entity.name == other.name for other in entities):
            raise InvalidParameter(f"served_entities has two entities named {entity.name!r}; names must differ.")
        same = active.entity(entity.name) if active else None
        if same is not None and entity.serves_as(same):
            entity = replace(entity, id=same.id, creator=same.creator, created_ms=same.created_ms)
        entities.append(entity)
    return EndpointConfig(version, tuple(entities), _parse_traffic(body.get("traffic_config"), entities), now_ms)


def _entity_of_model(model: Mapping[str, Any]) -> dict[str, Any]:
    return {**model, "entity_name": model.get("model_name"), "entity_version": model.get("model_version")}


def _parse_entity(item: Any, creator: str, now_ms: int) -> ServedEntity:
    if not isinstance(item, dict):
        raise InvalidParameter("Each of served_entities must be an object.")
    entity_name, version = str(item.get("entity_name") or ""), str(item.get("entity_version") or "")
    if "external_model" in item or entity_name.count(".") != 2:
        raise InvalidParameter(
            f"Served entity {entity_name!r}: entity_name must be a Unity Catalog model, catalog.schema.model."
        )
    if not (version.isascii() and version.isdecimal() and len(version) < 19):
        raise InvalidParameter(f"Served entity {entity_name!r}: entity_version must be a number, got {version!r}.")
    name = str(item.get("name") or f"{entity_name.rsplit('.', 1)[1]}-{version}")
    if not ENTITY_NAME.fullmatch(name):
        raise InvalidParameter(f"Served entity name {name!r}: use letters, digits, '-', '_' and '.', at most 128.")
    size = str(item.get("workload_size") or "Small")
    if size not in CONCURRENCY:
        raise InvalidParameter(f"Served entity {name!r}: workload_size must be one of {', '.join(CONCURRENCY)}.")
    least, most = _parse_concurrency(name, item)
    return ServedEntity(
        id=uuid.uuid4().hex,
        name=name,
        entity_name=entity_name,
        entity_version=version,
        workload_size=size,
        workload_type=str(item.get("workload_type") or "CPU"),
        scale_to_zero_enabled=bool(item.get("scale_to_zero_enabled", False)),
        environment_vars=_parse_environment(name, item.get("environment_vars") or {}),
        creator=creator,
        created_ms=now_ms,
        min_provisioned_concurrency=least,
        max_provisioned_concurrency=most,
    )


def _parse_concurrency(entity: str, item: Mapping[str, Any]) -> tuple[int | None, int | None]:
    least, most = item.get("min_provisioned_concurrency"), item.get("max_provisioned_concurrency")
    if least is None and most is None:
        return None, None
    if item.get("workload_size"):
        raise InvalidParameter(f"Served entity {entity!r}: give workload_size or provisioned concurrency, not both.")
    least = 0 if least is None else least
    if type(least) is not int or type(most) is not int or least % 4 or most % 4 or not 0 <= least <= most or not most:
        raise InvalidParameter(
            f"Served entity {entity!r}: max_provisioned_concurrency must be a multiple of 4 above 0, and "
            "min_provisioned_concurrency one that is not above it."
        )
    return least, most


def _parse_environment(entity: str, variables: Any) -> dict[str, str]:
    if not isinstance(variables, dict) or not all(isinstance(value, str) for value in variables.values()):
        raise InvalidParameter(f"Served entity {entity!r}: environment_vars must map names to text.")
    return dict(variables)


def _parse_traffic(traffic: Any, entities: list[ServedEntity]) -> dict[str, int]:
    routes = (traffic or {}).get("routes") or []
    if not routes:
        if len(entities) == 1:
            return {entities[0].name: 100}
        raise InvalidParameter("traffic_config is required when there is more than one served entity.")
    known = {entity.name for entity in entities}
    result: dict[str, int] = {}
    for route in routes:
        name = route.get("served_entity_name") or route.get("served_model_name")
        percentage = route.get("traffic_percentage")
        if not isinstance(name, str) or name not in known:
            raise InvalidParameter(f"traffic_config has a route to {name!r}, which is not a served entity.")
        if name in result:
            raise InvalidParameter(f"traffic_config has two routes to {name!r}.")
        if not isinstance(percentage, int) or isinstance(percentage, bool) or not 0 <= percentage <= 100:
            raise InvalidParameter(f"traffic_percentage of {name!r} must be a whole number from 0 to 100.")
        result[name] = percentage
    if sum(result.values()) != 100:
        raise InvalidParameter(f"traffic_config must sum to 100, got {sum(result.values())}.")
    return result
