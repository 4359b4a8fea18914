"""SCIM: users and service principals, and tokens on behalf of service principals."""

import asyncio
import re
import time
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from release_pipeline.local_workspace.access import require_owner
from release_pipeline.local_workspace.errors import InvalidParameter, NotFound
from release_pipeline.local_workspace.state.principals import SERVICE_PRINCIPAL, USER, Principal
from release_pipeline.local_workspace.wire.body import json_object, text, whole

if TYPE_CHECKING:
    from release_pipeline.local_workspace.app import LocalWorkspace

_BASE = "/api/2.0/preview/scim/v2"
_KINDS = {"Users": (USER, "userName"), "ServicePrincipals": (SERVICE_PRINCIPAL, "applicationId")}
_FILTER = re.compile(r'\s*(userName|applicationId|displayName)\s+eq\s+"?([^"]*)"?\s*', re.IGNORECASE)


def routes(workspace: "LocalWorkspace") -> list[Route]:
    """Listing, making and deleting principals; and the token API's call for service principals."""
    principals = workspace.principals

    def of_kind(kind: str, name_field: str) -> list[Route]:
        async def list_all(request: Request) -> JSONResponse:
            found = [scim_view(each) for each in await asyncio.to_thread(principals.all, kind)]
            if wanted := request.query_params.get("filter"):
                match = _FILTER.fullmatch(wanted)
                if match is None:
                    raise InvalidParameter('The filter must be of the form <attribute> eq "<value>".')
                key = next(
                    each for each in ("userName", "applicationId", "displayName") if each.lower() == match[1].lower()
                )
                found = [each for each in found if str(each.get(key, "")).casefold() == match[2].casefold()]
            start = _number(request, "startIndex", 1)
            page = found[start - 1 : start - 1 + _number(request, "count", 10_000)]
            body: dict[str, Any] = {"totalResults": len(found), "startIndex": start, "itemsPerPage": len(page)}
            # Like the service, a page with nothing on it has no list.
            return JSONResponse(body | ({"Resources": page} if page else {}))

        async def create(request: Request) -> JSONResponse:
            require_owner("make principals")
            body = await json_object(request)
            name, display = text(body, name_field, ""), text(body, "displayName", "")
            return JSONResponse(scim_view(await asyncio.to_thread(principals.add, kind, name, display)), 201)

        async def get(request: Request) -> JSONResponse:
            return JSONResponse(scim_view(principals.get(kind, request.path_params["id"])))

        async def delete(request: Request) -> Response:
            require_owner("delete principals")
            await asyncio.to_thread(principals.delete, kind, request.path_params["id"])
            return Response(status_code=204)

        path = next(f"{_BASE}/{name}" for name, known in _KINDS.items() if known[0] == kind)
        return [
            Route(path, list_all),
            Route(path, create, methods=["POST"]),
            Route(path + "/{id}", get),
            Route(path + "/{id}", delete, methods=["DELETE"]),
        ]

    async def token_on_behalf(request: Request) -> JSONResponse:
        require_owner("make tokens for others")
        body = await json_object(request)
        principal = principals.named(text(body, "application_id"))
        if principal is None or principal.kind != SERVICE_PRINCIPAL:
            raise NotFound("There is no service principal with that application_id.")
        token = await asyncio.to_thread(principals.new_token, principal)
        info = {"comment": text(body, "comment", ""), "creation_time": int(time.time() * 1000), "expiry_time": -1}
        return JSONResponse({"token_value": token, "token_info": info})

    async def token_of_user(request: Request) -> JSONResponse:
        require_owner("make tokens for others")
        principal = principals.named(text(await json_object(request), "user_name"))
        if principal is None or principal.kind != USER:
            raise NotFound("There is no user with that user_name.")
        return JSONResponse({"token_value": await asyncio.to_thread(principals.new_token, principal)})

    return [
        *(route for kind, name_field in _KINDS.values() for route in of_kind(kind, name_field)),
        Route("/api/2.0/token-management/on-behalf-of/tokens", token_on_behalf, methods=["POST"]),
        # No real workspace has this one: there a user signs in.
        Route("/local/tokens", token_of_user, methods=["POST"]),
    ]


def scim_view(principal: Principal) -> dict[str, Any]:
    """A principal as SCIM shows it."""
    body: dict[str, Any] = {"id": principal.id, "displayName": principal.display_name, "active": True}
    if principal.kind == SERVICE_PRINCIPAL:
        schemas = ["urn:ietf:params:scim:schemas:core:2.0:ServicePrincipal"]
        return {"schemas": schemas, "applicationId": principal.name, **body}
    emails = [{"value": principal.name, "type": "work", "primary": True}]
    return {
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"],
        "userName": principal.name,
        "emails": emails,
        **body,
    }


def me_view(principal: Principal) -> dict[str, Any]:
    """A principal as it sees itself; a service principal's user name is its application id."""
    return {**scim_view(principal), "userName": principal.name}


def _number(request: Request, key: str, default: int) -> int:
    value = whole(request.query_params, key, default)
    if value < 1:
        raise InvalidParameter(f"The field {key!r} must be a whole number from 1.")
    return value
