"""The workspace's own description in OpenAPI 3.1, at ``/openapi.json``: every route, and what its clients send to it.

What a route takes is read from the client that calls it: the parameters of a call of databricks-sdk, or the message of
mlflow's protocol. So it is described as it comes, and a client that learns a new field brings it along.
"""

import asyncio
import dataclasses
import enum
import importlib
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from release_pipeline.local_workspace.settings import Faults
from release_pipeline.local_workspace.state.known_resources import KINDS

if TYPE_CHECKING:
    from release_pipeline.local_workspace.app import LocalWorkspace

Schema = dict[str, Any]

_SERVING, _ENDPOINT = "/api/2.0/serving-endpoints", "/api/2.0/serving-endpoints/{name}"
_UC, _SCIM, _SECRETS = "/api/2.1/unity-catalog", "/api/2.0/preview/scim/v2", "/api/2.0/secrets"
_PERMISSIONS = "iam.PermissionsAPI.update"
#: Calls of databricks-sdk by route, as module, class and method below databricks.sdk.service.
_SDK: Final = {
    f"POST {_SERVING}": "serving.ServingEndpointsAPI.create",
    f"POST {_SERVING}/": "serving.ServingEndpointsAPI.create",
    f"PUT {_ENDPOINT}/config": "serving.ServingEndpointsAPI.update_config",
    f"PATCH {_ENDPOINT}/tags": "serving.ServingEndpointsAPI.patch",
    f"PUT {_ENDPOINT}/ai-gateway": "serving.ServingEndpointsAPI.put_ai_gateway",
    f"PUT {_ENDPOINT}/rate-limits": "serving.ServingEndpointsAPI.put",
    "POST /serving-endpoints/{name}/invocations": "serving.ServingEndpointsAPI.query",
    "POST /serving-endpoints/{name}/served-models/{entity}/invocations": "serving.ServingEndpointsAPI.query",
    "POST /api/2.0/sql/statements": "sql.StatementExecutionAPI.execute_statement",
    "POST /api/2.0/sql/statements/": "sql.StatementExecutionAPI.execute_statement",
    f"GET {_UC}/tables": "catalog.TablesAPI.list",
    f"GET {_UC}/schemas": "catalog.SchemasAPI.list",
    f"GET {_UC}/catalogs": "catalog.CatalogsAPI.list",
    f"PATCH {_UC}/permissions/{{type}}/{{full_name}}": "catalog.GrantsAPI.update",
    f"GET {_UC}/effective-permissions/{{type}}/{{full_name}}": "catalog.GrantsAPI.get_effective",
    f"GET {_UC}/permissions/{{type}}/{{full_name}}": "catalog.GrantsAPI.get",
    "POST /api/2.0/token-management/on-behalf-of/tokens": "settings.TokenManagementAPI.create_obo_token",
    **{
        f"{method} {_SECRETS}/{path}": f"workspace.SecretsAPI.{call}"
        for method, path, call in (
            ("POST", "scopes/create", "create_scope"),
            ("POST", "scopes/delete", "delete_scope"),
            ("POST", "put", "put_secret"),
            ("GET", "get", "get_secret"),
            ("GET", "list", "list_secrets"),
            ("POST", "delete", "delete_secret"),
            ("POST", "acls/put", "put_acl"),
            ("POST", "acls/delete", "delete_acl"),
            ("GET", "acls/get", "get_acl"),
            ("GET", "acls/list", "list_acls"),
        )
    },
    **{
        f"{method} /api/2.0/permissions/{kind}/{{id}}": _PERMISSIONS
        for method in ("PATCH", "PUT")
        for kind in ("serving-endpoints", "warehouses", "genie", "apps", "database-instances")
    },
}
_MODELS, _VERSIONS = (f"/api/2.0/mlflow/unity-catalog/{kind}" for kind in ("registered-models", "model-versions"))
#: Messages of mlflow's protocol for Unity Catalog by route, without the ``Request`` at their end.
_MLFLOW: Final = {
    f"POST {_MODELS}/create": "CreateRegisteredModel",
    f"GET {_MODELS}/get": "GetRegisteredModel",
    f"GET {_MODELS}/search": "SearchRegisteredModels",
    f"PATCH {_MODELS}/update": "UpdateRegisteredModel",
    f"DELETE {_MODELS}/delete": "DeleteRegisteredModel",
    f"GET {_MODELS}/alias": "GetModelVersionByAlias",
    f"POST {_MODELS}/alias": "SetRegisteredModelAlias",
    f"DELETE {_MODELS}/alias": "DeleteRegisteredModelAlias",
    f"POST {_MODELS}/set-tag": "SetRegisteredModelTag",
    f"DELETE {_MODELS}/delete-tag": "DeleteRegisteredModelTag",
    f"POST {_VERSIONS}/create": "CreateModelVersion",
    f"POST {_VERSIONS}/finalize": "FinalizeModelVersion",
    f"GET {_VERSIONS}/get": "GetModelVersion",
    f"GET {_VERSIONS}/search": "SearchModelVersions",
    f"GET {_VERSIONS}/get-download-uri": "GetModelVersionDownloadUri",
    f"PATCH {_VERSIONS}/update": "UpdateModelVersion",
    f"DELETE {_VERSIONS}/delete": "DeleteModelVersion",
    f"POST {_VERSIONS}/set-tag": "SetModelVersionTag",
    f"DELETE {_VERSIONS}/delete-tag": "DeleteModelVersionTag",
    f"POST {_VERSIONS}/emit-lineage": "EmitModelVersionLineage",
}
_TEXT: Final[Schema] = {"type": "string"}
_ASKED: Final = {"input": {"type": "array", "items": {"type": "object"}}, "model": _TEXT, "stream": {"type": "boolean"}}
_WHOLE: Final[Schema] = {"type": "integer"}
_PAGE: Final = {"startIndex": _WHOLE, "count": _WHOLE, "filter": _TEXT}
#: Fields of routes that no client has a call for, or one whose parameters have other names than what it sends.
_OWN: Final[dict[str, dict[str, Schema]]] = {
    "POST /serving-endpoints/responses": _ASKED,
    "POST /serving-endpoints/chat/completions": {**_ASKED, "messages": _ASKED["input"]},
    f"PATCH {_ENDPOINT}/description": {"name": _TEXT, "description": _TEXT},
    "POST /local/tokens": {"user_name": _TEXT},
    "PATCH /local/resources": {kind: {"type": "array", "items": _TEXT} for kind in KINDS},
    "POST /api/2.0/fs/create-download-url": {"path": _TEXT},
    "POST /api/2.0/fs/files{path}": {"action": _TEXT},
    "PUT /api/2.0/fs/files{path}": {"overwrite": {"type": "boolean"}},
    "GET /api/2.0/fs/directories{path}": {"page_size": _WHOLE, "page_token": _TEXT},
    f"GET {_SCIM}/Users": _PAGE,
    f"POST {_SCIM}/Users": {"userName": _TEXT, "displayName": _TEXT},
    f"GET {_SCIM}/ServicePrincipals": _PAGE,
    f"POST {_SCIM}/ServicePrincipals": {"applicationId": _TEXT, "displayName": _TEXT},
}
#: Parameters of calls that stand in the path under another name.
_IN_PATH: Final = frozenset({"request_object_type", "request_object_id", "securable_type", "full_name"})
#: What needs no token: see :mod:`release_pipeline.local_workspace.auth`.
_OPEN: Final = ("/presigned/", "/review/", "/pages/", "/ml/", "/explore/data/", "/.well-known/")
#: Of mlflow's messages, those that its client never leaves out where they have a place; the protocol does not say so.
_ALWAYS: Final = frozenset({"name", "version", "alias", "key"})
_BODILESS: Final = ("GET", "DELETE")
_IN_QUERY: Final = ("PUT /api/2.0/fs/files{path}", "POST /api/2.0/fs/files{path}")
_SIMPLE: Final = {str: "string", int: "integer", float: "number", bool: "boolean"}


