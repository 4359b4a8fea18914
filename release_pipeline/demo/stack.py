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
from urllib.error import URLError
from urllib.request import urlopen

from release_pipeline.errors import NotConfigured, WorkspaceUnreachable
from release_pipeline.operate.doctor import SETTINGS
from release_pipeline.operate.spec_files import is_dagster_project

START_SECONDS = 180.0
STOP_SECONDS = 15.0


@dataclass
class Stack:
    """A running local workspace and Dagster.

    Attributes:
        project: The folder with ``workspace.yaml``, and with a ``dagster.yaml`` where it is not to be this package's.
        data: Absolute folder for everything that is written; ignored by git.
        ui_port: Port of Dagster's UI, on loopback.
        workspace_port: Port of the local workspace, on loopback.
        echo: Whether Dagster's own log goes to the terminal instead of a file.
        module: The code location where the folder has none of its own; empty: it must have one.
    """

    project: Path
    data: Path
    ui_port: int
    workspace_port: int
    echo: bool = False
    module: str = ""
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
            NotConfigured: The folder is not a project, or a port is taken.
            WorkspaceUnreachable: A process ended or did not answer in time.
        """
        dagster = self._dagster()
        for port, option in ((self.ui_port, "--ui-port"), (self.workspace_port, "--workspace-port")):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    raise NotConfigured(f"port {port} is taken; stop what uses it or choose another with {option}.")
        home = self.data / "dagster"
        home.mkdir(parents=True, exist_ok=True)
        own = self.project / "dagster.yaml"
        shutil.copy(own if own.exists() else SETTINGS, home / "dagster.yaml")
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
        for name in ("DATABRICKS_CONFIG_PROFILE", "DATABRICKS_WAREHOUSE_ID"):
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
            [str(tools / dagster[0]), *dagster[1:], "--host", "127.0.0.1", "--port", str(self.ui_port)],
        )
        self._wait(f"{self.host}/.well-known/databricks-config")
        self._wait(f"{self.ui_url}/server_info")

    def _dagster(self) -> list[str]:
        """The command that starts Dagster over the folder's code location.

        Raises:
            NotConfigured: There is none.
        """
        if (self.project / "workspace.yaml").exists():
            return ["dagster", "dev", "-w", str(self.project / "workspace.yaml")]
        if self.module:
            return ["dagster", "dev", "-m", self.module]
        if not is_dagster_project(self.project):
            raise NotConfigured(
                f"{self.project} has no workspace.yaml and is no project of create-dagster; run this in the project's "
                "folder."
            )
        if not (Path(sys.prefix) / "bin" / "dg").exists():
            raise NotConfigured("Dagster's command dg is not installed here; install dagster-dg-cli.")
        return ["dg", "dev"]

    def check(self) -> None:
        """Raise where a process has ended.

        Raises:
            WorkspaceUnreachable: Says which, and where its log is.
        """
        for name, process in self._processes:
            if process.poll() is not None:
                raise WorkspaceUnreachable(
                    f"{name} ended with exit code {process.returncode}; see {self.data / f'{name}.log'}."
                )

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
        log = None if self.echo and name == "dagster" else (self.data / f"{name}.log").open("wb")
        try:
            # A session of its own, so that a stop reaches the grandchildren, too.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.project, start_new_session=True
            )
        finally:
            if log is not None:
                log.close()
        self._processes.append((name, process))

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
