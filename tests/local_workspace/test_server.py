"""Starting, stopping and killing the server."""

import io
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from databricks.sdk import WorkspaceClient

from release_pipeline.local_workspace.server import CannotServe, ensure_token, serve
from release_pipeline.local_workspace.settings import Settings
from tests.conftest import RunningWorkspace, free_port


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningWorkspace]:
    """A workspace that a test may kill, with the environment pointing at it."""
    running = RunningWorkspace(tmp_path)
    monkeypatch.setenv("DATABRICKS_HOST", running.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", running.token)
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "no-databrickscfg"))
    yield running
    running.stop()


def _start_again(running: RunningWorkspace, port: int, data: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "release_pipeline.local_workspace", "--port", str(port), "--data", str(data)]
    command += ["--token-file", str(running.token_path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_what_was_acknowledged_survives_a_kill(own: RunningWorkspace) -> None:
    tracking = mlflow.MlflowClient("databricks", "databricks-uc")
    experiment = tracking.create_experiment("/Shared/kept")
    run = tracking.create_run(experiment).info.run_id
    tracking.log_metric(run, "accuracy", 0.5)
    tracking.create_registered_model("main.default.kept", tags={"team": "a"})
    files = WorkspaceClient().files
    files.upload("/Volumes/main/default/kept/file", io.BytesIO(b"kept"))

    own.restart()

    assert tracking.get_run(run).data.metrics == {"accuracy": 0.5}
    assert tracking.get_registered_model("main.default.kept").tags == {"team": "a"}
    contents = WorkspaceClient().files.download("/Volumes/main/default/kept/file").contents
    assert contents is not None
    with contents:
        assert contents.read() == b"kept"


def test_a_stop_is_orderly_and_the_log_holds_no_secret(own: RunningWorkspace) -> None:
    WorkspaceClient().current_user.me()
    own.process.send_signal(signal.SIGTERM)
    assert own.process.wait(timeout=60) in (0, -signal.SIGTERM)
    assert "Traceback" not in own.log()
    assert own.token not in own.log()


def test_a_second_server_is_refused_in_one_sentence(own: RunningWorkspace, tmp_path: Path) -> None:
    port_taken = _start_again(own, own.port, tmp_path / "elsewhere")
    assert port_taken.returncode == 2
    assert f"Cannot listen on 127.0.0.1:{own.port}" in port_taken.stderr
    data_taken = _start_again(own, free_port(), own.data_dir)
    assert data_taken.returncode == 2
    assert "Another local workspace uses the data folder" in data_taken.stderr
    for refused in (port_taken, data_taken):
        assert len(refused.stderr.splitlines()) == 1
    assert WorkspaceClient().current_user.me().active


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.1", "::", "example.com", ""])
def test_an_address_that_others_can_reach_must_be_allowed_by_name(tmp_path: Path, host: str) -> None:
    with pytest.raises(CannotServe, match="other machines"):
        serve(Settings(data_dir=tmp_path / "data", token="t", host=host))
    assert not (tmp_path / "data").exists()


def test_a_token_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "token"
    token = ensure_token(path)
    assert len(token) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ensure_token(path) == token != ensure_token(tmp_path / "another")
    path.write_text("\n")
    with pytest.raises(CannotServe, match="empty"):
        ensure_token(path)
