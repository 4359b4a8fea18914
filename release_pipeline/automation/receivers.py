"""What each receiver of news has been told already, kept in the notification sensor's cursor.

Receivers go by their place in the list of addresses: addresses hold passwords, which stand in no cursor.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Final, Self

#: A hold that is there again so soon has not ended: a lag, or a busy warehouse, may have been told in between.
INTERRUPTED_SECONDS: Final = 600.0


@dataclass
class Told:
    """What one receiver has been told.

    Attributes:
        sequence: The ledger's newest row that was told; -1 before the first tick, which tells nothing of the past.
        holds: The holds of the release that were told.
        drift: The drift that was told last.
        attempts: How often the same news could not be sent.
        lost: News that were given up since the last ones that arrived.
    """

    sequence: int = -1
    holds: list[str] = field(default_factory=list)
    drift: list[str] = field(default_factory=list)
    attempts: int = 0
    lost: int = 0


@dataclass
class Receivers:
    """All receivers.

    Attributes:
        told: By the receiver's place, in the order of the addresses.
        drift_at: When drift was looked for, unix seconds.
        holding: By hold when it was seen first and last, unix seconds.
    """

    told: list[Told] = field(default_factory=list)
    drift_at: float = 0.0
    holding: dict[str, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, cursor: str | None, count: int) -> Self:
        """What a cursor says of ``count`` receivers; the beginning for what it does not, or where it was edited."""
        try:
            held = json.loads(cursor or "{}")
            holding = {str(key): (float(first), float(last)) for key, (first, last) in held.get("holding", {}).items()}
            found = cls([Told(**each) for each in held.get("told", [])], float(held.get("drift_at", 0)), holding)
        except (ValueError, TypeError, AttributeError):
            found = cls()
        found.told = [*found.told, *(Told() for _ in range(count))][:count]
        return found

    def held_seconds(self, key: str, now: float) -> float:
        """How long a hold has lasted, with short interruptions by others; ``key`` is that of now, empty for none."""
        self.holding = {each: seen for each, seen in self.holding.items() if now - seen[1] < INTERRUPTED_SECONDS}
        if not key:
            return 0.0
        first = self.holding.get(key, (now, now))[0]
        self.holding[key] = (first, now)
        return now - first

    def cursor(self) -> str:
        """The cursor that says so."""
        return json.dumps(asdict(self))
