"""The shapes that inference tables have had: their columns, and what a request leaves in each."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from databricks.sdk import WorkspaceClient

from release_pipeline.local_workspace.sql.engine import SqlEngine
from release_pipeline.local_workspace.sql.failures import SqlFailure
from tests.conftest import RunningWorkspace
from tests.local_workspace.conftest import AGENT, create, entity, inference_table, say, wait_for

TABLE = "main.default.shaped_payload"
ROW = {
    "databricks_request_id": "r-1",
    "client_request_id": "c-1",
    "request_time": datetime(2026, 11, 21, 23, 59, 59, 500_000, tzinfo=UTC),
    "status_code": 200,
    "sampling_fraction": 0.5,
    "execution_duration_ms": 7,
    "request": '{"a": 1}',
    "response": None,
    "logging_error_codes": ["MAX_RESPONSE_SIZE_EXCEEDED"],
    "served_entity_id": "e-1",
    "requester": "me",
    "endpoint_name": "agent",
    "model_name": "main.default.echo",
    "model_version": "3",
}
METADATA = {"endpoint_name": "agent", "model_name": "main.default.echo", "model_version": "3"}
EXPECTED: dict[str, list[tuple[str, str, Any]]] = {
    "ai_gateway": [
        ("databricks_request_id", "string", "r-1"),
        ("request_date", "date", "2026-11-21"),
        ("client_request_id", "string", "c-1"),
        ("request_time", "timestamp", "2026-11-21T23:59:59.500Z"),
        ("status_code", "int", "200"),
        ("sampling_fraction", "double", "0.5"),
        ("execution_duration_ms", "bigint", "7"),
        ("request", "string", '{"a": 1}'),
        ("response", "string", None),
        ("logging_error_codes", "array<string>", '["MAX_RESPONSE_SIZE_EXCEEDED"]'),
        ("served_entity_id", "string", "e-1"),
        ("requester", "string", "me"),
    ],
    "legacy": [
        ("client_request_id", "string", "c-1"),
        ("databricks_request_id", "string", "r-1"),
        ("date", "date", "2026-11-21"),
        ("timestamp_ms", "bigint", "1795305599500"),
        ("status_code", "int", "200"),
        ("sampling_fraction", "double", "0.5"),
        ("execution_time_ms", "bigint", "7"),
        ("request", "string", '{"a": 1}'),
        ("response", "string", None),
        ("request_metadata", "map<string,string>", json.dumps(METADATA, separators=(",", ":"))),
    ],
    "unity_ai_gateway": [
        ("request_id", "string", "r-1"),
        ("invocation_id", "string", "r-1"),
        ("request_tags", "map<string,string>", "{}"),
        ("event_time", "timestamp", "2026-11-21T23:59:59.500Z"),
        ("status_code", "int", "200"),
        ("sampling_fraction", "double", "0.5"),
        ("latency_ms", "bigint", "7"),
        ("time_to_first_byte_ms", "bigint", "7"),
        ("request", "string", '{"a": 1}'),
        ("response", "string", None),
        ("destination_id", "string", "e-1"),
        ("logging_error_codes", "array<string>", '["MAX_RESPONSE_SIZE_EXCEEDED"]'),
        ("requester", "string", "me"),
        ("schema_version", "string", "1"),
    ],
}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SqlEngine]:
    engine = SqlEngine(tmp_path, ("main",))
    yield engine
    engine.close()


@pytest.mark.parametrize("shape", EXPECTED)
def test_columns_and_values(engine: SqlEngine, shape: str) -> None:
    engine.create_inference_table(TABLE, shape)
    assert engine.append_inference_rows(TABLE, [ROW, {"databricks_request_id": "r-2"}], 10) == 1
    described = engine.execute(f"DESCRIBE TABLE {TABLE}").rows
    assert [(row[0], row[1]) for row in described] == [(name, kind) for name, kind, _ in EXPECTED[shape]]
    first, second = engine.execute(f"SELECT * FROM {TABLE}").rows
    assert first == [value for _, _, value in EXPECTED[shape]]
    assert second.count("r-2") >= 1
    changes = engine.execute(f"SELECT count(*) FROM table_changes('{TABLE}', 1)").rows
    assert changes == [["2"]]
    assert engine.inference_log_position(TABLE) == 10


def test_a_table_keeps_its_shape_and_can_be_without_a_feed(engine: SqlEngine) -> None:
    engine.create_inference_table(TABLE, "legacy", change_feed=False)
    engine.create_inference_table(TABLE, "ai_gateway")
    engine.append_inference_rows(TABLE, [ROW], 10)
    assert engine.execute(f"SELECT request_metadata.model_version FROM {TABLE}").rows == [["3"]]
    with pytest.raises(SqlFailure, match="change data feed"):
        engine.execute(f"SELECT * FROM table_changes('{TABLE}', 0)")
    table = engine.table(TABLE)
    assert table is not None
    assert table.properties == {"delta.enableChangeDataFeed": "false"}


def test_another_table_is_not_taken_for_one(engine: SqlEngine) -> None:
    engine.execute(f"CREATE TABLE {TABLE} (databricks_request_id STRING, request_date DATE)")
    with pytest.raises(SqlFailure, match="is not an inference table"):
        engine.create_inference_table(TABLE)


@pytest.mark.parametrize(
    ("shape", "identity", "version"),
    [
        ("legacy", "databricks_request_id", "request_metadata.model_version"),
        ("unity_ai_gateway", "invocation_id", "destination_id"),
    ],
)
def test_requests_of_an_endpoint(
    workspace: RunningWorkspace,
    client: WorkspaceClient,
    endpoint_name: str,
    set_faults: Callable[..., requests.Response],
    shape: str,
    identity: str,
    version: str,
) -> None:
    prefix = endpoint_name.replace("-", "_")
    set_faults(payload_shape=shape)
    create(client, endpoint_name, entity("a", version="2"), ai_gateway=inference_table(prefix))
    answer = requests.post(
        f"{workspace.url}/serving-endpoints/{endpoint_name}/invocations",
        # Half of a surrogate pair: JSON can name it, no table can hold it.
        data=json.dumps(say("hello", client_request_id="c\ud800")).encode(),
        headers={"Authorization": f"Bearer {workspace.token}", "Content-Type": "application/json"},
        timeout=60,
    )
    statement = f"SELECT {identity}, {version}, request, response FROM main.default.{prefix}_payload"

    def read() -> list[list[str]]:
        response = client.statement_execution.execute_statement(statement, "local", wait_timeout="30s")
        assert response.result is not None, response.status
        return response.result.data_array or []

    ((request_id, which, request, response),) = wait_for(read)
    assert request_id == answer.headers["x-request-id"]
    assert which == "2" if shape == "legacy" else len(which) == 32
    assert json.loads(request) == say("hello", client_request_id="c\ud800")
    assert json.loads(response) == answer.json()
    assert AGENT in client.serving_endpoints.get(endpoint_name).as_dict()["config"]["served_entities"][0]["entity_name"]
