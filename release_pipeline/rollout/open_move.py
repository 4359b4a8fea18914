"""A move of traffic that was begun and not finished: whether it still should be, once its run has died.

Until the endpoint has taken the new configuration, the old one serves, and what speaks against a move speaks against
finishing it: harm takes the release back, and a pause, a freeze, a closed window or a withdrawn approval closes the
intent. A move of which anything took effect is finished, unless it does harm.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from release_pipeline.gate.verdict import Action as GateAction
from release_pipeline.gate.verdict import GoReason, HoldReason, Verdict
from release_pipeline.rollout.clearance import Clearance, cleared
from release_pipeline.rollout.ledger import Action, Entry
from release_pipeline.rollout.served_share import serves_as_told
from release_pipeline.rollout.state import ReleaseState
from release_pipeline.spec import ReleaseSpec
from release_pipeline.workspace.endpoint import EndpointState

if TYPE_CHECKING:
    from release_pipeline.rollout.observer import Observed
    from release_pipeline.rollout.transition import Rollout

_MOVES: Final = frozenset({Action.SET_TRAFFIC, Action.PROMOTE, Action.RETIRE})
#: In an intent's row: a person asked for it against what may hold it.
BY_HAND: Final = "by_hand"


def open_move(state: ReleaseState) -> Entry | None:
    """The open intent to move traffic, or to end the bake, unless a person asked for it against the gate."""
    opened = state.open_intent
    return opened if opened and opened.action in _MOVES and not opened.after.get(BY_HAND) else None


def unchanged(state: ReleaseState, endpoint: EndpointState | None) -> bool:
    """Whether the endpoint still is what it was when the open move was begun."""
    opened = state.open_intent
    return (
        opened is not None
        and endpoint is not None
        and not endpoint.updating
        and endpoint.config_version == opened.config_version
        and serves_as_told(state, endpoint)
    )


def watched_further(state: ReleaseState, endpoint: EndpointState | None) -> ReleaseState:
    """The state to read rows by: those since an open move was begun are of the step that still serves."""
    opened = state.open_intent
    if opened is None or opened.action not in _MOVES or not state.steps or not unchanged(state, endpoint):
        return state
    return replace(state, steps=(*state.steps[:-1], replace(state.steps[-1], ended_at=None)))


def why_not_finished(
    verdict: Verdict, state: ReleaseState, endpoint: EndpointState | None, spec: ReleaseSpec, clearance: Clearance
) -> str:
    """What stands against finishing the open move, as far as the endpoint shows none of it; empty where nothing does.

    Args:
        verdict: What the gate says, held where a person or a calendar is in the way.
        state: The release.
        endpoint: The endpoint as it was read.
        spec: The release's YAML.
        clearance: What people and calendars say.
    """
    opened = open_move(state)
    if opened is None or not unchanged(state, endpoint):
        return ""
    if verdict.reason == HoldReason.FROZEN:
        return verdict.sentence
    if opened.action is Action.RETIRE and state.paused is None:
        return ""  # windows and approvals are of promotions
    move = GateAction.PROMOTE if opened.action is Action.PROMOTE else GateAction.ADVANCE
    meant = Verdict(move, GoReason.SHOWN, f"{opened.action} would be finished: {opened.reason}", ())
    held = cleared(meant, state, spec, clearance)
    return held.sentence if held.action is GateAction.HOLD else ""


def to_take_back(state: ReleaseState, verdict: Verdict | None) -> bool:
    """Whether the release is to be rolled back instead of finishing its open intent."""
    opened = state.open_intent
    if verdict is None or verdict.action is not GateAction.ROLL_BACK or opened is None:
        return False
    return opened.action is Action.MEND or open_move(state) is not None


def nothing_done(rollout: "Rollout", state: ReleaseState) -> bool:
    """Whether neither the endpoint nor an alias shows anything of the open move."""
    opened = state.open_intent
    if opened is None or opened.action not in _MOVES or not unchanged(state, rollout.endpoint.read()):
        return False
    aliases = opened.after.get("alias", {})
    return all(rollout.registry.version_of_alias(alias) != version for alias, version in aliases.items())


def close(rollout: "Rollout", state: ReleaseState, why: str) -> bool:
    """Close the open move as failed where nothing of it took effect; whether that was so."""
    opened, now = state.open_intent, rollout.state(state.release)
    if opened is None or now is None or now.open_intent != opened or not nothing_done(rollout, state):
        return False
    rollout.give_up(state.release, reason=f"{opened.action} was begun by {opened.actor} and is not finished: {why}")
    return True


def stopped(rollout: "Rollout", observed: "Observed") -> str:
    """Take the release back, or close its open move, where it should not be finished; why, or empty where it should."""
    state = observed.release
    if to_take_back(state, observed.verdict):
        reason = observed.verdict.sentence
        rollout.roll_back(state.release, reason=reason, evidence_digest=observed.evidence_digest)
        return reason
    if observed.not_finished and close(rollout, state, observed.not_finished):
        return observed.not_finished
    return ""
