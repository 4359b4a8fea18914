"""The jobs of one model: the release, a canary step, the promotion, the rollback, the end of the bake.

Every step is one short run in one process. Runs on one endpoint are serialised by a tag limit and by pools
(dagster.yaml); the transitions themselves are safe without them.
"""

from dataclasses import replace
from typing import Any, Literal

import dagster as dg
from pydantic import Field

from release_pipeline.assets.canary_traffic import CHECK, check_fields, look
from release_pipeline.assets.context import CHAIN, ModelContext, failure
from release_pipeline.automation.next_run import next_run
from release_pipeline.errors import ReleasePipelineError, WorkspaceError
from release_pipeline.gate.verdict import Action as GateAction
from release_pipeline.gate.verdict import GoReason
from release_pipeline.report.metadata import canary_metadata, live_metadata
from release_pipeline.rollout.ledger import Action
from release_pipeline.rollout.observer import Observed
from release_pipeline.rollout.open_move import stopped
from release_pipeline.rollout.parts import Parts
from release_pipeline.rollout.rollback_time import seconds_to_zero_traffic
from release_pipeline.workspace.links import endpoint_page, version_page

ENDPOINT_TAG = "release_pipeline/endpoint"
ACTION_TAG = "release_pipeline/action"
#: dagster.yaml limits how many runs with this tag go on at once. Rollbacks, and what people say, have none.
SLOT = {"release_pipeline/slot": "limited"}


def job_name(model_name: str, job: str) -> str:
    """The name of one of a model's jobs."""
    return f"{model_name}_{job}"


class RollbackConfig(dg.Config):
    """Run configuration of the rollback by hand."""

    reason: str = Field(
        default="asked for by hand", description="Why; it is tagged on the version and recorded in the ledger."
    )
    evidence_digest: str = Field(default="", description="Digest of the evidence that shows harm; the sensor gives it.")
    status: Literal["rejected", "failed"] = Field(
        default="rejected",
        description="What the version is tagged: `rejected`, which quarantines its content, or `failed`.",
    )


def build_jobs(model: ModelContext) -> list[Any]:
    """All jobs of one model; asset jobs are unresolved until the definitions are loaded."""
    spec = model.spec
    # Not on the release job: a rollback must never queue behind a release that is still being evaluated.
    serialised = {ENDPOINT_TAG: spec.endpoint_name, **SLOT}

    def asset_job(job: str, assets: tuple[str, ...], description: str, tags: dict[str, str]) -> Any:
        return dg.define_asset_job(
            job_name(spec.name, job),
            selection=[model.key(asset) for asset in assets],
            executor_def=dg.in_process_executor,
            tags=tags,
            description=description,
        )

    return [
        asset_job("release", CHAIN[:-1], "From log to the first step of the canary.", SLOT),
        asset_job(
            "deploy", ("deployed_endpoint", "canary_traffic"), "A release that waited in the queue begins.", SLOT
        ),
        asset_job(
            "canary_step", ("canary_traffic",), "The next step of the ramp, where the gate allows it.", serialised
        ),
        asset_job("promote", ("promoted_alias",), "All traffic and the alias, where the gate has passed.", serialised),
        _rollback_job(model),
        _retire_job(model),
    ]


