"""The judge job and its sensor: scorers on a sample of logged requests, while a release is on its ramp.

The sensor asks for a run only where requests wait for a score and no run is under way, so there are never two at once.
A run holds no endpoint: it must never be in the way of a rollback.
"""

import time

import dagster as dg
from dagster import DagsterRunStatus, RunsFilter

from release_pipeline.assets.context import ModelContext, failure
from release_pipeline.automation.gate_sensor import SQL_SECONDS, UNFINISHED
from release_pipeline.automation.jobs import SLOT, job_name
from release_pipeline.errors import ReleaseError, ReleasePipelineError
from release_pipeline.evaluation.judge_run import JudgeOutcome, run_judge
from release_pipeline.evaluation.judging import Judge
from release_pipeline.rollout.evidence_fold import so_far
from release_pipeline.rollout.parts import Parts, connect_parts
from release_pipeline.rollout.state import ReleaseState, Stage, current_release
from release_pipeline.spec import ReleaseSpec
from release_pipeline.spec_gate import Metric
from release_pipeline.workspace.endpoint import Progress
from release_pipeline.workspace.judge_sample import JudgeSample
from release_pipeline.workspace.score_table import ScoreTable, score_table_name
from release_pipeline.workspace.sql.warehouse import within

#: After a failed run the next one waits this long: a judge's model that is out of reach is not asked without end.
REST_SECONDS = 300.0


def has_judges(spec: ReleaseSpec) -> bool:
    """Whether any metric of the gate is scored by a judge."""
    return any(metric.kind == "judge" for metric in spec.gate.metrics)


def build_judge_job(model: ModelContext) -> dg.JobDefinition:
    """The job ``<name>_judge``; safe to repeat, by hand as well."""
    spec = model.spec

    @dg.op(name=f"{spec.name}_score_sample", pool=f"judge_{spec.endpoint_name}")
    def score_sample(context: dg.OpExecutionContext) -> None:
        try:
            outcomes = judge_release(model.parts(context), model, progress=context.log.info)
        except ReleasePipelineError as error:
            raise failure(error) from error
        if not outcomes:
            context.log.info("no release is on its ramp: nothing to score")
        context.add_output_metadata(
            {f"{each.metric}_{what}": getattr(each, what) for each in outcomes for what in ("scored", "unjudged")}
        )

    @dg.job(
        name=job_name(spec.name, "judge"),
        executor_def=dg.in_process_executor,
        tags=SLOT,
        description="Scores a sample of the requests that the release on its ramp, and its champion, answered.",
    )
    def judge() -> None:
        score_sample()

    return judge


def build_judge_sensor(model: ModelContext, job: dg.JobDefinition) -> dg.SensorDefinition:
    """The sensor that asks for the job; it is on from the start where the gate sensor is."""
    spec = model.spec

    @dg.sensor(
        name=f"{spec.name}_judge_sample",
        job=job,
        minimum_interval_seconds=spec.automation.tick_seconds,
        default_status=(
            dg.DefaultSensorStatus.RUNNING if spec.automation.gate_sensor == "on" else dg.DefaultSensorStatus.STOPPED
        ),
        description="Requests a run of the judge where requests of the release on its ramp wait for a score.",
    )
    def judge_sample(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        try:
            parts = connect_parts(spec, actor=f"sensor:{spec.name}_judge_sample", progress=context.log.info)
            busy = _busy(context.instance, job.name)
            if busy is not None:
                return dg.SkipReason(busy)
            with within(SQL_SECONDS):
                waiting = waiting_for_judges(parts, spec)
        except ReleasePipelineError as error:
            return dg.SkipReason(str(error))
        if not waiting:
            return dg.SkipReason("no request waits for a score")
        return dg.RunRequest()

    return judge_sample


def judge_release(parts: Parts, model: ModelContext, *, progress: Progress) -> list[JudgeOutcome]:
    """Score what waits, metric by metric; nothing where no release is on its ramp.

    Raises:
        ReleasePipelineError: A scorer cannot be loaded or fails on everything, or the workspace cannot be asked.
    """
    ramp = _ramp(parts, model.spec)
    if ramp is None:
        return []
    state, metrics = ramp
    parts.workspace.mlflow  # noqa: B018  points mlflow, and so the scorers' default model, at the workspace
    sample = _sample(parts, model.spec)
    judges = [Judge(metric, model.folder) for metric in metrics]
    now, outcomes, broken = parts.observer.clock.now(), list[JudgeOutcome](), list[ReleaseError]()
    for judge in judges:
        try:
            outcomes.append(run_judge(judge, sample, state.steps[0].started_at, now, progress))
        except ReleaseError as error:  # one broken scorer must not keep the others from their work
            broken.append(error)
    if broken:
        raise broken[0]
    return outcomes


def waiting_for_judges(parts: Parts, spec: ReleaseSpec) -> bool:
    """Whether any request of the release on its ramp waits for a score."""
    ramp = _ramp(parts, spec)
    if ramp is None:
        return False
    state, metrics = ramp
    sample, now = _sample(parts, spec), parts.observer.clock.now()
    return any(sample.waiting(metric, state.steps[0].started_at, now, 1) for metric in metrics)


def _ramp(parts: Parts, spec: ReleaseSpec) -> tuple[ReleaseState, list[Metric]] | None:
    """The release on its ramp and its judged metrics, as they were frozen with it; None where there is none."""
    state = current_release(parts.ledger.read())
    if state is None or state.stage not in (Stage.RAMPING, Stage.PROMOTED) or not state.steps:
        return None
    gate = so_far(parts.observer.evidence.read_newest(state.release), spec.gate).gate
    return state, [metric for metric in gate.metrics if metric.kind == "judge"]


def _sample(parts: Parts, spec: ReleaseSpec) -> JudgeSample:
    scores = ScoreTable(parts.workspace.warehouse, score_table_name(spec), parts.payload)
    if scores.latest() is None:
        scores.create()
    return JudgeSample(scores)


def _busy(instance: dg.DagsterInstance, job: str) -> str | None:
    """Why no run is asked for now, None where nothing is in the way."""
    if runs := instance.get_runs(RunsFilter(job_name=job, statuses=UNFINISHED), limit=1):
        return f"run {runs[0].run_id[:8]} is scoring"
    for record in instance.get_run_records(RunsFilter(job_name=job), limit=1):
        rest = (record.end_time or 0) + REST_SECONDS - time.time()
        if record.dagster_run.status is DagsterRunStatus.FAILURE and rest > 0:
            return f"run {record.dagster_run.run_id[:8]} failed; next try in {rest:.0f} s"
    return None
