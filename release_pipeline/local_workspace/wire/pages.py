"""The pages for people: the review page, and one behind each address that leads to a page on Databricks.

On the review page people chat with an endpoint's agent, see which version answered, and say what they think of it. The
others show an endpoint, a model, a table, a run or an experiment.

A page is a client like every other: its script calls the workspace's API with the token that the person types in, so
the page itself holds nothing that needs guarding, and is sent to anybody. There is no cookie, so no other site can make
a browser speak for its person.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from release_pipeline.local_workspace.errors import NotFound

if TYPE_CHECKING:
    from release_pipeline.local_workspace.app import LocalWorkspace

_FOLDER: Final = Path(__file__).parents[1] / "pages"
#: Addresses as Databricks has them, which Dagster's pages, the command line and MLflow's client show.
_SHOWN: Final = (
    "/",
    "/ml/endpoints/{endpoint}",
    "/ml/experiments/{experiment}",
    "/ml/experiments/{experiment}/traces",
    "/ml/experiments/{experiment}/evaluation-runs",
    "/ml/experiments/{experiment}/runs/{run}",
    "/explore/data/{catalog}/{schema}/{table}",
    "/explore/data/models/{catalog}/{schema}/{model}",
    "/explore/data/models/{catalog}/{schema}/{model}/version/{version}",
)
_TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
# Nothing but the page's own files and the workspace's own API; and no text ever becomes HTML or script.
_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS: Final = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


def routes(workspace: "LocalWorkspace") -> list[Route]:
    """The pages, each the same for every name, and the files that they load."""

    async def review(_: Request) -> Response:
        return _file("review.html")

    async def shown(_: Request) -> Response:
        return _file("console.html")

    async def file(request: Request) -> Response:
        return _file(request.path_params["file"])

    pages = [Route(path, shown) for path in _SHOWN]
    return [Route("/review/{endpoint}", review), *pages, Route("/pages/{file}", file)]


def _file(name: str) -> Response:
    content = _files().get(name)
    if content is None:
        raise NotFound("The pages have no such file.")
    return Response(content, headers=_HEADERS, media_type=_TYPES[Path(name).suffix])


@cache
def _files() -> dict[str, bytes]:
    """The files by name, read once: a name from a request is never a path."""
    return {path.name: path.read_bytes() for path in _FOLDER.iterdir() if path.suffix in _TYPES}
