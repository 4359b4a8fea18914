"""Traps of Model Serving's clients: what they overlook, refuse or warn of, and what the server must show them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import InvalidParameterValue
from databricks.sdk.service.serving import EndpointTag
from mlflow.deployments import get_deploy_client
from mlflow.exceptions import MlflowException

from tests.conftest import RunningWorkspace
from tests.local_workspace.conftest import (
    AGENT,
    PLAIN,
    create,
    entity,
    raw_entity,
    said,
    say,
    settled,
    start_creating,
    wait_for,
)

Shared = Callable[[str], str]


def post(workspace: RunningWorkspace, endpoint: str, body: dict[str, Any]) -> requests.Response:
    # Without the SDK, which would try again after a 503.
    return requests.post(
        f"{workspace.url}/serving-endpoints/{endpoint}/invocations",
        json=body,
        headers={"Authorization": f"Bearer {workspace.token}"},
        timeout=60,
    )


def test_while_it_is_updated_the_old_configuration_is_shown_and_serves(
    workspace: RunningWorkspace, client: WorkspaceClient, endpoint_name: str
) -> None:
    create(client, endpoint_name, entity("old"))
    before = client.serving_endpoints.get(endpoint_name).as_dict()["config"]
    path = f"/api/2.0/serving-endpoints/{endpoint_name}/config"
    answer = client.api_client.do("PUT", path, body={"served_entities": [raw_entity("new", "2")]})
    assert isinstance(answer, dict)
    assert answer["state"] == {"ready": "READY", "config_update": "IN_PROGRESS"}
    assert answer["config"] == before
    pending = answer["pending_config"]
    assert (pending["config_version"], [served["name"] for served in pending["served_entities"]]) == (2, ["new"])
    assert pending["start_time"] >= answer["creation_timestamp"]
    assert post(workspace, endpoint_name, say("hello")).headers["served-model-name"] == "old"
    assert [served.name for served in settled(client, endpoint_name).config.served_entities] == ["new"]


def test_the_sdks_waiter_overlooks_an_endpoint_that_does_not_answer(
    workspace: RunningWorkspace, client: WorkspaceClient, endpoint_name: str, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    create(client, endpoint_name, entity("a", UNLOADABLE_WHILE=str(gone)))
    gone.touch()
    assert post(workspace, endpoint_name, say("die")).status_code == 503

    def recovering() -> bool:
        (served,) = client.serving_endpoints.get(endpoint_name).config.served_entities
        return served.state.deployment.value == "DEPLOYMENT_RECOVERING"

    wait_for(recovering)
    waited = client.serving_endpoints.wait_get_serving_endpoint_not_updating(endpoint_name)
    assert (waited.state.ready.value, waited.state.config_update.value) == ("NOT_READY", "NOT_UPDATING")
    gone.unlink()
    wait_for(lambda: client.serving_endpoints.get(endpoint_name).state.ready.value == "READY")


def test_tags_come_back_as_an_object_sorted_by_key(client: WorkspaceClient, endpoint_name: str) -> None:
    start_creating(client, endpoint_name, raw_entity("a"))
    path = f"/api/2.0/serving-endpoints/{endpoint_name}/tags"
    tags = [{"key": key, "value": "1"} for key in ("b", "c", "a")]
    assert client.api_client.do("PATCH", path, body={"add_tags": tags}) == {
        "tags": sorted(tags, key=lambda t: t["key"])
    }
    # A changed value is sent by some clients as the same key in both lists; it must not be lost.
    changed = client.serving_endpoints.patch(endpoint_name, add_tags=[EndpointTag("b", "2")], delete_tags=["b", "c"])
    assert [tag.as_dict() for tag in changed.tags] == [{"key": "a", "value": "1"}, {"key": "b", "value": "2"}]


def test_a_name_of_more_than_63_characters_is_refused(client: WorkspaceClient, models: None) -> None:
    with pytest.raises(InvalidParameterValue, match="at most 63"):
        start_creating(client, "a" * 64, raw_entity("a"))


def test_an_external_model_is_refused_and_its_secret_is_not_repeated(
    workspace: RunningWorkspace, client: WorkspaceClient, endpoint_name: str
) -> None:
    provider = {"name": "m", "provider": "openai", "openai_config": {"openai_api_key_plaintext": "key-in-the-clear"}}
    with pytest.raises(InvalidParameterValue) as refused:
        start_creating(client, endpoint_name, {"name": "e", "external_model": provider})
    assert "key-in-the-clear" not in str(refused.value) + workspace.log()


def test_an_agent_that_is_asked_by_inputs_answers_in_predictions(
    workspace: RunningWorkspace, shared_endpoint: Shared
) -> None:
    answer = post(workspace, shared_endpoint(AGENT), {"inputs": say("hello")}).json()
    assert said(answer["predictions"]) == "echo: hello"


def test_a_model_is_not_told_that_it_is_in_the_services_own_containers(
    workspace: RunningWorkspace, shared_endpoint: Shared
) -> None:
    # mlflow would then look for credentials and send traces in other ways.
    answer = post(workspace, shared_endpoint(AGENT), say("env IS_IN_DB_MODEL_SERVING_ENV")).json()
    assert said(answer) == "echo: unset"


def test_a_stream_of_a_model_that_does_not_stream_is_refused_by_the_client(shared_endpoint: Shared) -> None:
    inputs = {"dataframe_records": [{"x": 1.0}]}
    with pytest.raises(MlflowException, match="Unknown response format"):
        list(get_deploy_client("databricks").predict_stream(endpoint=shared_endpoint(PLAIN), inputs=inputs))


def test_the_older_calls_of_the_deployments_client_warn(client: WorkspaceClient, endpoint_name: str) -> None:
    deployments = get_deploy_client("databricks")
    config = {"served_entities": [raw_entity("a")]}
    with pytest.warns(UserWarning, match="deprecated"):
        deployments.create_endpoint(name=endpoint_name, config=config)
    settled(client, endpoint_name)
    with pytest.warns(FutureWarning, match="update_endpoint"), pytest.warns(UserWarning, match="update_endpoint"):
        deployments.update_endpoint(endpoint=endpoint_name, config=config)
    assert settled(client, endpoint_name).config.config_version == 2


def test_the_sdks_own_openai_client_is_deprecated_and_needs_the_older_httpx(
    client: WorkspaceClient, shared_endpoint: Shared
) -> None:
    pytest.importorskip("httpx")
    with pytest.warns(DeprecationWarning, match="databricks-openai"):
        own = client.serving_endpoints.get_open_ai_client()
    with own:
        assert own.responses.create(model=shared_endpoint(AGENT), input="hello").output_text == "echo: hello"


def test_a_change_of_traffic_must_name_every_entity_again(client: WorkspaceClient, endpoint_name: str) -> None:
    create(client, endpoint_name, entity("a"))
    path = f"/api/2.0/serving-endpoints/{endpoint_name}/config"
    routes = [{"served_entity_name": "a", "traffic_percentage": 100}]
    with pytest.raises(InvalidParameterValue, match="served_entities"):
        client.api_client.do("PUT", path, body={"traffic_config": {"routes": routes}})
