"""Permissions of serving endpoints, enforced for tokens of others than the workspace's own user."""

from collections.abc import Callable

import openai
import pytest
import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import PermissionDenied
from databricks.sdk.service.catalog import PermissionsChange, Privilege
from databricks.sdk.service.serving import (
    EndpointTag,
    ServingEndpointAccessControlRequest,
    ServingEndpointPermissionLevel,
)
from databricks.sdk.service.sql import Disposition

from tests.conftest import RunningWorkspace
from tests.local_workspace.agents_that_read import Person
from tests.local_workspace.conftest import create, entity, settled

pytestmark = pytest.mark.slow


@pytest.fixture
def name(client: WorkspaceClient, endpoint_name: str) -> str:
    create(client, endpoint_name, entity("a"))
    return endpoint_name


def test_each_level_lets_do_what_its_name_says(
    workspace: RunningWorkspace,
    client: WorkspaceClient,
    person: Person,
    name: str,
    set_faults: Callable[..., requests.Response],
) -> None:
    serving, own = person.client.serving_endpoints, person.client.api_client
    endpoint_id = str(client.serving_endpoints.get(name).id)
    access = [
        ServingEndpointAccessControlRequest(
            user_name=person.name, permission_level=ServingEndpointPermissionLevel.CAN_MANAGE
        )
    ]
    views: list[Callable[[], object]] = [
        lambda: serving.get(name),
        lambda: serving.logs(name, "a"),
        lambda: serving.build_logs(name, "a"),
        lambda: serving.export_metrics(name),
        lambda: serving.get_open_api(name),
        lambda: serving.get_permissions(endpoint_id),
        lambda: serving.get_permission_levels(endpoint_id),
    ]
    manages: list[Callable[[], object]] = [
        lambda: serving.update_config(name, served_entities=[entity("a")]),
        lambda: serving.patch(name, add_tags=[EndpointTag("k", "v")]),
        lambda: serving.put_ai_gateway(name),
        lambda: serving.put(name, rate_limits=[]),
        lambda: own.do("PATCH", f"/api/2.0/serving-endpoints/{name}/description", body={"description": "mine"}),
        lambda: serving.set_permissions(endpoint_id, access_control_list=access),
        lambda: serving.update_permissions(endpoint_id, access_control_list=access),
        lambda: serving.delete(name),
    ]

    def refused(calls: list[Callable[[], object]], level: str) -> None:
        for call in calls:
            with pytest.raises(PermissionDenied, match=level):
                call()

    refused(views, "CAN_VIEW")
    assert name not in [each.name for each in serving.list()]
    assert person.asks(name, "hello").status_code == 403
    person.may_query(name, "CAN_VIEW")
    for call in views:
        call()
    assert str(serving.get(name).permission_level).endswith("CAN_VIEW")
    assert name in [each.name for each in serving.list()]
    answer = person.asks(name, "hello")
    assert (answer.status_code, answer.json()["error_code"]) == (403, "PERMISSION_DENIED")
    with pytest.raises(openai.PermissionDeniedError):
        _by_openai(workspace, person, name)
    refused(manages, "CAN_MANAGE")
    person.may_query(name, "CAN_QUERY")
    assert person.is_told(name, "hello") == "echo: hello"
    assert _by_openai(workspace, person, name) == "echo: hello"
    refused(manages, "CAN_MANAGE")
    person.may_query(name, "CAN_MANAGE")
    for call in manages[:1]:
        call()
        settled(client, name)
    for call in manages[1:]:
        call()
    assert name not in [each.name for each in client.serving_endpoints.list()]


def _by_openai(workspace: RunningWorkspace, person: Person, endpoint: str) -> str:
    base = f"{workspace.url}/serving-endpoints"
    with openai.OpenAI(base_url=base, api_key=person.token, max_retries=0) as client:
        return str(client.responses.create(model=endpoint, input="hello").output_text)


def test_what_everybody_was_given_counts_for_each(client: WorkspaceClient, person: Person, name: str) -> None:
    everybody = ServingEndpointAccessControlRequest(
        group_name="users", permission_level=ServingEndpointPermissionLevel.CAN_QUERY
    )
    endpoint_id = str(client.serving_endpoints.get(name).id)
    client.serving_endpoints.update_permissions(endpoint_id, access_control_list=[everybody])
    assert person.is_told(name, "hello") == "echo: hello"
    person.may_query(name, "CAN_VIEW")
    assert person.is_told(name, "hello") == "echo: hello", "the higher of both"


def test_who_makes_an_endpoint_manages_it(client: WorkspaceClient, person: Person, endpoint_name: str) -> None:
    create(person.client, endpoint_name, entity("a"))
    assert person.is_told(endpoint_name, "hello") == "echo: hello"
    person.client.serving_endpoints.delete(endpoint_name)


def test_only_the_workspaces_own_user_makes_principals_tokens_and_faults(
    client: WorkspaceClient, person: Person
) -> None:
    own = person.client
    for call in (
        lambda: own.users_v2.create(user_name="x@example.com"),
        lambda: own.users_v2.delete(person.id),
        lambda: own.service_principals_v2.create(display_name="x"),
        lambda: own.token_management.create_obo_token("x"),
        lambda: own.api_client.do("POST", "/local/tokens", body={"user_name": "developer@localhost"}),
        lambda: own.api_client.do("PATCH", "/local/faults", body={}),
        lambda: own.warehouses.set_permissions("local", access_control_list=[]),
        lambda: own.grants.update(
            "CATALOG", "main", changes=[PermissionsChange(principal=person.name, add=[Privilege.ALL_PRIVILEGES])]
        ),
    ):
        with pytest.raises(PermissionDenied):
            call()
    person.is_granted("SCHEMA", "main.default", Privilege.MANAGE)
    mine = PermissionsChange(principal=person.name, add=[Privilege.SELECT])
    assert own.grants.update("SCHEMA", "main.default", changes=[mine]).privilege_assignments


def test_grants_count_for_the_tokens_of_people_where_that_is_asked_for(
    client: WorkspaceClient, person: Person, set_faults: Callable[..., requests.Response]
) -> None:
    client.statement_execution.execute_statement(
        "CREATE TABLE IF NOT EXISTS main.default.granted AS SELECT 7 AS n", warehouse_id="local", wait_timeout="30s"
    )

    def outcome(statement: str) -> str:
        done = person.client.statement_execution.execute_statement(
            statement, warehouse_id="local", wait_timeout="30s", disposition=Disposition.INLINE
        )
        return str(done.result.data_array) if done.status.error is None else str(done.status.error.message)

    query = "SELECT n FROM main.default.granted"
    assert outcome(query) == "[['7']]"
    set_faults(enforce_grants=True)
    with pytest.raises(PermissionDenied, match="SQL warehouse"):
        outcome(query)
    person.may_use_the_warehouse()
    assert "SELECT on Table 'main.default.granted'" in outcome(query)
    person.may_read("main.default.granted")
    assert outcome(query) == "[['7']]"
    assert "MODIFY on Table" in outcome("DELETE FROM main.default.granted")
    person.is_granted("TABLE", "main.default.granted", Privilege.MODIFY)
    assert outcome("DELETE FROM main.default.granted") == "[['1']]"
