"""What is deployed now, read from the workspace: versions with their traffic, aliases, the last release, links."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from release_pipeline.errors import WorkspaceError, first_sentence
from release_pipeline.workspace.links import Links, endpoint_links

if TYPE_CHECKING:
    from release_pipeline.rollout.state import ReleaseState
    from release_pipeline.spec import ReleaseSpec
    from release_pipeline.workspace.client import Workspace


@dataclass(frozen=True)
class Deployed:
    """One version on one endpoint.

    Attributes:
        traffic_percent: Its share of the requests; None while an update that is to bring it has not ended.
        state: The service's word in small letters: `ready`, `creating`, `failed`, `recovering`, `aborted`.
        message: What the service says about that state.
        creator: Who put it there, empty where the service does not say.
        created_ms: When, in milliseconds since 1970; None where the service does not say.
        experiment_id: Where its traces go, empty where it has none.
    """

    endpoint: str
    entity: str
    version: str
    traffic_percent: int | None
    state: str
    message: str = ""
    creator: str = ""
    created_ms: int | None = None
    experiment_id: str = ""


@dataclass(frozen=True)
class EndpointStatus:
    """One endpoint.

    Attributes:
        ready: Whether it answers requests.
        update: The service's word in small letters: `not_updating`, `in_progress`, `update_failed`.
    """

    name: str
    ready: bool
    update: str
    creator: str
    deployed: tuple[Deployed, ...]


@dataclass(frozen=True)
class ModelStatus:
    """What is deployed of one model.

    Attributes:
        name: ``name`` of the YAML.
        model: Name in Unity Catalog.
        endpoint: The endpoint of its releases, None where there is none.
        elsewhere: Other endpoints that serve versions of the model, with these only.
        aliases: Versions behind the aliases that releases move, None for one that names none.
        release: The newest release that has begun, None where there is none.
        queued: Releases that wait for the end of another.
        reader: Who asks, empty where the workspace does not say.
    """

    name: str
    model: str
    endpoint_name: str
    endpoint: EndpointStatus | None
    elsewhere: tuple[EndpointStatus, ...]
    aliases: Mapping[str, str | None]
    release: "ReleaseState | None"
    links: Links
    queued: tuple[str, ...] = field(default=())
    reader: str = ""

    @property
    def endpoints(self) -> tuple[EndpointStatus, ...]:
        """The endpoint of the releases first."""
        return (*((self.endpoint,) if self.endpoint else ()), *self.elsewhere)


def served_models(workspace: "Workspace") -> dict[str, list[str]]:
    """Names of the endpoints of the workspace that may be seen, by the models that they serve.

    Raises:
        WorkspaceError: The workspace refused to say.
    """
    from databricks.sdk.errors.base import DatabricksError

    found: dict[str, list[str]] = {}
    try:
        for endpoint in workspace.client.serving_endpoints.list():
            served = (endpoint.config.served_entities if endpoint.config else None) or []
            for model in dict.fromkeys(entity.entity_name for entity in served if entity.entity_name):
                found.setdefault(model, []).append(str(endpoint.name))
    except (DatabricksError, TimeoutError) as error:
        raise WorkspaceError(f"the endpoints could not be listed: {first_sentence(error)}.") from None
    return found


def status(workspace: "Workspace", spec: "ReleaseSpec", elsewhere: Sequence[str] = ()) -> ModelStatus:
    """What is deployed of one model.

    Args:
        workspace: The workspace.
        spec: The model's release.
        elsewhere: Names of endpoints that serve the model, as `served_models` found them.

    Raises:
        WorkspaceError: Something could not be read.
    """
    from release_pipeline.clock import SystemClock
    from release_pipeline.rollout.ledger import Ledger
    from release_pipeline.rollout.state import current_release, queued
    from release_pipeline.workspace.registry import CHALLENGER_ALIAS, Registry

    model, name = spec.model.registered_name, spec.endpoint_name
    endpoint = _endpoint(workspace, name, model)
    others = (_endpoint(workspace, each, model) for each in elsewhere if each != name)
    registry = Registry(workspace, model)
    entries = Ledger(workspace.warehouse, spec.ledger_table, SystemClock()).read()
    served = endpoint.deployed if endpoint else ()
    experiment = next((each.experiment_id for each in served if each.experiment_id), "")
    return ModelStatus(
        name=spec.name,
        model=model,
        endpoint_name=name,
        endpoint=endpoint,
        elsewhere=tuple(each for each in others if each is not None),
        aliases={alias: registry.version_of_alias(alias) for alias in (spec.promotion.alias, CHALLENGER_ALIAS)},
        release=current_release(entries),
        links=endpoint_links(workspace, name, experiment, spec.gate.metrics),
        queued=tuple(queued(entries)),
        reader=_reader(workspace),
    )


def _reader(workspace: "Workspace") -> str:
    from release_pipeline.errors import Unanswered
    from release_pipeline.workspace.permissions import Permissions

    try:
        return Permissions(workspace).me().name
    except Unanswered:
        return ""


def _endpoint(workspace: "Workspace", name: str, model: str) -> EndpointStatus | None:
    """The endpoint with what it serves of the model; None where it is not there, any more or yet."""
    from databricks.sdk.errors import NotFound
    from databricks.sdk.errors.base import DatabricksError

    try:
        answer = workspace.client.serving_endpoints.get(name).as_dict()
    except NotFound:
        return None
    except (DatabricksError, TimeoutError) as error:
        raise WorkspaceError(f"endpoint {name} could not be read: {first_sentence(error)}.") from None
    state = answer.get("state") or {}
    return EndpointStatus(
        name=name,
        ready=state.get("ready") == "READY",
        update=str(state.get("config_update", "")).lower(),
        creator=answer.get("creator", ""),
        deployed=tuple(each for each in _deployed(name, answer, model)),
    )


def _deployed(name: str, answer: Mapping[str, Any], model: str) -> Iterator[Deployed]:
    active, pending = answer.get("config") or {}, answer.get("pending_config") or {}
    routes = (active.get("traffic_config") or {}).get("routes") or []
    shares = {
        route.get("served_entity_name") or route.get("served_model_name"): int(route.get("traffic_percentage", 0))
        for route in routes
    }
    seen = set()
    for config in (active, pending):
        for entity in config.get("served_entities") or []:
            if entity.get("entity_name") != model or entity["name"] in seen:
                continue
            seen.add(entity["name"])
            state = entity.get("state") or {}
            yield Deployed(
                endpoint=name,
                entity=entity["name"],
                version=str(entity.get("entity_version", "")),
                traffic_percent=shares.get(entity["name"], 0) if config is active else None,
                state=str(state.get("deployment", "")).removeprefix("DEPLOYMENT_").lower(),
                message=state.get("deployment_state_message", "") or "",
                creator=entity.get("creator", "") or "",
                created_ms=entity.get("creation_timestamp"),
                experiment_id=str((entity.get("environment_vars") or {}).get("MLFLOW_EXPERIMENT_ID", "")),
            )
