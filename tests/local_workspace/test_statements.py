"""The statement execution API, through the real SDK against the real server."""

from datetime import timedelta

import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import InvalidParameterValue, NotFound
from databricks.sdk.service.sql import (
    Disposition,
    ExecuteStatementRequestOnWaitTimeout,
    Format,
    ServiceErrorCode,
    StatementParameterListItem,
    StatementResponse,
    StatementState,
)

WAREHOUSE = "local"
# Runs for minutes unless it is stopped.
ENDLESS = "SELECT count(*) FROM range(10000000) AS a JOIN range(10000000) AS b ON a.range * b.range % 7 = 3"
FINAL = {StatementState.SUCCEEDED, StatementState.FAILED, StatementState.CANCELED}


def run(client: WorkspaceClient, statement: str, wait: str = "30s") -> StatementResponse:
    return client.statement_execution.execute_statement(statement, WAREHOUSE, wait_timeout=wait)


def state(response: StatementResponse) -> StatementState:
    assert response.status is not None
    assert response.status.state is not None
    return response.status.state


def error(response: StatementResponse) -> tuple[ServiceErrorCode | None, str]:
    assert response.status is not None
    assert response.status.error is not None
    return response.status.error.error_code, response.status.error.message or ""


def data(response: StatementResponse) -> list[list[str | None]]:
    assert response.result is not None
    return response.result.data_array or []


def settle(client: WorkspaceClient, response: StatementResponse) -> StatementResponse:
    """Poll as a client does, until the state is final."""
    while state(response) not in FINAL:
        response = client.statement_execution.get_statement(response.statement_id or "")
    return response


def test_a_result_has_schema_and_values_as_text(client: WorkspaceClient) -> None:
    response = client.statement_execution.execute_statement(
        "SELECT :name AS name, :count + 1 AS total, NULL AS nothing, :at AS at",
        WAREHOUSE,
        parameters=[
            StatementParameterListItem(name="name", value="it's; DROP TABLE x"),
            StatementParameterListItem(name="count", value="41", type="BIGINT"),
            StatementParameterListItem(name="at", value="2026-11-21T14:03:01.123Z", type="TIMESTAMP"),
        ],
    )
    assert state(response) == StatementState.SUCCEEDED
    assert data(response) == [["it's; DROP TABLE x", "42", None, "2026-11-21T14:03:01.123Z"]]
    assert response.manifest is not None
    assert response.manifest.schema is not None
    assert [(c.name, c.type_text, c.type_name and c.type_name.value, c.position)
            for c in response.manifest.schema.columns or []] == [
        ("name", "STRING", "STRING", 0),
        ("total", "BIGINT", "LONG", 1),
        ("nothing", "VOID", "NULL", 2),
        ("at", "TIMESTAMP", "TIMESTAMP", 3),
    ]  # fmt: skip
    assert response.manifest.total_row_count == 1
    assert response.manifest.truncated is False


def test_a_failed_statement_is_an_answer_not_an_exception(client: WorkspaceClient) -> None:
    response = run(client, "SELECT * FROM main.default.nowhere")
    assert state(response) == StatementState.FAILED
    code, message = error(response)
    assert code == ServiceErrorCode.BAD_REQUEST
    assert message.startswith("[TABLE_OR_VIEW_NOT_FOUND] The table or view `main`.`default`.`nowhere`")
    assert response.result is None
    again = client.statement_execution.get_statement(response.statement_id or "")
    assert error(again) == (code, message)


def test_a_statement_without_rows_succeeds_with_an_empty_result(client: WorkspaceClient) -> None:
    response = run(client, "CREATE SCHEMA IF NOT EXISTS main.statements")
    assert state(response) == StatementState.SUCCEEDED
    assert data(response) == []
    empty = run(client, "SELECT 1 AS x WHERE false")
    assert data(empty) == []
    assert empty.manifest is not None
    assert empty.manifest.total_chunk_count == 0


def test_large_results_come_in_chunks_that_join_up(client: WorkspaceClient) -> None:
    response = run(client, "SELECT range AS n, repeat('x', 100) AS pad FROM range(12001) ORDER BY n")
    assert response.manifest is not None
    assert (response.manifest.total_chunk_count or 0) >= 3
    seen: list[list[str | None]] = []
    chunk = response.result
    while chunk is not None:
        assert chunk.row_offset == len(seen)
        seen += chunk.data_array or []
        following = chunk.next_chunk_index
        chunk = None
        if following is not None:
            chunk = client.statement_execution.get_statement_result_chunk_n(response.statement_id or "", following)
    assert [row[0] for row in seen] == [str(number) for number in range(12001)]
    with pytest.raises(InvalidParameterValue):
        client.statement_execution.get_statement_result_chunk_n(response.statement_id or "", 99)


