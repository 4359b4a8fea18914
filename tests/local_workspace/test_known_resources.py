"""Objects that the workspace only knows by name: what declares one that is missing or not permitted is refused."""

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import InvalidParameterValue, NotFound, PermissionDenied
from databricks.sdk.service.catalog import PermissionsChange, Privilege
from databricks.sdk.service.iam import AccessControlRequest, PermissionLevel
from mlflow.models import infer_signature
from mlflow.models.resources import (
    DatabricksApp,
    DatabricksFunction,
    DatabricksGenieSpace,
    DatabricksLakebase,
    DatabricksUCConnection,
    DatabricksVectorSearchIndex,
)

from tests.local_workspace.agents_that_read import Person
from tests.local_workspace.conftest import raw_entity, register, start_creating

INDEX, FUNCTION = "main.default.documents_index", "main.default.sum_up"
NAMES: dict[str, list[str] | None] = {
    "app": ["front"],
    "function": [FUNCTION],
    "genie_space": ["0123abcd"],
    "lakebase": ["memory"],
    "uc_connection": ["tickets"],
    "vector_search_index": [INDEX],
}


@pytest.fixture
def name(client: WorkspaceClient) -> Iterator[Callable[..., dict[str, Any]]]:
    """Gives the names of some kinds; nothing is known of them before and after."""

    def give(**names: list[str] | None) -> dict[str, Any]:
        known = client.api_client.do("PATCH", "/local/resources", body=names)
        assert isinstance(known, dict)
        return known

    yield give
    give(**dict.fromkeys(NAMES))


def allow(client: WorkspaceClient, kind: str, object_id: str, person: Person, level: str) -> None:
    request = AccessControlRequest(user_name=person.name, permission_level=PermissionLevel(level))
    client.permissions.update(kind, object_id, access_control_list=[request])


def test_what_is_named_is_there_for_the_clients_that_ask(
    client: WorkspaceClient, person: Person, name: Callable[..., dict[str, Any]]
) -> None:
    reads: list[Callable[[str], Any]] = [
        client.vector_search_indexes.get_index,
        client.connections.get,
        client.functions.get,
        lambda object_id: client.permissions.get("genie", object_id),
        lambda object_id: client.permissions.get("apps", object_id),
        lambda object_id: client.permissions.get("database-instances", object_id),
    ]
    objects = [INDEX, "tickets", FUNCTION, "0123abcd", "front", "memory"]
    for read, each in zip(reads, objects, strict=True):
        with pytest.raises(NotFound, match="does not know which objects"):
            read(each)
    assert name(**NAMES) == NAMES
    assert client.api_client.do("GET", "/local/resources") == NAMES
    for read, each in zip(reads, objects, strict=True):
        assert read(each)
        with pytest.raises(NotFound, match="'another' does not exist"):
            read("another")
    assert client.functions.get(FUNCTION).owner == client.current_user.me().user_name
    for kind, each, known in (
        ("genie", "0123abcd", ["CAN_RUN", "CAN_EDIT", "CAN_MANAGE"]),
        ("apps", "front", ["CAN_USE", "CAN_MANAGE"]),
        ("database-instances", "memory", ["CAN_USE", "CAN_MANAGE"]),
    ):
        levels = client.permissions.get_permission_levels(kind, each).permission_levels
        assert [level.permission_level.value for level in levels or []] == known
    with pytest.raises(PermissionDenied, match="own user may say which resources exist"):
        person.client.api_client.do("PATCH", "/local/resources", body={"app": []})
    with pytest.raises(PermissionDenied, match="own user may change who may use"):
        allow(person.client, "genie", "0123abcd", person, "CAN_RUN")
    for wrong, words in (({"table": []}, "no kind of resource 'table'"), ({"app": "front"}, "list of names")):
        with pytest.raises(InvalidParameterValue, match=words):
            name(**wrong)


@pytest.mark.slow
def test_each_that_a_version_declares_must_be_there_and_permitted(
    client: WorkspaceClient, person: Person, name: Callable[..., dict[str, Any]]
) -> None:
    endpoint = f"test-{uuid.uuid4().hex[:8]}"
    resources = [
        DatabricksVectorSearchIndex(INDEX),
        DatabricksUCConnection("tickets"),
        DatabricksGenieSpace("0123abcd"),
        DatabricksApp("front"),
        DatabricksLakebase("memory"),
        DatabricksFunction(FUNCTION),
    ]
    model = "main.default.declaring"
    version = register("doubling_model.py", model, signature=infer_signature(["a"], ["a"]), resources=resources)
    served = raw_entity("a", version, model)

    def refused(error: type[Exception]) -> str:
        with pytest.raises(error) as why:
            start_creating(person.client, endpoint, served)
        assert f"version {version} of model '{model}'" in str(why.value)
        return str(why.value)

    # Before anything of a kind was named, nothing is refused for it.
    start_creating(client, endpoint, served)
    client.serving_endpoints.delete(endpoint)
    name(**{kind: [] for kind in NAMES})
    missing = {f"{kind} '{(names or ['?'])[0]}'" for kind, names in NAMES.items()}
    told = refused(NotFound)
    assert any(each in told for each in missing)
    for kind, names in NAMES.items():
        name(**{kind: names})
    person.is_granted("CATALOG", "main", Privilege.USE_CATALOG)
    person.is_granted("SCHEMA", "main.default", Privilege.USE_SCHEMA)

    def connect() -> None:
        change = PermissionsChange(principal=person.name, add=[Privilege.USE_CONNECTION])
        client.grants.update("CONNECTION", "tickets", changes=[change])

    remedies: dict[str, Callable[[], object]] = {
        f"SELECT on Table '{INDEX}'": lambda: person.is_granted("TABLE", INDEX, Privilege.SELECT),
        "USE CONNECTION on Connection 'tickets'": connect,
        "CAN_RUN on genie_space '0123abcd'": lambda: allow(client, "genie", "0123abcd", person, "CAN_EDIT"),
        "CAN_USE on app 'front'": lambda: allow(client, "apps", "front", person, "CAN_USE"),
        "CAN_USE on lakebase 'memory'": lambda: allow(client, "database-instances", "memory", person, "CAN_MANAGE"),
        f"EXECUTE on Function '{FUNCTION}'": lambda: person.is_granted("FUNCTION", FUNCTION, Privilege.EXECUTE),
    }
    for _ in range(len(remedies)):
        told = refused(PermissionDenied)
        assert person.name in told
        (lacking,) = (each for each in remedies if each in told)
        remedies.pop(lacking)()
    assert start_creating(person.client, endpoint, served)["creator"] == person.name
    person.client.serving_endpoints.delete(endpoint)
