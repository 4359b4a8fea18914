"""Who may speak to the local workspace: every request carries its token, as a bearer or as a basic password."""

import base64
import binascii
import hmac
import json
from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from release_pipeline.local_workspace.caller import Caller, set_caller
from release_pipeline.local_workspace.scopes import refusal

# Presigned links carry a signature of their own and are fetched without the token by every client. The pages ask for
# the token themselves, and hold nothing before.
_OPEN_PATHS = ("/", "/.well-known/databricks-config")
_OPEN_PREFIXES = ("/presigned/", "/review/", "/pages/", "/ml/", "/explore/data/")
_REFUSAL = b'{"error_code":"UNAUTHENTICATED","message":"Credential was not sent or is not valid."}'
#: Stands for the workspace's own user, who is no caller that anything is checked for.
_OWNER: Final = Caller("")


class TokenAuth:
    """Answers 401 to every HTTP request without a token, before anything of it is read, and 403 beyond its scopes.

    Accepted are ``Authorization: Bearer <token>`` and, as the service does, basic authentication as the user
    ``token`` with the token as its password. The comparison takes the same time for every wrong token.

    Args:
        owner_of: Whom another token stands for, None where it is nobody's.
    """

    def __init__(
        self, app: ASGIApp, token: str, owner_of: Callable[[bytes], Caller | None] = lambda token: None
    ) -> None:
        self._app = app
        self._token = token.encode()
        self._owner_of = owner_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers 401 or 403."""
        if scope["type"] != "http" or _is_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        who = self._sender(scope["headers"])
        if who is None:
            await _refuse(scope, send, 401, _REFUSAL)
        elif reason := refusal(who, scope["method"], quote(scope["path"])):
            body = json.dumps({"error_code": "PERMISSION_DENIED", "message": reason}).encode()
            await _refuse(scope, send, 403, body)
        else:
            if who is not _OWNER:
                set_caller(who)
            await self._app(scope, receive, send)

    def _sender(self, headers: Iterable[tuple[bytes, bytes]]) -> Caller | None:
        credential = next((value for name, value in headers if name == b"authorization"), b"")
        scheme, _, rest = credential.partition(b" ")
        given = b""
        if scheme.lower() == b"bearer":
            given = rest.strip()
        elif scheme.lower() == b"basic":
            try:
                user, _, password = base64.b64decode(rest, validate=True).partition(b":")
            except binascii.Error:
                return None
            given = password if user == b"token" else b""
        # An empty token would be sent by everybody; it opens nothing.
        if not given:
            return None
        if hmac.compare_digest(given, self._token):
            return _OWNER
        return self._owner_of(given)


class WorkspaceIdHeader:
    """Adds ``x-databricks-org-id`` to every answer; mlflow reads the workspace's id from it."""

    def __init__(self, app: ASGIApp, workspace_id: str) -> None:
        self._app = app
        self._header = (b"x-databricks-org-id", workspace_id.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on and the answer back with the header."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), self._header]
            await send(message)

        await self._app(scope, receive, send_with_id)


async def _refuse(scope: Scope, send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def _is_open(path: str) -> bool:
    return path in _OPEN_PATHS or path.startswith(_OPEN_PREFIXES)