def _rollback_job(model: ModelContext) -> dg.JobDefinition:
    spec = model.spec

    # No pool, and neither the endpoint's tag nor that of a slot: a rollback queues behind nothing. The ledger keeps
    # slower runs from writing.
    @dg.op(name=f"{spec.name}_roll_back")
    def roll_back(context: dg.OpExecutionContext, config: RollbackConfig) -> None:
        release = context.partition_key
        try:
            parts = model.parts(context)
            asked_for = {"reason": config.reason, "evidence_digest": config.evidence_digest, "status": config.status}
            # First it is written down, so that it will be done whoever dies; the look is for people.
            parts.rollout.begin_roll_back(release, **asked_for)
            observed = _seen(parts, release, context)
            state = parts.rollout.roll_back(release, **asked_for)
        except ReleasePipelineError as error:
            raise failure(error) from error
        tell_live_version(model, parts, release, context)
        asset = model.key("canary_traffic")
        url = endpoint_page(parts.workspace, spec.endpoint_name)
        seconds = _seconds(parts, release, context)
        if observed is None:
            metadata: dict[str, Any] = {"traffic_percent": 0, "verdict": GateAction.ROLL_BACK.value, **seconds}
            metadata["sentence"] = config.reason
            context.log_event(dg.AssetMaterialization(asset, partition=release, metadata=metadata))
            return
        asked = observed.judged.action is not GateAction.ROLL_BACK
        verdict = replace(
            observed.verdict,
            action=GateAction.ROLL_BACK,
            reason=GoReason.ASKED_FOR if asked else observed.judged.reason,
            sentence=config.reason,
        )
        seen = replace(observed, verdict=verdict)
        metadata = {**canary_metadata(seen, endpoint_url=url, now=state), **seconds}
        context.log_event(dg.AssetMaterialization(asset, partition=release, metadata=metadata))
        # The asset is red in the graph from here on, until the next release takes its first step.
        # (log_event takes the evaluation of a check, although its annotation does not say so.)
        evaluation = dg.AssetCheckEvaluation(asset_key=asset, check_name=CHECK, **check_fields(seen))
        context.log_event(evaluation)  # type: ignore[arg-type]

    @dg.job(
        name=job_name(spec.name, "rollback"),
        partitions_def=model.partitions,
        executor_def=dg.in_process_executor,
        description="The champion gets all traffic again; the version is rejected with the reason.",
    )
    def rollback() -> None:
        roll_back()

    return rollback


def _seen(parts: Parts, release: str, context: dg.OpExecutionContext) -> Observed | None:
    """The evidence as stored; a table that cannot be read must never be in the way of a rollback."""
    try:
        return look(parts, release)
    except WorkspaceError as error:
        context.log.warning(f"rolling back without a look at the evidence: {error}")
        return None


def tell_live_version(model: ModelContext, parts: Parts, release: str, context: dg.OpExecutionContext) -> None:
    """Which version is live, on the asset that says so, after other acts than a promotion; in the way of nothing."""
    spec, workspace = model.spec, parts.workspace
    alias = spec.promotion.alias
    try:
        live, endpoint = parts.registry.version_of_alias(alias), parts.endpoint.read()
    except WorkspaceError as error:
        context.log.warning(f"which version is live now is not known: {error}")
        return
    metadata = live_metadata(
        live,
        alias,
        endpoint.routes if endpoint else {},
        endpoint_url=endpoint_page(workspace, spec.endpoint_name),
        live_url=version_page(workspace, spec.model.registered_name, live) if live else None,
    )
    context.log_event(dg.AssetObservation(model.key("promoted_alias"), partition=release, metadata=metadata))


def _seconds(parts: Parts, release: str, context: dg.OpExecutionContext) -> dict[str, float]:
    """Seconds from the request to zero traffic as metadata; news for people, in the way of nothing."""
    metadata: dict[str, float] = {}
    try:
        seconds = seconds_to_zero_traffic(parts.ledger.read(), release)
    except WorkspaceError as error:
        context.log.warning(f"how long the rollback took is not known: {error}")
        return metadata
    if seconds is not None:
        metadata["seconds_to_zero_traffic"] = round(seconds, 3)
    return metadata


def _retire_job(model: ModelContext) -> dg.JobDefinition:
    spec = model.spec

    @dg.op(name=f"{spec.name}_end_bake", pool=f"endpoint_{spec.endpoint_name}")
    def end_bake(context: dg.OpExecutionContext) -> None:
        try:
            parts, release = model.parts(context), context.partition_key
            asked_by_sensor = ACTION_TAG in context.run.tags
            if asked_by_sensor:
                # The sensor asked for it some time ago: guards and people may have spoken since.
                observed = look(parts, release, ingest=True)
                begun = observed.release.open_intent
                if begun is not None and begun.action is Action.RETIRE:
                    if why := stopped(parts.rollout, observed):
                        context.log.info(why)
                        return
                else:
                    wanted, sentence = next_run(observed.release, observed.verdict, spec, parts.observer.clock.now())
                    if begun is not None or wanted is None or wanted.job != "retire":
                        context.log.info(sentence)
                        return
            parts.rollout.retire(release, by_hand=not asked_by_sensor)
        except ReleasePipelineError as error:
            raise failure(error) from error

    @dg.job(
        name=job_name(spec.name, "retire"),
        partitions_def=model.partitions,
        executor_def=dg.in_process_executor,
        tags={ENDPOINT_TAG: spec.endpoint_name, **SLOT},
        description="The end of the bake: the old champion's entity is removed.",
    )
    def retire() -> None:
        end_bake()

    return retire
