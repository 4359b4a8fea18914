"""What the gate counts: badness of every kind, rows that cannot be judged, segments, copies, late rows, levels."""

import json
import random
from collections.abc import Sequence
from typing import Any

import pytest

from release_pipeline.errors import SpecError, StatementFailed
from release_pipeline.gate import observations
from release_pipeline.spec_gate import Metric
from release_pipeline.workspace import counts
from release_pipeline.workspace.counting import count_sound
from release_pipeline.workspace.inference_table import (
    OTHER,
    Counted,
    Delta,
    Group,
    InferenceTable,
    Level,
    MetricPlan,
    Window,
)
from release_pipeline.workspace.payload_sql import Rows
from release_pipeline.workspace.sql.warehouse import Value
from tests.conftest import RunningWorkspace
from tests.pipeline import payload_tables
from tests.pipeline.payload_tables import Logged, RecordingWarehouse, create, insert, moment, stream

ERRORS = Metric(name="errors", kind="errors")
SLOW = Metric(name="slow", kind="slow", threshold_ms=100)
GROUP = "get_json_object(request, '$.group')"
WINDOWS = (Window(0, moment(0), None),)


@pytest.fixture
def warehouse(workspace: RunningWorkspace) -> RecordingWarehouse:
    return RecordingWarehouse(payload_tables.warehouse())


def filled(warehouse: RecordingWarehouse, *commits: Sequence[Logged], feed: bool = True) -> InferenceTable:
    """A table in today's shape with some commits."""
    name = create(warehouse, "gateway", feed=feed)
    for rows in commits:
        insert(warehouse, name, "gateway", rows)
    return InferenceTable(warehouse, name, hold_back_seconds=0)


def expression(badness: str, **fields: Any) -> Metric:
    return Metric(name="expression", kind="expression", badness=badness, **fields)


def read(table: InferenceTable, *plans: MetricPlan, after: int = 0, counted: Counted | None = None) -> Delta:
    latest = table.latest()
    assert latest is not None
    return table.changes(after, latest, first_version=1, windows=WINDOWS, plans=plans, counted=counted)


def only(delta: Delta) -> Group:
    (group,) = delta.groups
    return group


def values(group: Group) -> list[int]:
    """The bin of every judged row, in order."""
    return [value for value, rows in enumerate(group.counts) for _ in range(rows)]


STREAM_ERROR = {"databricks_output": {"trace": {"data": {}}, "error": {"error_code": "BAD_REQUEST", "message": "x"}}}
NO_ERROR = {"databricks_output": {"trace": {"data": {"spans": [{"error": {"a": 1}}]}}}}
QUOTED = (
    'why does {"databricks_output": {"error": {"error_code": "BAD_REQUEST"}}} come last?\ndata: {"databricks_output'
)


@pytest.mark.parametrize(
    ("response", "bad"),
    [
        ("{}", 0),
        (None, 0),
        ("", 0),
        (stream({"delta": "a"}, STREAM_ERROR), 1),
        (stream({"delta": "a"}, STREAM_ERROR) + "data: [DONE]\n\n", 1),
        (stream({"delta": "a"}, NO_ERROR) + "data: [DONE]\n\n", 0),
        (stream(STREAM_ERROR, {"delta": "went on"}), 0),
        (stream({"delta": QUOTED}), 0),
        (stream({"delta": "a"}, {"databricks_output": {"error": None}}), 0),
        (json.dumps(STREAM_ERROR, indent=1), 1),
        (json.dumps(NO_ERROR), 0),
        (json.dumps({"text": QUOTED}), 0),
        (json.dumps([{"delta": "a"}, STREAM_ERROR]), 1),
        ("databricks_output is mentioned, error too", 0),
    ],
)
def test_a_stream_is_bad_where_its_last_event_says_so(
    response: str | None, bad: int, warehouse: RecordingWarehouse
) -> None:
    table = filled(warehouse, [Logged("a", 1, response=response)])
    assert values(only(read(table, MetricPlan(ERRORS, 60)))) == [bad]


