"""The Files API: folders, files, and links that need no token for a short while."""

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from release_pipeline.local_workspace.caller import current_caller
from release_pipeline.local_workspace.errors import ApiError, InvalidParameter
from release_pipeline.local_workspace.state.registry import PENDING
from release_pipeline.local_workspace.wire.body import json_object, text, whole
from release_pipeline.local_workspace.wire.model_traces import hide_in_trace_file, require_new

if TYPE_CHECKING:
    from release_pipeline.local_workspace.app import LocalWorkspace

_FILES, _FOLDERS = "/api/2.0/fs/files", "/api/2.0/fs/directories"
# How much of an upload is gathered before it is written: one trip to a thread per mebibyte.
_WRITE_BYTES = 1 << 20
_PAGE_ENTRIES = 1_000
LINK_SECONDS = 900


def routes(workspace: "LocalWorkspace") -> list[Route]:
    """Files and folders below any root; the files of a READY model version cannot be changed."""
    store = workspace.files
    links = Links()

    def existing(path: str) -> Path:
        local = store.local_path(path)
        if not local.is_file():
            raise ApiError(f"The file {path} does not exist.", status=404, error_code="NOT_FOUND")
        return local

    def require_writable(path: str) -> None:
        store.local_path(path)
        parts = [part for part in path.split("/") if part]
        if parts[0] != "Models":
            return
        version = workspace.registry.get_version(".".join(parts[1:4]), parts[4]) if len(parts) > 5 else None
        if version is None or version.status != PENDING:
            message = f"The path {path} cannot be written; below /Models only a version that is being registered can."
            raise ApiError(message, status=403, error_code="PERMISSION_DENIED")

    async def read_file(request: Request) -> Response:
        local = await asyncio.to_thread(existing, _path(request))
        # Answers HEAD, Range and If-Range by itself.
        return FileResponse(local, media_type="application/octet-stream")

    async def write_file(request: Request) -> Response:
        path = _path(request)
        overwrite = request.query_params.get("overwrite", "false").lower() == "true"
        await asyncio.to_thread(require_writable, path)
        upload = store.new_upload()

        who = current_caller()

        def publish() -> None:
            require_writable(path)  # Again: the version may have become READY while the file came in.
            if who is not None and who.resources is not None:  # a served model, which writes traces only
                require_new(path, store.local_path(path))
                hide_in_trace_file(who, upload)
            store.publish(upload, path, overwrite=overwrite)

        try:
            await _receive(request, upload)
            await asyncio.to_thread(publish)
        finally:
            upload.unlink(missing_ok=True)
        return Response(status_code=204)

    async def delete_file(request: Request) -> Response:
        path = _path(request)

        def delete() -> None:
            local = existing(path)
            require_writable(path)
            local.unlink()

        await asyncio.to_thread(delete)
        return Response(status_code=204)

    async def initiate_upload(request: Request) -> Response:
        # A client asks for this before a large file, and fails when it is unknown. It gets a session, finds that there
        # are no part links (an unknown route), and goes back to sending the file whole.
        if request.query_params.get("action") != "initiate-upload":
            raise InvalidParameter("The only action on a file is initiate-upload; send the file itself with PUT.")
        await asyncio.to_thread(require_writable, _path(request))
        return JSONResponse({"multipart_upload": {"session_token": secrets.token_urlsafe()}})

    async def read_folder(request: Request) -> Response:
        path = _path(request)
        found = await asyncio.to_thread(store.entries, path)
        if request.method == "HEAD":
            return Response(status_code=404 if found is None else 200)
        if found is None:
            raise ApiError(f"The directory {path} does not exist.", status=404, error_code="NOT_FOUND")
        start, size = _page(request)
        contents = [
            {
                "path": entry.path,
                "name": entry.name,
                "is_directory": entry.is_directory,
                "last_modified": entry.modified_ms,
                **({} if entry.size is None else {"file_size": entry.size}),
            }
            for entry in found[start : start + size]
        ]
        more = {"next_page_token": str(start + size)} if len(found) > start + size else {}
        return JSONResponse({"contents": contents, **more})

    async def make_folder(request: Request) -> Response:
        path = _path(request)

        def make() -> None:
            require_writable(path + "/x")
            store.make_directory(path)

        await asyncio.to_thread(make)
        return Response(status_code=204)

    async def delete_folder(request: Request) -> Response:
        path = _path(request)

        def delete() -> None:
            found = store.entries(path)
            if found is None:
                raise ApiError(f"The directory {path} does not exist.", status=404, error_code="NOT_FOUND")
            require_writable(path + "/x")
            if found:
                message = f"The directory {path} is not empty; delete what is in it first."
                raise ApiError(message, error_code="DIRECTORY_NOT_EMPTY")
            store.local_path(path).rmdir()

        await asyncio.to_thread(delete)
        return Response(status_code=204)

    async def create_download_link(request: Request) -> Response:
        # The SDK sends the path in the query, mlflow in the body.
        path = text({**dict(request.query_params), **await json_object(request)}, "path")
        await asyncio.to_thread(existing, path)
        return JSONResponse({"url": str(request.base_url).rstrip("/") + links.sign(path), "headers": []})

    async def follow_link(request: Request) -> Response:
        links.check(_path(request), request.query_params)
        return await read_file(request)

    return [
        Route(f"{_FILES}{{path:path}}", read_file, methods=["GET", "HEAD"]),
        Route(f"{_FILES}{{path:path}}", write_file, methods=["PUT"]),
        Route(f"{_FILES}{{path:path}}", delete_file, methods=["DELETE"]),
        Route(f"{_FILES}{{path:path}}", initiate_upload, methods=["POST"]),
        Route(f"{_FOLDERS}{{path:path}}", read_folder, methods=["GET", "HEAD"]),
        Route(f"{_FOLDERS}{{path:path}}", make_folder, methods=["PUT"]),
        Route(f"{_FOLDERS}{{path:path}}", delete_folder, methods=["DELETE"]),
        Route("/api/2.0/fs/create-download-url", create_download_link, methods=["POST"]),
        Route("/presigned/files{path:path}", follow_link, methods=["GET", "HEAD"]),
    ]


