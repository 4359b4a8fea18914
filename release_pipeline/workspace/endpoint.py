"""A serving endpoint: what it serves now, and the writes that change it."""

import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from release_pipeline.errors import (
    EndpointError,
    EndpointHidden,
    NoAnswer,
    NotAsked,
    UpdateFailed,
    UpdateInProgress,
    WorkspaceError,
    first_sentence,
)
from release_pipeline.spec_endpoint import Permission, RateLimit
from release_pipeline.workspace import endpoint_parts
from release_pipeline.workspace.client import Workspace, one_try
from release_pipeline.workspace.endpoint_counters import MetricsPage, read_counters
from release_pipeline.workspace.endpoint_refusals import (
    kept_from_the_model,
    not_ready_in_time,
    refused_change,
    refused_query,
    unsure,
)

if TYPE_CHECKING:
    from databricks.sdk.service.serving import ServingEndpointDetailed

Progress = Callable[[str], None]
_OUTPUT_ONLY = ("state", "creator", "creation_timestamp", "foundation_model")


@dataclass(frozen=True)
class ServedEntity:
    """One served entity.

    Attributes:
        name: Its name within the endpoint.
        model: Unity Catalog name of the model.
        version: Version of the model, always as text.
        settings: Every other input field (workload size, environment and so on), sent back unchanged.
        state: Deployment state as the service names it, empty for one that is not deployed yet.
        message: What the service says about that state.
    """

    name: str
    model: str
    version: str
    settings: Mapping[str, Any] = field(default_factory=dict, compare=False)
    state: str = field(default="", compare=False)
    message: str = field(default="", compare=False)

    def serves(self, model: str, version: str | None) -> bool:
        """Whether it serves this version of a model; Unity Catalog does not tell capitals in names apart."""
        return (self.model.lower(), self.version) == (model.lower(), version)


@dataclass(frozen=True)
class EndpointState:
    """What one read of an endpoint said.

    Attributes:
        config_version: Version of the active configuration, 0 while there is none.
        routes: Traffic percentage by entity name, as active now.
        updating: An update is in progress.
        update_failed: The last update failed; the configuration before it still serves.
        inference_table: Full name of the inference table, None where none is named, or it is off.
        logging_off: An inference table is named and switched off.
        pending_message: What the service says about the entities of a pending or failed update.
        unready: Names of the entities that are not ready, those of a pending or failed update first.
        tags: Tags of the endpoint.
        permission_level: What who asks may do with it, empty where the service does not say.
        rate_limits: Calls per minute by key and principal, as the AI Gateway has them.
    """

    name: str
    id: str
    ready: bool
    updating: bool
    update_failed: bool
    config_version: int
    entities: tuple[ServedEntity, ...]
    routes: Mapping[str, int]
    creator: str = ""
    inference_table: str | None = None
    logging_off: bool = False
    pending_message: str = ""
    unready: tuple[str, ...] = field(default=(), compare=False)
    tags: Mapping[str, str] = field(default_factory=dict)
    permission_level: str = ""
    rate_limits: Mapping[tuple[str, str], int] = field(default_factory=dict)


@dataclass(frozen=True)
class InferenceTableName:
    """Where the endpoint logs its requests: `<catalog>.<schema>.<prefix>_payload`."""

    catalog: str
    schema: str
    prefix: str


