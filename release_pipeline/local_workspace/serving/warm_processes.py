"""Scoring processes of entities that were removed, kept ready for a while in case the same entity comes back."""

import asyncio
from collections.abc import Awaitable, Callable

from release_pipeline.local_workspace.serving.configuration import ServedEntity
from release_pipeline.local_workspace.serving.supervisor import READY, ScoringProcess

End = Callable[[ScoringProcess], Awaitable[None]]


class WarmProcesses:
    """Processes without an entity, by endpoint; each ends when nobody has taken it back in time.

    Args:
        seconds: How long each is kept; with 0 none is.
        end: Ends a process and removes its logs.
    """

    def __init__(self, seconds: float, end: End) -> None:
        self._seconds = seconds
        self._end = end
        self._kept: dict[ScoringProcess, tuple[str, asyncio.Task[None]]] = {}

    def keep(self, endpoint: str, process: ScoringProcess) -> bool:
        """Keep a process that serves; whether it is kept."""
        if self._seconds <= 0 or process.state != READY:
            return False
        self._kept[process] = (endpoint, asyncio.create_task(self._end_later(process)))
        return True

    def take(self, endpoint: str, entity: ServedEntity) -> ScoringProcess | None:
        """The idle process that served an equal entity of the endpoint, which goes on for this one."""
        for process, (of, ending) in self._kept.items():
            if of == endpoint and process.state == READY and not process.in_flight and entity.serves_as(process.entity):
                ending.cancel()
                del self._kept[process]
                process.go_on_as(entity)
                return process
        return None

    async def stop(self) -> None:
        """End all of them now."""
        kept, self._kept = self._kept, {}
        for _, ending in kept.values():
            ending.cancel()
        await asyncio.gather(*(self._end(process) for process in kept))

    async def _end_later(self, process: ScoringProcess) -> None:
        await asyncio.sleep(self._seconds)
        del self._kept[process]
        await self._end(process)
