"""Which run a release needs next: a pure function of where it stands and what the gate says."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from release_pipeline.gate.verdict import Action as GateAction
from release_pipeline.gate.verdict import HoldReason, Verdict
from release_pipeline.rollout.ledger import Action, Entry
from release_pipeline.rollout.state import ReleaseState, Stage
from release_pipeline.spec import ReleaseSpec


@dataclass(frozen=True)
class NextRun:
    """One run to request: the job, what it does (for its tag), and its reason.

    ``reason`` of a rollback goes into the run's configuration, the ledger and the version's tag.
    """

    job: str
    action: str
    reason: str


_JOB_OF_INTENT = {
    Action.DEPLOY: "canary_step",
    Action.SET_TRAFFIC: "canary_step",
    Action.PROMOTE: "promote",
    Action.RETIRE: "retire",
    Action.ROLL_BACK: "rollback",
}


def resume_run(intent: Entry) -> NextRun:
    """The run that finishes an open intent whose own run has ended."""
    return NextRun(_JOB_OF_INTENT[intent.action], f"finish_{intent.action.value}", intent.reason)


def next_run(
    state: ReleaseState, verdict: Verdict | None, spec: ReleaseSpec, now: datetime
) -> tuple[NextRun | None, str]:
    """The run that ``state`` asks for, or None, and one sentence about it.

    Args:
        state: Where the release stands; it has no open intent.
        verdict: What the gate says of a release in its ramp.
        spec: The release's YAML.
        now: The time of the look.
    """
    if state.stage is Stage.DEPLOYED:
        return NextRun("canary_step", "step_0", "the first step of the ramp"), "taking the first step"
    if state.stage is Stage.PROMOTED and state.promoted_at is not None:
        over = state.promoted_at + timedelta(seconds=spec.promotion.bake_seconds)
        if now >= over:
            return NextRun("retire", "retire", "the bake is over"), "the bake is over: retiring the old champion"
        left = (over - now).total_seconds()
        return None, f"version {state.challenger_version} is live; its bake ends in {left:.0f} s"
    if state.stage is not Stage.RAMPING or verdict is None:
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


def run_config(run: NextRun, model_name: str) -> dict[str, Any]:
    """The run configuration: only a rollback has one, its reason."""
    if run.job != "rollback":
        return {}
    return {"ops": {f"{model_name}_roll_back": {"config": {"reason": run.reason}}}}
