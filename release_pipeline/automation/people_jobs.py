"""Jobs for people in Dagster's UI: pause a model or all of them, and approve a promotion.

They change nothing on an endpoint, so they carry no endpoint tag and no pool: they never wait for a long run.
"""

from typing import Final

import dagster as dg
from pydantic import Field

from release_pipeline.assets.context import ModelContext, failure
from release_pipeline.automation.jobs import job_name
from release_pipeline.errors import NotAllowed, ReleasePipelineError
from release_pipeline.rollout.approval import approve
from release_pipeline.rollout.events import Events
from release_pipeline.rollout.ledger import Ledger
from release_pipeline.rollout.parts import connect_parts

#: On the job that pauses a model: its ledger, by which the same job of another model finds it.
LEDGER_TAG: Final = "release_pipeline/ledger"


class PauseConfig(dg.Config):
    """Run configuration of a pause."""

    pause: bool = Field(default=True, description="Pause; `false` ends the pause.")
    everything: bool = Field(default=False, description="All models of the code location, not only this one.")
    reason: str = Field(description="Why; it is recorded in the ledger and told wherever a release waits.")


class ApproveConfig(dg.Config):
    """Run configuration of an approval."""

    reason: str = Field(default="", description="Why; it is recorded in the ledger.")
    approver: str = Field(
        default="", description="Who approves, for the ledger; needed where Dagster does not know who started the run."
    )


def build_people_jobs(model: ModelContext) -> list[dg.JobDefinition]:
    """The jobs by which people speak to one model's releases in the UI."""
    return [_pause_job(model), _approve_job(model)]


def actor_of(run: dg.DagsterRun) -> str:
    """``user:<name>`` where Dagster tells who started the run, else ``run:<id>``."""
    user = run.tags.get("user", "")
    return f"user:{user}" if user else f"run:{run.run_id}"


def _pause_job(model: ModelContext) -> dg.JobDefinition:
    spec = model.spec

    @dg.op(name=f"{spec.name}_set_pause")
    def set_pause(context: dg.OpExecutionContext, config: PauseConfig) -> None:
        tables = _all_ledgers(context) if config.everything else [spec.ledger_table]
        try:
            parts = connect_parts(spec, actor=actor_of(context.run), progress=context.log.info)
        except ReleasePipelineError as error:
            raise failure(error) from error
        wrong: list[str] = []
        for table in tables:
            events = Events(Ledger(parts.workspace.warehouse, table, parts.observer.clock), parts.events.actor)
            try:
                context.log.info(_set_pause(events, config))
            except ReleasePipelineError as error:  # one ledger out of reach keeps no other model from its pause
                wrong.append(f"{table}: {error}")
        if wrong:
            raise dg.Failure(description="\n".join(wrong), allow_retries=False)

    @dg.job(
        name=job_name(spec.name, "pause"),
        executor_def=dg.in_process_executor,
        tags={LEDGER_TAG: spec.ledger_table},
        description="Stops what moves by itself, except rollbacks, or lets it move again; one model or all.",
    )
    def pause() -> None:
        set_pause()

    return pause


def _set_pause(events: Events, config: PauseConfig) -> str:
    """Pause or end the pause of one ledger's model, and say so."""
    table = events.ledger.table
    if config.pause:
        entry = events.pause(config.reason)
        return f"{table}: paused by {entry.actor} since {entry.at:%Y-%m-%d %H:%M:%S} UTC: {entry.reason}"
    return f"{table}: {'was not paused' if events.unpause(config.reason) is None else 'moves by itself again'}"


def _all_ledgers(context: dg.OpExecutionContext) -> list[str]:
    """The ledgers of all models of this code location, by the tags of their jobs."""
    jobs = context.repository_def.get_all_jobs()
    return sorted({table for job in jobs if (table := job.tags.get(LEDGER_TAG))})


def approver_of(run: dg.DagsterRun, config: ApproveConfig) -> str:
    """Who approves: whom Dagster knows, else who is named.

    Raises:
        NotAllowed: Neither says it, and an approval is somebody's.
    """
    actor = actor_of(run)
    if actor.startswith("user:"):
        return actor
    if not config.approver.strip():
        raise NotAllowed(
            "an approval records who gave it, and Dagster does not know who started this run; launch it again with "
            "`approver: <your name>` in the op's configuration, or use `release-pipeline approve`."
        )
    return f"user:{config.approver.strip()}"


def _approve_job(model: ModelContext) -> dg.JobDefinition:
    spec = model.spec

    @dg.op(name=f"{spec.name}_record_approval")
    def record_approval(context: dg.OpExecutionContext, config: ApproveConfig) -> None:
        release = context.partition_key
        try:
            parts = connect_parts(spec, actor=approver_of(context.run, config), progress=context.log.info)
            found = approve(parts, spec, release, config.reason)
        except ReleasePipelineError as error:
            raise failure(error) from error
        context.log.info(f"release {release}: version {found.version} is approved by {found.entry.actor}")
        if found.untagged:
            context.log.warning(f"the version has no tag ({found.untagged}); the ledger's row counts without it")

    @dg.job(
        name=job_name(spec.name, "approve"),
        partitions_def=model.partitions,
        executor_def=dg.in_process_executor,
        description="A person approves the promotion of a release; the gate, windows and pauses still hold it.",
    )
    def approve_release() -> None:
        record_approval()

    return approve_release
