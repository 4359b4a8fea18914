"""Fixtures: the built package, and environments that have nothing but it and what it needs."""

import os
import re
import signal
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements.lock"
#: Long enough for a loaded machine and an empty cache; nothing is measured against it.
SECONDS = 600
UV = str(Path(sys.executable).parent / "uv")


@dataclass(frozen=True)
class Built:
    """The package as others get it; the wheel is built from the source distribution."""

    sdist: Path
    wheel: Path


@dataclass(frozen=True)
class Environment:
    """A virtual environment, and the variables that a shell has in which it is active."""

    folder: Path
    variables: dict[str, str]

    def run(self, *command: str, cwd: Path, fails: bool = False, errors: bool = True) -> str:
        """What a command prints, with or without its errors; it must end well, or badly where ``fails`` says so."""
        done = subprocess.run(
            [str(self.folder / "bin" / command[0]), *command[1:]],
            cwd=cwd,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        printed = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, f"{command} ended with {done.returncode}:\n{printed}"
        return printed if errors else done.stdout

    def install(self, *packages: str) -> None:
        """Install packages and what they need, at the lock's versions."""
        _done([UV, "pip", "install", "--quiet", "--constraint", str(LOCK), *packages], self.variables)

    @contextmanager
    def running(self, *command: str, cwd: Path, answers_at: str, out: Path | None = None) -> Iterator[None]:
        """A command that goes on until Ctrl-C, and answers at a URL; it must then end, with all that it started.

        What it prints goes to a file of its name; to ``out``, where that is given, what is no error.
        """
        log = cwd / f"{command[0]}.log"
        with log.open("w") as errors, (out or Path(os.devnull)).open("w") as answers:
            process = subprocess.Popen(
                [str(self.folder / "bin" / command[0]), *command[1:]],
                cwd=cwd,
                env=self.variables,
                stdin=subprocess.DEVNULL,
                stdout=answers if out else errors,
                stderr=errors,
                start_new_session=True,
            )
        try:
            _wait_for(answers_at, process, log)
            yield
            _interrupt(process, is_dagster=command[0] == "dg")
            _wait_for_the_end_of(process.pid)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _interrupt(process: "subprocess.Popen[bytes]", *, is_dagster: bool) -> None:
    """Press Ctrl-C, which ends it.

    On a loaded machine the processes of ``dg dev`` sometimes wait for each other for ever: there it is pressed again,
    and then they are ended as a person would.
    """
    for _ in range(2 if is_dagster else 1):
        os.killpg(process.pid, signal.SIGINT)  # to all of them, as a terminal does
        with suppress(subprocess.TimeoutExpired):
            process.wait(45)
            return
    assert is_dagster, "Ctrl-C did not end it"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _done(command: list[str], variables: dict[str, str]) -> None:
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, f"{command}:\n{done.stderr}"


def _wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    give_up = time.monotonic() + SECONDS
    while process.poll() is None and time.monotonic() < give_up:
        try:
            with urllib.request.urlopen(url, timeout=10):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"nothing answers at {url}:\n{log.read_text()}")


def _wait_for_the_end_of(group: int) -> None:
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.2)
    raise AssertionError("Ctrl-C left processes running")


def locked(package: str) -> str:
    """The version of a package in the lock."""
    found = re.search(rf"^{package}==(\S+)", LOCK.read_text(), re.MULTILINE)
    assert found, f"{package} is not in {LOCK}"
    return found[1]


def _hatchling(folder: Path, target: str, dist: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(dist)],
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=SECONDS,
    )
    (made,) = dist.glob("*.tar.gz" if target == "sdist" else "*.whl")
    return made


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The source distribution, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("built")
    sdist = _hatchling(ROOT, "sdist", folder)
    with tarfile.open(sdist) as packed:
        packed.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return Built(sdist, _hatchling(unpacked, "wheel", folder))


@pytest.fixture(scope="session")
def make_environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Environment]:
    """Makes an environment with an interpreter, of packages at the lock's versions, and of nothing else."""

    def make(python: str, *packages: str) -> Environment:
        folder = tmp_path_factory.mktemp("environment") / "venv"
        own = ("DATABRICKS_", "MLFLOW_", "_MLFLOW_", "DAGSTER_", "PYTEST_", "PYTHON", "VIRTUAL_ENV")
        variables = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        variables |= {
            "VIRTUAL_ENV": str(folder),
            "PATH": f"{folder / 'bin'}{os.pathsep}{variables['PATH']}",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        _done([UV, "venv", "--quiet", "--python", python, str(folder)], variables)
        made = Environment(folder, variables)
        made.install(*packages)
        return made

    return make
