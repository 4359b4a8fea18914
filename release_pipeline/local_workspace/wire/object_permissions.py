"""Permissions of workspace objects, which go by the object's id: serving endpoints, SQL warehouses and some others."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from release_pipeline.local_workspace.access import NAMED_LEVELS, require_owner
from release_pipeline.local_workspace.errors import InvalidParameter, NotFound
from release_pipeline.local_workspace.state.principals import SERVICE_PRINCIPAL
from release_pipeline.local_workspace.state.warehouse import require_warehouse
from release_pipeline.local_workspace.wire.body import json_object, objects
from release_pipeline.local_workspace.wire.known_resources import require_known

if TYPE_CHECKING:
    from release_pipeline.local_workspace.app import LocalWorkspace

ENDPOINT_LEVELS = {
    "CAN_VIEW": "Can view the endpoint.",
    "CAN_QUERY": "Can view and query the endpoint.",
    "CAN_MANAGE": "Can view, query, edit and delete the endpoint.",
}
WAREHOUSE_LEVELS = {
    "CAN_VIEW": "Can view the warehouse.",
    "CAN_USE": "Can run statements on the warehouse.",
    "CAN_MONITOR": "Can use the warehouse and see all its queries.",
    "CAN_MANAGE": "Can use, edit and delete the warehouse.",
}
PRINCIPALS = ("user_name", "group_name", "service_principal_name")
_SPOKEN = {"user_name": "UserName", "service_principal_name": "ServicePrincipalName"}


class _Kind(Protocol):
    """One type of object: its permission levels, and where its grants are kept."""

    @property
    def levels(self) -> Mapping[str, str]: ...

    def owner(self, object_id: str) -> str: ...

    def require_view(self, object_id: str) -> None: ...

    async def check(self, object_id: str) -> None: ...

    async def read(self, object_id: str) -> list[dict[str, str]]: ...

    async def write(self, object_id: str, grants: list[dict[str, str]]) -> None: ...


class _Endpoints:
    """Serving endpoints, whose grants are part of their record."""

    levels = ENDPOINT_LEVELS

    def __init__(self, workspace: "LocalWorkspace") -> None:
        self._serving = workspace.serving
        self._access = workspace.access

    def owner(self, object_id: str) -> str:
        return self._serving.by_id(object_id).record.creator

    def require_view(self, object_id: str) -> None:
        self._access.require_endpoint(self._serving.by_id(object_id), "CAN_VIEW")

    async def check(self, object_id: str) -> None:
        self._access.require_endpoint(self._serving.by_id(object_id), "CAN_MANAGE")

    async def read(self, object_id: str) -> list[dict[str, str]]:
        return self._serving.by_id(object_id).record.permissions

    async def write(self, object_id: str, grants: list[dict[str, str]]) -> None:
        endpoint = self._serving.by_id(object_id)
        endpoint.record.permissions = grants
        await self._serving.save(endpoint)


class _Warehouses:
    """SQL warehouses, of which there is one."""

    levels = WAREHOUSE_LEVELS

    def __init__(self, workspace: "LocalWorkspace") -> None:
        self._kept = workspace.object_permissions
        self._owner = workspace.settings.user_name

    def owner(self, object_id: str) -> str:
        require_warehouse(object_id)
        return self._owner

    def require_view(self, object_id: str) -> None:
        """Everybody may see it."""

    async def check(self, object_id: str) -> None:
        require_owner("change who may use a warehouse")

    async def read(self, object_id: str) -> list[dict[str, str]]:
        return await asyncio.to_thread(self._kept.get, "warehouses", object_id)

    async def write(self, object_id: str, grants: list[dict[str, str]]) -> None:
        await asyncio.to_thread(self._kept.put, "warehouses", object_id, grants)


class _Named:
    """Objects of a kind that is only known by name."""

    def __init__(self, workspace: "LocalWorkspace", kind: str) -> None:
        self._workspace = workspace
        self._kind = kind
        self._object_type, levels = NAMED_LEVELS[kind]
        self.levels = {level: f"{level.replace('_', ' ').capitalize()} it." for level in levels}

    def owner(self, object_id: str) -> str:
        require_known(self._workspace, self._kind, object_id)
        return self._workspace.settings.user_name

    def require_view(self, object_id: str) -> None:
        """Everybody may see it."""

    async def check(self, object_id: str) -> None:
        require_owner(f"change who may use what is a {self._kind}")

    async def read(self, object_id: str) -> list[dict[str, str]]:
        return await asyncio.to_thread(self._workspace.object_permissions.get, self._object_type, object_id)

    async def write(self, object_id: str, grants: list[dict[str, str]]) -> None:
        await asyncio.to_thread(self._workspace.object_permissions.put, self._object_type, object_id, grants)


def routes(workspace: "LocalWorkspace") -> list[Route]:
    """Reading and changing access control lists; whoever made an object may always manage it."""
    return [
        *_routes(workspace, "serving-endpoints", _Endpoints(workspace)),
        *_routes(workspace, "warehouses", _Warehouses(workspace)),
        *[
            route
            for kind, (object_type, _) in NAMED_LEVELS.items()
            for route in _routes(workspace, object_type, _Named(workspace, kind))
        ],
    ]


def _routes(workspace: "LocalWorkspace", object_type: str, kind: _Kind) -> list[Route]:
    def view(object_id: str, grants: list[dict[str, str]]) -> dict[str, Any]:
        owner = kind.owner(object_id)
        made = workspace.principals.named(owner)
        key = PRINCIPALS[2] if made is not None and made.kind == SERVICE_PRINCIPAL else PRINCIPALS[0]
        admin = workspace.settings.user_name
        listed = [{key: owner, "permission_level": "CAN_MANAGE"}]
        listed += [{PRINCIPALS[0]: admin, "permission_level": "CAN_MANAGE"}] if admin != owner else []
        listed += [grant for grant in grants if _principal(grant)[1] not in (owner, admin)]
        entries: list[dict[str, Any]] = []
        for grant in listed:
            key, principal = _principal(grant)
            permission = {"permission_level": grant["permission_level"], "inherited": False}
            entries.append({key: principal, "display_name": principal, "all_permissions": [permission]})
        return {
            "object_id": f"/{object_type}/{object_id}",
            "object_type": object_type.removesuffix("s"),
            "access_control_list": entries,
        }

    async def get(request: Request) -> Response:
        object_id = request.path_params["id"]
        kind.owner(object_id)
        kind.require_view(object_id)
        return JSONResponse(view(object_id, await kind.read(object_id)))

    async def levels(request: Request) -> Response:
        kind.owner(request.path_params["id"])
        kind.require_view(request.path_params["id"])
        known = [{"permission_level": level, "description": text} for level, text in kind.levels.items()]
        return JSONResponse({"permission_levels": known})

    async def change(request: Request) -> Response:
        object_id = request.path_params["id"]
        kind.owner(object_id)
        await kind.check(object_id)
        given = [_grant(item, kind.levels) for item in objects(await json_object(request), "access_control_list")]
        for key, name in map(_principal, given):
            # Of groups only the names are known, so each may be there.
            if key != "group_name" and workspace.principals.named(name) is None:
                raise NotFound(f"Principal: {_SPOKEN[key]}({name}) does not exist")
        kept = [] if request.method == "PUT" else await kind.read(object_id)
        merged = list({_principal(grant): grant for grant in [*kept, *given]}.values())
        await kind.write(object_id, merged)
        return JSONResponse(view(object_id, merged))

    base = f"/api/2.0/permissions/{object_type}/{{id}}"
    return [
        Route(base, get),
        Route(base, change, methods=["PATCH", "PUT"]),
        Route(base + "/permissionLevels", levels),
    ]


def _grant(item: dict[str, Any], levels: Mapping[str, str]) -> dict[str, str]:
    principals = [key for key in PRINCIPALS if item.get(key)]
    if len(principals) != 1:
        raise InvalidParameter(f"Each of access_control_list must name exactly one of {', '.join(PRINCIPALS)}.")
    level = item.get("permission_level")
    if not isinstance(level, str) or level not in levels:
        raise InvalidParameter(f"permission_level must be one of {', '.join(levels)}, got {level!r}.")
    return {principals[0]: str(item[principals[0]]), "permission_level": level}


def _principal(grant: Mapping[str, str]) -> tuple[str, str]:
    return next((key, grant[key]) for key in PRINCIPALS if key in grant)
