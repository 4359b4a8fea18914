"""The gate sensor: each tick observes, decides, and requests at most one run, which does the act."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime

import dagster as dg
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

from release_pipeline.assets.context import REFUSED_TAG, ModelContext
from release_pipeline.automation.jobs import ACTION_TAG, job_name
from release_pipeline.automation.next_run import NextRun, given_up, next_run, open_run, run_config, watched
from release_pipeline.automation.partitions import ensure_partitions
from release_pipeline.errors import ReleasePipelineError, StatementFailed
from release_pipeline.gate.verdict import HoldReason
from release_pipeline.report.metadata import canary_metadata
from release_pipeline.rollout.ledger import Action, Entry
from release_pipeline.rollout.observer import Observed
from release_pipeline.rollout.open_move import close
from release_pipeline.rollout.parts import Parts, connect_parts
from release_pipeline.rollout.rolling_back import came_back
from release_pipeline.rollout.state import ReleaseState, Stage, current_release, paused, queued
from release_pipeline.spec import ReleaseSpec
from release_pipeline.workspace.links import endpoint_page
from release_pipeline.workspace.sql.warehouse import within

PARTITION_TAG = "dagster/partition"
UNFINISHED = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]
#: All statements of one tick take no longer than this together: Dagster stops a tick after 60 s.
SQL_SECONDS = 50.0
MOST_BACK_OFF_SECONDS = 600.0
MOST_ROLLBACK_BACK_OFF_SECONDS = 30.0
#: So long is an unfinished rollback run waited for, before another one does what the ledger says is open.
ROLLBACK_PATIENCE_SECONDS = 120.0
# Runs of one action that are looked at, to count the failed ones.
MOST_LOOKED_AT = 1000
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
            with within(SQL_SECONDS):
                return _tick(context, model, parts)
        except StatementFailed as error:
            return dg.SensorResult(skip_reason=f"{HoldReason.WAREHOUSE_BUSY}: {error}", cursor=context.cursor)
        except ReleasePipelineError as error:
            return dg.SensorResult(skip_reason=str(error), cursor=context.cursor)

    return gate


def _tick(context: dg.SensorEvaluationContext, model: ModelContext, parts: Parts) -> dg.SensorResult:
    entries = parts.ledger.read()
    state = current_release(entries)
    ensure_partitions(context.instance, model, [*queued(entries), *([state.release] if state else [])])
    if state is None or not state.active:
        return _idle(context, model, parts, entries, state)
    observed = parts.observer.look(state.release, entries=entries) if watched(state) else None
    verdict = observed.verdict if observed else None
    if observed and verdict and verdict.reason == HoldReason.FROZEN and state.frozen is None:
        parts.events.freeze(state.release, observed.judged.sentence, observed.evidence_digest)
    if state.open_intent is not None:
        found, sentence = open_run(state, verdict)
        wanted: NextRun | None = found
    else:
        wanted, sentence = next_run(state, verdict, model.spec, datetime.now(UTC))
    events, cursor = _observation(model, parts, observed, context.cursor)
    digest = observed.evidence_digest if observed else ""
    _write_down(parts, state, wanted, digest)
    if wanted is None:
        return dg.SensorResult(skip_reason=sentence, asset_events=events, cursor=cursor)
    busy = _in_the_way(context.instance, model.spec.name, state, wanted)
    if busy is not None:
        waiting = f"waiting for run {busy.run_id[:8]} ({busy.job_name}) of release {state.release}: {sentence}"
        return dg.SensorResult(skip_reason=waiting, asset_events=events, cursor=cursor)
    if observed and observed.not_finished and close(parts.rollout, state, observed.not_finished):
        closed = f"closed the open {state.open_intent.action if state.open_intent else ''}: {observed.not_finished}"
        return dg.SensorResult(skip_reason=closed, asset_events=events, cursor=cursor)
    hopeless = _hopeless(context.instance, model.spec, state, wanted)
    if hopeless:
        instead = _give_up(parts, model.spec, state, wanted, hopeless)
        if instead is None:
            return dg.SensorResult(skip_reason=hopeless, asset_events=events, cursor=cursor)
        wanted, sentence = instead, hopeless
        _write_down(parts, state, wanted, digest)
    request = _request(context.instance, model.spec, state, wanted, digest, patient=bool(hopeless))
    if isinstance(request, str):
        return dg.SensorResult(skip_reason=f"{sentence} {request}", asset_events=events, cursor=cursor)
    context.log.info(sentence)
    return dg.SensorResult(run_requests=[request], asset_events=events, cursor=cursor)


def _write_down(parts: Parts, state: ReleaseState, wanted: NextRun | None, evidence_digest: str) -> None:
    """Bring a rollback into the ledger before its run is asked for: it will be done, whatever becomes of that run."""
    open_already = state.open_intent is not None and state.open_intent.action is Action.ROLL_BACK
    if wanted is not None and wanted.job == "rollback" and not open_already:
        parts.rollout.begin_roll_back(
            state.release, reason=wanted.reason, evidence_digest=evidence_digest, status=wanted.status
        )


def _idle(
    context: dg.SensorEvaluationContext,
    model: ModelContext,
    parts: Parts,
    entries: Sequence[Entry],
    last: ReleaseState | None,
) -> dg.SensorResult:
    """Nothing is under way: what was rolled back stays so; the release that has waited longest in the queue begins."""
    name, waiting = model.spec.name, queued(entries)
    if last is not None and (why := came_back(parts.rollout, last)):
        return _roll_back_again(context, parts, model.spec, last, why)
    if not waiting:
        sentence = f"no release of {name} yet; start one"
        if last is not None:
            sentence = f"no release under way; the last, {last.release}, is {last.stage.replace('_', ' ')}"
        return dg.SensorResult(skip_reason=sentence, cursor=context.cursor)
    release, pause = waiting[0], paused(entries)
    if pause is not None:
        sentence = f"{HoldReason.PAUSED}: release {release} waits in the queue; paused by {pause.actor}: {pause.reason}"
        return dg.SensorResult(skip_reason=sentence, cursor=context.cursor)
    job = job_name(name, "deploy")
    queued_at = max(entry.at for entry in entries if entry.release == release and entry.action is Action.QUEUE)
    failed = _failures(context.instance, job, release, "deploy", queued_at)
    if len(failed) >= model.spec.automation.most_attempts:  # those behind it wait
        reason = _too_often("deploy", model.spec, failed)
        parts.events.withdraw(release, reason)
        return dg.SensorResult(skip_reason=f"release {release} leaves the queue: {reason}", cursor=context.cursor)
    busy = context.instance.get_runs(RunsFilter(tags={PARTITION_TAG: release}, statuses=UNFINISHED), limit=1)
    request: dg.RunRequest | str = f"waits for run {busy[0].run_id[:8]}" if busy else ""
    request = request or _asked(context.instance, job, release, "deploy", entries[-1].sequence, MOST_BACK_OFF_SECONDS)
    if isinstance(request, str):
        return dg.SensorResult(skip_reason=f"release {release} is next in the queue {request}", cursor=context.cursor)
    return dg.SensorResult(run_requests=[request], cursor=context.cursor)


def _roll_back_again(
    context: dg.SensorEvaluationContext, parts: Parts, spec: ReleaseSpec, last: ReleaseState, why: str
) -> dg.SensorResult:
    """A write that came late, or another tool, brought back a version that was rolled back."""
    sentence = f"{why} ({last.reason})"
    wanted = NextRun("rollback", "roll_back", last.reason)
    _write_down(parts, last, wanted, "")
    request: dg.RunRequest | str = ""
    if (busy := _in_the_way(context.instance, spec.name, last, wanted)) is not None:
        request = f"waiting for run {busy.run_id[:8]}"
    request = request or _request(context.instance, spec, last, wanted, "")
    if isinstance(request, str):
        return dg.SensorResult(skip_reason=f"{sentence}; {request}", cursor=context.cursor)
    context.log.warning(sentence)
    return dg.SensorResult(run_requests=[request], cursor=context.cursor)


def _in_the_way(
    instance: DagsterInstance, model_name: str, state: ReleaseState, wanted: NextRun
) -> dg.DagsterRun | None:
    """An unfinished run of this release that is waited for.

    For a rollback only another rollback is, and not for long once it is in the ledger: a run whose machine has died
    stays unfinished for up to an hour, and the ledger lets two of them do the same. The more there are, the longer.
    """
    filters = RunsFilter(tags={PARTITION_TAG: state.release}, statuses=UNFINISHED)
    records = instance.get_run_records(filters)
    rollbacks = [each for each in records if each.dagster_run.job_name == job_name(model_name, "rollback")]
    if wanted.job != "rollback":
        own = (f"{model_name}_", ANY_ASSETS_JOB)
        return next((each.dagster_run for each in records if each.dagster_run.job_name.startswith(own)), None)
    if not rollbacks:
        return None
    newest = max(rollbacks, key=lambda each: each.create_timestamp)
    begun = state.open_intent is not None and state.open_intent.action is Action.ROLL_BACK
    patience = ROLLBACK_PATIENCE_SECONDS * 2.0 ** min(len(rollbacks) - 1, 10)
    return None if begun and time.time() - newest.create_timestamp.timestamp() > patience else newest.dagster_run


def _observation(
    model: ModelContext, parts: Parts, observed: Observed | None, cursor: str | None
) -> tuple[list[dg.AssetObservation], str | None]:
    """An observation of the canary where there is new evidence; the cursor only says which was shown last."""
    if observed is None or observed.evidence_digest == cursor or not observed.ingests:
        return [], cursor
    url = endpoint_page(parts.workspace, model.spec.endpoint_name)
    observation = dg.AssetObservation(
        model.key("canary_traffic"),
        partition=observed.release.release,
        metadata=canary_metadata(observed, endpoint_url=url),
    )
    return [observation], observed.evidence_digest


def _hopeless(instance: DagsterInstance, spec: ReleaseSpec, state: ReleaseState, wanted: NextRun) -> str:
    """Why what is wanted is not tried any more; empty where it is, as a rollback is for ever.

    Only runs since the release last moved count, and not those that the gate or the ledger refused. An attempt that is
    recorded as failed is no move.
    """
    if wanted.job == "rollback":
        return ""
    ramp = state.stage in (Stage.STARTING, Stage.DEPLOYED, Stage.RAMPING) and wanted.action != "send_tracers"
    closing = state.open_intent is not None and state.open_intent.action in (Action.RETIRE, Action.MEND)
    if not closing and not (ramp and wanted.job in ("canary_step", "promote")):
        return ""
    since = state.last_at if closing else state.moved_at
    failed = _failures(instance, job_name(spec.name, wanted.job), state.release, wanted.action, since)
    return (
        f"{_too_often(wanted.action, spec, failed)}: {wanted.reason}"
        if (len(failed) >= spec.automation.most_attempts)
        else ""
    )


def _give_up(parts: Parts, spec: ReleaseSpec, state: ReleaseState, wanted: NextRun, reason: str) -> NextRun | None:
    """What follows instead: a rollback, or nothing where the release stays as it is and a person has to look.

    What is live is never taken from its users: a first release, which has nothing to go back to, is frozen. So is one
    whose policy says so. What it has open is closed, or, where part of it took effect, tried further, but seldom.
    """
    opened = state.open_intent
    if opened is not None and opened.action in (Action.RETIRE, Action.MEND):
        parts.rollout.give_up(state.release, reason=reason)
        return None
    serves_alone = state.champion_version is None and state.stage is Stage.RAMPING
    if spec.ramp.on_harm == "rollback" and not serves_alone:
        return given_up(reason)
    parts.events.freeze(state.release, reason, "")
    return None if opened is None or close(parts.rollout, state, reason) else wanted


def _failures(
    instance: DagsterInstance, job: str, release: str, action: str, since: datetime | None
) -> list[dg.DagsterRun]:
    """Failed runs of one action, newest first, without those that were refused."""
    filters = RunsFilter(
        job_name=job,
        tags={PARTITION_TAG: release, ACTION_TAG: action},
        statuses=[DagsterRunStatus.FAILURE],
        created_after=since,
    )
    return [run for run in instance.get_runs(filters, limit=MOST_LOOKED_AT) if REFUSED_TAG not in run.tags]


def _too_often(action: str, spec: ReleaseSpec, failed: Sequence[dg.DagsterRun]) -> str:
    most = spec.automation.most_attempts
    return (
        f"{action} failed {most} times (automation.most_attempts), last in run {failed[0].run_id[:8]}" if failed else ""
    )


def _request(
    instance: DagsterInstance,
    spec: ReleaseSpec,
    state: ReleaseState,
    wanted: NextRun,
    evidence_digest: str,
    *,
    patient: bool = False,
) -> dg.RunRequest | str:
    """The run to request, or a sentence that says how long the same one is not tried again.

    Args:
        instance: Dagster's instance.
        spec: The release's YAML.
        state: The release.
        wanted: What is wanted.
        evidence_digest: Digest of the evidence that it rests on.
        patient: It has failed too often: always the longest pause between two tries.
    """
    job = job_name(spec.name, wanted.job)
    most = MOST_ROLLBACK_BACK_OFF_SECONDS if wanted.job == "rollback" else MOST_BACK_OFF_SECONDS
    least = most if patient and wanted.job != "rollback" else 0.0
    asked = _asked(instance, job, state.release, wanted.action, state.last_sequence, most, least)
    config = run_config(wanted, spec.name, evidence_digest)
    return asked if isinstance(asked, str) else asked._replace(run_config=config)


def _asked(
    instance: DagsterInstance,
    job: str,
    release: str,
    action: str,
    sequence: int,
    most_seconds: float,
    least_seconds: float = 0.0,
) -> dg.RunRequest | str:
    """A run of ``job``, or a sentence that says how long it is not tried again."""
    tags = {ACTION_TAG: action}
    filters = RunsFilter(job_name=job, tags={PARTITION_TAG: release, **tags})
    attempts = instance.get_runs_count(filters)
    if attempts:
        last = instance.get_run_records(filters, limit=1)[0]
        # Also one that succeeded has not brought about what is wanted, or it would not be wanted again.
        pause = max(least_seconds, min(2.0 ** min(attempts, 10), most_seconds))
        rest = (last.end_time or 0) + pause - time.time()
        if rest > 0:
            how = "failed" if last.dagster_run.status is DagsterRunStatus.FAILURE else "ended"
            return f"(run {last.dagster_run.run_id[:8]} {how}; next try in {rest:.0f} s)"
    # A run key is used up for ever, even by a run that failed: hence the attempt.
    return dg.RunRequest(
        run_key=f"{release}/{action}/{sequence}/{attempts}", job_name=job, partition_key=release, tags=tags
    )
