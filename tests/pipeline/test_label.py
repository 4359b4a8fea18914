"""Truth that comes later, from a table of the user's own."""

from datetime import UTC, datetime

import pytest

from release_pipeline.errors import SpecError, StatementFailed, TableUnreadable
from release_pipeline.spec_gate import Metric
from release_pipeline.workspace.budget import Budget
from release_pipeline.workspace.counts import MetricPlan, Window
from release_pipeline.workspace.label_table import LabelSource
from release_pipeline.workspace.score_source import ScoreSource
from release_pipeline.workspace.score_table import Judged, ScoreTable
from tests.conftest import RunningWorkspace
from tests.pipeline.conftest import TurnedClock
from tests.pipeline.payload_tables import SHAPES, Logged, create, insert, moment, warehouse
from tests.pipeline.test_feedback import StoppedClock, counted, score_table, stored

COLUMNS = "request_id STRING, churned BOOLEAN, amount DOUBLE"


def label_table(payload: str, *, feed: bool, columns: str = COLUMNS) -> str:
    """An empty table of labels."""
    name = f"{payload}_truth"
    properties = " TBLPROPERTIES (delta.enableChangeDataFeed = true)" if feed else ""
    warehouse().execute(f"CREATE TABLE {name} ({columns}){properties}")
    return name


def label(table: str, *rows: tuple[str, bool | None, float | None]) -> None:
    """Append labels as one commit."""
    for request_id, churned, amount in rows:
        warehouse().execute(
            f"INSERT INTO {table} VALUES (:id, :churned, :amount)",
            {"id": request_id, "churned": churned, "amount": amount},
        )


def metric(table: str, **fields: object) -> Metric:
    return Metric.model_validate(
        {"name": "churn", "kind": "label", "table": table, "badness": "label.churned", "settle_minutes": 60, **fields}
    )


@pytest.fixture
def gateway(workspace: RunningWorkspace) -> str:
    """A payload table with four requests, a minute apart."""
    name = create(warehouse(), "gateway")
    insert(warehouse(), name, "gateway", [Logged(letter, 60.0 * at) for at, letter in enumerate("abcd")])
    return name


def source(gateway: str, *metrics: Metric, seconds: float = 600) -> tuple[LabelSource, ScoreTable, StoppedClock]:
    scores, clock = score_table(gateway), StoppedClock(seconds)
    return LabelSource(str(metrics[0].table), metrics, scores, clock), scores, clock


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("feed", [True, False], ids=["feed", "no_feed"])
def test_a_label_joins_the_request_that_it_is_about(workspace: RunningWorkspace, shape: str, feed: bool) -> None:
    payload = create(warehouse(), shape)
    rows = [Logged("a", 1, entity="m/1"), Logged("b", 2, entity="m/2", client="order-7"), Logged("c", 3)]
    insert(warehouse(), payload, shape, [*rows, rows[0]])
    table = label_table(payload, feed=feed)
    # The label's own column request_id never stands for the payload's.
    badness = "CASE WHEN request_id <> label.request_id THEN 0.5 WHEN label.churned THEN status_code / 400 ELSE 0 END"
    labels, scores, _ = source(payload, metric(table, badness=badness))
    label(table, ("a", True, 1.0), ("order-7", True, 1.0), ("unknown", True, 1.0))
    labels.collect(moment(0), Budget(60))
    labels.collect(moment(0), Budget(60))
    assert stored(scores, "request_id, served_entity_id, badness") == [("a", "m/1", "0.5"), ("b", "m/2", "0.5")]
    groups = counted(labels, MetricPlan(labels.metrics[0], 3600), Window(0, moment(0), None))
    assert [(group.served_entity_id, group.counts[10]) for group in groups] == [("m/1", 1), ("m/2", 1)]


def test_what_cannot_be_judged_is_counted_and_what_is_not_known_yet_waits(gateway: str) -> None:
    table = label_table(gateway, feed=True)
    labels, scores, clock = source(gateway, metric(table, badness="label.amount / 100"))
    label(table, ("a", None, None), ("b", None, 20.0), ("c", None, 250.0), ("d", None, float("nan")))
    labels.collect(moment(0), Budget(60))
    assert stored(scores) == [("b", "0.2"), ("c", None), ("d", None)]
    # The truth about a is found out.
    label(table, ("a", None, 100.0))
    clock.seconds += 3600
    labels.collect(moment(0), Budget(60))
    assert stored(scores)[0] == ("a", "1.0")
    (group,) = counted(labels, MetricPlan(labels.metrics[0], 3600), Window(0, moment(0), None))
    assert (group.counts[4], group.counts[20], group.unjudged) == (1, 1, 2)


def test_a_changed_label_changes_no_evidence(gateway: str) -> None:
    table = label_table(gateway, feed=False)
    labels, scores, clock = source(gateway, metric(table))
    label(table, ("a", False, None))
    labels.collect(moment(0), Budget(60))
    warehouse().execute(f"UPDATE {table} SET churned = true")
    clock.seconds += 3600
    labels.collect(moment(0), Budget(60))
    assert stored(scores) == [("a", "0.0")]


