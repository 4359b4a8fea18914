"""The local workspace as one ASGI application: its parts, its routes, its errors."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import InitVar, dataclass, field
from typing import Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from release_pipeline.local_workspace.access import Access
from release_pipeline.local_workspace.auth import TokenAuth, WorkspaceIdHeader
from release_pipeline.local_workspace.caller import Caller
from release_pipeline.local_workspace.errors import ApiError, InvalidParameter
from release_pipeline.local_workspace.serving.endpoints import ServingEndpoints
from release_pipeline.local_workspace.settings import Settings
from release_pipeline.local_workspace.short_tokens import ShortTokens
from release_pipeline.local_workspace.sql.engine import SqlEngine
from release_pipeline.local_workspace.sql.failures import SqlFailure
from release_pipeline.local_workspace.state.database import Database
from release_pipeline.local_workspace.state.files import FileStore
from release_pipeline.local_workspace.state.grants import Grants
from release_pipeline.local_workspace.state.known_resources import KnownResources
from release_pipeline.local_workspace.state.object_permissions import ObjectPermissions
from release_pipeline.local_workspace.state.principals import Principals
from release_pipeline.local_workspace.state.registry import ModelRegistry
from release_pipeline.local_workspace.state.secrets import SecretStore
from release_pipeline.local_workspace.tracking_process import TrackingProcess
from release_pipeline.local_workspace.tracking_start import StartedServer
from release_pipeline.local_workspace.wire import (
    catalogs,
    description,
    faults,
    files,
    identity,
    known_resources,
    object_permissions,
    openai,
    pages,
    permissions,
    principals,
    queries,
    registry,
    secrets,
    serving,
    statements,
    tables,
    tracking,
)

logger = logging.getLogger(__name__)


@dataclass
class LocalWorkspace:
    """The parts of a running workspace; each wire module gets it and uses the parts that it speaks for.

    Attributes:
        settings: What the workspace was started with.
        started: The tracking server, which takes longest and was started before all else.
        database: The registry's, the grants' and the endpoints' state.
        files: What the Files API stores, model versions and run artifacts included.
        registry: Unity Catalog registered models and their versions.
        grants: Unity Catalog privileges.
        principals: Users and service principals.
        object_permissions: Who may do what with the SQL warehouse, and with what is only known by name.
        known_resources: What is only known by name.
        secrets: Secret scopes and their secrets.
        tokens: Short-lived tokens of scoring processes.
        access: Who may do what.
        sql: Tables and the Databricks SQL that reads them.
        tracking: mlflow's own tracking server.
        serving: Model Serving endpoints and their scoring processes.
    """

    settings: Settings
    started: InitVar[StartedServer | None] = None
    database: Database = field(init=False)
    files: FileStore = field(init=False)
    registry: ModelRegistry = field(init=False)
    grants: Grants = field(init=False)
    principals: Principals = field(init=False)
    object_permissions: ObjectPermissions = field(init=False)
    known_resources: KnownResources = field(init=False)
    secrets: SecretStore = field(init=False)
    tokens: ShortTokens = field(init=False)
    access: Access = field(init=False)
    sql: SqlEngine = field(init=False)
    tracking: TrackingProcess = field(init=False)
    serving: ServingEndpoints = field(init=False)

    def __post_init__(self, started: StartedServer | None) -> None:
        data_dir = self.settings.data_dir
        self.database = Database(data_dir)
        self.files = FileStore(data_dir)
        self.registry = ModelRegistry(self.database, self.files, self.settings.user_name)
        self.grants = Grants(self.database, self.settings.catalogs, self.settings.user_name)
        self.principals = Principals(self.database, self.settings.user_name)
        self.object_permissions = ObjectPermissions(self.database)
        self.known_resources = KnownResources(self.database)
        self.secrets = SecretStore(data_dir, self.settings.user_name)
        self.tokens = ShortTokens()
        self.access = Access(self)
        self.sql = SqlEngine(data_dir, self.settings.catalogs)
        self.tracking = TrackingProcess(data_dir, started)
        self.serving = ServingEndpoints(self)

    def owner_of_token(self, token: bytes) -> Caller | None:
        """Whom a token stands for, other than the workspace's own user; None where it is nobody's."""
        if principal := self.principals.of_token(token):
            return Caller(principal.name)
        who = self.tokens.of(token)
        # On behalf of somebody who was deleted nobody acts.
        gone = who is not None and who.scopes is not None and self.principals.named(who.name) is None
        return None if gone else who

    async def start(self) -> None:
        """Starts the parts that run by themselves; the tracking server goes on starting in the background."""
        self.tracking.start()
        try:
            await self.serving.start()
        except BaseException:
            await self.tracking.stop()  # nobody asks what has not started to stop
            raise

    async def stop(self) -> None:
        """Stops every part, the scoring processes first, and closes the files."""
        await self.serving.stop()
        await self.tracking.stop()
        self.sql.close()
        self.database.close()


def build_app(settings: Settings, started: StartedServer | None = None) -> Starlette:
    """The application of one workspace; its lifespan starts and stops the workspace's parts."""
    workspace = LocalWorkspace(settings, started)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await workspace.start()
        try:
            yield
        finally:
            await workspace.stop()

    app = Starlette(
        routes=all_routes(workspace),
        lifespan=lifespan,
        middleware=[
            Middleware(WorkspaceIdHeader, workspace_id=settings.workspace_id),
            Middleware(TokenAuth, token=settings.token, owner_of=workspace.owner_of_token),
        ],
        exception_handlers={
            ApiError: _answer_api_error,
            SqlFailure: _answer_sql_failure,
            HTTPException: _answer_http_error,
            ClientDisconnect: _answer_nobody,
        },
    )
    # An unknown path with a slash at its end is unknown, not a redirect.
    app.router.redirect_slashes = False
    return app


def all_routes(workspace: LocalWorkspace) -> list[Route]:
    """Every route that the workspace answers."""
    # The query routes lead: they are the ones whose speed matters, and routes are tried in order.
    parts = [queries, openai, serving, statements, tables, registry, files, identity, principals]
    parts += [catalogs, permissions, object_permissions, known_resources, secrets, faults, pages, tracking]
    routes = [route for part in parts for route in part.routes(workspace)]
    return [*routes, *description.routes(workspace, lambda: routes)]


async def _answer_api_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), status_code=error.status)


async def _answer_sql_failure(_: Request, error: Exception) -> JSONResponse:
    # Of a name in a path; a statement's own failure is part of the statement's answer.
    assert isinstance(error, SqlFailure)
    return JSONResponse(InvalidParameter(error.message).body(), status_code=400)


async def _answer_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code in (404, 405):
        return no_such_endpoint(request.method, request.url.path)
    return JSONResponse({"error_code": "BAD_REQUEST", "message": error.detail}, status_code=error.status_code)


async def _answer_nobody(_: Request, __: Exception) -> Response:
    # The client broke off in the middle of its request: nobody reads this, and nothing is wrong with the server.
    return Response(status_code=499)


def no_such_endpoint(method: str, path: str) -> JSONResponse:
    """The service's answer to a route that it does not have; clients take it as "use the older route"."""
    path = quote(path)  # A line break in it must not make a line of its own in the log.
    # Logged because an unknown route is how a client's new need shows.
    logger.warning("no route for %s %s", method, path)
    body: dict[str, Any] = {"error_code": "ENDPOINT_NOT_FOUND", "message": f"No API found for '{method} {path}'"}
    return JSONResponse(body, status_code=404)
