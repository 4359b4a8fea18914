"""The SQL that the gate sends gives the same counts on real Spark and on the local workspace, over the same rows."""

import json
import random
from typing import Any

import pytest

from release_pipeline.spec_gate import Metric
from release_pipeline.workspace.inference_table import Counted, InferenceTable, MetricPlan, Window
from release_pipeline.workspace.metric_sql import KINDS
from release_pipeline.workspace.tracer import tracer_id
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
from tests.spark.spark_side import SparkTable, same

pytestmark = pytest.mark.slow

SEGMENTS = "get_json_object(request, '$.group')"
METRICS = (
    Metric(name="errors", kind="errors"),
    Metric(name="slow", kind="slow", margin=0.05),
    Metric(name="errors_by_group", kind="errors", segments=SEGMENTS),
    Metric(name="slow_by_group", kind="slow", threshold_ms=250, segments=SEGMENTS),
    Metric(name="long", kind="expression", badness="least(length(response) / 300, 1)"),
    Metric(name="refusal", kind="expression", badness="lower(response) LIKE '%cannot help%'"),
    Metric(
        name="score",
        kind="expression",
        badness="CASE WHEN duration_ms % 7 = 0 THEN CAST('NaN' AS DOUBLE) ELSE duration_ms / 200 - 0.25 END",
        segments="CASE WHEN hour(request_time) < 12 THEN 'morning' ELSE concat('from ', served_entity) END",
    ),
    Metric(name="asked", kind="expression", badness="1 - size(split(request, ' ')) / 20"),
    Metric(name="text", kind="expression", badness="CASE WHEN status_code = 200 THEN 'no number' ELSE '0.35' END"),
    Metric(name="unknown_column", kind="expression", badness="no_such_column * 2"),
    Metric(name="unknown_label", kind="errors", segments="no_such_column"),
)
ANSWERS = (
    '{"output": "fine"}',
    '{"output": "I cannot help with “naïve” 漢字"}',
    '{"databricks_output": {"error": {"error_code": "BAD_REQUEST", "message": "x"}}}',
    '{"databricks_output": {"trace": {"data": {"spans": [{"error": {"a": 1}}]}}}}',
    stream({"delta": "a"}, {"databricks_output": {"trace": {}, "error": {"code": "A"}}}) + "data: [DONE]\n",
    stream({"delta": '{"databricks_output": {"error": {}}}\ndata: {"databricks_output": {"error": {"a": 1}}}'}),
    stream({"databricks_output": {"error": {"a": 1}}}, {"delta": "went on"}),
    '[{"delta": "a"}, {"databricks_output": {"error": {"error_code": "X"}}}]',
    "no JSON at all",
    "",
    None,
)


def some_rows(count: int) -> list[Logged]:
    """Rows with everything that a payload table may hold, from a fixed seed."""
    draw = random.Random(20260302)
    rows = []
    for number in range(count):
        response = draw.choice(ANSWERS)
        group = draw.choice(["gold", "silver", "silver", "bronze", "other", "", "naïve 'x'", None])
        status = draw.choice([200] * 12 + [400, 404, 429, 500, 503, 0, 42, 600, 999, -1, None])
        rows.append(
            Logged(
                id=f"id-{number}" if draw.random() > 0.02 else None,
                at=draw.choice([round(draw.uniform(-100, 3700), 6), 300.0 * draw.randrange(12), 299.999999, None]),
                status=status,
                ms=draw.choice([draw.randrange(0, 400), -1, None, 7, 250, 251]),
                entity=draw.choice(["m/1", "m/1", "m/2", "m/2", "a.b.feedback/1", None]),
                request=json.dumps({"group": group, "text": "word " * draw.randrange(25)}),
                response=response,
                client=draw.choice([None, "mine", tracer_id("2")]) if draw.random() < 0.1 else None,
                sampling=draw.choice([1.0, 0.5, None]),
                codes=("MAX_RESPONSE_SIZE_EXCEEDED",) if response is None else (),
            )
        )
    return rows


