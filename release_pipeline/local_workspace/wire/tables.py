"""Unity Catalog's tables: reading what is there. They are made, altered and dropped with SQL."""

import asyncio
from datetime import UTC
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from release_pipeline.local_workspace.errors import InvalidParameter, NotFound
from release_pipeline.local_workspace.sql.catalog import TableInfo
from release_pipeline.local_workspace.sql.result_values import catalog_type

if TYPE_CHECKING:
    from release_pipeline.local_workspace.app import LocalWorkspace

_BASE = "/api/2.1/unity-catalog/tables"


def routes(workspace: "LocalWorkspace") -> list[Route]:
    """Getting a table, asking whether it exists, and listing a schema's."""
    owner = workspace.settings.user_name

    async def find(request: Request) -> TableInfo | None:
        full_name = request.path_params["full_name"]
        if full_name.count(".") != 2:
            raise InvalidParameter(f"The table name {full_name!r} must be of the form catalog.schema.table.")
        return await asyncio.to_thread(workspace.sql.table, full_name)

    async def get(request: Request) -> JSONResponse:
        info = await find(request)
        if info is None:
            raise NotFound(
                f"Table '{request.path_params['full_name']}' does not exist.", error_code="TABLE_DOES_NOT_EXIST"
            )
        return JSONResponse(_table(info, owner))

    async def exists(request: Request) -> JSONResponse:
        return JSONResponse({"table_exists": await find(request) is not None})

    async def list_tables(request: Request) -> JSONResponse:
        catalog = request.query_params.get("catalog_name", "")
        schema = request.query_params.get("schema_name", "")
        if not catalog or not schema:
            raise InvalidParameter("Listing tables needs catalog_name and schema_name.")
        if not await asyncio.to_thread(workspace.sql.schema_exists, catalog, schema):
            raise NotFound(f"Schema '{catalog}.{schema}' does not exist.", error_code="SCHEMA_DOES_NOT_EXIST")
        found = await asyncio.to_thread(workspace.sql.tables, catalog, schema)
        return JSONResponse({"tables": [_table(info, owner) for info in found]})

    return [
        Route(_BASE, list_tables),
        Route(f"{_BASE}/{{full_name}}", get),
        Route(f"{_BASE}/{{full_name}}/exists", exists),
    ]


def _table(info: TableInfo, owner: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "name": info.name.name,
        "catalog_name": info.name.catalog,
        "schema_name": info.name.schema,
        "full_name": info.name.full,
        "table_type": info.kind,
        "columns": [
            {
                "name": column.name,
                "type_text": catalog_type(column.type_text),
                "type_name": column.type_name,
                "position": position,
                "nullable": column.nullable,
            }
            for position, column in enumerate(info.columns)
        ],
        "properties": dict(info.properties),
        "owner": owner,
        "created_at": int(info.created_at.replace(tzinfo=UTC).timestamp() * 1000),
        "updated_at": int(info.modified_at.replace(tzinfo=UTC).timestamp() * 1000),
    }
    if info.comment is not None:
        body["comment"] = info.comment
    if info.kind == "VIEW":
        body["view_definition"] = info.view_text
    else:
        body["data_source_format"] = "DELTA"
    return body
