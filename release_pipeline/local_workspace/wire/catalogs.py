"""Unity Catalog's catalogs, schemas and registered models as the securables that they are.

The catalog ``system`` is the service's own: it holds the foundation model that the workspace comes with, and the
tables of usage tracking.
"""

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from release_pipeline.local_workspace.errors import InvalidParameter, NotFound
from release_pipeline.local_workspace.serving import foundation_model as provided

if TYPE_CHECKING:
    from release_pipeline.local_workspace.app import LocalWorkspace

SYSTEM_SCHEMAS = (provided.SCHEMA, "serving")


def routes(workspace: "LocalWorkspace") -> list[Route]:
    """Reading catalogs, schemas and models; schemas are made and dropped with SQL."""
    owner = workspace.settings.user_name
    known = workspace.settings.catalogs

    provided_info = {
        "name": provided.MODEL,
        "catalog_name": provided.CATALOG,
        "schema_name": provided.SCHEMA,
        "full_name": provided.FULL_NAME,
        "owner": provided.OWNER,
        "comment": provided.DESCRIPTION,
    }

    def catalog_info(name: str) -> dict[str, Any]:
        if name == provided.CATALOG:
            return {"name": name, "full_name": name, "owner": provided.OWNER, "catalog_type": "SYSTEM_CATALOG"}
        return {"name": name, "full_name": name, "owner": owner, "catalog_type": "MANAGED_CATALOG"}

    def schema_info(catalog: str, schema: str) -> dict[str, Any]:
        of = provided.OWNER if catalog == provided.CATALOG else owner
        return {"name": schema, "catalog_name": catalog, "full_name": f"{catalog}.{schema}", "owner": of}

    async def list_catalogs(_: Request) -> JSONResponse:
        return JSONResponse({"catalogs": [catalog_info(name) for name in (*known, provided.CATALOG)]})

    async def get_catalog(request: Request) -> JSONResponse:
        name = request.path_params["name"]
        if name != provided.CATALOG:
            require_catalog(workspace, name)
        return JSONResponse(catalog_info(name))

    async def list_schemas(request: Request) -> JSONResponse:
        catalog = request.query_params.get("catalog_name", "")
        if catalog == provided.CATALOG:
            return JSONResponse({"schemas": [schema_info(catalog, each) for each in SYSTEM_SCHEMAS]})
        require_catalog(workspace, catalog)
        found = await asyncio.to_thread(workspace.sql.schemas, catalog)
        return JSONResponse({"schemas": [schema_info(catalog, schema) for schema in found]})

    async def get_schema(request: Request) -> JSONResponse:
        name = request.path_params["full_name"]
        if name in [f"{provided.CATALOG}.{each}" for each in SYSTEM_SCHEMAS]:
            return JSONResponse(schema_info(*name.split(".")))
        catalog, schema = await asyncio.to_thread(require_schema, workspace, name)
        return JSONResponse(schema_info(catalog, schema))

    async def get_model(request: Request) -> JSONResponse:
        if request.path_params["full_name"] == provided.FULL_NAME:
            return JSONResponse(provided_info)
        model = await asyncio.to_thread(workspace.registry.get_model, request.path_params["full_name"])
        catalog, schema, name = model.name.split(".")
        body: dict[str, Any] = {
            "name": name,
            "catalog_name": catalog,
            "schema_name": schema,
            "full_name": model.name,
            "owner": owner,
            "comment": model.description,
            "created_at": model.created_ms,
            "updated_at": model.updated_ms,
        }
        if request.query_params.get("include_aliases") == "true":
            body["aliases"] = [
                {"alias_name": alias, "version_num": int(version)} for alias, version in model.aliases.items()
            ]
        return JSONResponse(body)

    base = "/api/2.1/unity-catalog"
    return [
        Route(f"{base}/catalogs", list_catalogs),
        Route(f"{base}/catalogs/{{name}}", get_catalog),
        Route(f"{base}/schemas", list_schemas),
        Route(f"{base}/schemas/{{full_name}}", get_schema),
        Route(f"{base}/models/{{full_name}}", get_model),
    ]


def require_catalog(workspace: "LocalWorkspace", name: str) -> None:
    """Raises NotFound, with the service's code, when there is no catalog of that name."""
    if name not in workspace.settings.catalogs:
        raise NotFound(f"Catalog '{name}' does not exist.", error_code="CATALOG_DOES_NOT_EXIST")


def require_schema(workspace: "LocalWorkspace", full_name: str) -> tuple[str, str]:
    """Splits ``catalog.schema``; raises NotFound, with the service's code, when there is none. Blocking."""
    catalog, separator, schema = full_name.partition(".")
    if not separator or not schema or "." in schema:
        raise InvalidParameter(f"The schema name {full_name!r} must be of the form catalog.schema.")
    require_catalog(workspace, catalog)
    if not workspace.sql.schema_exists(catalog, schema):
        raise NotFound(f"Schema '{full_name}' does not exist.", error_code="SCHEMA_DOES_NOT_EXIST")
    return catalog, schema
