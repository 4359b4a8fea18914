"""Starts a scoring process, watches it, starts it again when it dies, and ends it."""

import asyncio
import json
import logging
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from release_pipeline.local_workspace.errors import ApiError
from release_pipeline.local_workspace.serving.entity_logs import EntityLogs
from release_pipeline.local_workspace.serving.model_environments import EnvironmentFailed, Interpreter
from release_pipeline.local_workspace.serving.process_log import ProcessLog
from release_pipeline.local_workspace.serving.worker_environment import WorkerEnvironment
from release_pipeline.local_workspace.serving.worker_process import WorkerProcess, may_fork, start_worker
from release_pipeline.local_workspace.serving.worker_protocol import WorkerOrder, WorkerReport
from release_pipeline.local_workspace.state.endpoint_configuration import ServedEntity

logger = logging.getLogger(__name__)

CREATING = "DEPLOYMENT_CREATING"
READY = "DEPLOYMENT_READY"
FAILED = "DEPLOYMENT_FAILED"
RECOVERING = "DEPLOYMENT_RECOVERING"
ABORTED = "DEPLOYMENT_ABORTED"

LOAD_SECONDS = 900.0
"""Longest time that a model may take to load."""
FIRST_BACKOFF_SECONDS, LAST_BACKOFF_SECONDS = 0.5, 30.0
STABLE_SECONDS = 60.0
"""A process that ran for this long starts again after the first back-off, not after a longer one."""
POLL_SECONDS = 0.02


@dataclass
class Served:
    """What all processes of one served entity are started with.

    Attributes:
        model_path: Folder of the MLmodel file; None for the stand-in of a foundation model.
        environment: Its Python, variables, secrets and credentials.
        threads: How many requests one process answers at a time.
    """

    endpoint: str
    entity: ServedEntity
    model_path: Path | None
    environment: WorkerEnvironment
    logs: EntityLogs
    threads: int


class ScoringProcess:
    """One scoring process of a served entity, over all its restarts.

    Attributes:
        state: The API's deployment state.
        message: Why, when the state is not ready.
        in_flight: Requests that were sent here and are not answered to the end; the router counts it.
        url: Where it answers.
        key: What each request to it must carry.
    """

    def __init__(self, served: Served, number: int) -> None:
        self.state = CREATING
        self.message = ""
        self.in_flight = 0
        self.url = ""
        self.key = secrets.token_urlsafe(24)
        self._served = served
        self._number = number
        self._process: WorkerProcess | None = None
        self._log: ProcessLog | None = None
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
        """Whether it was begun, and not ended since."""
        return self._task is not None

    @property
    def is_ready(self) -> bool:
        """Whether requests can be sent."""
        return self._ready.is_set()

    def token_for(self, user: str) -> str:
        """A token with which the model acts on behalf of a user; empty where it may not."""
        return self._served.environment.token_for(user)

    async def settled(self) -> None:
        """Wait until the first start ended, well or not."""
        await self._settled.wait()

    async def until_ready(self) -> None:
        """Wait until requests can be sent."""
        await self._ready.wait()

    async def end(self) -> None:
        """End the process; `start` begins anew."""
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
            self._served.logs.note(self.message)
            if not recovering:
                self._served.environment.close()
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
        served, entity = self._served, self._served.entity
        served.logs.open()
        report_path = served.logs.report(self._number)
        try:
            python = await served.environment.python(served.logs.note)
            variables, secret_names, redactor = served.environment.variables(entity)
        except (ApiError, EnvironmentFailed) as error:
            return error.message
        served.logs.note(f"Loading {entity.entity_name} version {entity.entity_version}.")
        report_path.unlink(missing_ok=True)
        served.environment.open()
        self._log = ProcessLog(served.logs.runtime, redactor.redact)
        output = await self._log.open()
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                self._process = await self._begin(python, variables, output)
        except TimeoutError:
            return f"The scoring process did not start within {LOAD_SECONDS:.0f} seconds."
        except OSError as error:
            return f"The scoring process could not be started: {error.strerror or error}."
        finally:
            os.close(output)
        order = WorkerOrder(
            model_path=str(served.model_path or ""),
            report_path=str(report_path),
            key=self.key,
            endpoint=served.endpoint,
            entity=entity.name,
            model_name=entity.entity_name,
            model_version=entity.entity_version,
            traced=entity.environment_vars.get("ENABLE_MLFLOW_TRACING", "").lower() == "true",
            secret_variables=tuple(secret_names),
            threads=served.threads,
        )
        self._process.order(json.dumps(asdict(order)).encode() + b"\n")
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                while not report_path.exists():
                    if self._process.returncode is not None:
                        return f"The scoring process ended with code {self._process.returncode} while loading."
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            return f"The model did not load within {LOAD_SECONDS:.0f} seconds."
        report = WorkerReport(**json.loads(report_path.read_text(encoding="utf-8")))
        report_path.unlink()
        if report.failure:
            return redactor.redact(report.failure)
        self.url = f"http://127.0.0.1:{report.port}/invocations"
        served.logs.note("Ready.")
        return ""

    async def _begin(self, python: Interpreter, variables: dict[str, str], output: int) -> WorkerProcess:
        served = self._served
        if served.model_path is not None and may_fork(python, served.entity):
            try:
                return await served.environment.fork_server.start_worker(variables, output)
            except OSError as error:
                served.logs.note(f"It is started on its own, because it was not forked: {error.strerror or error}.")
        return await start_worker(python.executable, python.variables(variables), output)

    async def _end_process(self) -> None:
        process, self._process = self._process, None
        log, self._log = self._log, None
        if process is not None:
            await _end(process)
        if log is not None:
            await log.close()


async def _end(process: WorkerProcess) -> None:
    try:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 5)
            except TimeoutError:
                process.kill()
                await process.wait()
    finally:
        process.let_go()