def test_statuses_that_are_none_are_unjudged_and_never_good(warehouse: RecordingWarehouse) -> None:
    statuses = [None, -1, 0, 42, 99, 600, 999, 100, 200, 302, 399, 400, 499, 500, 599]
    rows = [Logged(f"s{number}", 1, status) for number, status in enumerate(statuses)]
    group = only(read(filled(warehouse, rows), MetricPlan(ERRORS, 60)))
    assert group.counts == (4, 4)
    assert group.unjudged == 7


def test_durations_that_are_none_are_unjudged_and_the_threshold_itself_is_good(warehouse: RecordingWarehouse) -> None:
    rows = [Logged(f"d{number}", 1, 200, ms) for number, ms in enumerate([None, -1, 0, 99, 100, 101, 10**12])]
    table = filled(warehouse, rows)
    assert (
        only(read(table, MetricPlan(SLOW, 60, 100))).counts,
        only(read(table, MetricPlan(SLOW, 60, 100))).unjudged,
    ) == ((3, 2), 2)
    nothing = only(read(table, MetricPlan(SLOW, 60, None)))
    assert (nothing.counts, nothing.unjudged) == ((0, 0), 7), "without a threshold nothing is good"


@pytest.mark.parametrize(
    ("badness", "found"),
    [
        ("0", [0]),
        ("1", [20]),
        ("0.05", [1]),
        ("0.95", [19]),
        ("0.5", [10]),
        ("status_code = 200", [20]),
        ("false", [0]),
        ("'0.3'", [6]),
        ("length(response) / 4", [10]),
        ("CAST('NaN' AS DOUBLE)", []),
        ("CAST('Infinity' AS DOUBLE)", []),
        ("-0.001", []),
        ("1.001", []),
        ("NULL", []),
        ("'good'", []),
        ("execution_duration_ms / 100", [2]),
        ("duration_ms / 100", [2]),
    ],
)
def test_an_expression_is_binned_and_what_is_no_badness_is_unjudged(
    badness: str, found: list[int], warehouse: RecordingWarehouse
) -> None:
    group = only(read(filled(warehouse, [Logged("a", 1)]), MetricPlan(expression(badness), 60)))
    assert values(group) == found
    assert group.unjudged == 1 - len(found)
    assert len(group.counts) == 21


def test_a_row_without_its_body_is_judged_by_status_and_time_and_not_by_what_it_said(
    warehouse: RecordingWarehouse,
) -> None:
    row = Logged("a", 1, 500, 200, request=None, response=None, codes=("MAX_RESPONSE_SIZE_EXCEEDED",))
    reads = {
        "says": expression("CASE WHEN response LIKE '%bad%' THEN 1 ELSE 0 END"),
        "quoted": expression("CASE WHEN `response` LIKE '%bad%' THEN 1 ELSE 0 END"),
        "asks": expression("CASE WHEN request LIKE '%bad%' THEN 1 ELSE 0 END"),
    }
    plans = [MetricPlan(metric.model_copy(update={"name": name}), 60) for name, metric in reads.items()]
    delta = read(filled(warehouse, [row]), MetricPlan(ERRORS, 60), MetricPlan(SLOW, 60, 100), *plans)
    assert {group.metric: (values(group), group.unjudged) for group in delta.groups} == {
        "errors": ([1], 0),
        "slow": ([1], 0),
        "says": ([], 1),
        "quoted": ([], 1),
        "asks": ([0], 0),
    }


def test_one_statement_counts_all_metrics_of_the_same_segments_and_buckets(warehouse: RecordingWarehouse) -> None:
    table = filled(warehouse, [Logged("a", 1), Logged("b", 61)])
    by_group = expression("0.5", segments=GROUP)
    plans = [MetricPlan(ERRORS, 60), MetricPlan(SLOW, 60, 100), MetricPlan(expression("0.25"), 60)]
    read(table, *plans)
    warehouse.sent.clear()
    read(table, *plans)
    assert len(warehouse.sent) == 2, "a profile of the new rows, and their counts"
    warehouse.sent.clear()
    read(table, *plans, MetricPlan(by_group, 60), MetricPlan(SLOW.model_copy(update={"name": "hourly"}), 3600, 100))
    assert len(warehouse.sent) == 4
    assert all("secret" not in sent.statement for sent in warehouse.sent)


