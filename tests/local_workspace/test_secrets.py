"""The secrets API through the SDK, and secrets in the environment of served entities."""

import base64
import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import BadRequest, InvalidParameterValue, NotFound, PermissionDenied, ResourceAlreadyExists
from databricks.sdk.service.workspace import AclPermission

from tests.conftest import RunningWorkspace
from tests.local_workspace.conftest import AGENT, create, entity, raw_entity, said, say, settled, start_creating

pytestmark = pytest.mark.slow

VALUE = "correct-horse-battery"


@pytest.fixture
def scope(client: WorkspaceClient) -> Iterator[str]:
    """A scope of this test."""
    name = f"scope-{uuid.uuid4().hex[:8]}"
    client.secrets.create_scope(name)
    yield name
    if name in [each.name for each in client.secrets.list_scopes()]:
        client.secrets.delete_scope(name)


def reference(scope: str, key: str = "key") -> str:
    return f"{{{{secrets/{scope}/{key}}}}}"


def test_secrets_are_kept_listed_read_and_deleted(client: WorkspaceClient, scope: str) -> None:
    assert list(client.secrets.list_secrets(scope)) == []
    client.secrets.put_secret(scope, "key", string_value="first")
    client.secrets.put_secret(scope, "key", string_value=VALUE)
    client.secrets.put_secret(scope, "raw", bytes_value=base64.b64encode(b"\x00\xff").decode())
    assert base64.b64decode(client.secrets.get_secret(scope, "key").value or "").decode() == VALUE
    assert client.dbutils.secrets.get(scope, "key") == VALUE
    assert base64.b64decode(client.secrets.get_secret(scope, "raw").value or "") == b"\x00\xff"
    listed = list(client.secrets.list_secrets(scope))
    assert [each.key for each in listed] == ["key", "raw"]
    assert all(each.last_updated_timestamp for each in listed)
    client.secrets.delete_secret(scope, "raw")
    assert [each.key for each in client.secrets.list_secrets(scope)] == ["key"]
    with pytest.raises(NotFound, match="key: raw"):
        client.secrets.get_secret(scope, "raw")
    with pytest.raises(NotFound, match="key: raw"):
        client.secrets.delete_secret(scope, "raw")
    client.secrets.delete_scope(scope)
    with pytest.raises(NotFound, match=scope):
        client.secrets.get_secret(scope, "key")


def test_what_the_secrets_api_refuses(client: WorkspaceClient, scope: str) -> None:
    with pytest.raises(ResourceAlreadyExists, match=scope):
        client.secrets.create_scope(scope)
    with pytest.raises(BadRequest, match="letters"):
        client.secrets.create_scope("a/b")
    with pytest.raises(BadRequest, match="letters"):
        client.secrets.put_secret(scope, "a}b", string_value="x")
    with pytest.raises(BadRequest, match="exactly one"):
        client.secrets.put_secret(scope, "key")
    with pytest.raises(BadRequest, match="not base64"):
        client.secrets.put_secret(scope, "key", bytes_value="%")
    with pytest.raises(BadRequest, match="larger") as refused:
        client.secrets.put_secret(scope, "key", string_value=VALUE * 10_000)
    assert VALUE not in str(refused.value)


def test_others_need_the_scopes_permission(client: WorkspaceClient, workspace: RunningWorkspace, scope: str) -> None:
    client.secrets.put_secret(scope, "key", string_value=VALUE)
    robot = client.service_principals_v2.create(display_name="reader")
    name = str(robot.application_id)
    token = client.token_management.create_obo_token(name).token_value
    own = WorkspaceClient(host=workspace.url, token=token)
    with pytest.raises(PermissionDenied, match=f"READ permission on scope {scope}"):
        own.secrets.get_secret(scope, "key")
    client.secrets.put_acl(scope, name, AclPermission.READ)
    assert client.secrets.get_acl(scope, name).permission == AclPermission.READ
    assert own.secrets.get_secret(scope, "key").key == "key"
    with pytest.raises(PermissionDenied, match="WRITE"):
        own.secrets.put_secret(scope, "key", string_value="other")
    with pytest.raises(PermissionDenied, match="MANAGE"):
        own.secrets.put_acl(scope, name, AclPermission.MANAGE)
    assert {each.principal for each in client.secrets.list_acls(scope)} == {"developer@localhost", name}
    client.secrets.delete_acl(scope, name)
    with pytest.raises(PermissionDenied):
        own.secrets.get_secret(scope, "key")
    with pytest.raises(NotFound, match=name):
        client.secrets.get_acl(scope, name)
    # What it makes itself it manages, and whoever makes it for everybody lets everybody.
    own.secrets.create_scope(f"{scope}-own")
    own.secrets.put_secret(f"{scope}-own", "key", string_value="x")
    own.secrets.delete_scope(f"{scope}-own")
    client.secrets.create_scope(f"{scope}-all", initial_manage_principal="users")
    own.secrets.delete_scope(f"{scope}-all")
    client.service_principals_v2.delete(str(robot.id))


