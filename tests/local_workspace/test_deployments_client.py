"""MLflow's deployments client for Databricks."""

from collections.abc import Callable

import pytest
import requests
from databricks.sdk import WorkspaceClient
from mlflow.deployments import get_deploy_client

from tests.local_workspace.conftest import AGENT, PLAIN, said, say, settled

Shared = Callable[[str], str]


def test_predict_keeps_the_output_of_an_agent(shared_endpoint: Shared) -> None:
    answer = get_deploy_client("databricks").predict(endpoint=shared_endpoint(AGENT), inputs=say("hello"))
    assert said(answer) == "echo: hello"


def test_predict_with_a_classical_model(shared_endpoint: Shared) -> None:
    inputs = {"dataframe_records": [{"x": 1.0}]}
    answer = get_deploy_client("databricks").predict(endpoint=shared_endpoint(PLAIN), inputs=inputs)
    assert answer == {"predictions": [2.0]}


def test_predict_stream(shared_endpoint: Shared) -> None:
    stream = get_deploy_client("databricks").predict_stream(endpoint=shared_endpoint(AGENT), inputs=say("one two"))
    *deltas, item = list(stream)
    assert "".join(event["delta"] for event in deltas) == "echo: one two"
    assert item["type"] == "response.output_item.done"


def test_a_models_error_is_raised_at_once(shared_endpoint: Shared) -> None:
    with pytest.raises(requests.HTTPError, match="asked to fail"):
        get_deploy_client("databricks").predict(endpoint=shared_endpoint(AGENT), inputs=say("fail"))


def test_life_cycle(client: WorkspaceClient, endpoint_name: str) -> None:
    deployments = get_deploy_client("databricks")
    served = {"name": "a", "entity_name": AGENT, "entity_version": "1", "workload_size": "Small"}
    created = deployments.create_endpoint(
        config={"name": endpoint_name, "config": {"served_entities": [served]}, "tags": [{"key": "k", "value": "1"}]}
    )
    assert created["state"]["config_update"] == "IN_PROGRESS"
    settled(client, endpoint_name)
    pair = [served, served | {"name": "b"}]
    routes = [
        {"served_model_name": "a", "traffic_percentage": 0},
        {"served_model_name": "b", "traffic_percentage": 100},
    ]
    deployments.update_endpoint_config(
        endpoint=endpoint_name, config={"served_entities": pair, "traffic_config": {"routes": routes}}
    )
    settled(client, endpoint_name)
    deployments.update_endpoint_tags(
        endpoint=endpoint_name, config={"add_tags": [{"key": "k", "value": "2"}], "delete_tags": ["k"]}
    )
    found = deployments.get_endpoint(endpoint_name)
    assert [route["served_model_name"] for route in found["config"]["traffic_config"]["routes"]] == ["a", "b"]
    assert found["tags"] == [{"key": "k", "value": "2"}]
    assert endpoint_name in {endpoint["name"] for endpoint in deployments.list_endpoints()}
    assert deployments.predict(endpoint=endpoint_name, inputs=say("hello"))["object"] == "response"
    deployments.delete_endpoint(endpoint_name)
    assert endpoint_name not in {endpoint["name"] for endpoint in deployments.list_endpoints()}
