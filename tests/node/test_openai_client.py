"""The OpenAI client of Node, from npm, against the local workspace."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import RunningWorkspace
from tests.served_models import ECHO, endpoints

FOLDER = Path(__file__).parent


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the client as the lock file has it."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("there is no Node with npm here; Debian's packages are nodejs and npm")
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "package-lock.json", "stream.mjs"):
        shutil.copy(FOLDER / name, folder)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=110, check=False)
    assert ended.returncode == 0, ended.stderr
    return folder


@pytest.fixture(scope="module")
def served(workspace: RunningWorkspace) -> Iterator[Callable[[str], str]]:
    """Endpoints of this module."""
    with endpoints() as found:
        yield found


@pytest.mark.slow
def test_it_streams_and_reads_errors(installed: Path, served: Callable[[str], str], tmp_path: Path) -> None:
    gate = tmp_path / "go-on"
    node = shutil.which("node") or "node"
    ended = subprocess.run(
        [node, "stream.mjs", served(ECHO), str(gate)],
        cwd=installed,
        env={**os.environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout)
    assert said["deltas"] == ["echo:", " one", f" {gate}", " two"]
    assert said["done"] == f"echo: one {gate} two"
    assert (said["text"], said["outputs"]) == ("echo: hello", {"session": "s1"})
    assert said["error"]["error_code"] == "BAD_REQUEST"
    assert said["missing"] == ["NotFoundError", 404]


def test_the_lock_file_names_no_registry() -> None:
    lock = json.loads((FOLDER / "package-lock.json").read_text(encoding="utf-8"))
    packages = {name: each for name, each in lock["packages"].items() if name}
    assert packages
    assert all("integrity" in each and "resolved" not in each for each in packages.values())
