"""What serves one entity: its scoring processes, the slots for requests, and its way to zero and back.

The size says how many requests are answered at a time, which is the service's provisioned concurrency at its highest,
and over how many processes they are spread: one Python process computes one thing at a time.
"""

import asyncio
from pathlib import Path

from release_pipeline.local_workspace.serving.entity_logs import EntityLogs
from release_pipeline.local_workspace.serving.slots import Slots
from release_pipeline.local_workspace.serving.supervisor import (
    CREATING,
    FAILED,
    POLL_SECONDS,
    READY,
    RECOVERING,
    ScoringProcess,
    Served,
)
from release_pipeline.local_workspace.serving.worker_environment import WorkerEnvironment
from release_pipeline.local_workspace.settings import Settings
from release_pipeline.local_workspace.state.endpoint_configuration import ServedEntity

DRAIN_SECONDS = 300.0
"""Longest time that requests in flight are waited for before the processes are ended."""
SCALED_TO_ZERO = "Scaled to zero"
PROCESSES = {"Small": 1, "Medium": 2, "Large": 4}
"""Scoring processes by workload size. The service has containers, and no laptop has the memory for as many."""
CONCURRENCY_OF_A_PROCESS = 8
"""Provisioned concurrency that a further process is started for, where it is given as a number."""


class Deployment:
    """Serves one entity from its first start to its end.

    Args:
        asleep: Begin scaled to zero; the first request starts the processes.

    Attributes:
        environment: Variables, secrets and credentials of its processes.
        logs: What was written of it.
        in_flight: Requests that were routed here and are not answered to the end; the router counts it.
        slots: What each of them needs.
    """

    def __init__(
        self,
        settings: Settings,
        endpoint: str,
        entity: ServedEntity,
        model_path: Path | None,
        environment: WorkerEnvironment,
        *,
        asleep: bool = False,
    ) -> None:
        faults, concurrency = settings.faults, entity.concurrency
        number = min(_processes(entity), settings.processes_per_entity)
        self.environment = environment
        self.logs = EntityLogs(settings.data_dir, entity.id)
        self.in_flight = 0
        self.slots = Slots(
            lambda: min(concurrency, faults.concurrency_limit or concurrency), lambda: faults.queued_requests
        )
        self._served = Served(
            endpoint,
            entity,
            model_path,
            environment,
            self.logs,
            threads=-(-concurrency // number),
        )
        self._processes = [ScoringProcess(self._served, each) for each in range(number)]
        self._asleep = asleep
        self._turning = asyncio.Lock()
        self._last_used = 0.0

    @property
    def entity(self) -> ServedEntity:
        """What is served."""
        return self._served.entity

    @property
    def asleep(self) -> bool:
        """Whether it is scaled to zero."""
        return self._asleep

    @property
    def state(self) -> str:
        """The API's deployment state: it serves while one of its processes does, and is ready scaled to zero."""
        if self._asleep:
            return READY
        states = {process.state for process in self._processes}
        for state in (FAILED, CREATING, READY):
            if state in states:
                return state
        return RECOVERING

    @property
    def message(self) -> str:
        """Why the state is what it is, where there is something to say."""
        if self._asleep:
            return SCALED_TO_ZERO
        return next((each.message for each in self._processes if each.state == self.state and each.message), "")

    def start(self, *, recovering: bool = False) -> None:
        """Begin in the background. ``recovering``: it served before, so a failure is retried and not final."""
        for process in self._processes:
            process.start(recovering=recovering)
        self._last_used = asyncio.get_running_loop().time()

    @property
    def started(self) -> bool:
        """Whether it was begun, and not stopped since."""
        return any(process.started for process in self._processes)

    def go_on_as(self, entity: ServedEntity) -> None:
        """Serve for another creation of the same entity, whose name and settings are equal; its logs move along."""
        self._served.entity = entity
        self.logs.go_on_as(entity.id)

    async def settled(self) -> bool:
        """Wait until the first start ended; whether it ended well."""
        for process in self._processes:
            await process.settled()
        return self.state == READY

    async def ready(self, timeout: float) -> ScoringProcess | None:
        """The process that has least to do, started first where it is scaled to zero; None after ``timeout`` seconds.

        The request that it is for is counted in `in_flight` before, so that the processes stay.
        """
        if self._asleep:
            await self._wake()
        candidates = [process for process in self._processes if process.is_ready]
        if not candidates:
            waiting = [asyncio.create_task(process.until_ready()) for process in self._processes]
            await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()
            candidates = [process for process in self._processes if process.is_ready]
        return min(candidates, key=lambda process: process.in_flight, default=None)

    def used(self) -> None:
        """Note that a request ended."""
        self._last_used = asyncio.get_running_loop().time()

    def is_idle(self, seconds: float) -> bool:
        """Whether it runs and nobody asked it for so long."""
        idle = asyncio.get_running_loop().time() - self._last_used
        return not self.in_flight and not self._asleep and self.state == READY and idle >= seconds

    async def sleep(self) -> None:
        """Scale to zero: end the processes, and their credentials with them. Nothing where a request came between."""
        async with self._turning:
            if self.in_flight or self._asleep:
                return
            self._asleep = True
            await asyncio.gather(*(process.end() for process in self._processes))
            self.environment.close()
            self.logs.note("Scaled to zero.")

    async def _wake(self) -> None:
        async with self._turning:
            if not self._asleep:
                return
            self._asleep = False
            self.start(recovering=True)
            for process in self._processes:
                process.state = READY  # until it is seen that it is not

    async def stop(self, drain_seconds: float = DRAIN_SECONDS) -> None:
        """Wait for the requests in flight, then end the processes for good, and their credentials with them."""
        await self.drained(drain_seconds)
        async with self._turning:
            await asyncio.gather(*(process.end() for process in self._processes))
            self.environment.close()

    async def drained(self, seconds: float = DRAIN_SECONDS) -> None:
        """Wait for the requests in flight, at most so long."""
        deadline = asyncio.get_running_loop().time() + seconds
        while self.in_flight and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(POLL_SECONDS)


def _processes(entity: ServedEntity) -> int:
    if entity.max_provisioned_concurrency is None:
        return PROCESSES[entity.workload_size]
    return -(-entity.max_provisioned_concurrency // CONCURRENCY_OF_A_PROCESS)
