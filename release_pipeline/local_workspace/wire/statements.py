"""The statement execution API and the one SQL warehouse that it runs on.

A statement that fails is answered with HTTP 200 and state FAILED, as the service does; only a request that is itself
wrong is an HTTP error.
"""

import asyncio
import re
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from release_pipeline.local_workspace.caller import current_caller
from release_pipeline.local_workspace.errors import InvalidParameter, NotFound
from release_pipeline.local_workspace.sql.names import Session
from release_pipeline.local_workspace.sql.statements import State, Statement, StatementStore
from release_pipeline.local_workspace.state.warehouse import WAREHOUSE_ID, require_warehouse
from release_pipeline.local_workspace.wire.body import json_object, text

if TYPE_CHECKING:
    from release_pipeline.local_workspace.app import LocalWorkspace


_BASE = "/api/2.0/sql/statements"
_DEFAULT_WAIT = "10s"
_WAIT = re.compile(r"(\d{1,3})s")
_WAREHOUSE = {
    "id": WAREHOUSE_ID,
    "name": "Local warehouse",
    "state": "RUNNING",
    "cluster_size": "2X-Small",
    "min_num_clusters": 1,
    "max_num_clusters": 1,
    "num_clusters": 1,
    "auto_stop_mins": 0,
    "enable_serverless_compute": False,
    "warehouse_type": "PRO",
}


def routes(workspace: "LocalWorkspace") -> list[Route]:
    """Running statements, fetching and cancelling them, and reading the warehouse."""
    store = StatementStore(workspace.sql)

    def known(request: Request) -> Statement:
        statement = store.get(request.path_params["statement_id"])
        who = current_caller()
        if statement is None or (who is not None and statement.sender != who):
            raise NotFound(f"The statement {request.path_params['statement_id']} was not found, or its result expired.")
        return statement

    async def execute(request: Request) -> JSONResponse:
        body = await json_object(request)
        warehouse_id = text(body, "warehouse_id")
        require_warehouse(warehouse_id)
        await asyncio.to_thread(workspace.access.require_warehouse, warehouse_id)
        _require_inline(body)
        wait = _wait_seconds(body)
        on_timeout = _choice(body, "on_wait_timeout", ("CONTINUE", "CANCEL"))
        session = Session(text(body, "catalog", "main") or "main", text(body, "schema", "default") or "default")
        limits = _whole_number(body, "row_limit"), _whole_number(body, "byte_limit")
        guard = workspace.access.guard()
        statement = store.submit(
            text(body, "statement"), _parameters(body), session, *limits, guard=guard, sender=current_caller()
        )
        if wait == 0:
            return JSONResponse({"statement_id": statement.id, "status": {"state": State.PENDING}})
        if not await _finished(statement, wait) and on_timeout == "CANCEL":
            statement.cancellation.cancel()
            await _finished(statement, None)
        return JSONResponse(_response(statement))

    async def get(request: Request) -> JSONResponse:
        return JSONResponse(_response(known(request)))

    async def get_chunk(request: Request) -> JSONResponse:
        statement = known(request)
        index = request.path_params["index"]
        if statement.state != State.SUCCEEDED:
            raise InvalidParameter(f"The statement {statement.id} has no result: its state is {statement.state}.")
        if index >= len(statement.chunks):
            raise InvalidParameter(f"The result has {len(statement.chunks)} chunks, so there is no chunk {index}.")
        return JSONResponse(_chunk(statement, index))

    async def cancel(request: Request) -> JSONResponse:
        known(request).cancellation.cancel()
        return JSONResponse({})

    async def list_warehouses(_: Request) -> JSONResponse:
        return JSONResponse({"warehouses": [_WAREHOUSE]})

    async def get_warehouse(request: Request) -> JSONResponse:
        require_warehouse(request.path_params["warehouse_id"])
        return JSONResponse(_WAREHOUSE)

    return [
        Route(_BASE, execute, methods=["POST"]),
        Route(f"{_BASE}/", execute, methods=["POST"]),
        Route(f"{_BASE}/{{statement_id}}", get),
        Route(f"{_BASE}/{{statement_id}}/result/chunks/{{index:int}}", get_chunk),
        Route(f"{_BASE}/{{statement_id}}/cancel", cancel, methods=["POST"]),
        Route("/api/2.0/sql/warehouses", list_warehouses),
        Route("/api/2.0/sql/warehouses/{warehouse_id}", get_warehouse),
    ]


