"""Statements on a SQL warehouse: values bound by name, identifiers quoted, failures as errors."""

import time
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from release_pipeline.errors import NotConfigured, StatementFailed, TableMissing, first_sentence

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.service.sql import StatementParameterListItem, StatementResponse

Value = str | int | float | bool | datetime | None
Row = dict[str, str | None]

WAIT_SECONDS = 30
GIVE_UP_SECONDS = 50.0
_MISSING = ("TABLE_OR_VIEW_NOT_FOUND", "SCHEMA_NOT_FOUND", "DELTA_TABLE_NOT_FOUND", "DELTA_PATH_DOES_NOT_EXIST")


def quoted(full_name: str) -> str:
    """``catalog.schema.table`` with each part in backticks, a backtick within doubled."""
    return ".".join(f"`{part.replace('`', '``')}`" for part in full_name.split("."))


def timestamp(value: datetime) -> str:
    """An aware time as the text that a TIMESTAMP parameter takes, in UTC, microseconds kept."""
    from datetime import UTC

    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_timestamp(text: str) -> datetime:
    """A TIMESTAMP of a result as an aware time in UTC."""
    from datetime import UTC

    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def choose_warehouse(client: "WorkspaceClient") -> str:
    """The id of the warehouse to use: ``DATABRICKS_WAREHOUSE_ID``, else a running one, else the first.

    Raises:
        NotConfigured: There is none.
    """
    import os

    from databricks.sdk.errors.base import DatabricksError

    chosen = os.environ.get("DATABRICKS_WAREHOUSE_ID")
    if chosen:
        return chosen
    try:
        warehouses = list(client.warehouses.list())
    except (DatabricksError, TimeoutError) as error:
        raise NotConfigured(
            f"{client.config.host} did not list its SQL warehouses: {first_sentence(error)}; check DATABRICKS_TOKEN, "
            "or the profile's credentials, and that they may use a warehouse."
        ) from None
    running = [warehouse for warehouse in warehouses if warehouse.state and warehouse.state.value == "RUNNING"]
    for warehouse in running or warehouses:
        if warehouse.id:
            return warehouse.id
    raise NotConfigured("the workspace has no SQL warehouse that you may use; set DATABRICKS_WAREHOUSE_ID.")


class Warehouse:
    """Runs statements on one SQL warehouse."""

    def __init__(self, client: "WorkspaceClient", warehouse_id: str) -> None:
        self._client = client
        self.warehouse_id = warehouse_id

    def execute(self, statement: str, parameters: Mapping[str, Value] | None = None) -> list[Row]:
        """Run one statement and return its rows as texts by column name.

        Raises:
            TableMissing: A table that it names does not exist.
            StatementFailed: The warehouse refused it, failed it, or did not finish in time.
        """
        from databricks.sdk.errors.base import DatabricksError
        from databricks.sdk.service.sql import ExecuteStatementRequestOnWaitTimeout

        try:
            answer = self._client.statement_execution.execute_statement(
                statement,
                self.warehouse_id,
                parameters=[_parameter(name, value) for name, value in (parameters or {}).items()],
                wait_timeout=f"{WAIT_SECONDS}s",
                on_wait_timeout=ExecuteStatementRequestOnWaitTimeout.CONTINUE,
            )
            answer = self._finished(answer)
            return self._rows(answer)
        except (DatabricksError, TimeoutError) as error:
            raise StatementFailed(
                f"SQL warehouse {self.warehouse_id} refused a statement: {first_sentence(error)}; "
                "check that the warehouse exists and that you may use it."
            ) from None

    def _finished(self, answer: "StatementResponse") -> "StatementResponse":
        """Wait until the statement has ended; the SDK does not raise for a failed one."""
        deadline = time.monotonic() + GIVE_UP_SECONDS
        pause = 0.2
        while answer.status and answer.status.state and answer.status.state.value in ("PENDING", "RUNNING"):
            statement_id = str(answer.statement_id)
            if time.monotonic() > deadline:
                self._client.statement_execution.cancel_execution(statement_id)
                raise StatementFailed(
                    f"SQL warehouse {self.warehouse_id} did not finish a statement within {GIVE_UP_SECONDS:.0f} s; "
                    "it was cancelled; start the warehouse or give it more clusters."
                )
            time.sleep(pause)
            pause = min(pause * 1.5, 2.0)
            answer = self._client.statement_execution.get_statement(statement_id)
        state = answer.status.state.value if answer.status and answer.status.state else "?"
        if state != "SUCCEEDED":
            error = answer.status.error if answer.status else None
            message = (error.message if error and error.message else state).strip()
            kind = TableMissing if any(code in message for code in _MISSING) else StatementFailed
            raise kind(f"SQL warehouse {self.warehouse_id}: {message}")
        return answer

    def _rows(self, answer: "StatementResponse") -> list[Row]:
        """All rows of all chunks."""
        schema = answer.manifest.schema if answer.manifest else None
        names = [str(column.name) for column in (schema.columns or [])] if schema else []
        rows: list[Row] = []
        chunk = answer.result
        while chunk is not None:
            rows.extend(dict(zip(names, values, strict=True)) for values in chunk.data_array or [])
            following = chunk.next_chunk_index
            if following is None:
                break
            chunk = self._client.statement_execution.get_statement_result_chunk_n(
                str(answer.statement_id), int(following)
            )
        return rows


def _parameter(name: str, value: Value) -> "StatementParameterListItem":
    from databricks.sdk.service.sql import StatementParameterListItem

    if isinstance(value, bool):
        return StatementParameterListItem(name=name, value=str(value).lower(), type="BOOLEAN")
    if isinstance(value, int):
        return StatementParameterListItem(name=name, value=str(value), type="BIGINT")
    if isinstance(value, float):
        return StatementParameterListItem(name=name, value=repr(value), type="DOUBLE")
    if isinstance(value, datetime):
        return StatementParameterListItem(name=name, value=timestamp(value), type="TIMESTAMP")
    return StatementParameterListItem(name=name, value=value, type="STRING")
