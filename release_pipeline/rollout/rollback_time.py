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


def seconds_to_zero_traffic(entries: Sequence[Entry], release: str) -> float | None:
    """Seconds from the request to roll ``release`` back until zero traffic was verified; None before that.

    Args:
        entries: Rows of the ledger, oldest first.
        release: A release's key.
    """
    rows = [entry for entry in entries if entry.release == release and entry.action is Action.ROLL_BACK]
    asked = next((row for row in rows if row.phase is Phase.INTENT), None)
    zero = next((zero_traffic_at(row) for row in rows if row.phase is Phase.DONE), None)
    return None if asked is None or zero is None else max((zero - asked.at).total_seconds(), 0.0)
