"""One request's turn at a deployment: it is counted, gets a slot, and then a process."""

from copy import copy

from release_pipeline.local_workspace.serving.deployment import Deployment
from release_pipeline.local_workspace.serving.supervisor import ScoringProcess


class Turn:
    """Counted from its making until `end`.

    Attributes:
        process: Where to send the request; None before `begin`, and where none became ready in time.
    """

    def __init__(self, deployment: Deployment) -> None:
        self.process: ScoringProcess | None = None
        self._deployment = deployment
        self._has_slot = False
        self._over = False
        deployment.in_flight += 1

    async def begin(self, timeout: float) -> bool:
        """Wait for a slot, and then at most ``timeout`` seconds for a process; False where too many wait already."""
        self._has_slot = await self._deployment.slots.take()
        if self._has_slot:
            await self.again(timeout)
        return self._has_slot

    async def again(self, timeout: float) -> None:
        """Find a process, another than the last where that took no connection because it ended."""
        last, self.process = self.process, None
        if last is not None:
            last.in_flight -= 1
        self.process = await self._deployment.ready(timeout)
        if self.process is not None:
            self.process.in_flight += 1

    def handed_over(self) -> "Turn":
        """The same turn for another to end, whatever becomes of this one."""
        other = copy(self)
        self._over = True
        return other

    def end(self) -> None:
        """Give back what the request had; once."""
        if self._over:
            return
        self._over = True
        self._deployment.in_flight -= 1
        if self.process is not None:
            self.process.in_flight -= 1
        if self._has_slot:
            self._deployment.slots.give()
        self._deployment.used()
