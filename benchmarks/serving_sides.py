"""The servers that `benchmarks.serving` compares: each started as its users start it, and stopped for good."""

import contextlib
import json
import os
import resource
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.service.serving import (
    AiGatewayConfig,
    AiGatewayInferenceTableConfig,
    EndpointCoreConfigInput,
    ServedEntityInput,
)

from release_pipeline.local_workspace.serving.worker_protocol import WorkerOrder

PATIENCE_SECONDS = 120.0
POLL_SECONDS = 0.01
ROOT = Path(__file__).parents[1]


class Server:
    """A process, with everything that it started."""

    def __init__(self, command: list[str], log: Path, environment: Mapping[str, str], order: str = "") -> None:
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=dict(environment),
                cwd=log.parent,
                start_new_session=True,
            )
        if order:
            assert self._process.stdin is not None
            self._process.stdin.write(order.encode() + b"\n")
            self._process.stdin.flush()

    def until(self, ready: Callable[[], bool]) -> None:
        """Wait until it is ready.

        Raises:
            RuntimeError: It ended or was not ready in time; the last lines of its log are in the message.
        """
        give_up = time.monotonic() + PATIENCE_SECONDS
        while not ready():
            if self._process.poll() is not None or time.monotonic() > give_up:
                last = self._log.read_text(errors="replace").splitlines()[-5:]
                raise RuntimeError("\n".join(["The server did not start:", *last]))
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """End it and what it started."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def memory_mb(self, containing: str = "") -> float:
        """Memory of the process and its descendants whose command holds a text, in MB (10^6 bytes); Linux only.

        Of pages that processes share, each counts for its part (PSS): their sum is what the machine gives.
        """
        return sum(_shared_out_kib(row[0]) for row in self._family() if containing in row[2]) * 1024 / 1e6

    def cpu_seconds(self, containing: str = "") -> float:
        """Processor time so far of the same processes, to a hundredth of a second; Linux only."""
        ticks = 0
        for pid, *_, command in self._family():
            if containing in command:
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def _family(self) -> list[list[str]]:
        """Process id, parent and command of the process and its descendants."""
        listing = subprocess.run(["ps", "-axo", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
        rows = [line.split(maxsplit=2) for line in listing.stdout.splitlines()]
        family, before = {str(self._process.pid)}, 0
        while len(family) > before:
            before = len(family)
            family |= {row[0] for row in rows if row[1] in family}
        return [row for row in rows if row[0] in family]


def _shared_out_kib(pid: str) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def machine_busy_seconds() -> float:
    """Processor time of everything on the machine so far, waiting left out; Linux only."""
    user, nice, system, _, _, interrupts, soft, *_ = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
    return (user + nice + system + interrupts + soft) / os.sysconf("SC_CLK_TCK")


def client_seconds() -> float:
    """Processor time so far of this process and of those that it waited for, which the load clients are."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in usage)


def answers(session: requests.Session, url: str, headers: Mapping[str, str], body: str, expect: str) -> bool:
    """Whether a request gets the answer that it should."""
    try:
        answer = session.post(url, data=body, headers=dict(headers), timeout=60)
    except requests.ConnectionError:
        return False
    return answer.status_code == 200 and expect in answer.text


def start_workspace(folder: Path) -> tuple[Server, str, str]:
    """The local workspace with its address and its token, once it answers."""
    port, token_file = free_port(), folder / "token"
    command = [sys.executable, "-m", "release_pipeline.local_workspace", "--port", str(port)]
    command += ["--data", str(folder / "data"), "--token-file", str(token_file)]
    server = Server(command, folder / "workspace.log", _environment())
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        try:
            return requests.get(f"{url}/.well-known/databricks-config", timeout=10).status_code == 200
        except requests.ConnectionError:
            return False

    server.until(ready)
    return server, url, token_file.read_text().strip()


def act_on(url: str, token: str, folder: Path) -> None:
    """Let this process, and those that it starts, be a user of a workspace, and of nothing else."""
    os.environ.update(DATABRICKS_HOST=url, DATABRICKS_TOKEN=token, MLFLOW_DISABLE_TELEMETRY="true")
    os.environ.update(MLFLOW_TRACKING_URI="databricks", MLFLOW_REGISTRY_URI="databricks-uc")
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ["DATABRICKS_CONFIG_FILE"] = str(folder / "none")  # no profile of the user's own


def start_mlflow(model: Path, folder: Path, *, traced: bool) -> tuple[Server, str]:
    """``mlflow models serve`` of a logged model, and where it answers once it does."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(model)]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    environment = _environment(MLFLOW_TRACKING_URI=f"sqlite:///{folder / 'mlflow.db'}")
    if not traced:
        # mlflow has no setting of its own for a server; its spans are OpenTelemetry's.
        environment["OTEL_SDK_DISABLED"] = "true"
    server = Server(command, folder / "mlflow.log", environment)
    return server, f"http://127.0.0.1:{port}/invocations"


def start_worker(model: Path, folder: Path, url: str, token: str, *, traced: bool) -> tuple[Server, str, str]:
    """A scoring process of the local workspace without the workspace in front: server, address and key."""
    report, key = folder / f"worker-{secrets.token_hex(4)}.report", secrets.token_urlsafe(24)
    order = WorkerOrder(str(model), str(report), key, "direct", "direct", "direct", "1", traced)
    environment = _environment(
        DATABRICKS_HOST=url, DATABRICKS_TOKEN=token, MLFLOW_TRACKING_URI="databricks", MLFLOW_EXPERIMENT_ID="0"
    )
    command = [sys.executable, "-m", "release_pipeline.local_workspace.serving.worker"]
    server = Server(command, folder / "worker.log", environment, json.dumps(asdict(order)))
    server.until(report.exists)
    return server, f"http://127.0.0.1:{json.loads(report.read_text())['port']}/invocations", key


def create_endpoint(client: WorkspaceClient, name: str, model: str, *, traced: bool) -> None:
    """Ask for an endpoint that serves version 1 of a model and keeps an inference table; does not wait."""
    table = AiGatewayInferenceTableConfig(
        catalog_name="main", schema_name="default", table_name_prefix=name.replace("-", "_"), enabled=True
    )
    entity = ServedEntityInput(
        name="only",
        entity_name=model,
        entity_version="1",
        workload_size="Small",
        scale_to_zero_enabled=False,
        environment_vars={"ENABLE_MLFLOW_TRACING": "true"} if traced else None,
    )
    client.serving_endpoints.create(
        name,
        config=EndpointCoreConfigInput(name=name, served_entities=[entity]),
        ai_gateway=AiGatewayConfig(inference_table_config=table),
    )


def rows_logged(client: WorkspaceClient, endpoint: str) -> int:
    """Rows of the endpoint's inference table."""
    warehouse = next(iter(client.warehouses.list())).id
    statement = f"SELECT count(*) FROM main.default.{endpoint.replace('-', '_')}_payload"
    answer = client.statement_execution.execute_statement(statement, str(warehouse))
    assert answer.result is not None
    assert answer.result.data_array is not None
    return int(answer.result.data_array[0][0])


def _environment(**more: str) -> dict[str, str]:
    own = ("DATABRICKS_", "MLFLOW_", "_MLFLOW_", "OTEL_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    tools = Path(sys.executable).parent
    environment["PATH"] = os.pathsep.join([str(tools), environment.get("PATH", "")])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH", "")]))
    return environment | {"MLFLOW_DISABLE_TELEMETRY": "true"} | more
