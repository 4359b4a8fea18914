"""The secrets API: scopes, secrets and access control lists. No value appears in an error or in a log."""

import asyncio
import base64
import re
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from release_pipeline.local_workspace.caller import caller
from release_pipeline.local_workspace.errors import ApiError, InvalidParameter, NotFound
from release_pipeline.local_workspace.state.secrets import LEVELS, MOST_BYTES
from release_pipeline.local_workspace.wire.body import json_object, text

if TYPE_CHECKING:
    from release_pipeline.local_workspace.app import LocalWorkspace

_BASE = "/api/2.0/secrets"
_NAME = re.compile(r"[\w\-@. ]{1,128}", re.ASCII)


def routes(workspace: "LocalWorkspace") -> list[Route]:
    """Everything below ``/api/2.0/secrets``."""
    return _scopes(workspace) + _secrets(workspace) + _acls(workspace)


def _scopes(workspace: "LocalWorkspace") -> list[Route]:
    store, owner = workspace.secrets, workspace.settings.user_name

    async def create(request: Request) -> JSONResponse:
        body = await json_object(request)
        if body.get("scope_backend_type", "DATABRICKS") != "DATABRICKS":
            raise InvalidParameter("The local workspace keeps its secrets itself; leave 'scope_backend_type' out.")
        first = text(body, "initial_manage_principal", "")
        if first not in ("", "users"):
            raise InvalidParameter("The field 'initial_manage_principal' must be 'users' or left out.")
        name = _name(text(body, "scope"), "scope")
        await asyncio.to_thread(store.create_scope, name, caller(owner), for_everybody=first == "users")
        return JSONResponse({})

    async def list_all(_: Request) -> JSONResponse:
        return JSONResponse({"scopes": [{"name": name, "backend_type": "DATABRICKS"} for name in store.scopes()]})

    async def delete(request: Request) -> JSONResponse:
        scope = text(await json_object(request), "scope")
        await asyncio.to_thread(store.delete_scope, scope, caller(owner))
        return JSONResponse({})

    return [
        Route(_BASE + "/scopes/create", create, methods=["POST"]),
        Route(_BASE + "/scopes/list", list_all),
        Route(_BASE + "/scopes/delete", delete, methods=["POST"]),
    ]


def _secrets(workspace: "LocalWorkspace") -> list[Route]:
    store, owner = workspace.secrets, workspace.settings.user_name

    async def put(request: Request) -> JSONResponse:
        body = await json_object(request)
        scope, key = text(body, "scope"), _name(text(body, "key"), "key")
        if ("string_value" in body) == ("bytes_value" in body):
            raise InvalidParameter("Give a secret's value as exactly one of 'string_value' and 'bytes_value'.")
        if "string_value" in body:
            value = text(body, "string_value", "").encode()
        else:
            try:
                value = base64.b64decode(text(body, "bytes_value", ""), validate=True)
            except ValueError:
                raise InvalidParameter("The field 'bytes_value' is not base64.") from None
        if len(value) > MOST_BYTES:
            raise ApiError(
                f"The secret is larger than {MOST_BYTES} bytes.", error_code="MAX_SECRET_SIZE_EXCEEDED", status=400
            )
        await asyncio.to_thread(store.put, scope, key, base64.b64encode(value).decode(), caller(owner))
        return JSONResponse({})

    async def get(request: Request) -> JSONResponse:
        query = dict(request.query_params)
        key = text(query, "key")
        return JSONResponse({"key": key, "value": store.get(text(query, "scope"), key, caller(owner))})

    async def list_all(request: Request) -> JSONResponse:
        keys = store.keys(text(dict(request.query_params), "scope"), caller(owner))
        found = [{"key": key, "last_updated_timestamp": updated} for key, updated in keys.items()]
        # Like the service, a scope with nothing in it has no list.
        return JSONResponse({"secrets": found} if found else {})

    async def delete(request: Request) -> JSONResponse:
        body = await json_object(request)
        await asyncio.to_thread(store.delete, text(body, "scope"), text(body, "key"), caller(owner))
        return JSONResponse({})

    return [
        Route(_BASE + "/put", put, methods=["POST"]),
        Route(_BASE + "/get", get),
        Route(_BASE + "/list", list_all),
        Route(_BASE + "/delete", delete, methods=["POST"]),
    ]


def _acls(workspace: "LocalWorkspace") -> list[Route]:
    store, owner = workspace.secrets, workspace.settings.user_name

    async def put(request: Request) -> JSONResponse:
        body = await json_object(request)
        level = text(body, "permission")
        if level not in LEVELS:
            raise InvalidParameter(f"The field 'permission' must be one of {', '.join(LEVELS)}.")
        change = text(body, "scope"), text(body, "principal"), level, caller(owner)
        await asyncio.to_thread(store.change_acl, *change)
        return JSONResponse({})

    async def delete(request: Request) -> JSONResponse:
        body = await json_object(request)
        change = text(body, "scope"), text(body, "principal"), None, caller(owner)
        await asyncio.to_thread(store.change_acl, *change)
        return JSONResponse({})

    async def get(request: Request) -> JSONResponse:
        query = dict(request.query_params)
        scope, principal = text(query, "scope"), text(query, "principal")
        held = store.acls(scope, caller(owner)).get(principal)
        if held is None:
            raise NotFound(f"Scope {scope} has no access control list for {principal}.")
        return JSONResponse({"principal": principal, "permission": held})

    async def list_all(request: Request) -> JSONResponse:
        held = store.acls(text(dict(request.query_params), "scope"), caller(owner))
        return JSONResponse({"items": [{"principal": who, "permission": level} for who, level in held.items()]})

    return [
        Route(_BASE + "/acls/put", put, methods=["POST"]),
        Route(_BASE + "/acls/delete", delete, methods=["POST"]),
        Route(_BASE + "/acls/get", get),
        Route(_BASE + "/acls/list", list_all),
    ]


def _name(value: str, what: str) -> str:
    if not _NAME.fullmatch(value):
        raise InvalidParameter(f"The {what} must have 1 to 128 letters, digits, spaces, '-', '_', '@' or '.'.")
    return value
