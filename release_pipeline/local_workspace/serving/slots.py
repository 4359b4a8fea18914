"""How many requests a served entity answers at a time; more wait for their turn, and more than may wait are refused."""

import asyncio
from collections import deque
from collections.abc import Callable


class Slots:
    """Slots for requests, given in the order of asking.

    Args:
        limit: How many there are now; asked every time, because settings change.
        longest: How many may wait now.
    """

    def __init__(self, limit: Callable[[], int], longest: Callable[[], int]) -> None:
        self._limit = limit
        self._longest = longest
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> bool:
        """Wait for a slot; False at once where too many wait already."""
        if self._taken < self._limit():
            self._taken += 1
            return True
        if len(self._waiting) >= self._longest():
            return False
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give()
            raise
        return True

    def give(self) -> None:
        """Give a slot back, to whoever waits longest."""
        self._taken -= 1
        while self._waiting and self._taken < self._limit():
            turn = self._waiting.popleft()
            if not turn.done():
                self._taken += 1
                turn.set_result(None)
