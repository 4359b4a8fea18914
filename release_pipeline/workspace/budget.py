"""How long one look may work on late values, and the slices of time that it gets done."""

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Final

#: The first slice of a look; a look that has no time left still does one.
SLICE: Final = timedelta(minutes=10)
#: A slice is so many times as long as the one before, where that took less than one part in ``_QUICK`` of the budget.
_GROWTH: Final = 4
_QUICK: Final = 5


class Budget:
    """Time that one look may spend on late values.

    Args:
        seconds: So much from now on.
        monotonic: A clock that never goes back, in seconds.
    """

    def __init__(self, seconds: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._monotonic = monotonic
        self._began = monotonic()

    def spent(self) -> float:
        """Seconds since it began."""
        return self._monotonic() - self._began

    def left(self) -> float:
        """Seconds that are left, never less than none."""
        return max(0.0, self.seconds - self.spent())

    def share(self, among: int) -> "Budget":
        """One of so many equal parts of what is left, from now on."""
        return Budget(self.left() / among, self._monotonic)


def slices(
    since: datetime, until: datetime, budget: Budget, *, newest_first: bool = False
) -> Iterator[tuple[datetime, datetime]]:
    """Slices of a time, side by side and half open, while the budget lasts; one, where there is no time at all.

    Args:
        since: Where the time begins.
        until: Where it ends, exclusive.
        budget: The next slice is begun if there is as much left as the one before took.
        newest_first: Begin at the end.
    """
    length = SLICE
    while since < until:
        before = budget.spent()
        if newest_first:
            start = max(since, until - length)
            yield start, until
            until = start
        else:
            end = min(until, since + length)
            yield since, end
            since = end
        took, left = budget.spent() - before, budget.left()
        if took > left or not left:
            return
        if took <= budget.seconds / _QUICK:
            length *= _GROWTH
