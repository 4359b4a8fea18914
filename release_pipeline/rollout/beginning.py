"""What becomes of a release that meets another one as it begins."""

from typing import TYPE_CHECKING

from release_pipeline.errors import NotAllowed, Queued
from release_pipeline.rollout.deployment import other_endpoint, planned
from release_pipeline.rollout.events import Events
from release_pipeline.rollout.ledger import Action, Entry
from release_pipeline.rollout.quarantine import refuse_rejected
from release_pipeline.rollout.state import ReleaseState, Stage, current_release, queued
from release_pipeline.workspace.endpoint import ServedEntity
from release_pipeline.workspace.registry import REJECTED, SUPERSEDED

if TYPE_CHECKING:
    from release_pipeline.rollout.transition import Rollout


def make_way(rollout: "Rollout", release: str, version: str, entity: ServedEntity) -> list[Entry]:
    """The ledger, once no other release is in the way of this one.

    Another release ends only for one that can begin: what would refuse this one is asked first.

    Raises:
        Queued: It waits for the end of another release.
        NotAllowed: Another release is under way, or this one cannot begin.
    """
    entries, name = rollout.ledger.read(), rollout.spec.name
    if elsewhere := other_endpoint(entries, rollout.endpoint):
        raise NotAllowed(elsewhere)
    other = current_release(entries)
    if other is None or other.release == release or not other.active:
        _stand_in_line(rollout, entries, release)
        return entries
    if other.open_intent is not None and other.open_intent.action in (Action.RETIRE, Action.MEND):
        rollout.resume(other.release)  # it is live: what its dead run began is finished, never taken back
        return make_way(rollout, release, version, entity)
    policy, baking = rollout.spec.ramp.second_release, other.stage is Stage.PROMOTED and other.open_intent is None
    no_way_back = other.frozen is not None and other.champion_version is None
    under_way = f"release {other.release} of {name} is still under way ({other.stage})"
    if policy == "queue" and not (baking and no_way_back):
        Events(rollout.ledger, rollout.actor).queue(release, under_way)
        raise Queued(f"{under_way}; release {release} waits for its end, and the gate sensor then begins it.")
    if baking and other.frozen is not None and not no_way_back:
        raise NotAllowed(f"{under_way} and frozen; roll it back first: {other.frozen.reason}")
    if baking:
        _refuse_to_end(rollout, other, under_way)
        refuse_rejected(rollout.registry, release, version)
        champion = rollout.registry.version_of_alias(rollout.spec.promotion.alias)
        planned(rollout.spec, rollout.endpoint.read(), champion, version, entity)
        rollout.retire(other.release, reason=f"release {release} ends the bake of the one before", by_hand=True)
    elif policy == "replace":
        if other.champion_version is None and other.stage is Stage.RAMPING:
            raise NotAllowed(
                f"{under_way}, serves everybody as the first release of {name}, and has nothing to go back to; promote "
                "it, or roll it back, which deletes the endpoint."
            )
        refuse_rejected(rollout.registry, release, version)
        if rollout.registry.version_of_alias(rollout.spec.promotion.alias) == version:
            raise NotAllowed(f"version {version} of {rollout.registry.name} is the champion already.")
        # One that is found to be bad does not only make way: its like must not be released again.
        found = _harm(rollout, other)
        reason, status = (found, REJECTED) if found else (f"replaced by release {release}", SUPERSEDED)
        rollout.roll_back(other.release, reason=reason, status=status)
    else:
        raise NotAllowed(f"{under_way}; wait for its end or roll it back, then materialise again.")
    return make_way(rollout, release, version, entity)  # a third release may have begun meanwhile


def _harm(rollout: "Rollout", other: ReleaseState) -> str:
    """What shows that a release does harm, empty where nothing does; a freeze with evidence has shown it."""
    if other.frozen is not None and other.frozen.evidence_digest:
        return other.frozen.reason
    return rollout.shown_harm(other.release) if other.steps else ""


def _refuse_to_end(rollout: "Rollout", other: ReleaseState, under_way: str) -> None:
    """Keep a bake from being ended by the next release while it is paused, or where its guards show harm.

    Raises:
        NotAllowed: It is not to be ended.
    """
    if other.paused is not None:
        raise NotAllowed(
            f"{under_way} and paused by {other.paused.actor} ({other.paused.reason}); end the pause with "
            f"`release-pipeline unpause {rollout.spec.name}`, then materialise again."
        )
    if other.champion_version is not None and (found := _harm(rollout, other)):
        raise NotAllowed(f"{under_way} and does harm; roll it back first: {found}")


def _stand_in_line(rollout: "Rollout", entries: list[Entry], release: str) -> None:
    """Let those go first that have waited longer, whoever started this one, where releases are to queue.

    Raises:
        Queued: Another one is first.
    """
    waiting = queued(entries) if rollout.spec.ramp.second_release == "queue" else []
    if not waiting or waiting[0] == release:
        return
    first = f"release {waiting[0]} of {rollout.spec.name} has waited longer"
    Events(rollout.ledger, rollout.actor).queue(release, first)
    raise Queued(
        f"{first}; release {release} waits behind it. The gate sensor begins them in turn; to let it go first: "
        f"release-pipeline withdraw {rollout.spec.name} --release {waiting[0]}"
    )
