"""The processes of `dev` and `demo`: the local workspace and Dagster, started together and stopped together."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.error import URLError
from urllib.request import urlopen

from release_pipeline.errors import NotConfigured, WorkspaceUnreachable

#: What a stack sets itself, or takes away, begins so.
_OWN: Final = ("DATABRICKS_HOST", "DATABRICKS_TOKEN", "DAGSTER_HOME", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
_NOT_FROM_OUTSIDE: Final = ("DATABRICKS_CONFIG_PROFILE", "DATABRICKS_WAREHOUSE_ID")
START_SECONDS = 180.0
STOP_SECONDS = 15.0


def need_free_ports(ui_port: int, workspace_port: int) -> None:
    """Nothing where both ports of a stack are free.

    Raises:
        NotConfigured: One is taken.
    """
    for port, option in ((ui_port, "--ui-port"), (workspace_port, "--workspace-port")):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                raise NotConfigured(f"port {port} is taken; stop what uses it or choose another with {option}.")


@dataclass
class Stack:
    """A running local workspace and Dagster.

    Attributes:
        project: The folder that both run in.
        data: Absolute folder for everything that is written; it tells git to ignore it.
        ui_port: Port of Dagster's UI, on loopback.
        workspace_port: Port of the local workspace, on loopback.
        locations: Dagster's ``workspace.yaml``.
        settings: Dagster's ``dagster.yaml``.
        echo: Whether Dagster's own log goes to stderr instead of a file.
    """

    project: Path
    data: Path
    ui_port: int
    workspace_port: int
    locations: Path
    settings: Path
    echo: bool = False
    _processes: list[tuple[str, subprocess.Popen[bytes]]] = field(default_factory=list)

    @property
    def ui_url(self) -> str:
        """Address of Dagster's UI."""
        return f"http://127.0.0.1:{self.ui_port}"

    @property
    def host(self) -> str:
        """Address of the local workspace, as in ``DATABRICKS_HOST``."""
        return f"http://127.0.0.1:{self.workspace_port}"

    @property
    def token_file(self) -> Path:
        """The file that holds the token; only its owner may read it."""
        return self.data / "token"

    def start(self, say: Callable[[str], None]) -> None:
        """Start both, wait until both answer, and export the workspace's address to this process.

        Raises:
            NotConfigured: A port is taken, or the folder has settings that would count for more.
            WorkspaceUnreachable: A process ended or did not answer in time.
        """
        need_free_ports(self.ui_port, self.workspace_port)
        self._need_no_other_workspace()
        home = self.data / "dagster"
        home.mkdir(parents=True, exist_ok=True)
        (self.data / ".gitignore").write_text("*\n")
        shutil.copy(self.settings, home / "dagster.yaml")
        if not self.token_file.exists():
            self.token_file.touch(mode=0o600)
            self.token_file.write_text(secrets.token_urlsafe(32))
        # sys.prefix and not the resolved interpreter: the environment's own tools come first.
        tools = Path(sys.prefix) / "bin"
        os.environ.update(
            DATABRICKS_HOST=self.host,
            DATABRICKS_TOKEN=self.token_file.read_text().strip(),
            DAGSTER_HOME=str(home),
            MLFLOW_TRACKING_URI="databricks",
            MLFLOW_REGISTRY_URI="databricks-uc",
            MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false",
            MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT="true",
            MLFLOW_DISABLE_TELEMETRY="true",
            PATH=f"{tools}{os.pathsep}{os.environ.get('PATH', '')}",
        )
        for name in _NOT_FROM_OUTSIDE:
            os.environ.pop(name, None)
        say(f"starting the local workspace on {self.host}")
        self._run(
            "workspace",
            [
                *(sys.executable, "-m", "release_pipeline.local_workspace", "--port", str(self.workspace_port)),
                *("--data", str(self.data / "workspace"), "--token-file", str(self.token_file)),
            ],
        )
        say(f"starting Dagster on {self.ui_url}")
        self._run(
            "dagster",
            [
                *(str(tools / "dagster"), "dev", "-w", str(self.locations)),
                *("--host", "127.0.0.1", "--port", str(self.ui_port)),
            ],
        )
        self._wait(f"{self.host}/.well-known/databricks-config")
        self._wait(f"{self.ui_url}/server_info")

    def _need_no_other_workspace(self) -> None:
        """Dagster puts the ``.env`` of its folder above all variables: releases would go where that says."""
        from dotenv import dotenv_values

        file = self.project / ".env"
        named = [name for name in dotenv_values(file) if name.startswith(_OWN) or name in _NOT_FROM_OUTSIDE]
        if named:
            raise NotConfigured(
                f"{file} names {', '.join(named)}, and Dagster puts that file above all else, so releases would not go "
                "to the workspace that is started here; rename it meanwhile, or take them out."
            )

    def check(self) -> None:
        """Raise where a process has ended.

        Raises:
            WorkspaceUnreachable: Says which, and where its log is.
        """
        for name, process in self._processes:
            if process.poll() is not None:
                where = "what it said above" if self._echoes(name) else self.data / f"{name}.log"
                raise WorkspaceUnreachable(f"{name} ended with exit code {process.returncode}; see {where}.")

    def stop(self) -> None:
        """Stop all processes and what they started; nothing is left running."""
        for _, process in reversed(self._processes):
            _signal(process, signal.SIGINT)
        deadline = time.monotonic() + STOP_SECONDS
        for _, process in reversed(self._processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
            _signal(process, signal.SIGKILL)
            process.wait()
        self._processes.clear()

    def _run(self, name: str, command: list[str]) -> None:
        log = sys.stderr.fileno() if self._echoes(name) else (self.data / f"{name}.log").open("wb")
        try:
            # A session of its own, so that a stop reaches the grandchildren, too.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.project, start_new_session=True
            )
        finally:
            if not isinstance(log, int):
                log.close()
        self._processes.append((name, process))

    def _echoes(self, name: str) -> bool:
        return self.echo and name == "dagster"

    def _wait(self, url: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            self.check()
            try:
                with urlopen(url, timeout=5):
                    return
            except (URLError, OSError):
                if time.monotonic() > deadline:
                    raise WorkspaceUnreachable(
                        f"{url} did not answer within {START_SECONDS:.0f} s; see the logs in {self.data}."
                    ) from None
                time.sleep(0.2)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return
