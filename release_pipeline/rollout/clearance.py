"""What else must hold before a release moves: nobody has paused it, its window is open, a person has approved it.

A pure function over the gate's verdict. It only ever turns a move into a hold; a rollback passes, except where the
release's policy is to freeze, which a person ends by a rollback or by a promotion against the gate.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from release_pipeline.gate.verdict import Action, GoReason, HoldReason, Verdict
from release_pipeline.rollout.state import ReleaseState, Stage
from release_pipeline.spec import ReleaseSpec
from release_pipeline.spec_windows import is_open, next_opening

#: What the tag of an approval must say, whatever its case; MLflow deployment jobs write `Approved`.
APPROVED = "approved"


@dataclass(frozen=True)
class Clearance:
    """What people and calendars say at one look.

    Attributes:
        now: The time of the look.
        approval: The challenger's approval tag as ``key=value``, empty where it has none or none is asked for.
    """

    now: datetime
    approval: str = ""


def first_step(state: ReleaseState, spec: ReleaseSpec) -> Verdict:
    """The verdict on a release that has no traffic yet: its first step needs no evidence."""
    sentence = f"First step: {spec.ramp.steps[0]} % of the traffic goes to version {state.challenger_version}."
    return Verdict(Action.ADVANCE, GoReason.FIRST_STEP, sentence, ())


def cleared(verdict: Verdict, state: ReleaseState, spec: ReleaseSpec, clearance: Clearance) -> Verdict:
    """The verdict, held where something other than evidence is in the way of a move."""
    harmful = verdict.action is Action.ROLL_BACK
    if harmful and spec.ramp.on_harm == "rollback":
        return verdict
    if harmful or (state.frozen is not None and state.stage in (Stage.DEPLOYED, Stage.RAMPING, Stage.PROMOTED)):
        return _frozen(verdict, state)
    if verdict.action is Action.HOLD:
        return verdict
    if state.paused is not None:
        return _hold(
            verdict,
            HoldReason.PAUSED,
            f"paused by {state.paused.actor} since {_time(state.paused.at)} ({state.paused.reason})",
        )
    # Before the windows: a person who is told now has approved by the time that one opens.
    if verdict.action is Action.PROMOTE and spec.promotion.approval == "required" and not approval_of(state, clearance):
        return _hold(
            verdict,
            HoldReason.AWAITING_APPROVAL,
            f"version {state.challenger_version} waits for a person's approval: release-pipeline approve, or the tag "
            f"{spec.promotion.approval_tag}: {APPROVED} on the version",
        )
    windows, zone = spec.promotion.open_windows, spec.promotion.timezone
    if not is_open(windows, zone, clearance.now):
        opening = next_opening(windows, zone, clearance.now)
        when = f"the next one opens {opening:%Y-%m-%d %H:%M} {zone}" if opening else "none of them ever opens"
        return _hold(verdict, HoldReason.OUTSIDE_WINDOW, f"outside promotion.windows; {when}")
    return verdict


def approval_of(state: ReleaseState, clearance: Clearance) -> str:
    """Who approved the promotion, as it is recorded; empty where nobody has."""
    if state.approved is not None:
        return state.approved.actor
    says_so = clearance.approval.rpartition("=")[2].strip().casefold() == APPROVED
    return f"tag {clearance.approval}, setter not told by the API" if says_so else ""


def _frozen(verdict: Verdict, state: ReleaseState) -> Verdict:
    since = f" since {_time(state.frozen.at)}" if state.frozen else ""
    how_on = ", or promote it against the gate" if state.stage is not Stage.PROMOTED else ""
    sentence = (
        f"Hold: frozen{since} at {state.traffic_percent} % (ramp.on_harm, or nothing to go back to); a person must "
        f"roll the release back{how_on}. {state.frozen.reason if state.frozen else verdict.sentence}"
    )
    return replace(verdict, action=Action.HOLD, reason=HoldReason.FROZEN, sentence=sentence)


def _hold(verdict: Verdict, reason: HoldReason, why: str) -> Verdict:
    sentence = f"Hold: {why}. Otherwise: {verdict.sentence}"
    return replace(verdict, action=Action.HOLD, reason=reason, sentence=sentence)


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M %Z")
