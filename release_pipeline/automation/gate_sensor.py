"""The gate sensor: each tick observes, decides, and requests at most one run, which does the act."""

import time
from datetime import UTC, datetime

import dagster as dg
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

from release_pipeline.assets.context import ModelContext
from release_pipeline.automation.jobs import ACTION_TAG, job_name
from release_pipeline.automation.next_run import NextRun, next_run, resume_run, run_config
from release_pipeline.errors import ReleasePipelineError, StatementFailed
from release_pipeline.gate.verdict import HoldReason
from release_pipeline.report.metadata import canary_metadata
from release_pipeline.rollout.observer import Observed
from release_pipeline.rollout.parts import Parts, connect_parts
from release_pipeline.rollout.state import ReleaseState, Stage, current_release

PARTITION_TAG = "dagster/partition"
UNFINISHED = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]
MOST_BACK_OFF_SECONDS = 600.0
MOST_ROLLBACK_BACK_OFF_SECONDS = 30.0
# Dagster's name for the job behind "Materialize".
ANY_ASSETS_JOB = "__ASSET_JOB"


def build_gate_sensor(model: ModelContext, jobs: list[dg.JobDefinition]) -> dg.SensorDefinition:
    """The sensor that drives one model's releases; stopped by default, because it moves real traffic."""
    spec = model.spec

    @dg.sensor(
        name=f"{spec.name}_gate",
        jobs=jobs,
        minimum_interval_seconds=spec.automation.tick_seconds,
        default_status=(
            dg.DefaultSensorStatus.RUNNING if spec.automation.gate_sensor == "on" else dg.DefaultSensorStatus.STOPPED
        ),
        description="Observes the canary, asks the gate, and requests the run that acts on its verdict.",
    )
    def gate(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        try:
            parts = connect_parts(spec, actor=f"sensor:{spec.name}_gate", progress=context.log.info)
            return _tick(context, model, parts)
        except StatementFailed as error:
            return dg.SensorResult(skip_reason=f"{HoldReason.WAREHOUSE_BUSY}: {error}", cursor=context.cursor)
        except ReleasePipelineError as error:
            return dg.SensorResult(skip_reason=str(error), cursor=context.cursor)

    return gate


def _tick(context: dg.SensorEvaluationContext, model: ModelContext, parts: Parts) -> dg.SensorResult:
    entries = parts.ledger.read()
    state = current_release(entries)
    if state is None:
        return dg.SensorResult(skip_reason=f"no release of {model.spec.name} yet; start one", cursor=context.cursor)
    if not state.active:
        return dg.SensorResult(
            skip_reason=f"no release under way; the last, {state.release}, is {state.stage.replace('_', ' ')}",
            cursor=context.cursor,
        )
    observed: Observed | None = None
    if state.open_intent is not None:
        wanted: NextRun | None = resume_run(state.open_intent)
        sentence = f"finishing {state.open_intent.action}, which {state.open_intent.actor} began"
    else:
        if state.stage is Stage.RAMPING:
            observed = parts.observer.look(state.release, entries=entries)
        verdict = observed.verdict if observed else None
        wanted, sentence = next_run(state, verdict, model.spec, datetime.now(UTC))
    events, cursor = _observation(model, parts, observed, context.cursor)
    if wanted is None:
        return dg.SensorResult(skip_reason=sentence, asset_events=events, cursor=cursor)
    busy = _in_the_way(context.instance, model.spec.name, state, wanted)
    if busy is not None:
        waiting = f"waiting for run {busy.run_id[:8]} ({busy.job_name}) of release {state.release}: {sentence}"
        return dg.SensorResult(skip_reason=waiting, asset_events=events, cursor=cursor)
    request = _request(context.instance, model.spec.name, state, wanted)
    if isinstance(request, str):
        return dg.SensorResult(skip_reason=f"{sentence} {request}", asset_events=events, cursor=cursor)
    context.log.info(sentence)
    return dg.SensorResult(run_requests=[request], asset_events=events, cursor=cursor)


def _in_the_way(
    instance: DagsterInstance, model_name: str, state: ReleaseState, wanted: NextRun
) -> dg.DagsterRun | None:
    """An unfinished run of this release that is waited for; for a rollback only another rollback is."""
    runs = instance.get_runs(RunsFilter(tags={PARTITION_TAG: state.release}, statuses=UNFINISHED))
    rollback = job_name(model_name, "rollback")
    for run in runs:
        own = run.job_name.startswith((f"{model_name}_", ANY_ASSETS_JOB))
        if run.job_name == rollback or (own and wanted.job != "rollback"):
            return run
    return None


def _observation(
    model: ModelContext, parts: Parts, observed: Observed | None, cursor: str | None
) -> tuple[list[dg.AssetObservation], str | None]:
    """An observation of the canary where there is new evidence; the cursor only says which was shown last."""
    if observed is None or observed.evidence_digest == cursor or not observed.ingests:
        return [], cursor
    url = f"{parts.workspace.host}/ml/endpoints/{model.spec.endpoint_name}"
    observation = dg.AssetObservation(
        model.key("canary_traffic"),
        partition=observed.release.release,
        metadata=canary_metadata(observed, endpoint_url=url),
    )
    return [observation], observed.evidence_digest


def _request(instance: DagsterInstance, model_name: str, state: ReleaseState, wanted: NextRun) -> dg.RunRequest | str:
    """The run to request, or a sentence that says how long the same one is not tried again."""
    tags = {ACTION_TAG: wanted.action}
    job = job_name(model_name, wanted.job)
    filters = RunsFilter(job_name=job, tags={PARTITION_TAG: state.release, **tags})
    most = MOST_ROLLBACK_BACK_OFF_SECONDS if wanted.job == "rollback" else MOST_BACK_OFF_SECONDS
    attempts = instance.get_runs_count(filters)
    if attempts:
        last = instance.get_run_records(filters, limit=1)[0]
        # Also one that succeeded has not brought about what is wanted, or it would not be wanted again.
        rest = (last.end_time or 0) + min(2.0 ** min(attempts, 10), most) - time.time()
        if rest > 0:
            how = "failed" if last.dagster_run.status is DagsterRunStatus.FAILURE else "ended"
            return f"(run {last.dagster_run.run_id[:8]} {how}; next try in {rest:.0f} s)"
    return dg.RunRequest(
        # A run key is used up for ever, even by a run that failed: hence the attempt.
        run_key=f"{state.release}/{wanted.action}/{state.last_sequence}/{attempts}",
        job_name=job,
        partition_key=state.release,
        tags=tags,
        run_config=run_config(wanted, model_name),
    )
