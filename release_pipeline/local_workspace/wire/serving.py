"""The routes of Model Serving's life cycle: endpoints, their configuration, tags, gateway, logs."""

import asyncio
import time
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from release_pipeline.local_workspace.errors import InvalidParameter
from release_pipeline.local_workspace.serving.endpoint import Endpoint, tags_view
from release_pipeline.local_workspace.serving.entity_logs import EntityLogs
from release_pipeline.local_workspace.serving.metrics import render_metrics
from release_pipeline.local_workspace.serving.openapi import openapi_document
from release_pipeline.local_workspace.wire.body import json_object, mapping, objects, text

if TYPE_CHECKING:
    from release_pipeline.local_workspace.app import LocalWorkspace

BASE = "/api/2.0/serving-endpoints"


def routes(workspace: "LocalWorkspace") -> list[Route]:
    """Routes under ``/api/2.0/serving-endpoints``."""
    return _life_cycle(workspace) + _insight(workspace)


def _life_cycle(workspace: "LocalWorkspace") -> list[Route]:
    serving, access = workspace.serving, workspace.access

    def at(request: Request, level: str) -> str:
        """The name of the endpoint that a request is about, where its sender has the level."""
        name: str = request.path_params["name"]
        access.require_endpoint(serving.get(name), level)
        return name

    async def create(request: Request) -> Response:
        body = await json_object(request)
        _check_config(mapping(body, "config"))
        _check_gateway(mapping(body, "ai_gateway") | {"rate_limits": objects(body, "rate_limits")})
        _tags(body, "tags")
        return JSONResponse(await serving.create(body))

    async def list_all(_: Request) -> Response:
        return JSONResponse(
            {"endpoints": [serving.view(endpoint) for endpoint in serving.endpoints.values() if access.sees(endpoint)]}
        )

    async def get(request: Request) -> Response:
        return JSONResponse(serving.view(serving.get(at(request, "CAN_VIEW"))))

    async def delete(request: Request) -> Response:
        await serving.delete(at(request, "CAN_MANAGE"))
        return JSONResponse({})

    async def update_config(request: Request) -> Response:
        body = await json_object(request)
        _check_config(body)
        return JSONResponse(await serving.update_config(at(request, "CAN_MANAGE"), body))

    async def change_tags(request: Request) -> Response:
        body = await json_object(request)
        delete = body.get("delete_tags") or []
        if not isinstance(delete, list):
            raise InvalidParameter("The field 'delete_tags' must be a list of keys.")
        tags = await serving.change_tags(at(request, "CAN_MANAGE"), _tags(body, "add_tags"), delete)
        return JSONResponse({"tags": tags_view(tags)})

    async def put_gateway(request: Request) -> Response:
        body = await json_object(request)
        _check_gateway(body)
        return JSONResponse(await serving.change_gateway(at(request, "CAN_MANAGE"), body))

    async def put_rate_limits(request: Request) -> Response:
        name = at(request, "CAN_MANAGE")
        limits = objects(await json_object(request), "rate_limits")
        gateway = serving.get(name).record.ai_gateway | {"rate_limits": limits}
        changed = await serving.change_gateway(name, gateway)
        return JSONResponse({"rate_limits": changed["rate_limits"]})

    async def change_description(request: Request) -> Response:
        endpoint = serving.get(at(request, "CAN_MANAGE"))
        endpoint.record.description = str((await json_object(request)).get("description") or "")
        await serving.save(endpoint)
        return JSONResponse(serving.view(endpoint))

    return [
        Route(BASE, create, methods=["POST"]),
        Route(BASE, list_all),
        # mlflow's deployments client ends the path with a slash.
        Route(BASE + "/", create, methods=["POST"]),
        Route(BASE + "/", list_all),
        Route(BASE + "/{name}", get),
        Route(BASE + "/{name}", delete, methods=["DELETE"]),
        Route(BASE + "/{name}/config", update_config, methods=["PUT"]),
        Route(BASE + "/{name}/tags", change_tags, methods=["PATCH"]),
        Route(BASE + "/{name}/ai-gateway", put_gateway, methods=["PUT"]),
        Route(BASE + "/{name}/rate-limits", put_rate_limits, methods=["PUT"]),
        Route(BASE + "/{name}/description", change_description, methods=["PATCH"]),
    ]


def _insight(workspace: "LocalWorkspace") -> list[Route]:
    serving, settings = workspace.serving, workspace.settings

    def viewed(request: Request) -> Endpoint:
        """The endpoint that a request is about, which its sender may see."""
        endpoint = serving.get(request.path_params["name"])
        workspace.access.require_endpoint(endpoint, "CAN_VIEW")
        return endpoint

    async def log(request: Request, *, build: bool) -> Response:
        entity = viewed(request).known_entity(request.path_params["entity"])
        logs = EntityLogs(settings.data_dir, entity.id)
        return JSONResponse({"logs": await asyncio.to_thread(logs.read, build=build)})

    async def logs(request: Request) -> Response:
        return await log(request, build=False)

    async def build_logs(request: Request) -> Response:
        return await log(request, build=True)

    async def metrics(request: Request) -> Response:
        endpoint = viewed(request)
        minute = time.time() if settings.faults.minute_metrics else None
        return PlainTextResponse(render_metrics(endpoint.record.name, endpoint.record.id, endpoint.counters, minute))

    async def openapi(request: Request) -> Response:
        endpoint = viewed(request)
        config = endpoint.record.config
        paths = {
            entity.name: workspace.registry.version_path(entity.entity_name, entity.entity_version)
            for entity in (config.entities if config else ())
        }
        return JSONResponse(await asyncio.to_thread(openapi_document, endpoint.record.name, settings.url, paths))

    return [
        Route(BASE + "/{name}/served-models/{entity}/logs", logs),
        Route(BASE + "/{name}/served-models/{entity}/build-logs", build_logs),
        Route(BASE + "/{name}/metrics", metrics),
        Route(BASE + "/{name}/openapi", openapi),
    ]


def _check_config(config: dict[str, Any]) -> None:
    """Refuse a configuration whose parts are not lists and objects where they should be."""
    for key in ("served_entities", "served_models"):
        objects(config, key)
    objects(mapping(config, "traffic_config"), "routes")


def _check_gateway(gateway: dict[str, Any]) -> None:
    mapping(gateway, "inference_table_config")
    objects(gateway, "rate_limits")


def _tags(body: dict[str, Any], key: str) -> dict[str, str]:
    return {text(tag, "key"): text(tag, "value", "") for tag in objects(body, key)}
