"""Objects that are only known by name: a route to name them, and those that clients ask whether they exist."""

import asyncio
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from release_pipeline.local_workspace.access import require_owner
from release_pipeline.local_workspace.errors import InvalidParameter, NotFound
from release_pipeline.local_workspace.state.known_resources import KINDS
from release_pipeline.local_workspace.wire.body import json_object

if TYPE_CHECKING:
    from release_pipeline.local_workspace.app import LocalWorkspace

PATH = "/local/resources"


def routes(workspace: "LocalWorkspace") -> list[Route]:
    """Reading and giving the names, and reading single objects of Unity Catalog and of vector search."""
    known, owner = workspace.known_resources, workspace.settings.user_name

    async def get(_: Request) -> JSONResponse:
        return JSONResponse(await asyncio.to_thread(known.all))

    async def change(request: Request) -> JSONResponse:
        require_owner("say which resources exist")
        body = await json_object(request)
        for kind, names in body.items():
            if kind not in KINDS:
                raise InvalidParameter(
                    f"There is no kind of resource {kind!r} to be named; there are {', '.join(KINDS)}."
                )
            if names is not None and not (isinstance(names, list) and all(isinstance(each, str) for each in names)):
                raise InvalidParameter(f"The field {kind!r} must be a list of names, or null.")
        await asyncio.to_thread(known.change, body)
        return await get(request)

    def reading(path: str, kind: str) -> Route:
        async def read(request: Request) -> JSONResponse:
            name = request.path_params["name"]
            await asyncio.to_thread(require_known, workspace, kind, name)
            # "owner" is Unity Catalog's word and "creator" that of vector search.
            return JSONResponse({"name": name, "full_name": name, "owner": owner, "creator": owner})

        return Route(f"{path}/{{name}}", read)

    return [
        Route(PATH, get),
        Route(PATH, change, methods=["PATCH"]),
        reading("/api/2.0/vector-search/indexes", "vector_search_index"),
        reading("/api/2.1/unity-catalog/connections", "uc_connection"),
        reading("/api/2.1/unity-catalog/functions", "function"),
    ]


def require_known(workspace: "LocalWorkspace", kind: str, name: str) -> None:
    """Raises NotFound where there is no object of that name; with another code where nothing is known of its kind."""
    names = workspace.known_resources.names(kind)
    if names is None:
        raise NotFound(
            f"The local workspace does not know which objects of the kind {kind} exist; name them at {PATH}.",
            error_code="ENDPOINT_NOT_FOUND",
        )
    if name not in names:
        raise NotFound(f"The {kind} '{name}' does not exist.")
