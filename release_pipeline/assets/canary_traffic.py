"""The sixth link: the challenger's traffic. The release job takes the first step; the gate's runs take the others."""

import dagster as dg

from release_pipeline.assets.context import ModelContext, failure
from release_pipeline.assets.deployed_endpoint import send_tracers
from release_pipeline.errors import NotAllowed, ReleasePipelineError
from release_pipeline.gate.verdict import Action as GateAction
from release_pipeline.gate.verdict import HoldReason
from release_pipeline.report.metadata import canary_metadata
from release_pipeline.rollout.ledger import Action
from release_pipeline.rollout.observer import Observed
from release_pipeline.rollout.parts import Parts
from release_pipeline.rollout.state import Stage
from release_pipeline.spec import ReleaseSpec

CHECK = "gate"


def build(model: ModelContext) -> dg.AssetsDefinition:
    """The asset ``canary_traffic`` of one model."""
    spec = model.spec
    key = model.key("canary_traffic")

    @dg.asset(
        key=key,
        deps=[model.key("deployed_endpoint")],
        partitions_def=model.partitions,
        group_name=spec.name,
        kinds={"databricks"},
        pool=f"endpoint_{spec.endpoint_name}",
        check_specs=[dg.AssetCheckSpec(CHECK, asset=key, description="What the gate said when the step was taken.")],
        description=f"Challenger traffic in steps of {', '.join(map(str, spec.ramp.steps))} %, decided by the gate.",
    )
    def canary_traffic(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        release = context.partition_key
        try:
            parts = model.parts(context)
            before = take_step(parts, spec, release)
            observed = look(parts, release)
            if observed.release.stage is Stage.RAMPING and (
                observed.release.step != before.release.step or observed.verdict.reason == HoldReason.MAPPING_UNKNOWN
            ):
                send_tracers(parts, spec, observed.release)
        except ReleasePipelineError as error:
            raise failure(error) from error
        context.log.info(before.verdict.sentence)
        metadata = canary_metadata(observed, endpoint_url=f"{parts.workspace.host}/ml/endpoints/{spec.endpoint_name}")
        metadata |= {"verdict": before.verdict.action.value, "sentence": before.verdict.sentence}
        return dg.MaterializeResult(metadata=metadata, check_results=[_check(before)])

    return canary_traffic


def look(parts: Parts, release: str, *, ingest: bool = False) -> Observed:
    """Look at a release that must be in the ledger.

    Raises:
        NotAllowed: It is not.
    """
    observed = parts.observer.look(release, ingest=ingest)
    if observed is None:
        raise NotAllowed(f"release {release} is not in the ledger; materialise deployed_endpoint first.")
    return observed


def take_step(parts: Parts, spec: ReleaseSpec, release: str) -> Observed:
    """Finish what is open, or take the next step where the gate allows it; returns what was seen before.

    The first step needs no evidence. Nothing happens where the gate holds: a release without a champion stays as it is.
    """
    observed = look(parts, release)
    state = observed.release
    config = observed.endpoint.config_version if observed.endpoint else 0
    if state.open_intent is not None:
        if state.open_intent.action in (Action.DEPLOY, Action.SET_TRAFFIC):
            parts.rollout.resume(release)
        return observed
    if state.stage is Stage.DEPLOYED:
        parts.rollout.set_traffic(
            release, step=0, expected_config=config, evidence_digest="", reason="the first step of the ramp"
        )
    elif state.stage is Stage.RAMPING and observed.verdict.action is GateAction.ADVANCE:
        parts.rollout.set_traffic(
            release,
            step=state.step + 1,
            expected_config=config,
            evidence_digest=observed.evidence_digest,
            reason=observed.verdict.sentence,
        )
    return observed


def _check(observed: Observed) -> dg.AssetCheckResult:
    """Value and bound as two numbers per metric, with a sentence."""
    verdict = observed.verdict
    numbers: dict[str, float | int | str] = {"verdict": verdict.action.value, "reason": str(verdict.reason)}
    for metric in verdict.metrics:
        numbers[f"{metric.name}_evidence"] = min(metric.noninferiority_e, 1e6)
        numbers[f"{metric.name}_limit"] = metric.noninferiority_limit
    return dg.AssetCheckResult(
        passed=verdict.action is not GateAction.ROLL_BACK,
        check_name=CHECK,
        description=verdict.sentence,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=numbers,
    )
