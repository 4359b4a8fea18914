"""What a version declares is checked when it is to be served: the endpoint's creator must be allowed to use it."""

from collections.abc import Iterator

import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import InvalidParameterValue, NotFound, PermissionDenied
from databricks.sdk.service.catalog import PermissionsChange, Privilege
from databricks.sdk.service.workspace import AclPermission

from tests.conftest import RunningWorkspace
from tests.local_workspace.agents_that_read import DECLARES_ALL, DECLARES_NOTHING, READER, TABLE, Person
from tests.local_workspace.conftest import AGENT, create, entity, raw_entity, settled, start_creating, update

pytestmark = pytest.mark.slow

HELPER = "reader-helper"


@pytest.fixture
def name(client: WorkspaceClient, endpoint_name: str, reader: None) -> Iterator[str]:
    yield endpoint_name
    if HELPER in [each.name for each in client.serving_endpoints.list()]:
        client.serving_endpoints.delete(HELPER)


def test_each_resource_and_permission_that_the_creator_lacks_is_named(
    client: WorkspaceClient, person: Person, name: str
) -> None:
    served = raw_entity("a", DECLARES_ALL, READER)

    def refusal() -> str:
        with pytest.raises(PermissionDenied) as refused:
            start_creating(person.client, name, served)
        message = str(refused.value)
        assert person.name in message
        assert f"version {DECLARES_ALL} of model '{READER}'" in message
        return message

    message = refusal()
    assert f"the function '{AGENT}'" in message
    assert "USE CATALOG on Catalog 'main'" in message
    assert "USE SCHEMA on Schema 'main.default'" in message
    assert f"EXECUTE on Function '{AGENT}'" in message
    person.is_granted("FUNCTION", AGENT, Privilege.EXECUTE)
    person.is_granted("CATALOG", "main", Privilege.USE_CATALOG)
    assert "have USE SCHEMA on Schema 'main.default', which" in refusal()
    person.is_granted("SCHEMA", "main.default", Privilege.USE_SCHEMA)
    with pytest.raises(NotFound, match=f"serving_endpoint '{HELPER}'.* does not exist"):
        start_creating(person.client, name, served)
    create(client, HELPER, entity("only", AGENT))
    assert f"CAN_QUERY on serving endpoint '{HELPER}'" in refusal()
    person.may_query(HELPER)
    assert "CAN_USE on SQL warehouse 'local'" in refusal()
    person.may_use_the_warehouse()
    assert f"SELECT on Table '{TABLE}'" in refusal()
    person.may_read(TABLE)
    assert start_creating(person.client, name, served)["creator"] == person.name
    assert settled(client, name).state.ready.value == "READY"
    # What was lost since then keeps nobody from changing weights, or from going back to what serves.
    lost = PermissionsChange(principal=person.name, remove=[Privilege.SELECT])
    client.grants.update("TABLE", TABLE, changes=[lost])
    assert update(client, name, entity("a", READER, DECLARES_ALL)).config.config_version == 2
    with pytest.raises(PermissionDenied, match="SELECT on Table"):
        client.serving_endpoints.update_config(name, served_entities=[entity("b", READER, DECLARES_ALL)])
    assert settled(client, name).config.config_version == 2


def test_a_version_that_declares_nothing_needs_nothing_and_a_secret_needs_reading(
    client: WorkspaceClient, person: Person, name: str
) -> None:
    client.secrets.create_scope(name)
    client.secrets.put_secret(name, "key", string_value="a value")
    secret = {"environment_vars": {"KEY": f"{{{{secrets/{name}/key}}}}"}}
    served = raw_entity("a", DECLARES_NOTHING, READER)
    with pytest.raises(PermissionDenied, match=f"{person.name} may not read; grant READ on the scope"):
        start_creating(person.client, name, served | secret)
    client.secrets.put_acl(name, person.name, AclPermission.READ)
    start_creating(person.client, name, served | secret)
    client.secrets.delete_scope(name)
    settled(client, name)
    with pytest.raises(InvalidParameterValue, match="does not exist"):
        client.api_client.do(
            "PUT",
            f"/api/2.0/serving-endpoints/{name}/config",
            body={"served_entities": [served | secret | {"name": "b"}]},
        )


def test_nobody_uses_an_endpoint_to_read_a_secret_of_its_creator(
    workspace: RunningWorkspace, client: WorkspaceClient, person: Person, name: str
) -> None:
    client.secrets.create_scope(name)
    client.secrets.put_secret(name, "key", string_value="a value")
    create(client, name, entity("a"))
    person.may_query(name, "CAN_MANAGE")
    served = entity("b", KEY=f"{{{{secrets/{name}/key}}}}")
    with pytest.raises(PermissionDenied, match=f"{person.name} may not read"):
        person.client.serving_endpoints.update_config(name, served_entities=[served])
    client.secrets.delete_scope(name)