def test_a_reference_to_no_secret_is_refused_at_creation_and_update(
    client: WorkspaceClient, scope: str, endpoint_name: str
) -> None:
    client.secrets.put_secret(scope, "raw", bytes_value=base64.b64encode(b"\xff").decode())
    for variable, words in ((reference("none"), "of scope 'none'"), (reference(scope), "secret 'key'")):
        with pytest.raises(InvalidParameterValue, match=f"{words}.* does not exist; create it first"):
            start_creating(client, endpoint_name, raw_entity("a") | {"environment_vars": {"KEY": variable}})
    raw = {"environment_vars": {"KEY": reference(scope, "raw")}}
    with pytest.raises(InvalidParameterValue, match="not text"):
        start_creating(client, endpoint_name, raw_entity("a") | raw)
    create(client, endpoint_name, entity("a"))
    with pytest.raises(InvalidParameterValue, match="does not exist; create it first"):
        client.serving_endpoints.update_config(endpoint_name, served_entities=[entity("a", KEY=reference(scope))])
    assert settled(client, endpoint_name).config.config_version == 1


def test_a_secret_reaches_the_model_and_nothing_else(
    workspace: RunningWorkspace, client: WorkspaceClient, scope: str, endpoint_name: str
) -> None:
    value = f"{uuid.uuid4()} & more"
    client.secrets.put_secret(scope, "key", string_value=value)
    made = create(client, endpoint_name, entity("a", AGENT, KEY=reference(scope), MIXED=f"<{reference(scope)}>"))
    environment = made.config.served_entities[0].environment_vars
    assert environment == {"KEY": reference(scope), "MIXED": f"<{reference(scope)}>"}

    def answer(text: str, **more: bool) -> str:
        url = f"{workspace.url}/serving-endpoints/{endpoint_name}/invocations"
        headers = {"Authorization": f"Bearer {workspace.token}"}
        return requests.post(url, json=say(text, **more), headers=headers, timeout=60).text

    # The model has it: how many characters it counts is the value's length.
    assert said(json.loads(answer("length KEY"))) == f"echo: {len(value)}"
    assert said(json.loads(answer("length MIXED"))) == f"echo: {len(value) + 2}"
    errors = answer("tell KEY"), answer("tell KEY", stream=True)
    assert all("[REDACTED]" in each for each in errors), errors
    log = str(client.serving_endpoints.logs(endpoint_name, "a").logs)
    assert log.count("printed [REDACTED] and [REDACTED]") == 2, log
    build = str(client.serving_endpoints.build_logs(endpoint_name, "a").logs)
    everything = [
        *errors,
        log,
        build,
        workspace.log(),
        json.dumps(client.serving_endpoints.get(endpoint_name).as_dict()),
    ]
    encoded = base64.b64encode(value.encode()).decode()
    assert not [text for text in everything if value in text or encoded in text]
    holders = files_with(workspace.data_dir, value.encode(), encoded.encode())
    assert holders == {workspace.data_dir / "secrets.json"}
    assert (workspace.data_dir / "secrets.json").stat().st_mode & 0o777 == 0o600
    client.secrets.delete_secret(scope, "key")
    assert files_with(workspace.data_dir, value.encode(), encoded.encode()) == set()


def test_a_model_that_tells_its_secret_while_it_is_loaded_is_reported_without_it(
    workspace: RunningWorkspace, client: WorkspaceClient, scope: str, endpoint_name: str
) -> None:
    value = f"{uuid.uuid4()}"
    client.secrets.put_secret(scope, "key", string_value=value)
    body = raw_entity("a") | {"environment_vars": {"UNLOADABLE_WITH": reference(scope)}}
    start_creating(client, endpoint_name, body)
    state = settled(client, endpoint_name).pending_config.served_entities[0].state
    assert "it does not load with [REDACTED]" in str(state.deployment_state_message)
    assert files_with(workspace.data_dir, value.encode()) == set(), "kept as base64 only"


def files_with(folder: Path, *texts: bytes) -> set[Path]:
    """The files below a folder that have one of the texts in them."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {file for file in files if any(text in file.read_bytes() for text in texts)}
