"""Usage tracking: who asked what, as rows of ``system.serving``, for endpoints whose AI Gateway is told to track it."""

import datetime
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.service.serving import AiGatewayUsageTrackingConfig
from mlflow.deployments import get_deploy_client

from tests.conftest import RunningWorkspace
from tests.local_workspace.agents_that_read import Person
from tests.local_workspace.conftest import AGENT, create, entity, inference_table, say, traffic, update, wait_for

USAGE, SERVED = "system.serving.endpoint_usage", "system.serving.served_entities"
TRACKED = AiGatewayUsageTrackingConfig(enabled=True)


def run(client: WorkspaceClient, statement: str) -> tuple[list[list[Any]], str]:
    """The rows of a statement, and why it failed."""
    done = client.statement_execution.execute_statement(statement, warehouse_id="local", wait_timeout="30s")
    rows = done.result.data_array if done.result is not None else None
    return rows or [], str(done.status.error.message) if done.status.error is not None else ""


@pytest.fixture
def tracked(client: WorkspaceClient, shared_endpoint: Callable[[str], str]) -> Iterator[str]:
    """The name of an endpoint that tracks its usage until the end of the test."""
    name = shared_endpoint(AGENT)
    before = client.serving_endpoints.get(name).ai_gateway
    table = before.inference_table_config
    client.serving_endpoints.put_ai_gateway(name, inference_table_config=table, usage_tracking_config=TRACKED)
    yield name
    client.serving_endpoints.put_ai_gateway(name, inference_table_config=table)


def test_each_request_is_a_row_that_says_who_asked_and_how_much(
    workspace: RunningWorkspace, client: WorkspaceClient, person: Person, tracked: str
) -> None:
    person.may_query(tracked)
    base = f"{workspace.url}/serving-endpoints"
    with openai.OpenAI(base_url=base, api_key=workspace.token, max_retries=0) as speaker:
        answer = speaker.responses.create(model=tracked, input="count")
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == (7, 5)
        assert list(speaker.responses.create(model=tracked, input="in parts", stream=True))
    body = say("hello", client_request_id=person.id, usage_context={"project": "alpha"})
    assert get_deploy_client("databricks").predict(endpoint=tracked, inputs=body)["output"]
    assert person.asks(tracked, "fail").status_code == 400

    def rows() -> list[list[Any]]:
        query = (
            "SELECT u.requester, u.status_code, u.input_token_count, u.output_token_count, u.input_character_count, "
            "u.output_character_count, u.request_streaming, u.client_request_id, u.usage_context['project'], "
            f"s.endpoint_name, s.entity_name, s.entity_version FROM {USAGE} u JOIN {SERVED} s "
            "ON s.served_entity_id = u.served_entity_id WHERE u.request_time > current_timestamp() - INTERVAL 1 HOUR "
            f"AND s.endpoint_name = '{tracked}' ORDER BY u.request_time"
        )
        return run(client, query)[0]

    found = wait_for(lambda: rows() if len(rows()) >= 4 else None)
    me = client.current_user.me().user_name
    what = [tracked, AGENT, "1"]
    assert found == [
        [me, "200", "7", "5", "5", "11", "false", None, None, *what],
        [me, "200", None, None, "8", "14", "true", None, None, *what],
        [me, "200", None, None, "5", "11", "false", person.id, "alpha", *what],
        [person.name, "400", None, None, "4", "0", "false", None, None, *what],
    ]


def test_the_tables_can_only_be_read_and_by_those_who_may(
    client: WorkspaceClient, person: Person, tracked: str, set_faults: Callable[..., requests.Response]
) -> None:
    for statement in (
        f"DELETE FROM {USAGE}",
        f"INSERT INTO {SERVED} (endpoint_name) VALUES ('x')",
        f"DROP TABLE {SERVED}",
        f"ALTER TABLE {SERVED} SET TBLPROPERTIES ('a' = 'b')",
        f"OPTIMIZE {SERVED}",
        f"CREATE OR REPLACE TABLE {SERVED} AS SELECT 1 AS one",
        "CREATE TABLE system.serving.more (n INT)",
    ):
        assert "is a system table and can only be read" in run(client, statement)[1], statement
    assert "`system` was not found" in run(client, "DROP SCHEMA system.serving CASCADE")[1]
    assert {each.name for each in client.schemas.list("system")} == {"ai", "serving"}
    assert client.tables.get(SERVED).full_name == SERVED
    set_faults(enforce_grants=True)
    person.may_use_the_warehouse()
    query = f"SELECT DISTINCT endpoint_name FROM {SERVED} WHERE endpoint_name = '{tracked}'"
    assert f"SELECT on Table '{SERVED}'" in run(person.client, query)[1]
    person.may_read(SERVED)
    assert run(person.client, query) == ([[tracked]], "")


@pytest.mark.slow
def test_what_is_served_is_recorded_by_configuration_until_it_is_deleted(
    client: WorkspaceClient, endpoint_name: str
) -> None:
    def served() -> list[list[Any]]:
        columns = "served_entity_name, entity_version, endpoint_config_version, custom_model_config.max_concurrency"
        query = f"SELECT {columns}, endpoint_delete_time FROM {SERVED} WHERE endpoint_name = '{endpoint_name}'"
        return run(client, query + " ORDER BY endpoint_config_version, served_entity_name")[0]

    endpoint = create(client, endpoint_name, entity("a"), ai_gateway=inference_table(endpoint_name.replace("-", "_")))
    assert served() == []
    client.serving_endpoints.put_ai_gateway(endpoint_name, usage_tracking_config=TRACKED)
    assert served() == [["a", "1", "1", "4", None]]
    update(client, endpoint_name, entity("a"), entity("b", version="2"), traffic=traffic(a=50, b=50))
    both = [["a", "1", "1", "4", None], ["a", "1", "2", "4", None], ["b", "2", "2", "4", None]]
    # The rows follow once the configuration is active, and need not be there when the client sees that it is.
    assert wait_for(lambda: served() if len(served()) >= len(both) else None) == both
    client.serving_endpoints.put_ai_gateway(endpoint_name, usage_tracking_config=TRACKED)
    assert served() == both
    client.serving_endpoints.delete(endpoint_name)
    assert [row[:4] for row in served()] == [row[:4] for row in both]
    assert all(datetime.datetime.fromisoformat(row[4]) for row in served())
    assert endpoint.id in {row[0] for row in run(client, f"SELECT endpoint_id FROM {SERVED}")[0]}
