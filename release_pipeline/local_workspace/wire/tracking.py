"""MLflow tracking: mlflow's own server, with the service's checks in front of it."""

import asyncio
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from release_pipeline.local_workspace.caller import current_caller
from release_pipeline.local_workspace.errors import InvalidParameter
from release_pipeline.local_workspace.json_text import at, read_json
from release_pipeline.local_workspace.state.files import FileStore
from release_pipeline.local_workspace.tracking_process import TrackingProcess
from release_pipeline.local_workspace.wire.model_traces import trace_of_model

if TYPE_CHECKING:
    from release_pipeline.local_workspace.app import LocalWorkspace

logger = logging.getLogger(__name__)


#: What of mlflow's API is taken. Its server has more: what the service has not, such as a gateway with its secrets, and
#: the registry of a workspace, in whose place is Unity Catalog's.
_FAMILIES = frozenset({"artifacts", "experiments", "logged-models", "metrics", "runs", "traces"})


def routes(workspace: "LocalWorkspace") -> list[Route]:
    """The API of mlflow below /api/2.0 and /api/3.0; clients expect later versions not to be answered."""
    app = _Checked(workspace.tracking, workspace.files)
    return [Route(f"/api/{version}/mlflow/{{rest:path}}", app) for version in ("2.0", "3.0")]


class _Checked:
    """What the service refuses and mlflow's server does not, or only with a 500 that clients retry for minutes."""

    def __init__(self, app: TrackingProcess, files: FileStore) -> None:
        self._app = app
        self._files = files

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        family, *parts = request.path_params["rest"].split("/")
        # Dots that somebody resolves on the way would make it another path than the one that is checked.
        if family not in _FAMILIES or not {"", ".", ".."}.isdisjoint(parts):
            raise HTTPException(404)
        if scope["method"] in ("POST", "PATCH"):
            raw = await request.body()
            body = _parsed(raw)
            if (
                raw
                and not isinstance(body, dict)
                and request.headers.get("content-type", "").startswith("application/json")
            ):
                raise InvalidParameter("The request's body must be a JSON object.")
            check_body(scope["path"], body)
            who = current_caller()
            if who is not None and who.resources is not None:
                raw = await asyncio.to_thread(trace_of_model, who, body, self._files)
                scope = {**scope, "headers": _with_length(scope["headers"], len(raw))}
            receive = _replay(raw, receive)
        else:
            query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            _check_experiment_ids(query.get("experiment_id", []))
            _check_experiment_ids(query.get("experiment_ids", []))
        await self._app(scope, receive, _refusals_as_the_services(scope, send))


def check_body(path: str, body: Any) -> None:
    """Raises InvalidParameter for an experiment id that is no number, a relative name, and a place for its artifacts.

    A trace without an experiment comes from a process that has none set, for example a scoring process.
    """
    if not isinstance(body, dict):
        return
    ids = [body["experiment_id"]] if "experiment_id" in body else []
    ids += body["experiment_ids"] if isinstance(body.get("experiment_ids"), list) else []
    if path.endswith("/mlflow/traces"):
        ids.append(_trace_experiment(body))
    if isinstance(body.get("locations"), list):
        ids += [at(place, "mlflow_experiment", "experiment_id") for place in body["locations"]]
    _check_experiment_ids(ids)
    if path.endswith("/experiments/create") and any(body.get(key) for key in ("artifact_location", "artifactLocation")):
        raise InvalidParameter("The local workspace keeps all artifacts below its own folder; omit artifact_location.")
    renamed = body.get("new_name") if path.endswith("/experiments/update") else None
    name = body.get("name") if path.endswith("/experiments/create") else renamed
    if isinstance(name, str) and not name.startswith("/"):
        raise InvalidParameter(
            f"The experiment name {name!r} must be an absolute path, such as /Users/<user>/{name} or /Shared/{name}."
        )


def _trace_experiment(body: Any) -> Any:
    return at(body, "trace", "trace_info", "trace_location", "mlflow_experiment", "experiment_id")


def _check_experiment_ids(ids: list[Any]) -> None:
    for value in ids:
        # More digits than an integer of SQLite holds would be a 500.
        if not str(value or "").isdecimal() or len(str(value)) > 18:
            raise InvalidParameter(
                f"The experiment id {value or ''!r} is not a number; set MLFLOW_EXPERIMENT_ID or call set_experiment."
            )


def _parsed(raw: bytes) -> Any:
    try:
        return read_json(raw)
    except ValueError:
        return None  # Not JSON: mlflow's server has its own words for that, and protobuf bodies are its own too.


def _replay(raw: bytes, receive: Receive) -> Receive:
    """A receive that gives the body again, once, then goes on with the original."""
    pending: list[Message] = [{"type": "http.request", "body": raw, "more_body": False}]

    async def again() -> Message:
        return pending.pop() if pending else await receive()

    return again


def _with_length(headers: Iterable[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    kept = [header for header in headers if header[0] not in (b"content-length", b"transfer-encoding")]
    return [*kept, (b"content-length", str(length).encode())]


def _refusals_as_the_services(scope: Scope, send: Send) -> Send:
    """A send that turns mlflow's HTML pages for unknown routes, and its failures, into the service's answers.

    Where it fails with 500 a field of the request has a kind or a value that its handler did not expect; what another
    try could mend, such as a busy store, is 503. So it must not be a status that clients repeat.
    """
    refused = 0
    body = b""

    async def translated(message: Message) -> None:
        nonlocal refused, body
        if message["type"] == "http.response.start":
            html = any(
                name.lower() == b"content-type" and value.startswith(b"text/html")
                for name, value in message.get("headers", ())
            )
            if message["status"] == 500 or (html and message["status"] in (404, 405)):
                refused = message["status"]
        if not refused:
            await send(message)
        elif message["type"] == "http.response.body":
            body += message.get("body", b"")
            if not message.get("more_body", False):
                await (_not_expected(scope, body) if refused == 500 else _no_such_endpoint(scope))(
                    scope, _nothing, send
                )

    return translated


def _not_expected(scope: Scope, failure: bytes) -> JSONResponse:
    told = _parsed(failure)
    code, why = at(told, "error_code"), at(told, "message")
    error = InvalidParameter(str(why or "A field of the request has a kind of value that does not belong there."))
    logger.warning("%s %s failed in mlflow's server: %s", scope["method"], quote(scope["path"]), code)
    body = error.body() if code in (None, "INTERNAL_ERROR") else {**error.body(), "error_code": str(code)}
    return JSONResponse(body, status_code=400)


def _no_such_endpoint(scope: Scope) -> JSONResponse:
    from release_pipeline.local_workspace.app import no_such_endpoint

    return no_such_endpoint(scope["method"], scope["path"])


async def _nothing() -> Message:
    return {"type": "http.disconnect"}
