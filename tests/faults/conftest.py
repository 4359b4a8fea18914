"""A workspace that keeps processes warm, and on it one scene for all kinds of faults."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import RunningWorkspace
from tests.faults.scene import Scene

Factory = pytest.TempPathFactory


@pytest.fixture(scope="session")
def warm_workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorkspace]:
    """A workspace of its own, because its clients' settings and its faults are the suite's."""
    running = RunningWorkspace(tmp_path_factory.mktemp("warm"), "--keep-warm-seconds", "600", "--update-seconds", "0.1")
    yield running
    running.stop()


@pytest.fixture
def environment(warm_workspace: RunningWorkspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process speaks with the warm workspace."""
    monkeypatch.setenv("DATABRICKS_HOST", warm_workspace.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", warm_workspace.token)
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "no-databrickscfg"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "databricks-uc")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture(scope="session")
def scenes(warm_workspace: RunningWorkspace) -> Iterator[dict[bool, Scene]]:
    """The scenes so far, by whether they are of a first release."""
    made: dict[bool, Scene] = {}
    yield made
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABRICKS_HOST", warm_workspace.url)
        patch.setenv("DATABRICKS_TOKEN", warm_workspace.token)
        for scene in made.values():
            scene.close()


@pytest.fixture
def scene(
    environment: None, warm_workspace: RunningWorkspace, scenes: dict[bool, Scene], tmp_path_factory: Factory
) -> Iterator[Scene]:
    """Versions 1 and 2 of a model, with users."""
    if False not in scenes:
        scenes[False] = Scene(warm_workspace, tmp_path_factory.mktemp("scene"))
    with scenes[False].watched():
        yield scenes[False]


@pytest.fixture
def first_scene(
    environment: None, warm_workspace: RunningWorkspace, scenes: dict[bool, Scene], tmp_path_factory: Factory
) -> Iterator[Scene]:
    """A model without any release."""
    if True not in scenes:
        scenes[True] = Scene(warm_workspace, tmp_path_factory.mktemp("first"), first=True)
    with scenes[True].watched():
        yield scenes[True]
