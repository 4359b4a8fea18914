"""The SQL that writes and reads scores gives the same rows on real Spark and on the local workspace."""

import random
import re
from collections.abc import Iterable
from typing import Any

import pytest

from release_pipeline.spec_gate import Metric
from release_pipeline.workspace.assessment_logs import LoggedFeedback
from release_pipeline.workspace.budget import Budget
from release_pipeline.workspace.counts import MetricPlan, Window
from release_pipeline.workspace.inference_table import InferenceTable
from release_pipeline.workspace.judge_sample import JudgeSample
from release_pipeline.workspace.label_table import LabelSource
from release_pipeline.workspace.score_source import ScoreSource
from release_pipeline.workspace.score_table import Judged, Pass, ScoreTable
from tests.conftest import RunningWorkspace
from tests.pipeline.payload_tables import (
    COLUMNS,
    SHAPES,
    Logged,
    RecordingWarehouse,
    Sent,
    create,
    insert,
    moment,
    stream,
    warehouse,
)
from tests.pipeline.test_feedback import LOGS, StoppedClock, rate
from tests.pipeline.test_label import COLUMNS as LABELS
from tests.pipeline.test_label import label
from tests.spark.spark_side import SparkTable, same, without_delta

pytestmark = pytest.mark.slow

SCORES = (
    "metric STRING, request_id STRING, request_time TIMESTAMP, served_entity_id STRING, segment STRING, "
    "badness DOUBLE, at TIMESTAMP, source STRING"
)
_INSERT = re.compile(r"\s*INSERT INTO (\S+) \([^)]*\)\s*(?=SELECT)")
SEGMENTED = Metric(
    name="helpful", kind="feedback", assessment="helpful", segments="CASE WHEN duration_ms < 50 THEN 'quick' END"
)


def on_spark(spark: Any, sent: Sent, tables: Iterable[str]) -> list[dict[str, Any]]:
    """The rows that Spark answers to a statement, or would insert."""
    statement = without_delta(_INSERT.sub("", sent.statement), tables)
    return [row.asDict() for row in spark.sql(statement, args=dict(sent.parameters)).collect()]


def rows() -> list[Logged]:
    """Requests from a fixed seed."""
    draw = random.Random(20260302)
    answers = ['{"output": "fine"}', stream({"databricks_output": {"error": {"a": 1}}}), None]
    return [
        Logged(
            f"id-{number}",
            round(draw.uniform(0, 3600), 6),
            status=draw.choice([200, 200, 200, 404, 500]),
            ms=draw.randrange(100),
            entity=draw.choice(["m/1", "m/2", None]),
            client=draw.choice([None, f"client-{number % 7}"]),
            response=draw.choice(answers),
        )
        for number in range(150)
    ]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_statement_about_scores_gives_the_same_rows(shape: str, spark: Any, workspace: RunningWorkspace) -> None:
    recording = RecordingWarehouse(warehouse())
    payload = create(recording, shape)
    insert(recording, payload, shape, [*rows(), *rows()[:20]])
    scores = ScoreTable(recording, f"{payload}_scores", InferenceTable(recording, payload))
    scores.create()
    scores.note_pass(SEGMENTED, Pass(moment(0), moment(0), moment(0)))  # the table has a commit to be read from
    logs, truth = f"{payload}_assessment_logs", f"{payload}_truth"
    recording.execute(f"CREATE TABLE {logs} ({LOGS})")
    recording.execute(f"CREATE TABLE {truth} ({LABELS}) TBLPROPERTIES (delta.enableChangeDataFeed = true)")
    for number in range(20):
        rate(logs, f"id-{number}", ["positive", "negative", "perhaps"][number % 3], 10 * number)
    label(truth, ("id-1", True, 3.5), ("client-2", False, None), ("id-4", None, 9.0), ("id-5", True, float("nan")))
    tables = (payload, scores.name, logs, truth)
    SparkTable(spark, warehouse(), payload, COLUMNS[shape], feed=True)
    SparkTable(spark, warehouse(), logs, LOGS, feed=False)
    SparkTable(spark, warehouse(), truth, LABELS, feed=True)
    amount = Metric(
        name="amount", kind="label", table=truth, badness="label.amount / 4", segments="request_id", settle_minutes=0
    )
    churned = Metric(name="churned", kind="label", table=truth, badness="label.churned", settle_minutes=0)
    rated = Metric(name="rated", kind="feedback", assessment="helpful", source="assessment_logs")
    given = [
        Judged(f"id-{n}" if n % 2 else f"client-{n % 9}", (n % 37) / 36 if n % 5 else None, moment(n))
        for n in range(60)
    ]
    writers = (
        lambda: scores.add(SEGMENTED, [*given, Judged('odd "id"\n', 0.1 + 0.2, moment(1))], moment(0), moment(3000)),
        lambda: LoggedFeedback(logs, (rated,), scores, StoppedClock(3600)).collect(moment(0), Budget(60)),
        lambda: LabelSource(truth, (amount, churned), scores, StoppedClock(3600)).collect(moment(0), Budget(60)),
    )
    for write in writers:
        SparkTable(spark, warehouse(), scores.name, SCORES, feed=True)
        recording.sent.clear()
        write()
        agree_on_writes(spark, recording.sent, tables, scores)
    SparkTable(spark, warehouse(), scores.name, SCORES, feed=True)
    recording.sent.clear()
    read_everything(scores, (SEGMENTED, rated, amount, churned))
    assert len(recording.sent) >= 6
    for sent in recording.sent:
        theirs = on_spark(spark, sent, tables)
        assert sent.rows is not None
        assert len(sent.rows) == len(theirs), sent.statement
        for ours, other in zip(sent.rows, theirs, strict=True):
            assert same(ours, other), f"{ours}\n{other}\n{sent.statement}"


