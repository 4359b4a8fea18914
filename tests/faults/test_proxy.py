"""The proxy does to a call what its plan says, and to no other."""

from collections.abc import Iterator

import pytest
import requests

from tests.conftest import RunningWorkspace
from tests.faults.calls import STATEMENTS, Call
from tests.faults.faults import Fault
from tests.faults.proxy import FaultyProxy, Plan
from tests.faults.runner import SITE_HEADER

TABLE = "`main`.`default`.`proxied`"


class Client:
    """Calls through a proxy, as a run makes them."""

    def __init__(self, workspace: RunningWorkspace) -> None:
        self.kills, self.writes = 0, 0
        self.proxy = FaultyProxy(workspace.url, workspace.token, kill=self._kill, written=self._written)
        self._direct = workspace.url
        self._headers = {"Authorization": f"Bearer {workspace.token}"}

    def _kill(self) -> None:
        self.kills += 1

    def _written(self, call: Call) -> None:
        self.writes += 1

    def sql(
        self, statement: str, *, site: str = "here", direct: bool = False, patience: float = 60
    ) -> requests.Response:
        """One statement."""
        return requests.post(
            (self._direct if direct else self.proxy.url) + STATEMENTS,
            json={"statement": statement, "warehouse_id": "local", "wait_timeout": "30s"},
            headers={**self._headers, SITE_HEADER: site},
            timeout=patience,
        )

    def rows(self) -> int:
        """How many rows the table holds, asked straight at the workspace."""
        return int(self.sql(f"SELECT count(*) FROM {TABLE}", direct=True).json()["result"]["data_array"][0][0])


@pytest.fixture
def through(workspace: RunningWorkspace) -> Iterator[Client]:
    """A client with a table that is empty."""
    client = Client(workspace)
    client.sql(f"CREATE OR REPLACE TABLE {TABLE} (n BIGINT)", direct=True)
    yield client
    client.proxy.stop()


INSERT = f"INSERT INTO {TABLE} VALUES (1)"


@pytest.mark.parametrize(
    ("fault", "heard", "rows", "kills"),
    [
        (Fault.KILL_BEFORE, requests.ConnectionError, 0, 1),
        (Fault.KILL_AFTER, requests.ConnectionError, 1, 1),
        (Fault.DROPPED, requests.ConnectionError, 1, 0),
        (Fault.CUT, requests.ConnectionError, 1, 0),
        (Fault.TOO_MANY, 429, 0, 0),
        (Fault.ERROR, 500, 0, 0),
        (Fault.UNAVAILABLE, 503, 0, 0),
        (Fault.LOST, requests.Timeout, 0, 0),
        (Fault.LATE, requests.Timeout, 1, 0),
        (Fault.TWICE, 200, 2, 0),
        (Fault.NOTHING, 200, 0, 0),
    ],
)
def test_a_write_meets_its_fault(
    through: Client, fault: Fault, heard: int | type[Exception], rows: int, kills: int
) -> None:
    done: set[tuple[str, int]] = set()
    through.proxy.begin(Plan(fault, True, done))
    assert through.sql(f"SELECT n FROM {TABLE}", site="reader").status_code == 200
    if isinstance(heard, int):
        answer = through.sql(INSERT)
        assert answer.status_code == heard
        assert heard != 200 or answer.json()["status"]["state"] == "SUCCEEDED"
    else:
        with pytest.raises(heard):
            through.sql(INSERT, patience=1 if heard is requests.Timeout else 60)
    assert (through.rows(), through.kills) == (rows, kills)
    assert through.writes == rows
    # The same spot has met it: it is never met there again.
    through.proxy.begin(Plan(fault, True, done))
    assert through.sql(INSERT).status_code == 200
    assert through.rows() == rows + 1


def test_a_fault_that_stays_meets_every_try_of_the_call_and_no_other_call(through: Client) -> None:
    through.proxy.begin(Plan(Fault.ERROR, True, set()))
    assert [through.sql(INSERT).status_code for _ in range(3)] == [500] * 3
    assert through.sql(f"SELECT n FROM {TABLE}", site="reader").status_code == 200
    through.proxy.begin(Plan(Fault.DROPPED, True, set()))
    with pytest.raises(requests.ConnectionError):
        through.sql(INSERT)
    assert through.sql(INSERT).status_code == 200
    assert through.rows() == 2


def test_one_call_after_the_other_meets_it_until_none_is_left(through: Client) -> None:
    done: set[tuple[str, int]] = set()
    met = []
    for _ in range(10):
        plan = Plan(Fault.ERROR, False, done)
        through.proxy.begin(plan)
        for site in ("first", "wait", "wait", "wait", "wait", "last"):
            if through.sql(f"SELECT n FROM {TABLE}", site=site).status_code == 500:
                break
        if plan.met is None:
            break
        met.append((plan.met.site, plan.number))
    # Of a wait, the fourth look is as the third.
    assert met == [("first", 1), ("wait", 2), ("wait", 3), ("wait", 4), ("last", 6)]


def test_what_a_call_is_can_be_told_from_it() -> None:
    def sql(statement: str) -> Call:
        return Call("POST", STATEMENTS, b'{"statement": "%s"}' % statement.encode())

    insert, select = sql("INSERT INTO `a`.`b`.`m1_release_ledger` VALUES (1)"), sql("SELECT 1")
    config = Call("PUT", "/api/2.0/serving-endpoints/m1/config", b"{}")
    assert (insert.writes, select.writes, config.writes) == (True, False, True)
    assert insert.words("m1") == "SQL INSERT INTO release_ledger"
    assert config.words("m1") == "PUT /api/2.0/serving-endpoints/<model>/config"
    assert [Fault.UPDATE_FAILED.can_meet(call) for call in (insert, select, config)] == [False, False, True]
    assert [Fault.TWICE.can_meet(call) for call in (insert, select)] == [True, False]
    assert [Fault.LOST.can_meet(call) for call in (insert, select)] == [True, True]


def test_looks_at_one_statement_after_the_other_are_one_spot() -> None:
    done: set[tuple[str, int]] = set()
    for run in range(5):
        plan = Plan(Fault.ERROR, False, done)
        for look in range(4):
            statement = f"{run:08x}-2222-4333-8444-{look // 2:012x}"  # a new one in each run, and twice in each
            if plan.meets(Call("GET", f"{STATEMENTS}/{statement}", b"", "warehouse.execute:119")):
                break
    assert len(done) == 3, "the first look, the second, and all that follow"
