"""A statement that takes too long is given up in time, and cancelled in the warehouse."""

import pytest

from release_pipeline.errors import OutOfTime
from release_pipeline.workspace.client import connect
from release_pipeline.workspace.sql import warehouse as warehouses
from release_pipeline.workspace.sql.warehouse import STATEMENT_SECONDS, WAIT_SECONDS, Warehouse, within
from tests.conftest import RunningWorkspace
from tests.pipeline.conftest import eventually

# Minutes, if nobody stops it.
ENDLESS = "SELECT sum(sqrt(a.id + b.id)) AS n FROM range(0, 3000000) AS a(id) CROSS JOIN range(0, 3000000) AS b(id)"
SENSOR_SECONDS = 60


@pytest.fixture
def ids(workspace: RunningWorkspace, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the statements that are sent from here on."""
    found: list[str] = []
    api = connect().client.statement_execution
    execute = api.execute_statement

    def noted(*args: object, **kwargs: object) -> object:
        answer = execute(*args, **kwargs)  # type: ignore[arg-type]
        found.append(str(answer.statement_id))
        return answer

    monkeypatch.setattr(api, "execute_statement", noted)
    return found


def state(statement_id: str) -> str:
    status = connect().client.statement_execution.get_statement(statement_id).status
    assert status is not None
    assert status.state is not None
    return status.state.value


def test_a_statement_that_is_given_up_is_cancelled(ids: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warehouses, "STATEMENT_SECONDS", 0.5)
    with pytest.raises(OutOfTime, match="did not finish a statement within 0 s; it was cancelled"):
        connect().warehouse.execute(ENDLESS)
    (statement_id,) = ids
    eventually(lambda: state(statement_id) == "CANCELED")


def test_statements_share_a_time_and_none_begins_after_it(ids: list[str]) -> None:
    warehouse = connect().warehouse
    with within(1.0), pytest.raises(OutOfTime):
        warehouse.execute(ENDLESS)
    with within(60), within(0.0), pytest.raises(OutOfTime, match="before it"):
        warehouse.execute("SELECT 1 AS n")
    with within(0.0), within(60), pytest.raises(OutOfTime):
        warehouse.execute("SELECT 1 AS n")
    assert len(ids) == 1
    assert warehouse.execute("SELECT 1 AS n") == [{"n": "1"}], "outside there is no such limit"


def test_one_that_cannot_be_cancelled_is_given_up_all_the_same(ids: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    api = connect().client.statement_execution
    with monkeypatch.context() as patch:
        patch.setattr(api, "cancel_execution", lambda statement_id: api.get_statement("gone"))
        with within(0.5), pytest.raises(OutOfTime):
            Warehouse(connect().client, connect().warehouse.warehouse_id).execute(ENDLESS)
    api.cancel_execution(ids[0])


def test_one_statement_leaves_time_in_a_sensors_tick() -> None:
    assert WAIT_SECONDS < STATEMENT_SECONDS <= SENSOR_SECONDS - 15
