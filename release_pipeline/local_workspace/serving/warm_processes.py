"""Deployments of entities that were removed, kept ready for a while in case the same entity comes back."""

import asyncio
from collections.abc import Awaitable, Callable

from release_pipeline.local_workspace.serving.deployment import Deployment
from release_pipeline.local_workspace.serving.supervisor import READY
from release_pipeline.local_workspace.state.endpoint_configuration import ServedEntity

End = Callable[[Deployment], Awaitable[None]]


class WarmProcesses:
    """Deployments without an entity, by endpoint; each ends when nobody has taken it back in time.

    Args:
        seconds: How long each is kept; with 0 none is.
        end: Ends a deployment and removes its logs.
    """

    def __init__(self, seconds: float, end: End) -> None:
        self._seconds = seconds
        self._end = end
        self._kept: dict[Deployment, tuple[str, asyncio.Task[None]]] = {}

    def keep(self, endpoint: str, deployment: Deployment) -> bool:
        """Keep a deployment that serves; whether it is kept."""
        if self._seconds <= 0 or deployment.state != READY or deployment.asleep:
            return False
        self._kept[deployment] = (endpoint, asyncio.create_task(self._end_later(deployment)))
        return True

    def take(self, endpoint: str, entity: ServedEntity) -> Deployment | None:
        """The idle deployment that served an equal entity of the endpoint, which goes on for this one."""
        for deployment, (of, ending) in self._kept.items():
            if (
                of == endpoint
                and deployment.state == READY
                and not deployment.in_flight
                and entity.serves_as(deployment.entity)
            ):
                ending.cancel()
                del self._kept[deployment]
                deployment.environment.resume()
                deployment.go_on_as(entity)
                return deployment
        return None

    async def stop(self) -> None:
        """End all of them now."""
        kept, self._kept = self._kept, {}
        for _, ending in kept.values():
            ending.cancel()
        await asyncio.gather(*(self._end(deployment) for deployment in kept))

    async def _end_later(self, deployment: Deployment) -> None:
        await deployment.drained()
        deployment.environment.suspend()
        await asyncio.sleep(self._seconds)
        del self._kept[deployment]
        await self._end(deployment)
