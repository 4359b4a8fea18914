"""Who may speak to the workspace, and what it says about itself."""

import asyncio
import base64
import hmac

import pytest
import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import PermissionDenied, Unauthenticated
from starlette.types import Message, Receive, Scope, Send

from release_pipeline.local_workspace.auth import TokenAuth
from tests.conftest import RunningWorkspace

ME = "/api/2.0/preview/scim/v2/Me"


def test_the_current_user_is_the_tokens(client: WorkspaceClient) -> None:
    assert client.current_user.me().user_name == "developer@localhost"


def test_the_workspace_id_needs_no_token(workspace: RunningWorkspace, client: WorkspaceClient) -> None:
    answer = requests.get(f"{workspace.url}/.well-known/databricks-config", timeout=30)
    assert answer.json()["oidc_endpoint"] == f"{workspace.url}/oidc"
    assert answer.json()["cloud"] == "aws"
    assert str(client.get_workspace_id()) == answer.json()["workspace_id"] == answer.headers["x-databricks-org-id"]


def test_a_wrong_token_is_refused_by_the_real_client(workspace: RunningWorkspace) -> None:
    stranger = WorkspaceClient(host=workspace.url, token="wrong")
    with pytest.raises((Unauthenticated, PermissionDenied)):
        stranger.current_user.me()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic dG9rZW46d3Jvbmc="},
        {"Authorization": "Basic not base64"},
        {"Authorization": "Bearer \xe9"},
    ],
    ids=["none", "empty", "wrong", "wrong basic", "broken basic", "not ASCII"],
)
def test_a_bad_credential_gets_401_and_no_detail(workspace: RunningWorkspace, headers: dict[str, str]) -> None:
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = requests.get(workspace.url + ME, headers=encoded, timeout=30)
    assert answer.status_code == 401
    assert answer.json()["error_code"] == "UNAUTHENTICATED"
    assert answer.headers["x-databricks-org-id"]


def test_the_token_is_also_taken_as_the_password_of_the_user_token(workspace: RunningWorkspace) -> None:
    assert requests.get(workspace.url + ME, auth=("token", workspace.token), timeout=30).status_code == 200
    assert requests.get(workspace.url + ME, auth=("someone", workspace.token), timeout=30).status_code == 401


def test_a_path_beside_an_open_one_is_not_open(workspace: RunningWorkspace) -> None:
    for path in ("/.well-known/databricks-config/x", "/.well-known/other", "/presigned"):
        assert requests.get(workspace.url + path, timeout=30).status_code == 401


def test_a_token_is_compared_as_a_whole_in_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is sent is compared by ``hmac.compare_digest``, and nothing else looks at the workspace's own token."""

    class Secret(bytes):
        """A token that nothing may compare by itself."""

        def __eq__(self, other: object) -> bool:
            raise AssertionError("a comparison whose time tells how much is right")

        __hash__ = bytes.__hash__

    compared: list[tuple[bytes, bytes]] = []

    def compare(given: bytes, token: bytes) -> bool:
        compared.append((given, token))
        return bytes(given) == bytes(token)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    guard = TokenAuth(app, "right", lambda token: None)
    monkeypatch.setattr(guard, "_token", Secret(b"right"))
    monkeypatch.setattr(hmac, "compare_digest", compare)

    def status(credential: bytes) -> int:
        sent: list[Message] = []

        async def ask() -> None:
            async def send(message: Message) -> None:
                sent.append(message)

            scope: Scope = {"type": "http", "method": "GET", "path": ME, "headers": [(b"authorization", credential)]}
            await guard(scope, _nothing, send)

        asyncio.run(ask())
        return int(sent[0]["status"])

    basic = b"Basic " + base64.b64encode(b"token:wrong")
    assert [status(each) for each in (b"Bearer right", b"Bearer righ", b"Bearer wrong", basic)] == [200, 401, 401, 401]
    assert [given for given, _ in compared] == [b"right", b"righ", b"wrong", b"wrong"]


async def _nothing() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}
