"""Tags, rate limits and permissions of the YAML: what others set stays, what is refused ends the release at once."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.service.serving import (
    AiGatewayRateLimit,
    AiGatewayRateLimitKey,
    AiGatewayRateLimitRenewalPeriod,
    AiGatewayUsageTrackingConfig,
    EndpointTag,
    ServingEndpointAccessControlRequest,
    ServingEndpointPermissionLevel,
)

from release_pipeline.errors import EndpointError
from release_pipeline.rollout.endpoint_settings import settle
from release_pipeline.rollout.state import Stage
from release_pipeline.spec_endpoint import EndpointPart
from tests.conftest import RunningWorkspace
from tests.local_workspace.agents_that_read import Person
from tests.pipeline.checkpoint import World
from tests.pipeline.conftest import Model

NOBODY = "nobody@example.com"


@pytest.fixture
def person(workspace: RunningWorkspace, client: WorkspaceClient) -> Iterator[Person]:
    """Somebody to whom nothing was granted."""
    made = Person(workspace, client)
    yield made
    client.users_v2.delete(made.id)


def settings(client: WorkspaceClient, endpoint: str) -> dict[str, Any]:
    """Tags, rate limits and permissions of an endpoint, without what every release writes."""
    now = client.serving_endpoints.get(endpoint)
    entries = client.serving_endpoints.get_permissions(str(now.id)).access_control_list or []
    limits = (now.ai_gateway.rate_limits if now.ai_gateway else None) or []
    return {
        "tags": {
            tag.key: tag.value for tag in now.tags or [] if tag.key not in ("release_pipeline", "MONITOR_EXPERIMENT_ID")
        },
        "limits": {(each.key.value if each.key else None, each.principal): each.calls for each in limits},
        "levels": {
            entry.user_name or entry.group_name or entry.service_principal_name: level.permission_level.value
            for entry in entries
            for level in entry.all_permissions or []
            if level.permission_level
        },
    }


def test_what_is_lacking_is_set_without_an_update_and_what_others_set_stays(
    deployed: tuple[Model, str], client: WorkspaceClient, person: Person
) -> None:
    model, name, serving = deployed[0], deployed[0].spec.endpoint_name, client.serving_endpoints
    endpoint, me = model.parts().endpoint, str(client.current_user.me().user_name)
    serving.patch(name, add_tags=[EndpointTag("theirs", "1"), EndpointTag("team", "old")])
    gateway = serving.get(name).ai_gateway
    assert gateway is not None
    limits = [
        AiGatewayRateLimit(calls=calls, renewal_period=AiGatewayRateLimitRenewalPeriod.MINUTE, key=key, principal=whose)
        for calls, key, whose in (
            (70_000, AiGatewayRateLimitKey.USER, person.name),
            (60_000, AiGatewayRateLimitKey.ENDPOINT, None),
        )
    ]
    serving.put_ai_gateway(
        name,
        inference_table_config=gateway.inference_table_config,
        rate_limits=limits,
        usage_tracking_config=AiGatewayUsageTrackingConfig(enabled=True),
    )
    person.may_query(name, "CAN_MANAGE")
    before, others = endpoint.read(), settings(client, name)  # other tests have set something of their own
    wanted = EndpointPart.model_validate(
        {
            "tags": {"team": "assistants"},
            "rate_limits": [{"calls": 90_000}, {"calls": 80_000, "key": "user"}],
            "permissions": [
                {"group": "askers", "level": "CAN_QUERY"},
                {"user": person.name, "level": "CAN_QUERY"},
                {"user": me, "level": "CAN_VIEW"},
            ],
        }
    )
    fences: list[str] = []
    settle(wanted, endpoint, lambda: fences.append("asked"))
    assert settings(client, name) == {
        "tags": {**others["tags"], "theirs": "1", "team": "assistants"},
        "limits": {("user", person.name): 70_000, ("endpoint", None): 90_000, ("user", None): 80_000},
        "levels": {**others["levels"], me: "CAN_MANAGE", person.name: "CAN_MANAGE", "askers": "CAN_QUERY"},
    }
    after, gateway = endpoint.read(), serving.get(name).ai_gateway
    assert before is not None
    assert after is not None
    assert gateway is not None
    assert (after.config_version, after.routes, after.inference_table) == (
        before.config_version,
        before.routes,
        before.inference_table,
    )
    assert gateway.usage_tracking_config is not None
    assert gateway.usage_tracking_config.enabled
    assert len(fences) == 3, "one before each write"
    settle(wanted, endpoint, lambda: fences.append("again"))
    assert "again" not in fences, "nothing is written twice"


@pytest.mark.slow
def test_releases_give_a_new_endpoint_its_settings_and_put_them_back(
    make_model: Callable[..., Model], client: WorkspaceClient, person: Person
) -> None:
    model = make_model(
        endpoint={
            "tags": {"team": "assistants"},
            "rate_limits": [{"calls": 2, "key": "user", "principal": person.name}],
            "permissions": [{"user": person.name, "level": "CAN_QUERY"}],
        }
    )
    name = model.spec.endpoint_name
    model.champion()
    asked = settings(client, name)
    assert asked["tags"] == {"team": "assistants"}
    assert asked["levels"][person.name] == "CAN_QUERY"
    assert [person.asks(name, "hello").status_code for _ in range(3)] == [200, 200, 429]
    # Changed by hand, and back with the next release, before its version comes.
    lower = ServingEndpointAccessControlRequest(
        user_name=person.name, permission_level=ServingEndpointPermissionLevel.CAN_VIEW
    )
    client.serving_endpoints.update_permissions(str(client.serving_endpoints.get(name).id), access_control_list=[lower])
    client.serving_endpoints.patch(name, delete_tags=["team"])
    assert settings(client, name) != asked
    version, release = model.register("second"), model.release()
    state = model.deploy(release, version)
    assert settings(client, name) == asked
    assert (state.stage, World.of(model).versions) == (Stage.DEPLOYED, {"1", "2"})


@pytest.mark.slow
def test_a_refused_setting_ends_a_release_before_anybody_is_served_by_it(make_model: Callable[..., Model]) -> None:
    model = make_model()
    good = model.spec
    bad = EndpointPart.model_validate(
        good.endpoint.model_dump() | {"permissions": ({"user": NOBODY, "level": "CAN_QUERY"},)}
    )
    model.spec = good.model_copy(update={"endpoint": bad})
    first = model.release()
    with pytest.raises(EndpointError, match=f"its permissions could not be set: .*{NOBODY}.* does not exist"):
        model.deploy(first, model.register("first"))
    assert (World.of(model).endpoint, model.parts().rollout.known(first)[1].stage) == (None, Stage.FAILED)
    model.spec = good
    version = model.champion("second")
    before = World.of(model).endpoint
    model.spec = good.model_copy(update={"endpoint": bad})
    second = model.release()
    with pytest.raises(EndpointError, match="its permissions could not be set"):
        model.deploy(second, model.register("first"))
    assert World.of(model).endpoint == before
    assert World.of(model).versions == {version}
    assert model.parts().rollout.known(second)[1].stage is Stage.FAILED
