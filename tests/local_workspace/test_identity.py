"""Who may speak to the workspace, and what it says about itself."""

import pytest
import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import PermissionDenied, Unauthenticated

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
