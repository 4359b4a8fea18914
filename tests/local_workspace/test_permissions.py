"""Catalogs, schemas and grants, through the SDK."""

import uuid

import mlflow
import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import BadRequest, NotFound
from databricks.sdk.service.catalog import PermissionsChange, Privilege

from tests.conftest import RunningWorkspace

OWNER = "developer@localhost"


@pytest.fixture
def model(workspace: RunningWorkspace) -> str:
    name = f"main.default.granted_{uuid.uuid4().hex[:8]}"
    mlflow.MlflowClient().create_registered_model(name)
    return name


def test_catalogs_and_schemas_are_found(client: WorkspaceClient) -> None:
    assert client.catalogs.get("main").name == "main"
    assert [catalog.name for catalog in client.catalogs.list()] == ["main", "system"]
    assert client.schemas.get("main.default").catalog_name == "main"
    assert "main.default" in [schema.full_name for schema in client.schemas.list("main")]


def test_missing_catalogs_and_schemas_are_not_found(client: WorkspaceClient) -> None:
    with pytest.raises(NotFound, match="Catalog 'none'"):
        client.catalogs.get("none")
    with pytest.raises(NotFound, match=r"Schema 'main\.none'"):
        client.schemas.get("main.none")
    with pytest.raises(NotFound, match="Catalog 'none'"):
        client.schemas.get("none.default")
    with pytest.raises(BadRequest, match=r"catalog\.schema"):
        client.schemas.get("main")


def test_a_grant_on_a_model_is_kept_and_taken_back(client: WorkspaceClient, model: str) -> None:
    grant = PermissionsChange(principal="team", add=[Privilege.EXECUTE])
    granted = client.grants.update("FUNCTION", model, changes=[grant]).privilege_assignments
    assert granted is not None
    assert [(item.principal, item.privileges) for item in granted] == [("team", [Privilege.EXECUTE])]
    assert client.grants.get("FUNCTION", model).privilege_assignments == granted
    assert client.grants.get("FUNCTION", model, principal="other").privilege_assignments in (None, [])

    revoke = PermissionsChange(principal="team", remove=[Privilege.EXECUTE])
    assert client.grants.update("FUNCTION", model, changes=[revoke]).privilege_assignments in (None, [])


def test_effective_privileges_come_from_the_catalog_and_the_schema_too(client: WorkspaceClient, model: str) -> None:
    use = PermissionsChange(principal="readers", add=[Privilege.USE_SCHEMA])
    client.grants.update("SCHEMA", "main.default", changes=[use])
    effective = client.grants.get_effective("FUNCTION", model).privilege_assignments
    assert effective is not None
    held = {
        (item.principal, privilege.privilege, privilege.inherited_from_name)
        for item in effective
        for privilege in item.privileges or []
    }
    assert (OWNER, Privilege.ALL_PRIVILEGES, "main") in held
    assert ("readers", Privilege.USE_SCHEMA, "main.default") in held


@pytest.mark.parametrize(
    ("kind", "name"),
    [("CATALOG", "none"), ("SCHEMA", "main.none"), ("TABLE", "main.default.none"), ("FUNCTION", "main.default.none")],
)
def test_grants_on_what_does_not_exist_are_not_found(client: WorkspaceClient, kind: str, name: str) -> None:
    with pytest.raises(NotFound):
        client.grants.get_effective(kind, name)


def test_an_unknown_kind_of_securable_and_a_change_without_principal_are_refused(
    client: WorkspaceClient, model: str
) -> None:
    with pytest.raises(BadRequest, match="RECIPE"):
        client.grants.get("RECIPE", "main")
    with pytest.raises(BadRequest, match="principal"):
        client.grants.update("FUNCTION", model, changes=[PermissionsChange(add=[Privilege.EXECUTE])])


def test_a_registered_model_is_read_as_a_securable(client: WorkspaceClient, model: str) -> None:
    found = client.registered_models.get(model, include_aliases=True)
    assert (found.full_name, found.owner) == (model, OWNER)
    with pytest.raises(NotFound):
        client.registered_models.get("main.default.none")