def _require_inline(body: dict[str, Any]) -> None:
    for key, only in (("disposition", "INLINE"), ("format", "JSON_ARRAY")):
        if body.get(key, only) != only:
            raise InvalidParameter(f"The local workspace answers results as {only} only; leave {key!r} out.")


def _choice(body: dict[str, Any], key: str, values: tuple[str, ...]) -> str:
    value = text(body, key, values[0])
    if value not in values:
        raise InvalidParameter(f"The field {key!r} must be one of {', '.join(values)}.")
    return value


def _wait_seconds(body: dict[str, Any]) -> int:
    match = _WAIT.fullmatch(text(body, "wait_timeout", _DEFAULT_WAIT))
    seconds = int(match.group(1)) if match else -1
    if seconds != 0 and not 5 <= seconds <= 50:
        raise InvalidParameter("The field 'wait_timeout' must be '0s' or between '5s' and '50s'.")
    return seconds


def _whole_number(body: dict[str, Any], key: str) -> int | None:
    value = body.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidParameter(f"The field {key!r} must be a whole number above zero.")
    return value


def _parameters(body: dict[str, Any]) -> dict[str, tuple[str | None, str]]:
    found: dict[str, tuple[str | None, str]] = {}
    entries = body.get("parameters") or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InvalidParameter("The field 'parameters' must be a list of objects with name, value and type.")
    for entry in entries:
        name = text(entry, "name")
        if name in found:
            raise InvalidParameter(f"The parameter {name!r} is given twice.")
        value = entry.get("value")
        if value is not None and not isinstance(value, str):
            raise InvalidParameter(f"The value of the parameter {name!r} must be a string, whatever its type.")
        found[name] = (value, text(entry, "type", "STRING"))
    return found


async def _finished(statement: Statement, seconds: float | None) -> bool:
    # asyncio.wait leaves the statement running when the time is up, or when the client goes away.
    done, _ = await asyncio.wait({asyncio.ensure_future(asyncio.wrap_future(statement.done))}, timeout=seconds)
    return bool(done)


def _response(statement: Statement) -> dict[str, Any]:
    state = statement.state
    status: dict[str, Any] = {"state": state}
    body: dict[str, Any] = {"statement_id": statement.id, "status": status}
    if state == State.FAILED and statement.failure is not None:
        status["error"] = {"error_code": statement.failure.error_code, "message": statement.failure.message}
    if state == State.SUCCEEDED:
        body["manifest"] = _manifest(statement)
        body["result"] = _chunk(statement, 0) if statement.chunks else {}
    return body


def _manifest(statement: Statement) -> dict[str, Any]:
    columns = [
        {"name": each.name, "type_text": each.type_text, "type_name": each.type_name, "position": position}
        for position, each in enumerate(statement.result.columns)
    ]
    chunks = [
        {
            "chunk_index": index,
            "row_offset": chunk.first_row,
            "row_count": chunk.end_row - chunk.first_row,
            "byte_count": chunk.size,
        }
        for index, chunk in enumerate(statement.chunks)
    ]
    return {
        "format": "JSON_ARRAY",
        "schema": {"column_count": len(columns), "columns": columns},
        "total_chunk_count": len(chunks),
        "chunks": chunks,
        "total_row_count": len(statement.result.rows),
        "total_byte_count": statement.size,
        "truncated": statement.result.truncated,
    }


def _chunk(statement: Statement, index: int) -> dict[str, Any]:
    chunk = statement.chunks[index]
    body: dict[str, Any] = {
        "chunk_index": index,
        "row_offset": chunk.first_row,
        "row_count": chunk.end_row - chunk.first_row,
        "byte_count": chunk.size,
        "data_array": statement.result.rows[chunk.first_row : chunk.end_row],
    }
    if index + 1 < len(statement.chunks):
        following = index + 1
        body["next_chunk_index"] = following
        body["next_chunk_internal_link"] = (
            f"{_BASE}/{statement.id}/result/chunks/{following}?row_offset={statement.chunks[following].first_row}"
        )
    return body