def test_segments_are_frozen_by_their_share_and_the_rest_is_other(warehouse: RecordingWarehouse) -> None:
    labels = ["gold"] * 8 + ["silver"] * 6 + ['it\'s "odd"'] * 2 + ["rare"] + [None] * 3 + [""] * 2 + [OTHER] * 2
    rows = [
        Logged(f"r{number}", number, 500 if label == "gold" else 200, request=json.dumps({"group": label}))
        for number, label in enumerate(labels)
    ]
    table = filled(warehouse, rows)
    metric = Metric(name="errors", kind="errors", segments=GROUP)
    levels = table.level([metric, ERRORS.model_copy(update={"name": "all"})], moment(0), moment(100), rate_seconds=100)
    assert [(level.metric, level.segment, level.rows, level.bad) for level in levels] == [
        ("errors", "gold", 8, 8.0),
        ("errors", "silver", 6, 0.0),
        ("errors", 'it\'s "odd"', 2, 0.0),
        ("errors", OTHER, 8, 0.0),
        ("all", "", 24, 8.0),
    ]
    frozen = tuple(level.segment for level in levels[:3])
    groups = read(table, MetricPlan(metric, 60, None, frozen)).groups
    assert {group.segment: group.counts for group in groups} == {
        "gold": (0, 8),
        "silver": (6, 0),
        'it\'s "odd"': (2, 0),
        OTHER: (8, 0),
    }
    unseen = read(table, MetricPlan(metric, 60)).groups
    assert [(group.segment, group.counts) for group in unseen] == [(OTHER, (16, 8))]


def test_at_most_eight_segments(warehouse: RecordingWarehouse) -> None:
    rows = [Logged(f"r{number}", number, request=json.dumps({"group": f"g{number % 10}"})) for number in range(20)]
    metric = Metric(name="errors", kind="errors", segments=GROUP)
    levels = filled(warehouse, rows).level([metric], moment(0), moment(100), rate_seconds=100)
    assert [level.segment for level in levels] == [*(f"g{number}" for number in range(8)), OTHER]
    assert levels[-1].rows == 4


def test_the_gate_calls_the_other_segment_the_same() -> None:
    assert counts.OTHER == observations.OTHER


def test_copies_count_once_within_a_read_and_against_earlier_ones(warehouse: RecordingWarehouse) -> None:
    first = [Logged("a", 1), Logged("a", 1), Logged("b", 2, 500)]
    table = filled(warehouse, first)
    delta = read(table, MetricPlan(ERRORS, 60))
    assert (only(delta).counts, delta.duplicates, delta.rows) == ((1, 1), 1, 2)
    insert(warehouse, table.name, "gateway", [*first, Logged("c", 3), Logged("old", -5), Logged("old", -5)])
    insert(warehouse, table.name, "gateway", [Logged("c", 3), Logged("b", 2, 500)])
    delta = read(table, MetricPlan(ERRORS, 60), after=1)
    assert only(delta).counts == (1, 0), "only c is new"
    assert (delta.duplicates, delta.outside, delta.rows) == (6, 1, 2)
    assert delta.entities == {"m/1": 1}


def test_the_search_for_copies_is_bound_to_the_event_times_of_the_new_rows(warehouse: RecordingWarehouse) -> None:
    table = filled(warehouse, [Logged("a", 1), Logged("b", 5000)])
    insert(warehouse, table.name, "gateway", [Logged("b", 5000), Logged("c", 5060.25), Logged("far", -9e6)])
    warehouse.sent.clear()
    delta = read(table, MetricPlan(ERRORS, 60), after=1)
    assert (delta.duplicates, only(delta).counts) == (1, (1, 0))
    bounds = {name: value for name, value in warehouse.sent[-1].parameters.items() if name.startswith("seen_")}
    assert bounds["seen_since"] == moment(5000)
    assert bounds["seen_until"] == moment(5060.250001)


