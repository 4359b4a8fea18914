"""A client's id that stands for several requests: what is said of it is said of none of them for certain."""

from typing import Any

import pytest

from release_pipeline.workspace.budget import Budget
from release_pipeline.workspace.counts import MetricPlan, Window
from release_pipeline.workspace.label_table import LabelSource
from release_pipeline.workspace.score_source import ScoreSource
from release_pipeline.workspace.score_table import NEAR, Judged
from tests.conftest import RunningWorkspace
from tests.pipeline.payload_tables import SHAPES, Logged, create, insert, moment, warehouse
from tests.pipeline.test_feedback import HELPFUL, StoppedClock, counted, said, score_table, stored
from tests.pipeline.test_label import label, label_table, metric

PLAN = MetricPlan(HELPFUL, 3600)
#: Seconds by which requests are so far apart that no look compares them.
FAR = 3 * NEAR.total_seconds()


def shared(request_id: str, at: float, client: str = "order-7", **fields: Any) -> Logged:
    return Logged(request_id, at, client=client, **fields)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_value_for_a_shared_id_makes_its_requests_unjudged(workspace: RunningWorkspace, shape: str) -> None:
    payload = create(warehouse(), shape)
    rows = [shared("a", 1), shared("b", 2, entity="m/2"), shared("c", 3, "mine"), shared("d", 4, "other")]
    # A row that was delivered twice is one request.
    insert(warehouse(), payload, shape, [*rows, rows[2]])
    scores, values = score_table(payload), [said("order-7", 0.0), said("mine", 1.0)]
    assert [scores.add(HELPFUL, values, moment(0), moment(60)) for _ in range(2)] == [3, 0]
    assert stored(scores) == [("a", None), ("b", None), ("c", "1.0")]
    groups = counted(ScoreSource("scores", (HELPFUL,), scores), PLAN, Window(0, moment(0), None))
    assert {group.served_entity_id: (sum(group.counts), group.unjudged) for group in groups} == {
        "m/1": (1, 1),
        "m/2": (0, 1),
    }


def test_what_is_said_of_a_request_itself_counts_beside_it(workspace: RunningWorkspace) -> None:
    payload = create(warehouse(), "gateway")
    insert(warehouse(), payload, "gateway", [shared("a", 1), shared("b", 2)])
    scores = score_table(payload)
    scores.add(HELPFUL, [said("order-7", 0.0), said("b", 0.75)], moment(0), moment(60))
    assert stored(scores) == [("a", None), ("b", "0.75")]


def test_a_requests_own_id_is_that_requests_whatever_clients_send(workspace: RunningWorkspace) -> None:
    payload = create(warehouse(), "gateway")
    insert(warehouse(), payload, "gateway", [Logged("a", 1), shared("b", 2, "a"), shared("c", 3, "a")])
    scores = score_table(payload)
    scores.add(HELPFUL, [said("a", 1.0)], moment(0), moment(60))
    assert stored(scores) == [("a", "1.0")]
    other = HELPFUL.model_copy(update={"name": "other"})
    scores.add(other, [said("a", 1.0)], moment(0), moment(60), own=True)
    assert stored(scores, "request_id, metric") == [("a", "helpful"), ("a", "other")]


def test_evidence_stays_when_an_id_turns_out_to_be_shared(workspace: RunningWorkspace) -> None:
    payload = create(warehouse(), "gateway")
    insert(warehouse(), payload, "gateway", [shared("a", 1)])
    scores, value = score_table(payload), [said("order-7", 1.0)]
    scores.add(HELPFUL, value, moment(0), moment(60))
    insert(warehouse(), payload, "gateway", [shared("b", 2), shared("earlier", 0.5)])
    for _ in range(2):
        scores.add(HELPFUL, value, moment(0), moment(60))
        assert stored(scores) == [("a", "1.0"), ("b", None), ("earlier", None)], "one value is counted once at most"


def test_requests_are_compared_across_the_slices_that_a_look_reads(workspace: RunningWorkspace) -> None:
    payload = create(warehouse(), "gateway")
    insert(warehouse(), payload, "gateway", [shared("a", 1), shared("b", 1800), shared("c", 10_000, "rare")])
    insert(warehouse(), payload, "gateway", [shared("d", 10_000 + FAR, "rare")])
    scores = score_table(payload)
    values = [Judged("order-7", 1.0, moment(5)), Judged("rare", 1.0, moment(5))]
    assert scores.add(HELPFUL, values, moment(0), moment(600)) == 1
    assert stored(scores) == [("a", None)], "nothing is written of what came outside the slice"
    for start in (1800, 9600, 20_400):
        scores.add(HELPFUL, values, moment(start), moment(start + 600))
    # So far apart they are not compared.
    assert stored(scores) == [("a", None), ("b", None), ("c", "1.0"), ("d", "1.0")]


@pytest.mark.parametrize("feed", [True, False], ids=["feed", "no_feed"])
def test_a_label_of_a_shared_id_makes_its_requests_unjudged(workspace: RunningWorkspace, feed: bool) -> None:
    payload = create(warehouse(), "gateway")
    rows = [shared("a", 1), shared("b", 2), shared("failed", 3, "order-8", status=500), shared("again", 4, "order-8")]
    insert(warehouse(), payload, "gateway", rows)
    table = label_table(payload, feed=feed)
    # What the SQL leaves out is not meant: of a request that failed and its retry, the retry.
    churn = metric(table, badness="CASE WHEN status_code = 200 THEN label.amount END")
    labels = LabelSource(table, (churn,), score_table(payload), StoppedClock(600))
    label(table, ("order-7", True, 1.0), ("order-8", True, 0.5))
    for _ in range(2):
        labels.collect(moment(0), Budget(60))
        assert stored(labels.scores) == [("a", None), ("again", "0.5"), ("b", None)]
