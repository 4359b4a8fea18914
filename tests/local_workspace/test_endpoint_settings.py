"""Settings and side pages of serving endpoints: tags, gateway, permissions, metrics, OpenAPI; through the real SDK."""

import json
from typing import Any

import pytest
import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import InvalidParameterValue, ResourceDoesNotExist
from databricks.sdk.service.serving import (
    AiGatewayRateLimit,
    AiGatewayRateLimitKey,
    AiGatewayRateLimitRenewalPeriod,
    EndpointTag,
    ServingEndpointAccessControlRequest,
    ServingEndpointPermissionLevel,
)

from tests.conftest import RunningWorkspace
from tests.local_workspace.agents_that_read import Person
from tests.local_workspace.conftest import create, entity, raw_entity, say, start_creating, traffic


def test_tags_description_and_gateway(client: WorkspaceClient, endpoint_name: str) -> None:
    start_creating(client, endpoint_name, raw_entity("a"))
    serving = client.serving_endpoints
    serving.patch(endpoint_name, add_tags=[EndpointTag("b", "1"), EndpointTag("a", "1")])
    changed = serving.patch(endpoint_name, add_tags=[EndpointTag("a", "2")], delete_tags=["a", "b"])
    assert [tag.as_dict() for tag in changed.tags] == [{"key": "a", "value": "2"}]
    path = f"/api/2.0/serving-endpoints/{endpoint_name}/description"
    client.api_client.do("PATCH", path, body={"description": "new"})
    assert serving.get(endpoint_name).description == "new"
    table = {"catalog_name": "main", "schema_name": "default", "table_name_prefix": "gateway", "enabled": True}
    gateway = f"/api/2.0/serving-endpoints/{endpoint_name}/ai-gateway"
    answer = client.api_client.do("PUT", gateway, body={"inference_table_config": table})
    assert answer == {"inference_table_config": table}
    assert client.tables.get("main.default.gateway_payload").full_name == "main.default.gateway_payload"
    with pytest.raises(InvalidParameterValue, match="Disable the inference table"):
        client.api_client.do("PUT", gateway, body={"inference_table_config": table | {"table_name_prefix": "b"}})
    client.api_client.do("PUT", gateway, body={"inference_table_config": table | {"enabled": False}})
    with pytest.raises(InvalidParameterValue, match="cannot be created"):
        client.api_client.do("PUT", gateway, body={"inference_table_config": table | {"schema_name": "nowhere"}})


def test_rate_limit(workspace: RunningWorkspace, client: WorkspaceClient, endpoint_name: str) -> None:
    create(client, endpoint_name, entity("a"))
    limit = AiGatewayRateLimit(calls=2, renewal_period=AiGatewayRateLimitRenewalPeriod.MINUTE)
    client.serving_endpoints.put_ai_gateway(endpoint_name, rate_limits=[limit])
    # Without the SDK, which would wait and try again.
    answers = [
        requests.post(
            f"{workspace.url}/serving-endpoints/{endpoint_name}/invocations",
            json=say("hello"),
            headers={"Authorization": f"Bearer {workspace.token}"},
            timeout=60,
        )
        for _ in range(3)
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].json()["error_code"] == "RATE_LIMIT_EXCEEDED"
    assert "rate limit of the endpoint" in answers[2].json()["message"]


def test_rate_limits_of_users_and_of_one_of_them(client: WorkspaceClient, person: Person, endpoint_name: str) -> None:
    create(client, endpoint_name, entity("a"))
    person.may_query(endpoint_name)
    minute = AiGatewayRateLimitRenewalPeriod.MINUTE
    each = AiGatewayRateLimit(calls=3, renewal_period=minute, key=AiGatewayRateLimitKey.USER)
    named = AiGatewayRateLimit(calls=1, renewal_period=minute, key=AiGatewayRateLimitKey.USER, principal=person.name)
    client.serving_endpoints.put_ai_gateway(endpoint_name, rate_limits=[each, named])
    assert [person.asks(endpoint_name, "hello").status_code for _ in range(3)] == [200, 429, 429]
    # Another has a count of the other's own, and what was refused was counted by nobody.
    invoke = f"/serving-endpoints/{endpoint_name}/invocations"
    for _ in range(3):
        assert client.api_client.do("POST", invoke, body=say("hello"))["output"]
    client.serving_endpoints.put_ai_gateway(endpoint_name, rate_limits=[each])
    assert [person.asks(endpoint_name, "hello").status_code for _ in range(4)] == [200, 200, 200, 429]


def test_permissions_go_by_id(client: WorkspaceClient, endpoint_name: str) -> None:
    endpoint_id = start_creating(client, endpoint_name, raw_entity("a"))["id"]
    serving, me = client.serving_endpoints, client.current_user.me().user_name

    def grants(answer: Any) -> dict[str, str]:
        return {
            entry.user_name or entry.group_name: entry.all_permissions[0].permission_level.value
            for entry in answer.access_control_list
        }

    assert grants(serving.get_permissions(endpoint_id)) == {me: "CAN_MANAGE"}
    for group, level in (("readers", "CAN_VIEW"), ("callers", "CAN_VIEW"), ("callers", "CAN_QUERY")):
        request = ServingEndpointAccessControlRequest(
            group_name=group, permission_level=ServingEndpointPermissionLevel(level)
        )
        serving.update_permissions(endpoint_id, access_control_list=[request])
    everyone = {me: "CAN_MANAGE", "readers": "CAN_VIEW", "callers": "CAN_QUERY"}
    assert grants(serving.get_permissions(endpoint_id)) == everyone
    assert grants(serving.set_permissions(endpoint_id, access_control_list=[])) == {me: "CAN_MANAGE"}
    assert {level.permission_level.value for level in serving.get_permission_levels(endpoint_id).permission_levels} == {
        "CAN_VIEW",
        "CAN_QUERY",
        "CAN_MANAGE",
    }
    with pytest.raises(ResourceDoesNotExist):
        serving.get_permissions(endpoint_name)


def test_metrics_and_openapi(workspace: RunningWorkspace, client: WorkspaceClient, endpoint_name: str) -> None:
    create(client, endpoint_name, entity("a"), entity("b"), traffic=traffic(a=100, b=0))
    for text in ("hello", "fail"):
        requests.post(
            f"{workspace.url}/serving-endpoints/{endpoint_name}/invocations",
            json=say(text),
            headers={"Authorization": f"Bearer {workspace.token}"},
            timeout=60,
        )
    page = client.serving_endpoints.export_metrics(endpoint_name).contents.read().decode()
    endpoint_id = client.serving_endpoints.get(endpoint_name).id
    labels = {
        name: f'{{endpoint_id="{endpoint_id}",endpoint_name="{endpoint_name}",served_model_name="{name}"}}'
        for name in ("a", "b")
    }
    lines = page.splitlines()
    for line in (
        f"request_count_total{labels['a']} 2",
        f"request_count_total{labels['b']} 0",
        f"request_4xx_count_total{labels['a']} 1",
        f"request_5xx_count_total{labels['a']} 0",
        f"request_latency_ms_count{labels['a']} 2",
    ):
        assert line in lines
    document = json.loads(client.serving_endpoints.get_open_api(endpoint_name).contents.read())
    path = document["paths"][f"/serving-endpoints/{endpoint_name}/served-models/a/invocations"]
    schema = path["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"]["input"]["type"] == "array"
    assert "input" in schema["required"]
