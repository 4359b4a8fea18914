"""Which run a release needs next: a pure function of where it stands and what the gate says."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from release_pipeline.gate.verdict import Action as GateAction
from release_pipeline.gate.verdict import HoldReason, Verdict
from release_pipeline.rollout.ledger import Action, Entry
from release_pipeline.rollout.open_move import to_take_back
from release_pipeline.rollout.state import ReleaseState, Stage
from release_pipeline.spec import ReleaseSpec
from release_pipeline.workspace.registry import FAILED, REJECTED


@dataclass(frozen=True)
class NextRun:
    """One run to request: the job, what it does (for its tag), and its reason.

    ``reason`` and ``status`` of a rollback go into the run's configuration, the ledger and the version's tags.
    """

    job: str
    action: str
    reason: str
    status: str = REJECTED


_JOB_OF_INTENT = {
    Action.DEPLOY: "canary_step",
    Action.SET_TRAFFIC: "canary_step",
    Action.PROMOTE: "promote",
    Action.RETIRE: "retire",
    Action.ROLL_BACK: "rollback",
    Action.MEND: "mend",
}


def resume_run(intent: Entry) -> NextRun:
    """The run that finishes an open intent whose own run has ended."""
    return NextRun(_JOB_OF_INTENT[intent.action], f"finish_{intent.action.value}", intent.reason)


def watched(state: ReleaseState) -> bool:
    """Whether the gate is asked: also while a move is open, because users are served meanwhile."""
    opened = state.open_intent
    return state.stage in (Stage.DEPLOYED, Stage.RAMPING, Stage.PROMOTED) and (
        opened is None or opened.action not in (Action.DEPLOY, Action.ROLL_BACK)
    )


def open_run(state: ReleaseState, verdict: Verdict | None) -> tuple[NextRun, str]:
    """The run for an open intent whose own run has ended, with a sentence: it is finished, or taken back for harm."""
    intent = state.open_intent
    assert intent is not None
    if verdict is not None and to_take_back(state, verdict):
        return NextRun("rollback", "roll_back", verdict.sentence), verdict.sentence
    return resume_run(intent), f"finishing {intent.action}, which {intent.actor} began"


def next_run(
    state: ReleaseState, verdict: Verdict | None, spec: ReleaseSpec, now: datetime
) -> tuple[NextRun | None, str]:
    """The run that ``state`` asks for, or None, and one sentence about it.

    Args:
        state: Where the release stands; it has no open intent.
        verdict: What the gate, and what else must hold, say of a release that has a challenger on its endpoint.
        spec: The release's YAML.
        now: The time of the look.
    """
    if state.stage is Stage.PROMOTED and state.promoted_at is not None:
        return _in_bake(state, verdict, now >= state.promoted_at + timedelta(seconds=spec.promotion.bake_seconds))
    if state.stage not in (Stage.DEPLOYED, Stage.RAMPING) or verdict is None:
        return None, f"release {state.release} is {state.stage}: {state.reason}"
    if verdict.action is GateAction.ROLL_BACK:
        return NextRun("rollback", "roll_back", verdict.sentence), verdict.sentence
    if verdict.action is GateAction.ADVANCE:
        return NextRun("canary_step", f"step_{state.step + 1}", verdict.sentence), verdict.sentence
    if verdict.action is GateAction.PROMOTE:
        if spec.promotion.automatic:
            return NextRun("promote", "promote", verdict.sentence), verdict.sentence
        waiting = f"for the schedule {spec.promotion.schedule}" if spec.promotion.schedule else "for a person"
        return None, f"passed, waiting {waiting}: {verdict.sentence}"
    if verdict.reason == HoldReason.MAPPING_UNKNOWN:
        # A run that was killed before its tracers, or a lost row: without new ones the release would wait for ever.
        return NextRun("canary_step", "send_tracers", verdict.sentence), verdict.sentence
    return None, f"{verdict.reason}: {verdict.sentence}"


def _in_bake(state: ReleaseState, verdict: Verdict | None, over: bool) -> tuple[NextRun | None, str]:
    """Harm takes the release back; time ends a bake only where guards could watch it, and nobody has paused it."""
    if verdict is not None and verdict.action is GateAction.ROLL_BACK:
        return NextRun("rollback", "roll_back", verdict.sentence), verdict.sentence
    if verdict is not None and verdict.reason == HoldReason.MAPPING_UNKNOWN:
        return NextRun("canary_step", "send_tracers", verdict.sentence), verdict.sentence
    if verdict is not None and verdict.reason != HoldReason.BAKING:
        return None, f"{verdict.reason}: {verdict.sentence}"
    if over and state.paused is not None:
        sentence = f"the bake is over; paused by {state.paused.actor}: {state.paused.reason}"
        return None, f"{HoldReason.PAUSED}: {sentence}"
    if over:
        return NextRun("retire", "retire", "the bake is over"), "the bake is over: retiring the old champion"
    sentence = verdict.sentence if verdict else "its bake goes on"
    return None, f"version {state.challenger_version} is live: {sentence}"


def given_up(reason: str) -> NextRun:
    """The rollback that takes the place of runs that failed too often: the content was not found to be bad."""
    return NextRun("rollback", "roll_back", reason, FAILED)


def run_config(run: NextRun, model_name: str, evidence_digest: str) -> dict[str, Any]:
    """The run configuration: only a rollback has one."""
    if run.job != "rollback":
        return {}
    config = {"reason": run.reason, "evidence_digest": evidence_digest, "status": run.status}
    return {"ops": {f"{model_name}_roll_back": {"config": config}}}
