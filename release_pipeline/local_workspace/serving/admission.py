"""What a configuration must meet before it is taken: its versions are ready, its secrets and resources may be used.

As on the service, it is the endpoint's creator who must be allowed to use what a model version declares: the version's
own credentials would otherwise open to its users what the creator may not open. Whoever changes the endpoint must be
allowed, too.
"""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from release_pipeline.local_workspace.access import NAMED_LEVELS
from release_pipeline.local_workspace.errors import InvalidParameter, NotFound, PermissionDenied
from release_pipeline.local_workspace.serving.declared_resources import read_declared
from release_pipeline.local_workspace.serving.secret_references import resolved
from release_pipeline.local_workspace.state.endpoint_configuration import EndpointConfig, ServedEntity
from release_pipeline.local_workspace.state.known_resources import KINDS
from release_pipeline.local_workspace.state.warehouse import require_warehouse

if TYPE_CHECKING:
    from release_pipeline.local_workspace.app import LocalWorkspace

# Returns what somebody lacks, a phrase each; raises NotFound where there is no such thing.
_Check = Callable[[str, str], list[str]]


class Admission:
    """Checks configurations of one workspace."""

    def __init__(self, workspace: "LocalWorkspace") -> None:
        self._workspace = workspace
        self._checks: dict[str, _Check] = {
            "serving_endpoint": self._endpoint,
            "sql_warehouse": self._warehouse,
            "table": self._table,
            "function": self._function,
            "vector_search_index": self._vector_index,
            "uc_connection": self._connection,
            **{kind: partial(self._named, kind) for kind in NAMED_LEVELS},
        }

    async def check(self, config: EndpointConfig, active: EndpointConfig | None, who: Iterable[str]) -> None:
        """Refuse a configuration that cannot be served; entities that already serve are not asked about again.

        Args:
            config: What is to be served.
            active: What is served now.
            who: The names of those who must be allowed to use the secrets and the resources.

        Raises:
            NotFound: A version, or a resource that it declares, does not exist.
            InvalidParameter: A version is not ready, or a secret does not exist.
            PermissionDenied: A secret or a resource may not be used; the message names it and the permission.
        """
        serving = {entity.id for entity in active.entities} if active else set()
        new = [entity for entity in config.entities if entity.id not in serving]
        names = list(dict.fromkeys(who))
        for entity in config.entities:
            await asyncio.to_thread(self._version, entity)
        for entity in new:
            for name in names:
                await asyncio.to_thread(resolved, self._workspace.secrets, entity, name)
            await asyncio.to_thread(self._resources, entity, names)

    def _version(self, entity: ServedEntity) -> None:
        version = self._workspace.registry.get_version(entity.entity_name, entity.entity_version)
        if version is None:
            raise NotFound(f"Version {entity.entity_version} of model '{entity.entity_name}' does not exist.")
        if version.status != "READY":
            raise InvalidParameter(
                f"Version {entity.entity_version} of model '{entity.entity_name}' is {version.status}; "
                "wait until it is READY."
            )

    def _resources(self, entity: ServedEntity, names: Iterable[str]) -> None:
        path = self._workspace.registry.version_path(entity.entity_name, entity.entity_version)
        model = f"version {entity.entity_version} of model '{entity.entity_name}'"
        for kind, resource in read_declared(path).resources:
            check = self._checks.get(kind)
            if not self._knows(kind, resource):
                continue
            for name in names if check is not None else ():
                assert check is not None
                try:
                    lacking = check(name, resource)
                except NotFound:
                    raise NotFound(
                        f"The {kind} '{resource}', which {model} declares among its resources, does not exist."
                    ) from None
                if lacking:
                    raise PermissionDenied(
                        f"User {name} does not have {' and '.join(lacking)}, "
                        f"which {model} needs for the {kind} '{resource}' among its resources."
                    )

    def _knows(self, kind: str, resource: str) -> bool:
        """Whether it can say who may use a resource; a kind of which nothing was named is taken unseen."""
        if kind not in KINDS or self._workspace.known_resources.names(kind) is not None:
            return True
        # Models are functions, too, as Unity Catalog has it.
        return kind == "function" and self._workspace.registry.has_model(resource)

    def _endpoint(self, who: str, name: str) -> list[str]:
        allowed = self._workspace.access.has_endpoint(who, self._workspace.serving.get(name), "CAN_QUERY")
        return [] if allowed else [f"CAN_QUERY on serving endpoint '{name}'"]

    def _warehouse(self, who: str, warehouse_id: str) -> list[str]:
        require_warehouse(warehouse_id)
        allowed = self._workspace.access.has_warehouse(who, warehouse_id)
        return [] if allowed else [f"CAN_USE on SQL warehouse '{warehouse_id}'"]

    def _table(self, who: str, name: str) -> list[str]:
        if name.count(".") != 2 or self._workspace.sql.table(name) is None:
            raise NotFound(name)
        return self._workspace.access.missing_privileges(who, "SELECT", "TABLE", name.lower())

    def _function(self, who: str, name: str) -> list[str]:
        if name not in (self._workspace.known_resources.names("function") or ()):
            self._workspace.registry.get_model(name)
        return self._workspace.access.missing_privileges(who, "EXECUTE", "FUNCTION", name)

    def _vector_index(self, who: str, name: str) -> list[str]:
        self._require("vector_search_index", name)
        return self._workspace.access.missing_privileges(who, "SELECT", "TABLE", name)

    def _connection(self, who: str, name: str) -> list[str]:
        self._require("uc_connection", name)
        return self._workspace.access.missing_privileges(who, "USE_CONNECTION", "CONNECTION", name)

    def _named(self, kind: str, who: str, name: str) -> list[str]:
        self._require(kind, name)
        _, levels = NAMED_LEVELS[kind]
        return [] if self._workspace.access.has_named(who, kind, name) else [f"{levels[0]} on {kind} '{name}'"]

    def _require(self, kind: str, name: str) -> None:
        if name not in (self._workspace.known_resources.names(kind) or ()):
            raise NotFound(name)