def test_rows_without_a_request_id_are_outside(warehouse: RecordingWarehouse) -> None:
    delta = read(filled(warehouse, [Logged(None, 1), Logged(None, 1), Logged("a", 2)]), MetricPlan(ERRORS, 60))
    assert (only(delta).counts, delta.outside, delta.duplicates, delta.rows) == ((1, 0), 2, 0, 3)


def test_the_smallest_sampling_fraction_is_told(warehouse: RecordingWarehouse) -> None:
    rows = [Logged("a", 1, sampling=None), Logged("b", 1, sampling=0.25), Logged("c", 1), Logged("d", -1, sampling=0.1)]
    assert read(filled(warehouse, rows)).sampling_fraction == 0.25


def test_lag_is_that_of_the_steps_rows_and_tracers(warehouse: RecordingWarehouse) -> None:
    table = filled(warehouse, [Logged("a", 1), Logged("ancient", -9e6)])
    delta = read(table)
    expected = (delta.committed_at - moment(1)).total_seconds()
    assert abs(delta.lag_seconds - expected) < 0.001
    insert(warehouse, table.name, "gateway", [Logged("a", 1), Logged("ancient", -9e6)])
    assert read(table, after=1).lag_seconds == 0.0, "a copy says nothing about lag"


@pytest.mark.parametrize("status", [401, 403, 404, 429])
def test_a_refusal_is_an_error_of_the_version_that_refused_and_of_nobody_before_one(
    status: int, warehouse: RecordingWarehouse
) -> None:
    table = filled(warehouse, [Logged("a", 1, status), Logged("b", 2, status, entity=None), Logged("c", 3)])
    delta = read(table, MetricPlan(ERRORS, 60))
    assert (only(delta).counts, delta.outside) == ((1, 1), 1)


def test_a_failed_statement_never_quotes_a_row(warehouse: RecordingWarehouse) -> None:
    table = filled(warehouse, [Logged("a", 1)])
    where, values = table.shape().between(moment(0), moment(9), "rows")
    rows = Rows(table.shape(), table.name, where, values)
    quoting: tuple[str, dict[str, Value]] = ("SELECT CAST('my secret' AS INT)", {})
    with pytest.raises(StatementFailed, match=r"errors failed in the warehouse with \[CAST_INVALID_INPUT\]") as failed:
        count_sound(warehouse, rows, None, [MetricPlan(ERRORS, 60)], lambda plans: quoting)
    assert "secret" not in str(failed.value)
    assert failed.value.__suppress_context__


def test_sql_that_fails_takes_no_other_metric_with_it(warehouse: RecordingWarehouse) -> None:
    table = filled(warehouse, [Logged("a", 1, 500, request="my secret"), Logged("b", 2)])
    broken = expression("CAST(request AS INT)")
    unknown = Metric(name="unknown", kind="errors", segments="no_such_column")
    metrics = [ERRORS, broken, unknown]
    delta = read(table, *(MetricPlan(metric, 60) for metric in metrics))
    assert {group.metric: (group.counts, group.unjudged, group.segment) for group in delta.groups} == {
        "errors": ((1, 1), 0, ""),
        "expression": ((0,) * 21, 2, ""),
        "unknown": ((0, 0), 2, OTHER),
    }
    assert set(delta.failed) == {"expression", "unknown"}
    assert "metric expression failed in the warehouse with CAST_INVALID_INPUT" in delta.failed["expression"]
    assert "secret" not in str(delta.failed)
    levels = table.level(metrics, moment(0), moment(100), rate_seconds=100)
    assert [(level.metric, level.segment, level.rows) for level in levels] == [
        ("errors", "", 2),
        ("expression", "", 0),
        ("unknown", OTHER, 0),
    ]


def test_a_failure_that_is_nobodys_sql_is_raised(warehouse: RecordingWarehouse) -> None:
    table = filled(warehouse, [Logged("a", 1)])
    with pytest.raises(StatementFailed):
        table.changes(7, counts.Cursor(9, moment(0)), first_version=1, windows=WINDOWS, plans=[MetricPlan(ERRORS, 60)])


