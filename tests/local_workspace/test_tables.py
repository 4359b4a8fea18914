"""Unity Catalog's tables, through the real SDK against the real server."""

from typing import Any

import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import InvalidParameterValue, NotFound
from databricks.sdk.service.catalog import ColumnTypeName, DataSourceFormat, TableType
from databricks.sdk.service.sql import StatementState

from tests.conftest import RunningWorkspace


def run(client: WorkspaceClient, statement: str) -> list[list[str]]:
    response = client.statement_execution.execute_statement(statement, "local", wait_timeout="30s")
    assert response.status is not None
    assert response.status.state == StatementState.SUCCEEDED, response.status.error
    return (response.result.data_array if response.result else None) or []


@pytest.fixture
def schema(client: WorkspaceClient) -> str:
    """A schema with a table and a view over it."""
    run(client, "CREATE SCHEMA IF NOT EXISTS main.shelf")
    run(
        client,
        "CREATE TABLE IF NOT EXISTS main.shelf.books (id BIGINT NOT NULL, tags ARRAY<STRING>, at TIMESTAMP) "
        "COMMENT 'what we read' TBLPROPERTIES (delta.enableChangeDataFeed = true)",
    )
    run(client, "CREATE VIEW IF NOT EXISTS main.shelf.recent AS SELECT id FROM main.shelf.books")
    return "main.shelf"


def test_a_table_has_the_services_description(client: WorkspaceClient, schema: str) -> None:
    table = client.tables.get(f"{schema}.books")
    assert (table.catalog_name, table.schema_name, table.name) == ("main", "shelf", "books")
    assert (table.table_type, table.data_source_format) == (TableType.MANAGED, DataSourceFormat.DELTA)
    assert table.comment == "what we read"
    columns = [(c.name, c.type_text, c.type_name, c.position, c.nullable) for c in table.columns or []]
    assert columns == [
        ("id", "bigint", ColumnTypeName.LONG, 0, False),
        ("tags", "array<string>", ColumnTypeName.ARRAY, 1, True),
        ("at", "timestamp", ColumnTypeName.TIMESTAMP, 2, True),
    ]
    before = table.updated_at or 0
    run(client, f"INSERT INTO {schema}.books (id) VALUES (1)")
    after = client.tables.get(f"{schema}.BOOKS")
    assert (after.updated_at or 0) >= before
    assert after.created_at == table.created_at


def test_a_view_is_told_from_a_table(client: WorkspaceClient, schema: str) -> None:
    view = client.tables.get(f"{schema}.recent")
    assert view.table_type == TableType.VIEW
    assert view.view_definition == "SELECT id FROM main.shelf.books"
    assert [table.name for table in client.tables.list("main", "shelf")] == ["books", "recent"]


def test_missing_tables_are_reported_as_the_service_does(client: WorkspaceClient, schema: str) -> None:
    assert client.tables.exists(f"{schema}.books").table_exists is True
    assert client.tables.exists(f"{schema}.films").table_exists is False
    with pytest.raises(NotFound) as caught:
        client.tables.get(f"{schema}.films")
    assert caught.value.error_code == "TABLE_DOES_NOT_EXIST"
    with pytest.raises(NotFound):
        list(client.tables.list("main", "no_such_schema"))
    with pytest.raises(InvalidParameterValue):
        client.tables.get("just_a_name")


def test_tables_survive_a_kill(client: WorkspaceClient, workspace: RunningWorkspace, schema: str) -> None:
    run(client, f"CREATE OR REPLACE TABLE {schema}.kept AS SELECT 7 AS x")
    history = run(client, f"DESCRIBE HISTORY {schema}.kept")
    workspace.restart()
    assert run(client, f"SELECT * FROM {schema}.kept") == [["7"]]
    assert run(client, f"DESCRIBE HISTORY {schema}.kept") == history


def test_the_server_log_holds_no_data(client: WorkspaceClient, workspace: RunningWorkspace) -> None:
    body: dict[str, Any] = {"statement": "SELECT 'private-word' FROM nowhere", "warehouse_id": "local"}
    client.api_client.do("POST", "/api/2.0/sql/statements", body=body)
    assert "private-word" not in workspace.log()
