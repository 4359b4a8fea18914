"""The other Pythons that the package is for: the lock installs, the gate decides, a model is released."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.package.conftest import LOCK, ROOT, SECONDS, UV, Environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3 * SECONDS)]

PYTHONS = [version for version in ("3.11", "3.12", "3.13") if version != f"{sys.version_info[0]}.{sys.version_info[1]}"]
QUICK = (
    "tests/gate/test_decision.py",
    "tests/gate/test_evidence.py",
    "tests/pipeline/test_definitions.py",
    "tests/pipeline/test_yaml_mistakes.py",
)
RELEASE = "tests/pipeline/test_whole_releases.py::test_a_release_from_log_to_alias[table_model]"


def interpreter(version: str) -> str | None:
    """One that uv finds; or one of pyenv's, whose commands on the path run only the version that it is set to."""
    managed = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions").glob(f"{version}.*/bin/python")
    find = [UV, "python", "find", "--no-python-downloads"]
    for asked in (version, *map(str, managed)):
        found = subprocess.run([*find, asked], capture_output=True, text=True, timeout=SECONDS)
        if found.returncode == 0:
            return found.stdout.strip()
    return None


@pytest.mark.parametrize("version", PYTHONS)
def test_another_python_passes_the_heart_of_the_suite(
    version: str, make_environment: Callable[..., Environment]
) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"there is no Python {version} on this machine")
    environment = make_environment(python, "--no-deps", "--require-hashes", "--requirements", str(LOCK))
    environment.install("--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    assert f"Python {version}." in environment.run("python", "--version", cwd=ROOT)

    pytest_ = ("python", "-m", "pytest", "-p", "no:cacheprovider")
    assert " passed" in environment.run(*pytest_, "-v", "-m", "not slow", *QUICK, cwd=ROOT)
    assert "1 passed" in environment.run(*pytest_, "-v", RELEASE, cwd=ROOT)