def test_rates_are_of_the_time_just_before(warehouse: RecordingWarehouse) -> None:
    rows = [Logged(f"r{number}", number, None if number % 10 == 0 else 200) for number in range(100)]
    table = filled(warehouse, rows)
    (level,) = table.level([ERRORS], moment(0), moment(100), rate_seconds=50)
    assert level == Level("errors", "", 90, 0.0, None, 45 / 50)
    (young,) = table.level([ERRORS], moment(-1000), moment(100), rate_seconds=1000)
    assert young.rows_per_second == 90 / 100, "a table younger than the time is not slower for it"
    (empty,) = table.level([ERRORS], moment(1000), moment(2000), rate_seconds=100)
    assert empty == Level("errors", "", 0, 0.0, None, 0.0)


def test_slow_without_a_threshold_freezes_the_champions_p95(warehouse: RecordingWarehouse) -> None:
    rows = [Logged(f"r{number}", number, 200, ms) for number, ms in enumerate([*range(1, 101), -1, None])]
    metric = Metric(name="slow", kind="slow")
    (level,) = filled(warehouse, rows).level([metric], moment(0), moment(1000), rate_seconds=1000)
    assert (level.threshold_ms, level.rows, level.bad) == (95, 100, 5.0)


def test_sql_that_is_no_expression_never_reaches_the_warehouse(warehouse: RecordingWarehouse) -> None:
    table = filled(warehouse, [Logged("a", 1)])
    # The YAML's own check would refuse them before.
    wrong = expression("1").model_copy(update={"badness": "1; DROP TABLE t"})
    with pytest.raises(SpecError, match="badness of metric expression has a semicolon; write one expression"):
        read(table, MetricPlan(wrong, 60))
    errors = Metric(name="errors", kind="errors").model_copy(update={"segments": "(SELECT 1)"})
    with pytest.raises(SpecError, match="segments of metric errors has SELECT"):
        table.level([errors], moment(0), moment(1), rate_seconds=1)
    assert not any("DROP" in sent.statement or "(SELECT 1)" in sent.statement for sent in warehouse.sent)


def test_neither_order_nor_copies_nor_the_cut_into_reads_changes_what_is_counted(warehouse: RecordingWarehouse) -> None:
    draw = random.Random(7)
    rows = [
        Logged(
            f"r{number}",
            draw.uniform(0, 600),
            draw.choice([200, 200, 500, None, 42]),
            draw.choice([50, 150, -1, None]),
            draw.choice(["e1", "e2"]),
            request=json.dumps({"group": draw.choice(["a", "b", "c", None])}),
        )
        for number in range(120)
    ]
    by_group = Metric(name="errors_by_group", kind="errors", segments=GROUP)
    plans = [MetricPlan(ERRORS, 60), MetricPlan(SLOW, 300, 100), MetricPlan(by_group, 300, None, ("a", "b"))]
    whole = read(filled(warehouse, rows), *plans)
    shuffled = draw.sample(rows, len(rows))
    table = filled(warehouse, [*shuffled[:70], *shuffled[20:50]])
    first = read(table, *plans)
    insert(warehouse, table.name, "gateway", [*shuffled[60:], *shuffled[:30], *shuffled[90:]])
    second = read(table, *plans, after=1)
    assert summed(first, second) == summed(whole)
    assert whole.duplicates == 0
    assert (first.duplicates, second.duplicates) == (30, 10 + 30 + 30)


def summed(*deltas: Delta) -> dict[tuple[object, ...], tuple[int, ...]]:
    """Counts and unjudged rows by everything that they are counted by, over some reads."""
    total: dict[tuple[object, ...], tuple[int, ...]] = {}
    for group in (group for delta in deltas for group in delta.groups):
        key = (group.metric, group.step, group.bucket_start, group.served_entity_id, group.segment)
        found = (*group.counts, group.unjudged)
        total[key] = tuple(map(sum, zip(total.get(key, (0,) * len(found)), found, strict=True)))
    return total


def test_metrics_of_other_tables_are_refused(warehouse: RecordingWarehouse) -> None:
    feedback = Metric(name="thumbs", kind="feedback", assessment="thumbs")
    with pytest.raises(ValueError, match="thumbs is of kind feedback"):
        read(filled(warehouse, [Logged("a", 1)]), MetricPlan(feedback, 60))
