"""Statements on a SQL warehouse: values bound by name, identifiers quoted, failures as errors."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import datetime
from typing import TYPE_CHECKING, Final

from release_pipeline.errors import NotConfigured, OutOfTime, StatementFailed, TableMissing, first_sentence

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.service.sql import StatementParameterListItem, StatementResponse

Value = str | int | float | bool | datetime | None
Row = dict[str, str | None]

#: The call that begins a statement waits so long for its end; the service takes 5 to 50 s, or none.
WAIT_SECONDS: Final = 25
LEAST_WAIT_SECONDS: Final = 5
#: A statement is given up after this, counted from before it is sent. A sensor's tick has 60 s for everything.
STATEMENT_SECONDS: Final = 45.0
# When statements have to be done, by the monotonic clock.
_DEADLINE: ContextVar[float] = ContextVar("deadline of statements", default=math.inf)
_MISSING = ("TABLE_OR_VIEW_NOT_FOUND", "SCHEMA_NOT_FOUND", "DELTA_TABLE_NOT_FOUND", "DELTA_PATH_DOES_NOT_EXIST")


@contextmanager
def within(seconds: float, *, sparing: float = 0.0) -> Iterator[None]:
    """Give all statements inside so many seconds together, and no more than an outer one leaves.

    Of an outer one's time the last ``sparing`` seconds are left for what comes after. Statements that are not done by
    then are cancelled, and later ones are not begun: both fail with ``OutOfTime``.
    """
    token = _DEADLINE.set(min(_DEADLINE.get() - sparing, time.monotonic() + seconds))
    try:
        yield
    finally:
        _DEADLINE.reset(token)


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
            OutOfTime: The warehouse did not finish it in time; it was cancelled, or not begun.
            StatementFailed: The warehouse refused it, or failed it.
        """
        from databricks.sdk.errors.base import DatabricksError
        from databricks.sdk.service.sql import ExecuteStatementRequestOnWaitTimeout

        # The time that the first call takes counts, too.
        began = time.monotonic()
        deadline = min(_DEADLINE.get(), began + STATEMENT_SECONDS)
        if deadline <= began:
            raise OutOfTime(
                f"SQL warehouse {self.warehouse_id} did not finish a statement: the time for all of them was over "
                "before it; give the warehouse more clusters."
            )
        wait = min(WAIT_SECONDS, int(deadline - began))
        try:
            answer = self._client.statement_execution.execute_statement(
                statement,
                self.warehouse_id,
                parameters=[_parameter(name, value) for name, value in (parameters or {}).items()],
                wait_timeout=f"{wait if wait >= LEAST_WAIT_SECONDS else 0}s",
                on_wait_timeout=ExecuteStatementRequestOnWaitTimeout.CONTINUE,
            )
            answer = self._finished(answer, began, deadline)
            return self._rows(answer)
        except (DatabricksError, TimeoutError) as error:
            raise StatementFailed(
                f"SQL warehouse {self.warehouse_id} refused a statement: {first_sentence(error)}; "
                "check that the warehouse exists and that you may use it."
            ) from None

    def _finished(self, answer: "StatementResponse", began: float, deadline: float) -> "StatementResponse":
        """Wait until the statement has ended; the SDK does not raise for a failed one."""
        from databricks.sdk.errors.base import DatabricksError

        pause = 0.2
        while answer.status and answer.status.state and answer.status.state.value in ("PENDING", "RUNNING"):
            statement_id = str(answer.statement_id)
            left = deadline - time.monotonic()
            if left <= 0:
                with suppress(DatabricksError, TimeoutError):  # it is given up, whether or not it can be cancelled
                    self._client.statement_execution.cancel_execution(statement_id)
                raise OutOfTime(
                    f"SQL warehouse {self.warehouse_id} did not finish a statement within {deadline - began:.0f} s; "
                    "it was cancelled; start the warehouse or give it more clusters."
                )
            time.sleep(min(pause, left))
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
