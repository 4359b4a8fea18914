"""A workspace that keeps processes warm, and on it one ground for all histories of this process."""

import sys
import time
from collections.abc import Iterator

import databricks.sdk.config
import pytest

from tests.conftest import RunningWorkspace
from tests.histories.ground import Ground
from tests.histories.wire import Wire
from tests.pipeline.killer import Killer

#: Pauses between looks at an update are so much shorter than written.
HURRY = 20


@pytest.fixture(scope="session")
def warm_workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorkspace]:
    """A workspace of its own, whose processes wait for their next history."""
    running = RunningWorkspace(tmp_path_factory.mktemp("histories"), "--keep-warm-seconds", "3600")
    yield running
    running.stop()


@pytest.fixture
def environment(
    warm_workspace: RunningWorkspace, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process speaks with the warm workspace, and waits for it in a hurry."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(seconds / HURRY))
    # Every one of MLflow's calls would ask again what the host is.
    ask = databricks.sdk.config.get_host_metadata
    known = ask(warm_workspace.url)
    monkeypatch.setattr(databricks.sdk.config, "get_host_metadata", lambda host, **options: known)
    # A module of Databricks' notebooks, for which each of them would look through all folders of packages.
    monkeypatch.setitem(sys.modules, "dbruntime", None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")  # and then through the environment for a proxy
    monkeypatch.setenv("DATABRICKS_HOST", warm_workspace.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", warm_workspace.token)
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path_factory.getbasetemp() / "no-databrickscfg"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "databricks-uc")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture(scope="session")
def grounds() -> list[Ground]:
    """The ground of this process, made when it is first asked for."""
    return []


@pytest.fixture
def ground(environment: None, grounds: list[Ground]) -> Ground:
    """The model of all histories of this process."""
    if not grounds:
        grounds.append(Ground())
    return grounds[0]


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    """What this process sends."""
    return Wire(monkeypatch)


@pytest.fixture
def killer(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> Killer:
    """What ends runs; before the wire, so that what is never sent is not read along."""
    return Killer(monkeypatch)
