"""A scoring process alone: who may ask it, and when it ends."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import requests

from release_pipeline.local_workspace.serving.worker_protocol import WorkerOrder, WorkerReport
from tests.conftest import RunningWorkspace
from tests.local_workspace.conftest import AGENT, BAD, said, say, wait_for


class Worker:
    """A scoring process that this test started in place of the supervisor."""

    def __init__(self, workspace: RunningWorkspace, folder: Path, model: str) -> None:
        path = workspace.data_dir / "files" / "Models" / Path(*model.split(".")) / "1"
        order = WorkerOrder(str(path), str(folder / "report"), "the-key", "endpoint", "entity", model, "1", False)
        command = [sys.executable, "-m", "release_pipeline.local_workspace.serving.worker"]
        with (folder / "log").open("wb") as log:
            environment = {"PATH": "/usr/bin:/bin", "DATABRICKS_TOKEN": workspace.token}
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment)
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asdict(order)).encode() + b"\n")
        self.process.stdin.flush()
        wait_for((folder / "report").exists)
        self.report = WorkerReport(**json.loads((folder / "report").read_text()))
        self.url = f"http://127.0.0.1:{self.report.port}/invocations"

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()


@pytest.fixture
def worker(workspace: RunningWorkspace, models: None, tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(workspace, tmp_path, AGENT)
    yield worker
    worker.end()


def test_only_the_key_opens_it_and_the_end_of_its_server_ends_it(worker: Worker) -> None:
    body = say("hello")
    assert said(requests.post(worker.url, json=body, headers={"x-worker-key": "the-key"}, timeout=60).json())
    for headers in ({}, {"x-worker-key": "another"}):
        refused = requests.post(worker.url, json=body, headers=headers, timeout=60)
        assert (refused.status_code, refused.text) == (401, "{}")
    assert worker.process.stdin is not None
    worker.process.stdin.close()
    assert worker.process.wait(timeout=60) == 0


def test_a_model_that_does_not_load_is_reported_in_one_line(
    workspace: RunningWorkspace, models: None, tmp_path: Path
) -> None:
    worker = Worker(workspace, tmp_path, BAD)
    assert worker.report == WorkerReport(0, "RuntimeError: the weights are missing")
    assert worker.process.wait(timeout=60) == 1
    worker.end()


def test_importing_the_supervisor_loads_no_mlflow() -> None:
    code = "import sys, release_pipeline.local_workspace.serving.endpoints; print('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.strip() == b"False"
