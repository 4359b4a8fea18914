"""Starts a scoring process, watches it, starts it again when it dies, and stops it when nothing is in flight."""

import asyncio
import json
import logging
import os
import secrets
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from release_pipeline.local_workspace.serving.configuration import ServedEntity
from release_pipeline.local_workspace.serving.worker_protocol import WorkerOrder, WorkerReport
from release_pipeline.local_workspace.settings import Settings

logger = logging.getLogger(__name__)

CREATING = "DEPLOYMENT_CREATING"
READY = "DEPLOYMENT_READY"
FAILED = "DEPLOYMENT_FAILED"
RECOVERING = "DEPLOYMENT_RECOVERING"
ABORTED = "DEPLOYMENT_ABORTED"

LOAD_SECONDS = 900.0
"""Longest time that a model may take to load."""
DRAIN_SECONDS = 300.0
"""Longest time that requests in flight are waited for before a process is stopped."""
FIRST_BACKOFF_SECONDS, LAST_BACKOFF_SECONDS = 0.5, 30.0
STABLE_SECONDS = 60.0
"""A process that ran for this long starts again after the first back-off, not after a longer one."""
POLL_SECONDS = 0.02

# What a scoring process inherits; credentials of whoever started the server are not among it.
INHERITED = frozenset(
    {"PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "LD_LIBRARY_PATH"}
    | {"PYTHONPATH", "VIRTUAL_ENV", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"}
    | {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"}
)


class ScoringProcess:
    """The scoring process of one served entity, over all its restarts.

    Attributes:
        state: The API's deployment state of the entity.
        message: Why, when the state is not ready.
        in_flight: Requests that were routed here and are not answered to the end; the router counts it.
    """

    def __init__(self, settings: Settings, endpoint: str, entity: ServedEntity, model_path: Path) -> None:
        self.entity = entity
        self.state = CREATING
        self.message = ""
        self.in_flight = 0
        self.url = ""
        self.key = secrets.token_urlsafe(24)
        self._settings = settings
        self._endpoint = endpoint
        self._model_path = model_path
        folder = log_folder(settings.data_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self._log_path = folder / f"{entity.id}.log"
        self._build_log_path = folder / f"{entity.id}.build.log"
        self._report_path = folder / f"{entity.id}.report"
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._settled = asyncio.Event()

    def start(self, *, recovering: bool = False) -> None:
        """Begin in the background. ``recovering``: it served before, so a failure is retried and not final."""
        if recovering:
            self.state = RECOVERING
        self._task = asyncio.create_task(self._run(recovering))

    @property
    def started(self) -> bool:
        """Whether it was begun, and not stopped since."""
        return self._task is not None

    def go_on_as(self, entity: ServedEntity) -> None:
        """Serve for another creation of the same entity, whose name and settings are equal; its logs move along."""
        self.entity = entity
        paths = []
        for path in (self._log_path, self._build_log_path, self._report_path):
            moved = path.with_name(path.name.replace(path.name.split(".")[0], entity.id))
            if path.exists():
                path.rename(moved)
            paths.append(moved)
        self._log_path, self._build_log_path, self._report_path = paths

    async def settled(self) -> bool:
        """Wait until the first start ended; whether it ended well."""
        await self._settled.wait()
        return self.state == READY

    async def ready(self, timeout: float) -> bool:
        """Wait until requests can be sent, at most ``timeout`` seconds; whether they can."""
        if self._ready.is_set():
            return True
        try:
            await asyncio.wait_for(self._ready.wait(), timeout)
        except TimeoutError:
            return False
        return True

    async def stop(self, drain_seconds: float = DRAIN_SECONDS) -> None:
        """Wait for the requests in flight, then end the process for good."""
        deadline = asyncio.get_running_loop().time() + drain_seconds
        while self.in_flight and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(POLL_SECONDS)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self._ready.clear()
        await self._end_process()

    async def _run(self, recovering: bool) -> None:
        loop = asyncio.get_running_loop()
        backoff = FIRST_BACKOFF_SECONDS
        while True:
            started = loop.time()
            self.message = await self._launch()
            if not self.message:
                self.state = READY
                self._ready.set()
                self._settled.set()
                assert self._process is not None
                code = await self._process.wait()
                self._ready.clear()
                self.message = f"The scoring process ended with code {code}."
                recovering = True
            await self._end_process()
            self._note(self.message)
            if not recovering:
                self.state = FAILED
                self._settled.set()
                return
            self.state = RECOVERING
            if loop.time() - started > STABLE_SECONDS:
                backoff = FIRST_BACKOFF_SECONDS
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, LAST_BACKOFF_SECONDS)

    async def _launch(self) -> str:
        """Start the process and wait for its report; why it failed, or nothing."""
        entity = self.entity
        self._note(f"Loading {entity.entity_name} version {entity.entity_version}.")
        self._report_path.unlink(missing_ok=True)
        environment = self._environment()
        with self._log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "release_pipeline.local_workspace.serving.worker",
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                # Its own session: an interrupt typed at the server is the server's to handle.
                start_new_session=True,
            )
        order = WorkerOrder(
            model_path=str(self._model_path),
            report_path=str(self._report_path),
            key=self.key,
            endpoint=self._endpoint,
            entity=entity.name,
            model_name=entity.entity_name,
            model_version=entity.entity_version,
            traced=entity.environment_vars.get("ENABLE_MLFLOW_TRACING", "").lower() == "true",
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(order)).encode() + b"\n")
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                while not self._report_path.exists():
                    if self._process.returncode is not None:
                        return f"The scoring process ended with code {self._process.returncode} while loading."
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            return f"The model did not load within {LOAD_SECONDS:.0f} seconds."
        report = WorkerReport(**json.loads(self._report_path.read_text(encoding="utf-8")))
        self._report_path.unlink()
        if report.failure:
            return report.failure
        self.url = f"http://127.0.0.1:{report.port}/invocations"
        self._note("Ready.")
        return ""

    def _environment(self) -> dict[str, str]:
        environment = {name: value for name, value in os.environ.items() if name in INHERITED}
        root = str(Path(__file__).parents[3])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
        environment["PYTHONUNBUFFERED"] = "1"
        # mlflow waits for minutes when a trace has no experiment, so there is always one.
        environment["MLFLOW_EXPERIMENT_ID"] = "0"
        environment["MLFLOW_ASYNC_TRACE_LOGGING_MAX_INTERVAL_MILLIS"] = "500"
        environment["MLFLOW_DISABLE_TELEMETRY"] = "true"
        environment |= self.entity.environment_vars
        return environment | {
            "DATABRICKS_HOST": self._settings.url,
            "DATABRICKS_TOKEN": self._settings.token,
            "MLFLOW_TRACKING_URI": "databricks",
            "MLFLOW_REGISTRY_URI": "databricks-uc",
        }

    async def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 5)
            except TimeoutError:
                process.kill()
                await process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def _note(self, line: str) -> None:
        with self._build_log_path.open("a", encoding="utf-8") as log:
            log.write(f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {line}\n")


def log_folder(data_dir: Path) -> Path:
    """Where the logs of the scoring processes are."""
    return data_dir / "serving" / "logs"


def read_log(data_dir: Path, entity: ServedEntity, *, build: bool, limit: int = 1 << 20) -> str:
    """The last ``limit`` bytes of what an entity's process wrote, or of how it was built."""
    path = log_folder(data_dir) / f"{entity.id}{'.build' if build else ''}.log"
    if not path.exists():
        return ""
    with path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - limit))
        return log.read().decode(errors="replace")


def remove_logs(data_dir: Path, entity: ServedEntity) -> None:
    """Delete the logs of an entity that no configuration mentions any more."""
    for path in log_folder(data_dir).glob(f"{entity.id}.*"):
        path.unlink(missing_ok=True)
