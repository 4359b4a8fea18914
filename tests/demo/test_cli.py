"""The commands' manners: help that explains, sentences for mistakes, exit codes."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.conftest import free_port
from tests.demo.test_demo import COMMAND, project_copy


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(COMMAND), *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def test_workspace_help_explains(tmp_path: Path) -> None:
    help_text = run("workspace", "--help", cwd=tmp_path)
    assert help_text.returncode == 0
    for word in ("DATABRICKS_HOST", "DATABRICKS_TOKEN", "--port", "--data", "--token-file", "loopback"):
        assert word in help_text.stdout


def test_an_address_that_is_not_loopback_is_refused_unless_asked_for_by_name(tmp_path: Path) -> None:
    ended = run("workspace", "--host", "0.0.0.0", "--data", "data", "--token-file", "token", cwd=tmp_path)
    assert ended.returncode == 2
    assert "--allow-remote-clients" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_folder_that_is_no_project_is_a_sentence(tmp_path: Path) -> None:
    ended = run("dev", cwd=tmp_path)
    assert ended.returncode == 2
    assert "has no workspace.yaml and is no project of create-dagster" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("command", ["demo", "dev"])
def test_a_taken_port_is_a_sentence(command: str, tmp_path: Path) -> None:
    project_copy(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = run(command, "--ui-port", str(port), cwd=tmp_path)
    assert ended.returncode == 2
    assert f"port {port} is taken" in ended.stderr
    assert "--ui-port" in ended.stderr


def test_settings_that_would_send_releases_elsewhere_are_refused(tmp_path: Path) -> None:
    project_copy(tmp_path)
    (tmp_path / ".env").write_text("COLOUR=red\nexport DATABRICKS_HOST=https://production\nDATABRICKS_TOKEN=secret-1\n")
    ended = run("dev", "--ui-port", str(free_port()), "--workspace-port", str(free_port()), cwd=tmp_path)
    assert ended.returncode == 2
    assert f"{tmp_path / '.env'} names DATABRICKS_HOST, DATABRICKS_TOKEN, and" in ended.stderr
    assert "secret-1" not in ended.stderr + ended.stdout


def test_start_without_a_running_dagster_is_a_sentence(tmp_path: Path) -> None:
    ended = run("start", "python_docs_agent", "--dagster", "http://127.0.0.1:9", cwd=tmp_path)
    assert ended.returncode == 1
    assert "release-pipeline dev" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_command_line_costs_no_heavy_import() -> None:
    code = "import sys, release_pipeline.cli; print([m for m in ('dagster', 'mlflow', 'duckdb') if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert loaded.stdout.strip() == "[]"


def test_workspace_says_in_json_where_it_is_once_it_listens(tmp_path: Path) -> None:
    port = free_port()
    command = [str(COMMAND), "workspace", "--json", "--port", str(port)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert told == {"host": f"http://127.0.0.1:{port}", "token_file": str(tmp_path / ".data" / "token")}
        with urlopen(f"{told['host']}/.well-known/databricks-config", timeout=30) as answer:
            assert answer.status == 200
        second = run("workspace", "--json", "--port", str(port), "--data", "other", cwd=tmp_path)
        assert (second.returncode, second.stdout) == (2, "")
        process.terminate()
        assert process.wait(30) == 0
