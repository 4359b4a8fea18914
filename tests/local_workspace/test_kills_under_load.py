"""What was answered is in the inference table, whenever the server is killed, and however often."""

import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from databricks.sdk import WorkspaceClient

from tests.conftest import RunningWorkspace
from tests.local_workspace.conftest import create, entity, inference_table, say, wait_for

SEED = 20261121
CLIENTS = 4
# What the server does in each round that ends with its kill; a restart forgets it.
ROUNDS: tuple[dict[str, Any], ...] = (
    {},
    {"duplicate_fraction": 0.3},
    {"inference_lag_seconds": 3600},  # no row of this round is in the table when the server is killed
    {"body_limit_bytes": 10},
    {"derived_tables": 0},
    {},
)
PROJECT = Path(__file__).parents[2]
# In a process of its own: mlflow remembers in which workspace it was.
SERVE = """
import sys
from databricks.sdk import WorkspaceClient
from tests.local_workspace.conftest import create, entity, inference_table, register
assert register("echo_responses_agent.py", "main.default.derived") == "1"
create(WorkspaceClient(), "derived", entity("a", "main.default.derived"), ai_gateway=inference_table("derived"))
"""


@pytest.fixture
def deriving(tmp_path: Path) -> Iterator[RunningWorkspace]:
    """A workspace that derives request logs at once, also after a restart, with an agent on an endpoint."""
    running = RunningWorkspace(tmp_path, "--fault", "derived_tables=0")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("DATABRICKS_", "MLFLOW_"))},
        "DATABRICKS_HOST": running.url,
        "DATABRICKS_TOKEN": running.token,
        "MLFLOW_TRACKING_URI": "databricks",
        "MLFLOW_REGISTRY_URI": "databricks-uc",
    }
    subprocess.run([sys.executable, "-c", SERVE], env=environment, cwd=PROJECT, check=True, timeout=120)
    yield running
    running.stop()


class Load:
    """Clients that ask, plainly and for streams in turn, until the server is gone; what they were answered."""

    def __init__(self, workspace: RunningWorkspace, endpoint: str) -> None:
        self.answered: list[str] = []
        self._workspace = workspace
        self._url = f"{workspace.url}/serving-endpoints/{endpoint}/invocations"
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]

    def run_until_killed(self, moment: int, seconds: float) -> None:
        """Kill the server a little after the answer with this number, and wait for the clients."""
        for thread in self._threads:
            thread.start()
        wait_for(lambda: len(self.answered) >= moment)
        time.sleep(seconds)
        self._workspace.kill()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        with requests.Session() as session:
            session.headers["Authorization"] = f"Bearer {self._workspace.token}"
            while True:
                number += 1
                body = say("one two", stream=True) if number % 2 else say("hello" if number % 4 else "fail")
                try:
                    # Whole: an answer that broke off, or a stream without its end, is none.
                    answer = session.post(self._url, json=body, timeout=60)
                except requests.RequestException:
                    return
                if not number % 2 or answer.content.endswith(b"data: [DONE]\n\n"):
                    self.answered.append(answer.headers["x-request-id"])


def select(client: WorkspaceClient, statement: str) -> list[list[str]]:
    """The rows that a statement answers."""
    answer = client.statement_execution.execute_statement(statement, "local", wait_timeout="30s")
    assert answer.result is not None, answer.status
    return answer.result.data_array or []


def rows_by_request(client: WorkspaceClient, table: str) -> Counter[str]:
    """How many rows of a table each request has."""
    rows = select(client, f"SELECT databricks_request_id, count(*) FROM {table} GROUP BY 1")
    return Counter({key: int(value) for key, value in rows})


def await_rows(client: WorkspaceClient, table: str, wanted: set[str]) -> None:
    """Wait until each of these requests has a row."""
    wait_for(lambda: wanted <= set(rows_by_request(client, table)))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nothing_that_was_answered_is_lost_by_kills_at_random_moments(
    workspace: RunningWorkspace,
    client: WorkspaceClient,
    endpoint_name: str,
    set_faults: Callable[..., requests.Response],
) -> None:
    chance = random.Random(SEED)
    prefix = endpoint_name.replace("-", "_")
    table = f"main.default.{prefix}_payload"
    create(client, endpoint_name, entity("a"), ai_gateway=inference_table(prefix))
    answered: list[str] = []
    once: set[str] = set()
    for faults in ROUNDS:
        assert set_faults(**faults).status_code == 200
        load = Load(workspace, endpoint_name)
        load.run_until_killed(chance.randrange(1, 150), chance.random() / 2)
        answered += load.answered
        once |= set() if "duplicate_fraction" in faults else set(load.answered)
        workspace.restart()
        # The rows that waited come now; with the next round they would come under its faults.
        await_rows(client, table, set(answered))
    time.sleep(1.5)  # three flushes: a row that came once more would have come by now
    counts = rows_by_request(client, table)
    assert len(set(answered)) == len(answered)
    # Twice only where rows were to come twice.
    assert {counts[each] for each in once} == {1}
    assert set(counts.values()) <= {1, 2}
    # Beside them at most those under way at a kill, which were written and not answered.
    assert len(set(counts) - set(answered)) <= CLIENTS * len(ROUNDS)
    # The history has a version for each commit, none left out by a kill, and every row belongs to one.
    versions = [int(row[0]) for row in select(client, f"DESCRIBE HISTORY {table}")]
    assert versions == list(range(versions[0], -1, -1))
    added = Counter[int]()
    for version, rows in select(
        client, f"SELECT _commit_version, count(*) FROM table_changes('{table}', 0) GROUP BY 1"
    ):
        added[int(version)] = int(rows)
    assert added.total() == counts.total()
    middle = versions[len(versions) // 2]
    (then,) = select(client, f"SELECT count(*) FROM {table} VERSION AS OF {middle}")
    assert int(then[0]) == sum(rows for version, rows in added.items() if version <= middle)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_is_derived_from_it_is_neither_lost_nor_doubled_by_kills(deriving: RunningWorkspace) -> None:
    chance = random.Random(SEED)
    client = WorkspaceClient(host=deriving.url, token=deriving.token)
    answered: list[str] = []
    for _ in range(4):
        load = Load(deriving, "derived")
        load.run_until_killed(chance.randrange(1, 150), chance.random() / 2)
        answered += load.answered
        deriving.restart()
    table = "main.default.derived_payload"
    await_rows(client, table, set(answered))
    await_rows(client, f"{table}_request_logs", set(answered))
    time.sleep(1.5)  # three flushes: a row that came once more would have come by now
    payload, derived = rows_by_request(client, table), rows_by_request(client, f"{table}_request_logs")
    assert payload.total() >= len(answered) > 4
    assert derived == payload, "one row of each for every request, those under way at a kill as well"
