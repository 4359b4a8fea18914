"""The promotion schedule: at a cron time, what the gate has passed is promoted; anything else stays."""

from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg

from release_pipeline.assets.context import ModelContext
from release_pipeline.automation.gate_sensor import SQL_SECONDS
from release_pipeline.automation.jobs import ACTION_TAG
from release_pipeline.errors import ReleasePipelineError
from release_pipeline.gate.verdict import Action
from release_pipeline.rollout.parts import connect_parts
from release_pipeline.rollout.state import Stage, current_release
from release_pipeline.workspace.sql.warehouse import within

#: So late a schedule may fire: Dagster's daemon makes up for a time that it has missed, whenever it is up again.
MOST_LATE: Final = timedelta(minutes=15)


def build_promotion_schedule(model: ModelContext, promote_job: dg.JobDefinition) -> dg.ScheduleDefinition | None:
    """The schedule of one model, or None where the YAML gives no cron time. The gate is read anew when it fires."""
    spec = model.spec
    if spec.promotion.schedule is None:
        return None

    @dg.schedule(
        name=f"{spec.name}_promotion",
        job=promote_job,
        cron_schedule=spec.promotion.schedule,
        execution_timezone=spec.promotion.timezone,
        default_status=(
            dg.DefaultScheduleStatus.RUNNING
            if spec.automation.promotion_schedule == "on"
            else dg.DefaultScheduleStatus.STOPPED
        ),
        description="Promotes what the gate has passed, at this time and no other.",
    )
    def promotion(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        late = datetime.now(UTC) - context.scheduled_execution_time
        if late > MOST_LATE:
            return dg.SkipReason(
                f"the promotion of {context.scheduled_execution_time:%Y-%m-%d %H:%M %Z} is {_told(late)} late, more "
                f"than {_told(MOST_LATE)}: what was meant for that time is not done at another; it waits for the next."
            )
        try:
            parts = connect_parts(spec, actor=f"schedule:{spec.name}_promotion", progress=context.log.info)
            entries = parts.ledger.read()
            state = current_release(entries)
            if state is None or state.stage is not Stage.RAMPING or state.open_intent is not None:
                return dg.SkipReason(f"no release of {spec.name} waits for its promotion")
            with within(SQL_SECONDS):
                observed = parts.observer.look(state.release, entries=entries)
        except ReleasePipelineError as error:
            return dg.SkipReason(str(error))
        if observed is None or observed.verdict.action is not Action.PROMOTE:
            held = observed.verdict if observed else None
            return dg.SkipReason(f"{held.reason}: {held.sentence}" if held else "the release is gone")
        return dg.RunRequest(
            run_key=f"{state.release}/promotion/{context.scheduled_execution_time.isoformat()}",
            partition_key=state.release,
            tags={ACTION_TAG: "promote"},
        )

    return promotion


def _told(time: timedelta) -> str:
    return f"{time.total_seconds() / 60:.0f} min"