def test_of_labels_that_contradict_each_other_the_worst_counts(gateway: str) -> None:
    table = label_table(gateway, feed=False)
    labels, scores, _ = source(gateway, metric(table))
    label(table, ("a", False, None), ("a", True, None))
    labels.collect(moment(0), Budget(60))
    assert stored(scores) == [("a", "1.0")]


@pytest.mark.parametrize("feed", [True, False], ids=["feed", "no_feed"])
def test_labels_of_the_last_hour_are_read_at_once_and_older_ones_within_the_hour(
    workspace: RunningWorkspace, feed: bool
) -> None:
    payload = create(warehouse(), "gateway")
    two_days_ago = (datetime.now(UTC) - moment(0)).total_seconds() - 2 * 86_400
    insert(warehouse(), payload, "gateway", [Logged("old", two_days_ago), Logged("new", two_days_ago + 2 * 86_400)])
    table = label_table(payload, feed=feed)
    scores, clock, since = score_table(payload), TurnedClock(), moment(two_days_ago - 60)
    labels = LabelSource(table, (metric(table),), scores, clock)
    labels.collect(since, Budget(60))
    label(table, ("old", True, None), ("new", False, None))
    labels.collect(since, Budget(60))
    assert stored(scores) == [("new", "0.0")]
    clock.advance(3700)
    labels.collect(since, Budget(60))
    assert stored(scores) == [("new", "0.0"), ("old", "1.0")]


def test_a_quiet_feed_is_not_read(workspace: RunningWorkspace) -> None:
    payload = create(warehouse(), "gateway")
    table = label_table(payload, feed=True)
    scores, clock = score_table(payload), TurnedClock()
    labels = LabelSource(table, (metric(table),), scores, clock)
    now = datetime.now(UTC)
    clock.advance(7200)
    labels.collect(now, Budget(60))
    before = scores.latest()
    labels.collect(now, Budget(60))
    assert scores.latest() == before


def test_several_metrics_of_one_table_have_values_of_their_own(gateway: str) -> None:
    table = label_table(gateway, feed=True)
    segmented = metric(table, name="lost", badness="label.amount", segments="request_id")
    labels, scores, _ = source(gateway, metric(table), segmented)
    label(table, ("a", True, 0.25))
    labels.collect(moment(0), Budget(60))
    assert stored(scores, "request_id, metric, segment, badness") == [
        ("a", "churn", None, "1.0"),
        ("a", "lost", "a", "0.25"),
    ]


def test_what_is_wrong_with_a_table_of_labels_is_said(gateway: str) -> None:
    table = label_table(gateway, feed=True, columns="order_id STRING, churned BOOLEAN, amount DOUBLE")
    label(table, ("a", True, 1.0))
    missing, _, _ = source(gateway, metric("main.default.no_such_truth"))
    missing.collect(moment(0), Budget(60))
    assert missing.latest() is None
    assert isinstance(missing, ScoreSource)
    labels = LabelSource(table, (metric(table),), missing.scores, StoppedClock(600))
    with pytest.raises(TableUnreadable, match=r"has no column request_id; name the column"):
        labels.collect(moment(0), Budget(60))
    for fields, problem in (
        ({"badness": "label.churn"}, r"labels of metric churn cannot be read: [A-Z_.]+; run its badness and segments"),
        ({"segments": "no_such"}, r"labels of metric churn cannot be read: UNRESOLVED_COLUMN"),
    ):
        broken = metric(table, request_id_column="order_id", **fields)
        with pytest.raises(TableUnreadable, match=problem):
            LabelSource(table, (broken,), missing.scores, StoppedClock(600)).collect(moment(0), Budget(60))
    for field in ("badness", "segments"):
        broken = metric(table, request_id_column="order_id").model_copy(update={field: "1) OR (1"})
        with pytest.raises(SpecError, match=rf"{field} of metric churn .*balance its parentheses"):
            LabelSource(table, (broken,), missing.scores, StoppedClock(600)).collect(moment(0), Budget(60))
    right = LabelSource(table, (metric(table, request_id_column="order_id"),), missing.scores, StoppedClock(600))
    right.collect(moment(0), Budget(60))
    assert stored(missing.scores) == [("a", "1.0")]
    assert right.latest() is not None


def test_labels_that_fail_never_quote_a_request(gateway: str) -> None:
    insert(warehouse(), gateway, "gateway", [Logged("e", 30, request="my secret")])
    table = label_table(gateway, feed=False)
    label(table, ("e", True, 1.0))
    wrong = metric(table, segments="CAST(CAST(request AS INT) AS STRING)")
    scores = score_table(gateway)
    scores.create()
    with pytest.raises(StatementFailed, match=r"metric churn failed in the warehouse with \[CAST_INVALID") as failed:
        scores.add(wrong, [Judged("e", 1.0, moment(60))], moment(0), moment(600))
    assert "secret" not in str(failed.value)
    with pytest.raises(TableUnreadable, match="cannot be read: CAST_INVALID_INPUT") as unreadable:
        source(gateway, wrong)[0].collect(moment(0), Budget(60))
    assert "secret" not in str(unreadable.value)
