"""Fixtures: the real local workspace as a process of its own, and the real clients that speak to it."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from databricks.sdk import WorkspaceClient
from hypothesis import settings

if TYPE_CHECKING:
    from dagster import DagsterInstance

# Long enough for a loaded machine; nothing is measured against it.
_START_SECONDS = 90

# The same examples at every run; HYPOTHESIS_PROFILE=search draws new ones.
settings.register_profile("fixed", derandomize=True)
settings.register_profile("search")
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


def pytest_configure(config: pytest.Config) -> None:
    """Lets pass what mlflow and apprise raise about their own code; every other warning fails its test."""
    config.addinivalue_line("filterwarnings", "ignore:.*Any type hint is inferred as AnyType:UserWarning")
    config.addinivalue_line("filterwarnings", "ignore:'imghdr' is deprecated:DeprecationWarning")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Says how many injected faults the releases survived, where any were injected."""
    from tests.faults.report import points_of, summary

    reports = [report for found in terminalreporter.stats.values() for report in found]
    ended = [report for report in reports if getattr(report, "when", "") == "call"]
    properties = [each for report in ended for each in report.user_properties]
    if points := points_of(properties):
        terminalreporter.write_line(summary(points))


def free_port() -> int:
    """A TCP port of the loopback address that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RunningWorkspace:
    """A local workspace in a process of its own, with its data in a temporary folder."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.data_dir = folder / "data"
        self.log_path = folder / "server.log"
        self.token_path = folder / "token"
        self._options = options
        self.process = self._spawn()
        self.token = self.token_path.read_text().strip()

    def restart(self) -> None:
        """Kills the server, as a power cut would, and starts it again over the same data and port."""
        self.kill()
        self.process = self._spawn()

    def kill(self) -> None:
        """Ends the server at once; it gets no chance to tidy up."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Asks the server to end and waits until it has."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.kill()

    def log(self) -> str:
        """Everything that the server has printed so far."""
        return self.log_path.read_text()

    def _spawn(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "release_pipeline.local_workspace", "--port", str(self.port)]
        command += ["--data", str(self.data_dir), "--token-file", str(self.token_path), *self._options]
        # The variables of the clients under test are not the server's.
        own = ("DATABRICKS_", "MLFLOW_", "_MLFLOW_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        with self.log_path.open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        self._await_ready(process)
        return process

    def _await_ready(self, process: "subprocess.Popen[bytes]") -> None:
        give_up = time.monotonic() + _START_SECONDS
        while process.poll() is None and time.monotonic() < give_up:
            try:
                with urllib.request.urlopen(f"{self.url}/.well-known/databricks-config", timeout=10):
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.05)
        process.kill()
        process.wait()
        raise RuntimeError(f"The local workspace did not start:\n{self.log()}")


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorkspace]:
    """The session's local workspace, with the environment of this process pointing at it."""
    folder = tmp_path_factory.mktemp("workspace")
    running = RunningWorkspace(folder)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("DATABRICKS_", "MLFLOW_"))]:
            patch.delenv(name)
        patch.setenv("DATABRICKS_HOST", running.url)
        patch.setenv("DATABRICKS_TOKEN", running.token)
        # No profile of the developer's own may be found.
        patch.setenv("DATABRICKS_CONFIG_FILE", str(folder / "no-databrickscfg"))
        patch.setenv("MLFLOW_TRACKING_URI", "databricks")
        patch.setenv("MLFLOW_REGISTRY_URI", "databricks-uc")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        yield running
    running.stop()


@pytest.fixture
def instance() -> Iterator["DagsterInstance"]:
    """Dagster's storage in memory, with its temporary folder removed at the end."""
    from dagster import DagsterInstance

    with DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def client(workspace: RunningWorkspace) -> WorkspaceClient:
    """A real SDK client of the session's workspace."""
    return WorkspaceClient()


@pytest.fixture
def set_faults(workspace: RunningWorkspace) -> Iterator[Callable[..., requests.Response]]:
    """Switches the running workspace's faults, and puts back at the end what they were."""
    url, headers = f"{workspace.url}/local/faults", {"Authorization": f"Bearer {workspace.token}"}
    before = requests.get(url, headers=headers, timeout=60).json()

    def change(**values: Any) -> requests.Response:
        return requests.patch(url, json=values, headers=headers, timeout=60)

    yield change
    assert change(**before).status_code == 200