def test_a_chunk_links_to_the_next_one(client: WorkspaceClient) -> None:
    response = run(client, "SELECT range AS n, repeat('x', 100) AS pad FROM range(12001) ORDER BY n")
    assert response.result is not None
    link = response.result.next_chunk_internal_link
    assert link is not None
    followed = client.api_client.do("GET", link)
    assert isinstance(followed, dict)
    assert followed["chunk_index"] == response.result.next_chunk_index
    assert followed["data_array"][0][0] == str(len(data(response)))


def test_without_waiting_the_first_answer_is_pending(client: WorkspaceClient) -> None:
    response = run(client, "SELECT 1", wait="0s")
    assert state(response) == StatementState.PENDING
    assert response.result is None
    assert data(settle(client, response)) == [["1"]]


def test_a_running_statement_is_cancelled(client: WorkspaceClient) -> None:
    response = run(client, ENDLESS, wait="0s")
    client.statement_execution.cancel_execution(response.statement_id or "")
    assert state(settle(client, response)) == StatementState.CANCELED
    with pytest.raises(InvalidParameterValue, match="CANCELED"):
        client.statement_execution.get_statement_result_chunk_n(response.statement_id or "", 0)


def test_waiting_ends_at_the_timeout_and_cancels_on_request(client: WorkspaceClient) -> None:
    response = client.statement_execution.execute_statement(
        ENDLESS, WAREHOUSE, wait_timeout="5s", on_wait_timeout=ExecuteStatementRequestOnWaitTimeout.CANCEL
    )
    assert state(response) == StatementState.CANCELED


def test_limits_cut_a_result(client: WorkspaceClient) -> None:
    response = client.statement_execution.execute_statement("SELECT * FROM range(10)", WAREHOUSE, row_limit=4)
    assert len(data(response)) == 4
    assert response.manifest is not None
    assert response.manifest.truncated is True


def test_catalog_and_schema_stand_for_unqualified_names(client: WorkspaceClient) -> None:
    run(client, "CREATE SCHEMA IF NOT EXISTS main.statements")
    run(client, "CREATE TABLE IF NOT EXISTS main.statements.here AS SELECT 5 AS x")
    response = client.statement_execution.execute_statement(
        "SELECT x FROM here", WAREHOUSE, catalog="main", schema="statements"
    )
    assert data(response) == [["5"]]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"statement": "SELECT 1"}, "warehouse_id"),
        ({"warehouse_id": WAREHOUSE}, "statement"),
        ({"wait_timeout": "3s"}, "wait_timeout"),
        ({"wait_timeout": "51s"}, "wait_timeout"),
        ({"wait_timeout": "soon"}, "wait_timeout"),
        ({"on_wait_timeout": "EXPLODE"}, "on_wait_timeout"),
        ({"disposition": Disposition.EXTERNAL_LINKS.value}, "disposition"),
        ({"format": Format.ARROW_STREAM.value}, "format"),
        ({"row_limit": "ten"}, "row_limit"),
        ({"parameters": [{"value": "1"}]}, "name"),
        ({"parameters": [{"name": "a", "value": 1}]}, "'a'"),
        ({"parameters": [{"name": "a"}, {"name": "a"}]}, "twice"),
        ({"parameters": "a"}, "parameters"),
    ],
)
def test_a_wrong_request_is_an_http_error(client: WorkspaceClient, body: dict[str, object], field: str) -> None:
    if len(body) != 2 and not {"statement", "warehouse_id"} & set(body):
        body = {"statement": "SELECT 1", "warehouse_id": WAREHOUSE, **body}
    with pytest.raises(InvalidParameterValue, match=field):
        client.api_client.do("POST", "/api/2.0/sql/statements", body=body)


def test_unknown_ids_are_not_found(client: WorkspaceClient) -> None:
    with pytest.raises(NotFound):
        client.statement_execution.execute_statement("SELECT 1", "no-such-warehouse")
    with pytest.raises(NotFound):
        client.statement_execution.get_statement("no-such-statement")
    with pytest.raises(NotFound):
        client.statement_execution.cancel_execution("no-such-statement")
    with pytest.raises(NotFound):
        client.warehouses.get("no-such-warehouse")


def test_a_slash_at_the_end_is_the_same_route(client: WorkspaceClient) -> None:
    body = {"statement": "SELECT 1", "warehouse_id": WAREHOUSE}
    answer = client.api_client.do("POST", "/api/2.0/sql/statements/", body=body)
    assert isinstance(answer, dict)
    assert answer["result"]["data_array"] == [["1"]]


def test_there_is_one_warehouse_and_it_runs(client: WorkspaceClient) -> None:
    (warehouse,) = client.warehouses.list()
    assert (warehouse.id, warehouse.name) == (WAREHOUSE, "Local warehouse")
    assert client.warehouses.wait_get_warehouse_running(WAREHOUSE, timeout=timedelta(seconds=10)).id == WAREHOUSE
