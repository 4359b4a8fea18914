"""Unity Catalog grants: granted and effective privileges, and changes to them."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from release_pipeline.local_workspace.errors import InvalidParameter, NotFound
from release_pipeline.local_workspace.sql.names import SYSTEM
from release_pipeline.local_workspace.wire.body import json_object
from release_pipeline.local_workspace.wire.catalogs import SYSTEM_SCHEMAS, require_catalog, require_schema
from release_pipeline.local_workspace.wire.known_resources import require_known

if TYPE_CHECKING:
    from release_pipeline.local_workspace.app import LocalWorkspace


def routes(workspace: "LocalWorkspace") -> list[Route]:
    """Grants on catalogs, schemas, tables, registered models (whose securable type is FUNCTION) and connections."""

    def securable(request: Request) -> tuple[str, str]:
        kind, name = request.path_params["type"].upper(), request.path_params["full_name"]
        if (kind, name) in (("CATALOG", SYSTEM), *(("SCHEMA", f"{SYSTEM}.{each}") for each in SYSTEM_SCHEMAS)):
            return kind, name
        if kind == "CATALOG":
            require_catalog(workspace, name)
        elif kind == "SCHEMA":
            require_schema(workspace, name)
        elif kind == "TABLE":
            named = workspace.known_resources.names("vector_search_index") or ()
            if name not in named and workspace.sql.table(name) is None:
                raise NotFound(f"Table '{name}' does not exist.", error_code="TABLE_DOES_NOT_EXIST")
        elif kind == "FUNCTION":
            if name not in (workspace.known_resources.names("function") or ()):
                workspace.registry.get_model(name)
        elif kind == "CONNECTION":
            require_known(workspace, "uc_connection", name)
        else:
            raise InvalidParameter(
                f"The securable type {kind!r} is not known here; use CATALOG, SCHEMA, TABLE, FUNCTION or CONNECTION."
            )
        return kind, name

    async def get_grants(request: Request) -> JSONResponse:
        def read() -> Mapping[str, list[str]]:
            return workspace.grants.on(*securable(request))

        return JSONResponse(_assignments(request, await asyncio.to_thread(read)))

    async def get_effective(request: Request) -> JSONResponse:
        def read() -> dict[str, list[dict[str, str]]]:
            return {
                principal: [
                    {
                        "privilege": held.privilege,
                        **({"inherited_from_type": held.inherited_from_type} if held.inherited_from_type else {}),
                        **({"inherited_from_name": held.inherited_from_name} if held.inherited_from_name else {}),
                    }
                    for held in privileges
                ]
                for principal, privileges in workspace.grants.effective(*securable(request)).items()
            }

        return JSONResponse(_assignments(request, await asyncio.to_thread(read)))

    async def update_grants(request: Request) -> JSONResponse:
        changes = [_change(change) for change in _list(await json_object(request), "changes")]

        def write() -> Mapping[str, list[str]]:
            kind, name = securable(request)
            workspace.access.require_manage(kind, name)
            return workspace.grants.change(kind, name, changes)

        return JSONResponse(_assignments(request, await asyncio.to_thread(write)))

    path = "/api/2.1/unity-catalog/permissions/{type}/{full_name}"
    return [
        Route(path, get_grants),
        Route(path, update_grants, methods=["PATCH"]),
        Route("/api/2.1/unity-catalog/effective-permissions/{type}/{full_name}", get_effective),
    ]


def _assignments(request: Request, by_principal: Mapping[str, list[Any]]) -> dict[str, Any]:
    wanted = request.query_params.get("principal")
    return {
        "privilege_assignments": [
            {"principal": principal, "privileges": privileges}
            for principal, privileges in by_principal.items()
            if wanted in (None, principal)
        ]
    }


def _change(change: Any) -> tuple[str, list[str], list[str]]:
    principal = change.get("principal") if isinstance(change, dict) else None
    if not isinstance(principal, str) or not principal:
        raise InvalidParameter("Every change of a grant must name its principal.")
    return principal, _privileges(change, "add"), _privileges(change, "remove")


def _privileges(change: dict[str, Any], key: str) -> list[str]:
    # The service spells privileges with spaces or underscores; it answers with underscores.
    return [str(name).upper().replace(" ", "_") for name in _list(change, key)]


def _list(body: dict[str, Any], key: str) -> list[Any]:
    value = body.get(key, [])
    if not isinstance(value, list):
        raise InvalidParameter(f"The field {key!r} must be a list.")
    return value
