"""How long a rollback took, from the moment it was asked for until nobody was sent to the version any more."""

from collections.abc import Sequence
from datetime import datetime

from release_pipeline.rollout.ledger import Action, Entry, Phase

#: Where the outcome of a rollback says when the endpoint was seen to send nobody to the version any more.
ZERO_TRAFFIC_AT = "zero_traffic_at"


def zero_traffic_at(outcome: Entry) -> datetime | None:
    """When the version had no traffic any more, None where the row does not say."""
    said = outcome.after.get(ZERO_TRAFFIC_AT)
    return datetime.fromisoformat(str(said)) if said else None


def last_rollback(entries: Sequence[Entry], release: str) -> list[Entry]:
    """Rows of the newest rollback of ``release``, from the one that first asked for it; empty where there was none.

    A release whose version came back, by another tool or a late write, is rolled back once more.

    Args:
        entries: Rows of the ledger, oldest first.
        release: A release's key.
    """
    rows: list[Entry] = []
    for entry in entries:
        if entry.release == release and entry.action is Action.ROLL_BACK:
            again = entry.phase is Phase.INTENT and any(row.phase is Phase.DONE for row in rows)
            rows = [entry] if again else [*rows, entry]
    return rows


def seconds_to_zero_traffic(entries: Sequence[Entry], release: str) -> float | None:
    """Seconds from the request to roll ``release`` back, the newest one, until zero traffic was verified.

    Args:
        entries: Rows of the ledger, oldest first.
        release: A release's key.

    Returns:
        None where that is not so yet, or the rows do not say.
    """
    rows = last_rollback(entries, release)
    zero = next((zero_traffic_at(row) for row in rows if row.phase is Phase.DONE), None)
    return None if zero is None else max((zero - rows[0].at).total_seconds(), 0.0)
