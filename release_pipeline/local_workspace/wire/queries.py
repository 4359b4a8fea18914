"""The routes that score: an endpoint by its weights, or one of its served entities by name."""

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from release_pipeline.local_workspace.serving.router import Router

if TYPE_CHECKING:
    from release_pipeline.local_workspace.app import LocalWorkspace


def routes(workspace: "LocalWorkspace") -> list[Route]:
    """``/serving-endpoints/{name}/invocations`` and the same for one served entity."""
    router: Router = workspace.serving.router

    async def invoke(request: Request) -> Response:
        return await router.invoke(request, request.path_params["name"])

    async def invoke_entity(request: Request) -> Response:
        return await router.invoke(request, request.path_params["name"], request.path_params["entity"])

    return [
        Route("/serving-endpoints/{name}/invocations", invoke, methods=["POST"]),
        Route("/serving-endpoints/{name}/served-models/{entity}/invocations", invoke_entity, methods=["POST"]),
    ]