class Links:
    """Links to one file each, valid for a quarter of an hour, and not after a restart of the server."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def sign(self, path: str) -> str:
        """The link to a file, without the workspace's address."""
        expires = str(int(time.time()) + LINK_SECONDS)
        return f"/presigned/files{quote(path)}?expires={expires}&signature={self._signature(path, expires)}"

    def check(self, path: str, query: Mapping[str, str]) -> None:
        """Raises ApiError, 403, where the query of a link to a path is not genuine, or its time is over."""
        expires, signature = query.get("expires", ""), query.get("signature", "")
        genuine = hmac.compare_digest(signature.encode(), self._signature(path, expires).encode())
        if not genuine or int(expires) < time.time():
            message = "The link is not valid, or not any more; ask for a new one."
            raise ApiError(message, status=403, error_code="PERMISSION_DENIED")

    def _signature(self, path: str, expires: str) -> str:
        return hmac.new(self._key, f"{expires}\n{path}".encode(), hashlib.sha256).hexdigest()


async def _receive(request: Request, upload: Path) -> None:
    with await asyncio.to_thread(upload.open, "wb") as target:
        gathered = bytearray()
        async for chunk in request.stream():
            gathered += chunk
            if len(gathered) >= _WRITE_BYTES:
                await asyncio.to_thread(target.write, bytes(gathered))
                gathered.clear()
        await asyncio.to_thread(target.write, bytes(gathered))


def _path(request: Request) -> str:
    return str(request.path_params["path"])


def _page(request: Request) -> tuple[int, int]:
    size = whole(request.query_params, "page_size", _PAGE_ENTRIES)
    return whole(request.query_params, "page_token", 0), min(size or _PAGE_ENTRIES, _PAGE_ENTRIES)