def routes(workspace: "LocalWorkspace", described: Callable[[], Iterable[Route]]) -> list[Route]:
    """The route of the description of ``described``, itself among them."""
    document: Schema = {}

    async def get(_: Request) -> JSONResponse:
        if not document:
            document.update(await asyncio.to_thread(describe, described(), workspace.settings.url))
        return JSONResponse(document)

    return [Route("/openapi.json", get)]


def describe(described: Iterable[Route], url: str) -> Schema:
    """The OpenAPI document. mlflow's own routes, which are caught as a whole, are not in it: mlflow describes them."""
    components: dict[str, Schema] = {"Error": _error()}
    paths: dict[str, Schema] = {}
    for route in described:
        path = re.sub(r":\w+}", "}", route.path)
        if route.methods is None:
            continue
        for method in sorted(route.methods - {"HEAD"}):
            paths.setdefault(path, {})[method.lower()] = _operation(method, path, route, components)
    return {
        "openapi": "3.1.0",
        "info": {"title": "The local workspace of release_pipeline", "version": "1"},
        "servers": [{"url": url}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(method: str, path: str, route: Route, components: dict[str, Schema]) -> Schema:
    name = f"{method} {path}"
    summary, properties, required = _taken(name, components)
    in_path = list(route.param_convertors)
    fields = {key: schema for key, schema in properties.items() if key not in {*in_path, *_IN_PATH}}
    parameters = [{"name": each, "in": "path", "required": True, "schema": _TEXT} for each in in_path]
    operation: Schema = {
        "operationId": name,
        "summary": summary or f"{method} {path}",
        "parameters": parameters,
        "responses": {"2XX": {"description": "Done."}, "4XX": _answer("Refused, with the reason.")},
    }
    if path == "/" or path.startswith(_OPEN):
        operation["security"] = []
    if method in _BODILESS or name in _IN_QUERY:
        parameters += [
            {"name": key, "in": "query", "required": key in required, "schema": schema}
            for key, schema in fields.items()
        ]
    elif fields:
        body = {"type": "object", "properties": fields, "required": [key for key in fields if key in required]}
        operation["requestBody"] = {"content": {"application/json": {"schema": body}}}
    if name == "PUT /api/2.0/fs/files{path}":
        operation["requestBody"] = {"content": {"application/octet-stream": {"schema": {}}}}
    return operation


def _taken(name: str, components: dict[str, Schema]) -> tuple[str, dict[str, Schema], frozenset[str]]:
    """What calls a route, the fields that it may send, and those that it always sends."""
    if call := _SDK.get(name):
        module, owner, method = call.split(".")
        function = getattr(getattr(importlib.import_module(f"databricks.sdk.service.{module}"), owner), method)
        hints, known = typing.get_type_hints(function), inspect.signature(function).parameters
        always = {key for key, each in known.items() if each.default is inspect.Parameter.empty}
        given = {key: hint for key, hint in hints.items() if key in known}
        fields = {key: _schema(hint, components) for key, hint in given.items()}
        return f"databricks-sdk: {owner}.{method}", fields, frozenset(always)
    if message := _MLFLOW.get(name):
        from mlflow.protos import databricks_uc_registry_messages_pb2 as messages

        fields = _message(messages.DESCRIPTOR.message_types_by_name[f"{message}Request"])
        return f"mlflow: {message}", fields, _ALWAYS
    if name == "PATCH /local/faults":
        hints = typing.get_type_hints(Faults)
        return (
            "",
            {each.name: _schema(hints[each.name], components) for each in dataclasses.fields(Faults)},
            frozenset(),
        )
    return "", _OWN.get(name, {}), frozenset()


def _schema(hint: Any, components: dict[str, Schema]) -> Schema:
    """The schema of a type of Python's, as databricks-sdk writes it in JSON; what it does not know may be anything."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _schema(next(each for each in arguments if each is not type(None)), components)
    if origin in (list, tuple):
        return {"type": "array", "items": _schema(arguments[0], components)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(arguments[1], components)}
    if hint in _SIMPLE:
        return {"type": _SIMPLE[hint]}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return {"type": "string", "enum": [each.value for each in hint]}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        name = hint.__name__
        if name not in components:
            components[name] = {}  # known from here on: types may hold themselves
            hints = typing.get_type_hints(hint)
            properties = {each.name: _schema(hints[each.name], components) for each in dataclasses.fields(hint)}
            components[name] = {"type": "object", "properties": properties}
        return {"$ref": f"#/components/schemas/{name}"}
    return {}


def _message(descriptor: Any) -> dict[str, Schema]:
    """The fields of a message of protobuf."""
    return {field.name: _field(field) for field in descriptor.fields}


def _field(field: Any) -> Schema:
    kinds: Mapping[int, str] = {
        **dict.fromkeys((field.TYPE_INT32, field.TYPE_INT64, field.TYPE_UINT32, field.TYPE_UINT64), "integer"),
        field.TYPE_BOOL: "boolean",
        field.TYPE_STRING: "string",
    }
    schema: Schema = {"type": kinds[field.type]} if field.type in kinds else {}
    if field.message_type is not None:
        schema = {"type": "object", "properties": _message(field.message_type)}
    elif field.enum_type is not None:
        schema = {"type": "string", "enum": [value.name for value in field.enum_type.values]}
    return {"type": "array", "items": schema} if field.is_repeated else schema


def _answer(words: str) -> Schema:
    return {"description": words, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}


def _error() -> Schema:
    return {"type": "object", "properties": {"error_code": _TEXT, "message": _TEXT}, "required": ["message"]}
