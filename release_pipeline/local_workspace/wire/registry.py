"""The model registry as mlflow's ``databricks-uc`` client speaks to it: /api/2.0/mlflow/unity-catalog."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from release_pipeline.local_workspace.errors import InvalidParameter, NotFound
from release_pipeline.local_workspace.state.registry import (
    ModelVersion,
    RegisteredModel,
    check_model_name,
    version_folder,
)
from release_pipeline.local_workspace.wire.body import json_object, objects, text, whole

if TYPE_CHECKING:
    from release_pipeline.local_workspace.app import LocalWorkspace

Body = dict[str, Any]
_BASE = "/api/2.0/mlflow/unity-catalog"
_MODELS, _VERSIONS = f"{_BASE}/registered-models", f"{_BASE}/model-versions"
_FILTER = re.compile(r"\s*(\w+)\s*=\s*'([^']*)'\s*")


def routes(workspace: "LocalWorkspace") -> list[Route]:
    """Every call of the registry; each is a function from the request's fields to the answer's."""
    calls = _Calls(workspace)
    return [
        _route("GET", f"{_MODELS}:is-databricks-sdk-models-artifact-repository-enabled", calls.files_api_enabled),
        _route("POST", f"{_MODELS}/create", calls.create_model),
        _route("GET", f"{_MODELS}/get", calls.get_model),
        _route("GET", f"{_MODELS}/search", calls.search_models),
        _route("PATCH", f"{_MODELS}/update", calls.update_model),
        _route("DELETE", f"{_MODELS}/delete", calls.delete_model),
        _route("GET", f"{_MODELS}/alias", calls.get_by_alias),
        _route("POST", f"{_MODELS}/alias", calls.set_alias),
        _route("DELETE", f"{_MODELS}/alias", calls.delete_alias),
        _route("POST", f"{_MODELS}/set-tag", calls.set_model_tag),
        _route("DELETE", f"{_MODELS}/delete-tag", calls.delete_model_tag),
        _route("POST", f"{_VERSIONS}/create", calls.create_version),
        _route("POST", f"{_VERSIONS}/finalize", calls.finalize_version),
        _route("GET", f"{_VERSIONS}/get", calls.get_version),
        _route("GET", f"{_VERSIONS}/search", calls.search_versions),
        _route("GET", f"{_VERSIONS}/get-download-uri", calls.get_download_uri),
        _route("PATCH", f"{_VERSIONS}/update", calls.update_version),
        _route("DELETE", f"{_VERSIONS}/delete", calls.delete_version),
        _route("POST", f"{_VERSIONS}/set-tag", calls.set_version_tag),
        _route("DELETE", f"{_VERSIONS}/delete-tag", calls.delete_version_tag),
        _route("POST", f"{_VERSIONS}/emit-lineage", calls.emit_lineage),
    ]


def _route(method: str, path: str, call: Callable[[Body], Body]) -> Route:
    async def handler(request: Request) -> JSONResponse:
        fields: Body = dict(request.query_params)
        if method != "GET":
            fields |= await json_object(request)
        return JSONResponse(await asyncio.to_thread(call, fields))

    return Route(path, handler, methods=[method])


@dataclass
class _Calls:
    workspace: "LocalWorkspace"

    def __post_init__(self) -> None:
        self.registry = self.workspace.registry

    def files_api_enabled(self, _: Body) -> Body:
        # Clients then move a version's files through the Files API, without any cloud's credentials.
        return {"is_databricks_sdk_models_artifact_repository_enabled": True}

    def create_model(self, body: Body) -> Body:
        name = text(body, "name")
        catalog, schema, _ = check_model_name(name)
        if catalog not in self.workspace.settings.catalogs:
            raise NotFound(f"Catalog '{catalog}' does not exist.")
        if not self.workspace.sql.schema_exists(catalog, schema):
            raise NotFound(f"Schema '{catalog}.{schema}' does not exist.")
        return self._model_body(self.registry.create_model(name, text(body, "description", ""), _tags(body)))

    def get_model(self, body: Body) -> Body:
        return self._model_body(self.registry.get_model(text(body, "name")))

    def search_models(self, body: Body) -> Body:
        offset, limit = _page(body, 100)
        found = self.registry.models(offset, limit + 1)
        models = [self._model_json(model) for model in found[:limit]]
        return {"registered_models": models, **_next_page(offset, limit, len(found))}

    def update_model(self, body: Body) -> Body:
        if body.get("new_name"):
            raise InvalidParameter("The local workspace does not rename models; register under the new name instead.")
        return self._model_body(self.registry.update_model(text(body, "name"), _description(body)))

    def delete_model(self, body: Body) -> Body:
        self.registry.delete_model(text(body, "name"))
        return {}

    def get_by_alias(self, body: Body) -> Body:
        return self._version_body(self.registry.version_by_alias(text(body, "name"), text(body, "alias")))

    def set_alias(self, body: Body) -> Body:
        self.registry.set_alias(text(body, "name"), text(body, "alias"), text(body, "version"))
        return {}

    def delete_alias(self, body: Body) -> Body:
        self.registry.delete_alias(text(body, "name"), text(body, "alias"))
        return {}

    def set_model_tag(self, body: Body) -> Body:
        self.registry.update_model(text(body, "name"), tags={text(body, "key"): text(body, "value", "")})
        return {}

    def delete_model_tag(self, body: Body) -> Body:
        self.registry.update_model(text(body, "name"), tags={text(body, "key"): None})
        return {}

    def create_version(self, body: Body) -> Body:
        version = self.registry.create_version(
            text(body, "name"),
            source=text(body, "source"),
            run_id=text(body, "run_id", ""),
            model_id=text(body, "model_id", ""),
            run_tracking_server_id=text(body, "run_tracking_server_id", ""),
            description=text(body, "description", ""),
            dependencies=[(text(item, "type"), text(item, "name")) for item in objects(body, _DEPENDENCIES)],
            tags=_tags(body),
        )
        return self._version_body(version)

    def finalize_version(self, body: Body) -> Body:
        return self._version_body(self.registry.finalize_version(*_version_key(body)))

    def get_version(self, body: Body) -> Body:
        return self._version_body(self.registry.require_version(*_version_key(body)))

    def search_versions(self, body: Body) -> Body:
        condition = _FILTER.fullmatch(text(body, "filter"))
        if condition is None:
            raise InvalidParameter("The filter must be one condition, name = '<model>' or run_id = '<run>'.")
        offset, limit = _page(body, 10_000)
        found = self.registry.versions(condition[1], condition[2], offset, limit + 1)
        versions = [self._version_json(version) for version in found[:limit]]
        return {"model_versions": versions, **_next_page(offset, limit, len(found))}

    def get_download_uri(self, body: Body) -> Body:
        version = self.registry.require_version(*_version_key(body))
        return {"artifact_uri": version_folder(version.name, version.version)}

    def update_version(self, body: Body) -> Body:
        return self._version_body(self.registry.update_version(*_version_key(body), _description(body)))

    def delete_version(self, body: Body) -> Body:
        self.registry.delete_version(*_version_key(body))
        return {}

    def set_version_tag(self, body: Body) -> Body:
        self.registry.update_version(*_version_key(body), tags={text(body, "key"): text(body, "value", "")})
        return {}

    def delete_version_tag(self, body: Body) -> Body:
        self.registry.update_version(*_version_key(body), tags={text(body, "key"): None})
        return {}

    def emit_lineage(self, body: Body) -> Body:
        self.registry.require_version(*_version_key(body))
        return {}

    def _model_body(self, model: RegisteredModel) -> Body:
        return {"registered_model": self._model_json(model)}

    def _version_body(self, version: ModelVersion) -> Body:
        return {"model_version": self._version_json(version)}

    def _model_json(self, model: RegisteredModel) -> Body:
        return {
            "name": model.name,
            "creation_timestamp": model.created_ms,
            "last_updated_timestamp": model.updated_ms,
            "user_id": self.registry.user_name,
            "description": model.description,
            "aliases": [{"alias": alias, "version": version} for alias, version in model.aliases.items()],
            "tags": [{"key": key, "value": value} for key, value in model.tags.items()],
        }

    def _version_json(self, version: ModelVersion) -> Body:
        return {
            "name": version.name,
            "version": version.version,
            "creation_timestamp": version.created_ms,
            "last_updated_timestamp": version.updated_ms,
            "user_id": self.registry.user_name,
            "description": version.description,
            "source": version.source,
            "run_id": version.run_id,
            "run_tracking_server_id": version.run_tracking_server_id,
            "model_id": version.model_id,
            "status": version.status,
            "storage_location": version_folder(version.name, version.version),
            _DEPENDENCIES: [{"type": kind, "name": name} for kind, name in version.dependencies],
            "aliases": [{"alias": alias, "version": version.version} for alias in version.aliases],
            "tags": [{"key": key, "value": value} for key, value in version.tags.items()],
        }


_DEPENDENCIES = "model_version_dependencies"


def _version_key(body: Body) -> tuple[str, str]:
    return text(body, "name"), text(body, "version")


def _description(body: Body) -> str | None:
    return None if body.get("description") is None else text(body, "description", "")


def _tags(body: Body) -> dict[str, str]:
    return {text(tag, "key"): text(tag, "value", "") for tag in objects(body, "tags")}


def _page(body: Body, default: int) -> tuple[int, int]:
    limit = whole(body, "max_results", default)
    if not 0 < limit <= 10_000:
        raise InvalidParameter("The field 'max_results' must be a number from 1 to 10000.")
    return whole(body, "page_token", 0), limit


def _next_page(offset: int, limit: int, found: int) -> Body:
    return {"next_page_token": str(offset + limit)} if found > limit else {}
