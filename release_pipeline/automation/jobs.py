"""The jobs of one model: the release, a canary step, the promotion, the rollback, the end of the bake.

Every step is one short run in one process. Runs on one endpoint are serialised by a tag limit and by pools
(dagster.yaml); the transitions themselves are safe without them.
"""

from typing import Any

import dagster as dg

from release_pipeline.assets.context import CHAIN, ModelContext, failure
from release_pipeline.errors import ReleasePipelineError

ENDPOINT_TAG = "release_pipeline/endpoint"
ACTION_TAG = "release_pipeline/action"


def job_name(model_name: str, job: str) -> str:
    """The name of one of a model's jobs."""
    return f"{model_name}_{job}"


class RollbackConfig(dg.Config):
    """Run configuration of the rollback by hand."""

    reason: str = "asked for by hand"
    """Why; it is tagged on the version and recorded in the ledger."""


def build_jobs(model: ModelContext) -> list[Any]:
    """All jobs of one model; asset jobs are unresolved until the definitions are loaded."""
    spec = model.spec
    # Not on the release job: a rollback must never queue behind a release that is still being evaluated.
    serialised = {ENDPOINT_TAG: spec.endpoint_name}

    def asset_job(job: str, assets: tuple[str, ...], description: str, tags: dict[str, str]) -> Any:
        return dg.define_asset_job(
            job_name(spec.name, job),
            selection=[model.key(asset) for asset in assets],
            partitions_def=model.partitions,
            executor_def=dg.in_process_executor,
            tags=tags,
            description=description,
        )

    return [
        asset_job("release", CHAIN[:-1], "From log to the first step of the canary.", {}),
        asset_job(
            "canary_step", ("canary_traffic",), "The next step of the ramp, where the gate allows it.", serialised
        ),
        asset_job("promote", ("promoted_alias",), "All traffic and the alias, where the gate has passed.", serialised),
        _rollback_job(model),
        _retire_job(model),
    ]


def _rollback_job(model: ModelContext) -> dg.JobDefinition:
    spec = model.spec

    @dg.op(name=f"{spec.name}_roll_back", pool=f"endpoint_{spec.endpoint_name}")
    def roll_back(context: dg.OpExecutionContext, config: RollbackConfig) -> None:
        release = context.partition_key
        try:
            parts = model.parts(context)
            observed = parts.observer.look(release, ingest=False)
            state = parts.rollout.roll_back(
                release, reason=config.reason, evidence_digest=observed.evidence_digest if observed else ""
            )
        except ReleasePipelineError as error:
            raise failure(error) from error
        context.log_event(
            dg.AssetMaterialization(
                model.key("canary_traffic"),
                partition=release,
                metadata={
                    "traffic_percent": 0,
                    "verdict": "ROLL_BACK",
                    "sentence": config.reason,
                    "stage": state.stage.value,
                    "challenger_version": state.challenger_version,
                    "champion_version": state.champion_version or "none",
                },
            )
        )

    @dg.job(
        name=job_name(spec.name, "rollback"),
        partitions_def=model.partitions,
        executor_def=dg.in_process_executor,
        tags={ENDPOINT_TAG: spec.endpoint_name},
        description="The champion gets all traffic again; the version is rejected with the reason.",
    )
    def rollback() -> None:
        roll_back()

    return rollback


def _retire_job(model: ModelContext) -> dg.JobDefinition:
    spec = model.spec

    @dg.op(name=f"{spec.name}_end_bake", pool=f"endpoint_{spec.endpoint_name}")
    def end_bake(context: dg.OpExecutionContext) -> None:
        try:
            model.parts(context).rollout.retire(context.partition_key)
        except ReleasePipelineError as error:
            raise failure(error) from error

    @dg.job(
        name=job_name(spec.name, "retire"),
        partitions_def=model.partitions,
        executor_def=dg.in_process_executor,
        tags={ENDPOINT_TAG: spec.endpoint_name},
        description="The end of the bake: the old champion's entity is removed.",
    )
    def retire() -> None:
        end_bake()

    return retire
