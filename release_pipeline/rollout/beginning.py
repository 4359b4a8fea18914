"""What becomes of a release that meets another one as it begins."""

from typing import TYPE_CHECKING

from release_pipeline.errors import NotAllowed, Queued
from release_pipeline.rollout.events import Events
from release_pipeline.rollout.ledger import Action, Entry
from release_pipeline.rollout.state import Stage, current_release
from release_pipeline.workspace.registry import REJECTED, SUPERSEDED, TAG_REASON, TAG_STATUS

if TYPE_CHECKING:
    from release_pipeline.rollout.transition import Rollout


def make_way(rollout: "Rollout", release: str, version: str) -> list[Entry]:
    """The ledger, once no other release is in the way of this one.

    Raises:
        Queued: It waits for the end of another release.
        NotAllowed: Another release is under way.
    """
    entries, name = rollout.ledger.read(), rollout.spec.name
    other = current_release(entries)
    if other is None or other.release == release or not other.active:
        return entries
    if other.open_intent is not None and other.open_intent.action in (Action.RETIRE, Action.MEND):
        rollout.resume(other.release)  # it is live: what its dead run began is finished, never taken back
        return make_way(rollout, release, version)
    policy, baking = rollout.spec.ramp.second_release, other.stage is Stage.PROMOTED and other.open_intent is None
    no_way_back = other.frozen is not None and other.champion_version is None
    under_way = f"release {other.release} of {name} is still under way ({other.stage})"
    if policy == "queue" and not (baking and no_way_back):
        Events(rollout.ledger, rollout.actor).queue(release, under_way)
        raise Queued(f"{under_way}; release {release} waits for its end, and the gate sensor then begins it.")
    if baking and other.frozen is not None and not no_way_back:
        raise NotAllowed(f"{under_way} and frozen; roll it back first: {other.frozen.reason}")
    if baking:
        rollout.retire(other.release, reason=f"release {release} ends the bake of the one before")
    elif policy == "replace":
        refuse_rejected(rollout, version)
        if rollout.registry.version_of_alias(rollout.spec.promotion.alias) == version:
            raise NotAllowed(f"version {version} of {rollout.registry.name} is the champion already.")
        rollout.roll_back(other.release, reason=f"replaced by release {release}", status=SUPERSEDED)
    else:
        raise NotAllowed(f"{under_way}; wait for its end or roll it back, then materialise again.")
    return rollout.ledger.read()


def refuse_rejected(rollout: "Rollout", version: str) -> None:
    """Refuse a version that was rejected: it gets no traffic again.

    Raises:
        NotAllowed: It was.
    """
    name, found = rollout.registry.name, rollout.registry.get(version)
    if found is not None and found.tags.get(TAG_STATUS) == REJECTED:
        raise NotAllowed(
            f"version {version} of {name} was rejected: {found.tags.get(TAG_REASON, '')} Start a new release."
        )