def send_everything(table: InferenceTable, warehouse: RecordingWarehouse, name: str, shape: str) -> None:
    """Every statement that the gate sends: before a release, over two ticks, and beside the endpoint's counters."""
    rows = some_rows(400)
    insert(warehouse, name, shape, rows[:200])
    # What comes after holds copies of its own rows and of earlier ones.
    insert(warehouse, name, shape, [*rows[200:300], *rows[250:320]])
    insert(warehouse, name, shape, [*rows[150:220], *rows[320:], Logged("of the next hour", 3800)])
    latest = table.latest()
    assert latest is not None
    levels = table.level(METRICS, moment(0), moment(3600), rate_seconds=600, entities=["m/1", "m/2"])
    table.level(METRICS[:2], moment(0), moment(3600), rate_seconds=600)
    assert {level.segment for level in levels} >= {"gold", "silver", "morning"}
    thresholds = {level.metric: level.threshold_ms for level in levels}
    segments: dict[str, list[str]] = {}
    for level in levels:
        segments.setdefault(level.metric, []).append(level.segment)
    plans = [
        MetricPlan(
            metric,
            600 if metric.name == "text" else 300,
            thresholds[metric.name],
            tuple(label for label in segments[metric.name] if label not in ("", "other")),
        )
        for metric in METRICS
    ]
    windows = [Window(0, moment(0), moment(1800)), Window(1, moment(1830), None)]
    after = 1 if table.has_change_feed() else int(moment(1500).timestamp())
    counted = Counted(int(moment(0).timestamp()))
    delta = table.changes(
        after, latest, first_version=1, windows=windows, plans=[*plans, *unjudgeable()], counted=counted
    )
    assert {group.metric for group in delta.groups} == {metric.name for metric in METRICS} | {"never"}
    assert set(delta.failed) == {"unknown_column", "unknown_label"}
    assert delta.duplicates
    assert delta.late or table.has_change_feed()
    assert table.changes(after, latest, first_version=1, windows=windows, plans=[]).entities == delta.entities
    forged = table.changes(after, latest, first_version=1, windows=windows, plans=[], tracers=["none"])
    assert sum(forged.entities.values()) > sum(delta.entities.values())
    assert forged.forged > 0
    sent = next(row.client for row in rows if row.client and row.client != "mine" and row.entity == "m/2")
    assert table.shown({sent: moment(0), "none": moment(3000)}).mapping.keys() <= {"m/2"}
    assert table.failures_logged(moment(0), moment(3600))
    assert table.newest()


def unjudgeable() -> list[MetricPlan]:
    return [MetricPlan(Metric(name="never", kind="slow"), 300, None)]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("feed", [True, False], ids=["change feed", "watermark"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_statement_of_the_gate_gives_the_same_rows(
    shape: str, feed: bool, spark: Any, workspace: RunningWorkspace
) -> None:
    recording = RecordingWarehouse(warehouse())
    name = create(recording, shape, feed=feed)
    table = InferenceTable(recording, name, hold_back_seconds=60)
    recording.sent.clear()
    send_everything(table, recording, name, shape)
    sent = [each for each in recording.sent if not each.statement.startswith("INSERT")]
    there = SparkTable(spark, warehouse(), name, COLUMNS[shape], feed=feed)
    assert {metric.kind for metric in METRICS} == set(KINDS)
    assert sum(each.rows is not None for each in sent) > 10
    for each in sent:
        agree(each, there)


def agree(sent: Sent, there: SparkTable) -> None:
    """Fail unless Spark answers the same rows in the same order, or fails, too."""
    if sent.rows is None:
        from pyspark.errors import PySparkException

        with pytest.raises(PySparkException):
            there.run(sent)
        return
    theirs = there.run(sent)
    assert len(sent.rows) == len(theirs), sent.statement
    for ours, other in zip(sent.rows, theirs, strict=True):
        assert same(ours, other), f"{ours}\n{other}\n{sent.statement}"
