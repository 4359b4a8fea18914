"""The sixth link: the challenger's traffic. The release job takes the first step; the gate's runs take the others."""

from typing import Any

import dagster as dg

from release_pipeline.assets.context import ModelContext, failed_run
from release_pipeline.assets.deployed_endpoint import prove_challenger, send_tracers
from release_pipeline.errors import NotAllowed, ReleasePipelineError, StatementFailed
from release_pipeline.gate.verdict import Action as GateAction
from release_pipeline.gate.verdict import HoldReason
from release_pipeline.report.metadata import canary_metadata, plotted
from release_pipeline.rollout.ledger import Action
from release_pipeline.rollout.observer import Observed
from release_pipeline.rollout.open_move import stopped
from release_pipeline.rollout.parts import Parts
from release_pipeline.rollout.state import Stage
from release_pipeline.spec import ReleaseSpec
from release_pipeline.workspace.counting import without_rows
from release_pipeline.workspace.links import endpoint_page

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
        owners=list(spec.owners),
        kinds={"databricks"},
        pool=f"endpoint_{spec.endpoint_name}",
        check_specs=[
            dg.AssetCheckSpec(
                CHECK,
                asset=key,
                description="The gate's verdict when the last step was taken; fails when it rolled back.",
            )
        ],
        description=f"Challenger traffic: {', '.join(map(str, spec.ramp.steps))} %. The gate decides on each step.",
    )
    def canary_traffic(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        release = context.partition_key
        try:
            parts = model.parts(context)
            before = take_step(parts, spec, release)
            # New rows tell whether their entities are known; after a step, tracers are sent in any case. The first look
            # on the ramp freezes the levels of late metrics, which may take longer than a tick of the sensor.
            same = parts.rollout.state(release) == before.release
            after = look(parts, release, ingest=same or not before.release.steps)
            if warning := renew_tracers(parts, spec, before, after):
                context.log.warning(warning)
        except ReleasePipelineError as error:
            raise failed_run(context, error) from error
        context.log.info(before.verdict.sentence)
        url = endpoint_page(parts.workspace, spec.endpoint_name)
        return dg.MaterializeResult(
            metadata=canary_metadata(before, endpoint_url=url, now=after.release),
            check_results=[dg.AssetCheckResult(check_name=CHECK, **check_fields(before))],
        )

    return canary_traffic


def renew_tracers(parts: Parts, spec: ReleaseSpec, before: Observed, after: Observed) -> str:
    """Send tracers after a step, and where an entity is not known; a sentence where they could not be noted.

    The step is done by then, and must not look as if it had failed.
    """
    stepped = after.release.step != before.release.step
    wanted = stepped or after.verdict.reason == HoldReason.MAPPING_UNKNOWN
    if after.release.stage not in (Stage.RAMPING, Stage.PROMOTED) or not wanted:
        return ""
    try:
        send_tracers(parts, spec, after.release)
    except StatementFailed as error:
        failed = without_rows(error, "Noting tracers")
        return f"No tracers were sent: {failed} They are sent again when a row's entity is not known."
    return ""


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

    An open step that does harm is taken back instead; one of which nothing was done, and that is held by now, is
    closed. The first step needs no evidence. Nothing happens where the verdict is to hold.
    """
    observed = look(parts, release, ingest=True)
    state = observed.release
    config = observed.endpoint.config_version if observed.endpoint else 0
    if state.open_intent is not None:
        if state.open_intent.action in (Action.DEPLOY, Action.SET_TRAFFIC) and not stopped(parts.rollout, observed):
            parts.rollout.resume(release)
        return observed
    if observed.verdict.action is not GateAction.ADVANCE:
        return observed
    if state.stage is Stage.DEPLOYED:
        prove_challenger(parts, spec, state)  # the run that deployed it may have died before it did
        parts.rollout.set_traffic(
            release, step=0, expected_config=config, evidence_digest="", reason=observed.verdict.sentence
        )
    elif state.stage is Stage.RAMPING:
        parts.rollout.set_traffic(
            release,
            step=state.step + 1,
            expected_config=config,
            evidence_digest=observed.evidence_digest,
            reason=observed.verdict.sentence,
        )
    return observed


def check_fields(observed: Observed) -> dict[str, Any]:
    """Outcome of the check ``gate``: a sentence, and per metric value, bound, requests, e-values and their limits."""
    verdict = observed.verdict
    numbers: dict[str, float | str] = {"verdict": verdict.action.value, "reason": str(verdict.reason)}
    numbers["release"] = observed.release.release  # Dagster names no partition beside a check
    for metric in verdict.metrics:
        numbers[f"{metric.key}_requests"] = metric.challenger_n
        numbers[f"{metric.key}_champion_requests"] = metric.champion_n
        if metric.challenger_rate is not None and metric.most is not None:
            numbers[f"{metric.key}_value"] = float(f"{metric.challenger_rate:.4g}")
            numbers[f"{metric.key}_bound"] = float(f"{metric.most:.4g}")
        numbers[f"{metric.key}_good"] = plotted(metric.noninferiority_e, metric.noninferiority_limit)
        numbers[f"{metric.key}_good_limit"] = metric.noninferiority_limit
        numbers[f"{metric.key}_harm"] = plotted(metric.harm_e, metric.harm_limit)
        numbers[f"{metric.key}_harm_limit"] = metric.harm_limit
    rolled_back = verdict.action is GateAction.ROLL_BACK
    return {
        "passed": not rolled_back,
        "severity": dg.AssetCheckSeverity.ERROR if rolled_back else dg.AssetCheckSeverity.WARN,
        "description": verdict.sentence,
        "metadata": numbers,
    }
