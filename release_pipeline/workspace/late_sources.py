"""The tables beside the inference table that tell what requests were worth, as the metrics of a gate need them."""

from collections.abc import Sequence

from release_pipeline.clock import Clock
from release_pipeline.spec import ReleaseSpec
from release_pipeline.spec_gate import Metric
from release_pipeline.workspace.assessment_logs import LoggedFeedback
from release_pipeline.workspace.client import Workspace
from release_pipeline.workspace.feedback import TraceFeedback
from release_pipeline.workspace.inference_table import InferenceTable
from release_pipeline.workspace.label_table import LabelSource
from release_pipeline.workspace.score_source import ScoreSource
from release_pipeline.workspace.score_table import ScoreTable, score_table_name


def late_sources(
    workspace: Workspace, spec: ReleaseSpec, metrics: Sequence[Metric], payload: InferenceTable, clock: Clock
) -> tuple[ScoreSource, ...]:
    """One source per place that values of these metrics come from; none for metrics that the payload itself tells.

    Args:
        workspace: Its warehouse and its traces.
        spec: The model, and the experiment of its traces.
        metrics: The gate's metrics, as they were frozen with the release.
        payload: The inference table.
        clock: Tells what is fresh.
    """
    scores = ScoreTable(workspace.warehouse, score_table_name(spec), payload)
    feedback = [metric for metric in metrics if metric.kind == "feedback"]
    traces = tuple(metric for metric in feedback if metric.source == "traces")
    logs = tuple(metric for metric in feedback if metric.source == "assessment_logs")
    judges = tuple(metric for metric in metrics if metric.kind == "judge")
    labels: dict[str, tuple[Metric, ...]] = {}
    for metric in metrics:
        if metric.kind == "label" and metric.table is not None:
            labels[metric.table] = (*labels.get(metric.table, ()), metric)
    sources: list[ScoreSource] = []
    if traces:
        sources.append(TraceFeedback(workspace, spec.experiment, traces, scores, clock))
    if logs:
        sources.append(LoggedFeedback(f"{spec.payload_table}_assessment_logs", logs, scores, clock))
    if judges:
        sources.append(ScoreSource(scores.name, judges, scores))
    sources += [LabelSource(table, found, scores, clock) for table, found in labels.items()]
    return tuple(sources)