def agree_on_writes(spark: Any, sent: list[Sent], tables: tuple[str, ...], scores: ScoreTable) -> None:
    """What the statements inserted here is what their queries find on Spark, over the table from before."""
    selects = [each for each in sent if _INSERT.match(each.statement)]
    assert selects
    for each in selects:
        metric = each.parameters["metric"]
        ours = warehouse().execute(
            f"SELECT * FROM {scores.name} WHERE metric = :metric AND request_id IS NOT NULL ORDER BY request_id",
            {"metric": metric},
        )
        theirs = [tuple(row.values()) for row in on_spark(spark, each, tables)]
        assert ours, f"{metric} has no rows"
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, sorted(theirs, key=lambda row: str(row[1])), strict=True):
            assert same(mine, dict(zip(mine, other, strict=True))), each.statement
    # All other statements of a collection are queries.
    for each in sent:
        if each.rows is not None and each.statement.lstrip().startswith("SELECT"):
            answered = on_spark(spark, each, tables)
            assert all(same(mine, other) for mine, other in zip(each.rows, answered, strict=True)), each.statement


def read_everything(scores: ScoreTable, metrics: tuple[Metric, ...]) -> None:
    """Every statement that reads scores, and those that find what a judge scores."""
    source, latest = ScoreSource("s", metrics, scores), scores.latest()
    assert latest is not None
    levels = source.level(moment(0), moment(3600), rate_seconds=60, entities=["m/1", "m/2"])
    assert "quick" in {level.segment for level in levels}
    source.level(moment(0), moment(1800), rate_seconds=60)
    plans = [MetricPlan(metric, 300 * (1 + number), None, ("quick",)) for number, metric in enumerate(metrics)]
    windows = [Window(0, moment(0), moment(1000)), Window(1, moment(1100), None)]
    delta = source.changes(0, latest, windows=windows, plans=plans)
    assert {group.metric for group in delta.groups} == {metric.name for metric in metrics}
    assert delta.outside
    source.changes(latest.version // 2, latest, windows=windows, plans=plans)
    sample, judge = JudgeSample(scores), Metric(name="safe", kind="judge", scorer="Safety", sample=0.5)
    waiting = sample.waiting(judge, moment(0), moment(3600), 10)
    assert len(waiting) == 10
    assert len(sample.bodies(waiting)) == 10
    assert scores.newest_pass(metrics[0], moment(1)) is not None
