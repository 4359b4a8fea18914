"""A route that no real workspace has: the faults on request, read and switched while the workspace runs."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from release_pipeline.local_workspace.access import require_owner
from release_pipeline.local_workspace.errors import InvalidParameter
from release_pipeline.local_workspace.wire.body import json_object

if TYPE_CHECKING:
    from release_pipeline.local_workspace.app import LocalWorkspace

PATH = "/local/faults"


def routes(workspace: "LocalWorkspace") -> list[Route]:
    """Reading all faults, and changing some; both answer all of them."""
    faults = workspace.settings.faults

    async def get(_: Request) -> JSONResponse:
        return JSONResponse(asdict(faults))

    async def change(request: Request) -> JSONResponse:
        require_owner("switch faults")
        try:
            faults.change(await json_object(request))
        except ValueError as error:
            raise InvalidParameter(str(error)) from None
        return JSONResponse(asdict(faults))

    return [Route(PATH, get), Route(PATH, change, methods=["PATCH"])]