class Endpoint:
    """One serving endpoint, read and written by name."""

    def __init__(self, workspace: Workspace, name: str) -> None:
        self._api = workspace.client.serving_endpoints
        self._workspace = workspace
        self.name = name

    @property
    def query_url(self) -> str:
        """Where clients send their requests."""
        return f"{self._workspace.host}/serving-endpoints/{self.name}/invocations"

    def named(self, name: str) -> "Endpoint":
        """Another endpoint of the same workspace."""
        return Endpoint(self._workspace, name)

    def read(self) -> EndpointState | None:
        """The endpoint as it is now, or None where it does not exist.

        Raises:
            EndpointHidden: It may not be seen.
            WorkspaceError: The service refused to say; that is no failed update, nothing is to be undone for it.
        """
        from databricks.sdk.errors import NotFound, PermissionDenied
        from databricks.sdk.errors.base import DatabricksError

        try:
            return _state(self._api.get(self.name))
        except NotFound:
            return None
        except PermissionDenied as error:
            raise EndpointHidden(f"endpoint {self.name} may not be seen: {first_sentence(error)}.") from None
        except (DatabricksError, TimeoutError) as error:
            raise WorkspaceError(f"endpoint {self.name} could not be read: {first_sentence(error)}.") from None

    def create(
        self,
        entity: ServedEntity,
        *,
        tags: Mapping[str, str],
        inference_table: InferenceTableName,
        rate_limits: Sequence[RateLimit] = (),
    ) -> None:
        """Create the endpoint: one entity at 100 %, inference table and limits on; returns before it is ready.

        Raises:
            UpdateInProgress: It is there already, as after a try whose answer was lost.
            EndpointError: The service refused it.
            WorkspaceError: The service did not answer in time.
        """
        from databricks.sdk.errors import ResourceConflict
        from databricks.sdk.errors.base import DatabricksError
        from databricks.sdk.service import serving

        config = serving.EndpointCoreConfigInput(
            name=self.name,
            served_entities=[_input(entity)],
            traffic_config=serving.TrafficConfig(routes=_routes({entity.name: 100})),
        )
        gateway = serving.AiGatewayConfig(
            inference_table_config=serving.AiGatewayInferenceTableConfig(
                catalog_name=inference_table.catalog,
                schema_name=inference_table.schema,
                table_name_prefix=inference_table.prefix,
                enabled=True,
            ),
            rate_limits=endpoint_parts.rate_limit_inputs(rate_limits) or None,
        )
        try:
            self._api.create(
                self.name,
                config=config,
                tags=[serving.EndpointTag(key=key, value=value) for key, value in tags.items()],
                ai_gateway=gateway,
            )
        except ResourceConflict:
            raise UpdateInProgress(f"endpoint {self.name} is there already; look again at what it serves.") from None
        except unsure() as error:
            raise _unanswered(self.name, "its creation", error) from None
        except DatabricksError as error:
            raise EndpointError(f"endpoint {self.name} could not be created: {refused_change(error)}.") from None

    def update(self, entities: tuple[ServedEntity, ...], routes: Mapping[str, int]) -> None:
        """Ask for a new configuration, all entities and routes at once; returns before it is active.

        It is asked once: before another try the caller has to see that it is still wanted.

        Raises:
            UpdateInProgress: Another update is running.
            EndpointError: The service refused it.
            NoAnswer: The service said to try again, or did not answer in time.
            WorkspaceError: The service failed.
        """
        from databricks.sdk.errors import ResourceConflict
        from databricks.sdk.errors.base import DatabricksError
        from databricks.sdk.service import serving

        try:
            with one_try():
                self._api.update_config(
                    self.name,
                    served_entities=[_input(entity) for entity in entities],
                    traffic_config=serving.TrafficConfig(routes=_routes(routes)),
                )
        except ResourceConflict:
            raise UpdateInProgress(
                f"endpoint {self.name} is busy with another update; try again when it ends."
            ) from None
        except unsure() as error:
            raise _unanswered(self.name, "the new configuration", error) from None
        except DatabricksError as error:
            raise EndpointError(
                f"endpoint {self.name} refused the new configuration: {refused_change(error)}."
            ) from None

    def wait(self, *, timeout_seconds: float, progress: Progress, leaving: Set[str] = frozenset()) -> EndpointState:
        """Wait until no update is in progress and the endpoint and all its entities are ready.

        Args:
            timeout_seconds: How long at most.
            progress: Called with news.
            leaving: Names of entities that are about to go: whether they are ready does not matter any more.

        Raises:
            UpdateFailed: The update failed, or the endpoint is gone.
            UpdateInProgress: The time is over; the update goes on.
        """
        started = time.monotonic()
        pause, said = 0.3, ""
        while True:
            state = self.read()
            if state is None:
                raise UpdateFailed(f"endpoint {self.name} disappeared while it was being updated.")
            if state.update_failed:
                raise UpdateFailed(
                    f"endpoint {self.name} could not activate its new configuration: "
                    f"{state.pending_message or 'the service gave no reason'}; see the build logs of the entity."
                )
            kept = [entity for entity in state.entities if entity.name not in leaving]
            well = all(entity.state == "DEPLOYMENT_READY" for entity in kept) and (state.ready or bool(leaving))
            if well and state.entities and not state.updating:  # there may be none yet, or only some that leave
                return state
            elapsed = time.monotonic() - started
            if elapsed > timeout_seconds:
                raise UpdateInProgress(not_ready_in_time(state, timeout_seconds))
            news = state.pending_message or ("updating" if state.updating else "not ready yet")
            if news != said or pause >= 10:
                progress(f"endpoint {self.name}: {news} ({elapsed:.0f} s)")
                said = news
            time.sleep(pause)
            pause = min(pause * 1.3, 10.0)

    def delete(self) -> None:
        """Delete the endpoint; nothing happens where it does not exist.

        Raises:
            WorkspaceError: The service refused it.
        """
        from databricks.sdk.errors import NotFound
        from databricks.sdk.errors.base import DatabricksError

        try:
            self._api.delete(self.name)
        except NotFound:
            return
        except (DatabricksError, TimeoutError) as error:
            raise WorkspaceError(f"endpoint {self.name} could not be deleted: {first_sentence(error)}.") from None

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags; see :func:`release_pipeline.workspace.endpoint_parts.set_tags`."""
        endpoint_parts.set_tags(self._workspace, self.name, tags)

    def log_to(self, table: InferenceTableName) -> None:
        """Switch the inference table on; see :func:`release_pipeline.workspace.endpoint_parts.log_to`."""
        endpoint_parts.log_to(self._workspace, self.name, table.catalog, table.schema, table.prefix)

    def limit(self, limits: Sequence[RateLimit]) -> None:
        """Set rate limits; see :func:`release_pipeline.workspace.endpoint_parts.limit`."""
        endpoint_parts.limit(self._workspace, self.name, limits)

    def levels(self, endpoint_id: str) -> Mapping[tuple[str, str], frozenset[str]]:
        """Who may do what; see :func:`release_pipeline.workspace.endpoint_parts.levels`."""
        return endpoint_parts.levels(self._workspace, self.name, endpoint_id)

    def grant(self, endpoint_id: str, permissions: Sequence[Permission]) -> None:
        """Give permissions; see :func:`release_pipeline.workspace.endpoint_parts.grant`."""
        endpoint_parts.grant(self._workspace, self.name, endpoint_id, permissions)

    def counters(self) -> MetricsPage | None:
        """Requests and failures by served entity; None where the endpoint exports none, or none may be read."""
        return read_counters(self._workspace, self.name)

    def query_entity(self, entity: str, body: Mapping[str, Any]) -> Any:
        """Send one request to one served entity, whatever its traffic.

        Raises:
            NotAsked: The service refused the request, or it was not answered in time.
            EndpointError: It did not answer with success.
        """
        from databricks.sdk.errors.base import DatabricksError

        path = f"/serving-endpoints/{self.name}/served-models/{entity}/invocations"
        try:
            return self._workspace.client.api_client.do("POST", path, body=dict(body))
        except (DatabricksError, TimeoutError) as error:
            kind = NotAsked if kept_from_the_model(error) else EndpointError
            raise kind(
                f"served entity {entity} of {self.name} did not answer: {refused_query(self, entity, error)}."
            ) from None


def _unanswered(name: str, what: str, error: Exception) -> WorkspaceError:
    """Not an EndpointError, which closes an intent as failed: the service may have done what was asked."""
    kind = NoAnswer if isinstance(error, TimeoutError) else WorkspaceError
    return kind(
        f"endpoint {name} was asked for {what}, and no answer came: {first_sentence(error)}; "
        "it may have been taken: look at the endpoint, or try again."
    )


def _routes(routes: Mapping[str, int]) -> list[Any]:
    from databricks.sdk.service import serving

    return [
        serving.Route(served_model_name=name, served_entity_name=name, traffic_percentage=percent)
        for name, percent in routes.items()
    ]


def _input(entity: ServedEntity) -> Any:
    from databricks.sdk.service.serving import ServedEntityInput

    return ServedEntityInput.from_dict(
        {**entity.settings, "name": entity.name, "entity_name": entity.model, "entity_version": entity.version}
    )


def _state(answer: "ServingEndpointDetailed") -> EndpointState:
    config, pending = answer.config, answer.pending_config
    update = answer.state.config_update.value if answer.state and answer.state.config_update else ""
    ready = answer.state.ready.value if answer.state and answer.state.ready else ""
    entities = tuple(_entity(entity.as_dict()) for entity in (config.served_entities or [])) if config else ()
    routes: dict[str, int] = {}
    if config and config.traffic_config:
        for route in config.traffic_config.routes or []:
            routes[str(route.served_entity_name or route.served_model_name)] = route.traffic_percentage
    coming = [_entity(entity.as_dict()) for entity in (pending.served_entities or [])] if pending else []
    unready = [each.name for each in (*coming, *entities) if each.state != "DEPLOYMENT_READY"]
    gateway = answer.ai_gateway.inference_table_config if answer.ai_gateway else None
    older = config.auto_capture_config if config else None
    named = [each for each in (gateway, older) if each is not None]
    table = next((each for each in named if each.enabled), None)
    return EndpointState(
        name=str(answer.name),
        id=str(answer.id),
        ready=ready == "READY",
        updating=update == "IN_PROGRESS",
        update_failed=update in ("UPDATE_FAILED", "UPDATE_CANCELED"),
        config_version=int(config.config_version or 0) if config else 0,
        entities=entities,
        routes=routes,
        creator=answer.creator or "",
        inference_table=(
            f"{table.catalog_name}.{table.schema_name}.{table.table_name_prefix}_payload" if table else None
        ),
        logging_off=bool(named) and table is None,
        tags={tag.key: tag.value or "" for tag in answer.tags or []},
        permission_level=answer.permission_level.value if answer.permission_level else "",
        rate_limits=endpoint_parts.calls_allowed(answer.ai_gateway),
        unready=tuple(dict.fromkeys(unready)),
        pending_message="; ".join(
            f"{entity.name} {entity.state.removeprefix('DEPLOYMENT_').lower()}"
            + (f" ({entity.message})" if entity.message else "")
            for entity in coming
            if entity.state and entity.state != "DEPLOYMENT_READY"
        ),
    )


def _entity(answer: Mapping[str, Any]) -> ServedEntity:
    state = answer.get("state") or {}
    known = ("name", "entity_name", "entity_version", *_OUTPUT_ONLY)
    return ServedEntity(
        name=answer["name"],
        model=answer.get("entity_name", ""),
        version=str(answer.get("entity_version", "")),
        settings={key: value for key, value in answer.items() if key not in known},
        state=str(state.get("deployment", "")).removeprefix("ServedModelStateDeployment."),
        message=state.get("deployment_state_message", "") or "",
    )
