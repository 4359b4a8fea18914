"""The drift sensor: compares endpoint and alias with the ledger, tells it and what is live; it mends where told to."""

import hashlib
import time
from typing import Any

import dagster as dg
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

from release_pipeline.assets.context import ModelContext
from release_pipeline.automation.drift_check import CHECK, drift_fields
from release_pipeline.automation.gate_sensor import MOST_BACK_OFF_SECONDS, PARTITION_TAG, SQL_SECONDS, UNFINISHED
from release_pipeline.automation.jobs import ACTION_TAG, ENDPOINT_TAG
from release_pipeline.automation.partitions import ensure_partitions
from release_pipeline.errors import ReleasePipelineError
from release_pipeline.report.metadata import live_metadata
from release_pipeline.rollout.ledger import Action
from release_pipeline.rollout.mending import DriftLook, look_for_drift
from release_pipeline.rollout.parts import connect_parts
from release_pipeline.rollout.state import ReleaseState
from release_pipeline.spec import ReleaseSpec
from release_pipeline.workspace.client import Workspace
from release_pipeline.workspace.links import endpoint_page, version_page
from release_pipeline.workspace.sql.warehouse import within

TICK_SECONDS = 300


def build_drift_sensor(model: ModelContext, mend_job: dg.JobDefinition) -> dg.SensorDefinition:
    """The drift sensor of one model; stopped by default."""
    spec = model.spec

    @dg.sensor(
        name=f"{spec.name}_drift",
        job=mend_job,
        minimum_interval_seconds=TICK_SECONDS,
        default_status=(
            dg.DefaultSensorStatus.RUNNING if spec.automation.drift_sensor == "on" else dg.DefaultSensorStatus.STOPPED
        ),
        description="Compares endpoint and alias with the ledger, reports the check `drift` and what is live; changes "
        "nothing, unless automation.mend_drift is set.",
    )
    def drift(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        try:
            parts = connect_parts(spec, actor=f"sensor:{spec.name}_drift", progress=context.log.info)
            with within(SQL_SECONDS):
                seen = look_for_drift(parts, spec)
        except ReleasePipelineError as error:
            return dg.SensorResult(skip_reason=str(error), cursor=context.cursor)
        state = seen.state
        opened = state.open_intent if state is not None else None
        busy = _busy(context.instance, spec)
        if state is not None and opened is not None and opened.action is Action.MEND and not busy:
            # Its run has ended before it was done.
            request = _request(context.instance, model, mend_job.name, state, "finish_mend")
            return _asked(request, "finishing a mend", context.cursor)
        if seen.not_looked or busy:
            return dg.SensorResult(skip_reason=seen.not_looked or f"waiting for run {busy}", cursor=context.cursor)
        told = [finding.sentence for finding in seen.findings]
        sentence = " ".join(told) or "endpoint and alias are what the ledger says"
        ensure_partitions(context.instance, model, [state.release] if state is not None else [])
        events, cursor = _news(model, parts.workspace, seen, context.cursor)
        if state is None or not _mends(spec, seen, state):
            return dg.SensorResult(skip_reason=sentence, asset_events=events, cursor=cursor)
        context.log.warning(sentence)
        return _asked(_request(context.instance, model, mend_job.name, state, "mend"), sentence, cursor, events)

    return drift


def _mends(spec: ReleaseSpec, seen: DriftLook, state: ReleaseState) -> bool:
    """Whether the sensor asks for a mend: only by the YAML, and not while a person has paused the model."""
    return spec.automation.mend_drift and state.paused is None and any(finding.mends for finding in seen.findings)


def _news(model: ModelContext, workspace: Workspace, seen: DriftLook, cursor: str | None) -> tuple[list[Any], str]:
    """What is another than it was told last, which is all that the cursor says: the check's outcome, what is live.

    A promotion or a rollback from the command line has no run that could tell Dagster what is live.
    """
    told, _, live_told = (cursor or "").partition(" ")
    events, key = list[Any](), model.key("promoted_alias")
    spec = model.spec
    metadata = live_metadata(
        seen.alias,
        spec.promotion.alias,
        seen.endpoint.routes if seen.endpoint else {},
        endpoint_url=endpoint_page(workspace, spec.endpoint_name),
        live_url=version_page(workspace, spec.model.registered_name, seen.alias) if seen.alias else None,
    )
    findings, live = _digest("\n".join(each.sentence for each in seen.findings)), _digest(repr(metadata))
    if findings != told:
        events.append(dg.AssetCheckEvaluation(asset_key=key, check_name=CHECK, **drift_fields(seen)))
    if live != live_told and seen.state is not None:
        events.append(dg.AssetObservation(key, partition=seen.state.release, metadata=metadata))
    return events, f"{findings} {live}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _busy(instance: DagsterInstance, spec: ReleaseSpec) -> str:
    """An unfinished run that acts on the endpoint, empty where there is none."""
    runs = instance.get_runs(RunsFilter(tags={ENDPOINT_TAG: spec.endpoint_name}, statuses=UNFINISHED), limit=1)
    return f"{runs[0].run_id[:8]} ({runs[0].job_name})" if runs else ""


def _request(
    instance: DagsterInstance, model: ModelContext, job: str, state: ReleaseState, action: str
) -> dg.RunRequest | str:
    """A run of the mend job, or a sentence that says how long it is not tried again."""
    tags = {ACTION_TAG: action}
    filters = RunsFilter(job_name=job, tags={PARTITION_TAG: state.release, **tags})
    attempts = instance.get_runs_count(filters)
    if attempts:
        last = instance.get_run_records(filters, limit=1)[0]
        rest = (last.end_time or 0) + min(2.0 ** min(attempts, 10), MOST_BACK_OFF_SECONDS) - time.time()
        if rest > 0:
            how = "failed" if last.dagster_run.status is DagsterRunStatus.FAILURE else "ended"
            return f"(run {last.dagster_run.run_id[:8]} {how}; next try in {rest:.0f} s)"
    key = f"{state.release}/{action}/{state.last_sequence}/{attempts}"
    ensure_partitions(instance, model, [state.release])
    return dg.RunRequest(run_key=key, job_name=job, partition_key=state.release, tags=tags)


def _asked(
    request: dg.RunRequest | str,
    sentence: str,
    cursor: str | None,
    events: list[Any] | None = None,
) -> dg.SensorResult:
    if isinstance(request, str):
        return dg.SensorResult(skip_reason=f"{sentence} {request}", asset_events=events or [], cursor=cursor)
    return dg.SensorResult(run_requests=[request], asset_events=events or [], cursor=cursor)
