"""Routes that say which workspace this is and whose token was sent."""

import uuid
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from release_pipeline.local_workspace.caller import current_caller
from release_pipeline.local_workspace.errors import NotFound
from release_pipeline.local_workspace.state.principals import SERVICE_PRINCIPAL, Principal
from release_pipeline.local_workspace.wire.principals import me_view

if TYPE_CHECKING:
    from release_pipeline.local_workspace.app import LocalWorkspace


def routes(workspace: "LocalWorkspace") -> list[Route]:
    """The configuration that every client probes first, and the current user."""
    settings = workspace.settings
    account_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"local-workspace/{settings.workspace_id}"))

    async def databricks_config(request: Request) -> JSONResponse:
        # Built from the address that the client used: behind a forwarded port it differs from the settings'.
        base = str(request.base_url).rstrip("/")
        return JSONResponse(
            {
                "oidc_endpoint": f"{base}/oidc",
                "account_id": account_id,
                "workspace_id": settings.workspace_id,
                "cloud": "aws",
                # This workspace's own: where people chat with an endpoint. The service has no such field.
                "review_url": f"{base}/review/{{endpoint}}",
            }
        )

    async def current_user(_: Request) -> JSONResponse:
        who = current_caller()
        if who is not None and who.resources is not None:
            return JSONResponse(me_view(Principal(who.name, SERVICE_PRINCIPAL, who.name, "Served model")))
        principal = workspace.principals.named(who.name if who is not None else settings.user_name)
        if principal is None:
            raise NotFound("The principal of this token was deleted.")
        return JSONResponse(me_view(principal))

    return [
        Route("/.well-known/databricks-config", databricks_config),
        Route("/api/2.0/preview/scim/v2/Me", current_user),
    ]
