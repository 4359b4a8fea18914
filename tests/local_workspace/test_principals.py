"""Users, service principals, their tokens, and what an endpoint and a warehouse say of who may use them."""

import uuid
from collections.abc import Iterator

import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import BadRequest, NotFound, PermissionDenied, ResourceConflict, Unauthenticated
from databricks.sdk.service.iam import ServicePrincipal
from databricks.sdk.service.sql import WarehouseAccessControlRequest, WarehousePermissionLevel

from tests.conftest import RunningWorkspace


@pytest.fixture
def robot(client: WorkspaceClient) -> Iterator[ServicePrincipal]:
    made = client.service_principals_v2.create(display_name="robot")
    yield made
    if any(made.id == each.id for each in client.service_principals_v2.list()):
        client.service_principals_v2.delete(str(made.id))


def as_robot(client: WorkspaceClient, workspace: RunningWorkspace, robot: ServicePrincipal) -> WorkspaceClient:
    token = client.token_management.create_obo_token(str(robot.application_id)).token_value
    return WorkspaceClient(host=workspace.url, token=token)


def test_users_are_made_found_by_name_and_deleted(client: WorkspaceClient) -> None:
    name = f"{uuid.uuid4().hex[:8]}@example.com"
    made = client.users_v2.create(user_name=name)
    assert [user.id for user in client.users_v2.list(filter=f'userName eq "{name}"')] == [made.id]
    assert client.users_v2.get(str(made.id)).user_name == name
    assert {"developer@localhost", name} <= {user.user_name for user in client.users_v2.list()}
    with pytest.raises(ResourceConflict, match=name):
        client.users_v2.create(user_name=name)
    client.users_v2.delete(str(made.id))
    assert list(client.users_v2.list(filter=f'userName eq "{name}"')) == []
    with pytest.raises(NotFound):
        client.users_v2.get(str(made.id))


def test_a_bad_filter_and_a_user_without_a_name_are_refused(client: WorkspaceClient) -> None:
    with pytest.raises(BadRequest, match="filter"):
        list(client.users_v2.list(filter="userName like x"))
    with pytest.raises(BadRequest, match="userName"):
        client.users_v2.create(display_name="nobody")


def test_the_workspaces_own_user_stays(client: WorkspaceClient) -> None:
    with pytest.raises(BadRequest, match="cannot be deleted"):
        client.users_v2.delete("1")


def test_a_service_principal_acts_with_a_token_of_its_own_until_it_is_deleted(
    client: WorkspaceClient, workspace: RunningWorkspace, robot: ServicePrincipal
) -> None:
    own = as_robot(client, workspace, robot)
    me = own.current_user.me()
    assert (me.user_name, me.display_name) == (robot.application_id, "robot")
    assert client.current_user.me().user_name == "developer@localhost"
    found = client.service_principals_v2.list(filter=f'applicationId eq "{robot.application_id}"')
    assert [each.id for each in found] == [robot.id]
    assert client.service_principals_v2.get(str(robot.id)).display_name == "robot"
    client.service_principals_v2.delete(str(robot.id))
    with pytest.raises((Unauthenticated, PermissionDenied)):
        own.current_user.me()


@pytest.mark.slow
def test_tokens_outlive_a_restart_and_are_not_in_the_files(tmp_path_factory: pytest.TempPathFactory) -> None:
    running = RunningWorkspace(tmp_path_factory.mktemp("restarted"))
    try:
        client = WorkspaceClient(host=running.url, token=running.token)
        robot = client.service_principals_v2.create(display_name="robot")
        token = str(client.token_management.create_obo_token(str(robot.application_id)).token_value)
        running.restart()
        assert WorkspaceClient(host=running.url, token=token).current_user.me().user_name == robot.application_id
        kept = b"".join(file.read_bytes() for file in running.data_dir.glob("workspace.db*"))
        assert str(robot.application_id).encode() in kept
        assert token.encode() not in kept
    finally:
        running.stop()


def test_a_token_for_nobody_is_refused(client: WorkspaceClient) -> None:
    with pytest.raises(NotFound):
        client.token_management.create_obo_token("nobody")


def test_permissions_of_the_warehouse_are_kept(client: WorkspaceClient, robot: ServicePrincipal) -> None:
    (warehouse,) = client.warehouses.list()
    grant = WarehouseAccessControlRequest(
        service_principal_name=robot.application_id, permission_level=WarehousePermissionLevel.CAN_USE
    )
    client.warehouses.update_permissions(str(warehouse.id), access_control_list=[grant])
    listed = client.warehouses.get_permissions(str(warehouse.id)).access_control_list or []
    levels = {
        entry.service_principal_name or entry.user_name: str(permission.permission_level)
        for entry in listed
        for permission in entry.all_permissions or []
    }
    assert levels[robot.application_id].endswith("CAN_USE")
    assert levels["developer@localhost"].endswith("CAN_MANAGE")
    assert client.warehouses.get_permission_levels(str(warehouse.id)).permission_levels
    client.warehouses.set_permissions(str(warehouse.id), access_control_list=[])
    with pytest.raises(NotFound):
        client.warehouses.get_permissions("none")
