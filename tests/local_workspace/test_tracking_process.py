"""mlflow's tracking server is a process that answers nobody else, is started again, and ends with the workspace."""

import json
import os
import signal
import sqlite3
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import mlflow
import pytest
import requests

from tests.conftest import RunningWorkspace
from tests.local_workspace.conftest import is_running, wait_for
from tests.local_workspace.test_endpoints import linux
from tests.local_workspace.test_forked_processes import parent_of
from tests.local_workspace.test_server import own

__all__ = ["own"]
pytestmark = linux


def tracking_processes(of: RunningWorkspace) -> set[int]:
    """Process ids of the workspace's tracking servers."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                ours = parent_of(int(folder.name)) == of.process.pid
                if ours and b"local_workspace.tracking_server" in (folder / "cmdline").read_bytes():
                    found.add(int(folder.name))
            except (OSError, IndexError):
                continue
    return found


def connections() -> list[list[str]]:
    """The kernel's table of TCP sockets: column 1 is the own address, 3 the state, 4 what waits, 9 the inode."""
    return [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]


def port_of(pid: int) -> int:
    """The TCP port on which a process listens."""
    sockets = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            sockets.add(os.readlink(each))
    (port,) = {
        int(each[1].split(":")[1], 16) for each in connections() if each[3] == "0A" and f"socket:[{each[9]}]" in sockets
    }
    return port


def has_unread(port: int) -> bool:
    """Whether something was sent to a port that nobody has read yet."""
    established = [each for each in connections() if each[3] == "01" and int(each[1].split(":")[1], 16) == port]
    return any(int(each[4].split(":")[1], 16) for each in established)


def test_it_answers_nobody_but_the_workspace(own: RunningWorkspace) -> None:
    mlflow.MlflowClient("databricks").create_experiment("/Shared/mine")
    (process,) = tracking_processes(own)
    url = f"http://127.0.0.1:{port_of(process)}/api/2.0/mlflow/experiments/get-by-name?experiment_name=/Shared/mine"
    for headers in ({}, {"x-tracking-key": "guess"}, {"Authorization": f"Bearer {own.token}"}):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10)
        with refused.value:
            assert (refused.value.code, refused.value.read()) == (401, b"")


def test_when_it_is_killed_the_next_request_finds_another_and_nothing_is_lost(own: RunningWorkspace) -> None:
    client = mlflow.MlflowClient("databricks")
    experiment = client.create_experiment("/Shared/mine")
    run = client.create_run(experiment).info.run_id
    (process,) = tracking_processes(own)
    os.kill(process, signal.SIGKILL)
    wait_for(lambda: not is_running(process))
    client.log_metric(run, "accuracy", 0.5)
    assert client.get_run(run).data.metrics == {"accuracy": 0.5}
    assert tracking_processes(own) - {process}
    assert "Traceback" not in own.log()


def test_what_is_sent_arrives_as_it_was_sent_but_for_the_token(own: RunningWorkspace) -> None:
    experiment = mlflow.MlflowClient("databricks").create_experiment("/Shared/a+b %2B;ü")
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {own.token}"
        session.headers["x-tracking-key"] = "my own"
        base = f"{own.url}/api/2.0/mlflow"
        found = session.get(
            f"{base}/experiments/get-by-name", params={"experiment_name": "/Shared/a+b %2B;ü"}, timeout=60
        )
        assert found.json()["experiment"]["experiment_id"] == experiment
        assert session.head(f"{base}/experiments/get", params={"experiment_id": experiment}, timeout=60).content == b""
        # Some megabytes, in chunks, as clients send them that do not know how long it will be.
        tags = [{"key": f"long {number}", "value": "x" * 7000} for number in range(400)]
        body = json.dumps({"experiment_id": experiment, "tags": tags}).encode()
        chunks = (body[start : start + 65_536] for start in range(0, len(body), 65_536))
        made = session.post(
            f"{base}/runs/create", data=chunks, headers={"Content-Type": "application/json"}, timeout=60
        )
        assert made.status_code == 200, made.text
        kept = {tag["key"]: tag["value"] for tag in made.json()["run"]["data"]["tags"]}
        assert {tag["key"]: tag["value"] for tag in tags}.items() <= kept.items()


def test_a_stop_or_a_kill_while_the_store_is_being_made_leaves_a_folder_that_can_be_used(tmp_path: Path) -> None:
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        running = RunningWorkspace(tmp_path)
        wait_for(lambda: [*(tmp_path / "data").glob("mlflow.*")])
        running.process.send_signal(number)
        running.process.wait(timeout=60)
    running = RunningWorkspace(tmp_path)
    try:
        url, headers = f"{running.url}/api/2.0/mlflow/experiments/get", {"Authorization": f"Bearer {running.token}"}
        answer = requests.get(url, params={"experiment_id": "0"}, headers=headers, timeout=60)
        assert answer.status_code == 200, running.log()
        assert [path.name for path in running.data_dir.glob("mlflow.*")] == ["mlflow.db"]
    finally:
        running.stop()


def test_where_it_cannot_be_started_a_request_is_told_so_and_the_log_says_why(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with closing(sqlite3.connect(tmp_path / "data" / "mlflow.db")) as database:
        database.execute("CREATE TABLE experiments (what TEXT)")  # nothing that mlflow could migrate
    running = RunningWorkspace(tmp_path)
    try:
        url, headers = f"{running.url}/api/2.0/mlflow/experiments/get", {"Authorization": f"Bearer {running.token}"}
        answer = requests.get(url, params={"experiment_id": "0"}, headers=headers, timeout=60)
        assert (answer.status_code, answer.json()["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE")
        assert "cannot be started; the log" in answer.json()["message"]
        assert "mlflow's tracking server does not start: it ended with code 1" in running.log()
    finally:
        running.stop()


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("POST", 503)])
def test_a_request_in_which_it_ends_is_asked_again_where_that_does_no_harm(
    own: RunningWorkspace, method: str, status: int
) -> None:
    mlflow.MlflowClient("databricks").create_experiment("/Shared/mine")
    (process,) = tracking_processes(own)
    route = {"GET": "get-by-name?experiment_name=/Shared/mine", "POST": "create"}[method]
    body = {"name": "/Shared/another"} if method == "POST" else None

    def ask() -> requests.Response:
        url, headers = f"{own.url}/api/2.0/mlflow/experiments/{route}", {"Authorization": f"Bearer {own.token}"}
        return requests.request(method, url, json=body, headers=headers, timeout=30)

    port = port_of(process)
    os.kill(process, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        wait_for(lambda: has_unread(port))
        os.kill(process, signal.SIGKILL)
        answer = asked.result()
    assert answer.status_code == status, answer.text
    assert (answer.json().get("error_code") == "TEMPORARILY_UNAVAILABLE") == (status == 503)
    assert ask().status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_does_not_outlive_the_workspace(own: RunningWorkspace, number: signal.Signals) -> None:
    mlflow.MlflowClient("databricks").create_experiment("/Shared/mine")
    (process,) = tracking_processes(own)
    own.process.send_signal(number)
    own.process.wait(timeout=60)
    wait_for(lambda: not is_running(process))
