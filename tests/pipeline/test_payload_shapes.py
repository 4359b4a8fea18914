"""Every shape of a payload table is read alike, by its columns; what cannot be read is refused by name."""

import pytest

from release_pipeline.errors import TableMissing, TableUnreadable
from release_pipeline.spec_gate import Metric
from release_pipeline.workspace.inference_table import Cursor, Delta, InferenceTable, MetricPlan, Window
from release_pipeline.workspace.payload_shape import CANONICAL, SHAPES, recognise
from release_pipeline.workspace.payload_sql import LONGEST_MS
from release_pipeline.workspace.sql.warehouse import Warehouse
from release_pipeline.workspace.tracer import tracer_id
from tests.conftest import RunningWorkspace
from tests.pipeline import payload_tables
from tests.pipeline.payload_tables import Logged, create, insert, moment

PLANS = (
    MetricPlan(Metric(name="errors", kind="errors"), 300),
    MetricPlan(Metric(name="slow", kind="slow"), 300, threshold_ms=100),
    MetricPlan(Metric(name="short", kind="expression", badness="1 - length(response) / 20"), 300),
)
WINDOWS = (Window(0, moment(0), moment(600)), Window(1, moment(660), None))
ROWS = (
    Logged("before", -1),
    Logged("good", 1, response="x" * 20),
    Logged("bad", 299.999, 500, 101, response="x" * 10),
    Logged("next bucket", 300, 200, 100, entity="m/2", response=""),
    Logged("edge", 599.999, None, -5, entity="m/2"),
    Logged("between steps", 600),
    Logged("next step", 660, 404 - 4, None, entity="m/2", codes=("MAX_RESPONSE_SIZE_EXCEEDED",), response=None),
    Logged("refused", 661, 429, entity=None),
    Logged("nobody", 662, 500, entity=None),
    Logged("tracer", 663, 500, entity="m/2", client=tracer_id("2")),
    Logged("last", 700, entity="m/1"),
)


@pytest.fixture
def warehouse(workspace: RunningWorkspace) -> Warehouse:
    return payload_tables.warehouse()


def read_all(table: InferenceTable) -> Delta:
    """Everything that the table holds, as one read; in watermark mode the cursor trails by a second."""
    latest = table.latest()
    assert latest is not None
    return table.changes(0, latest, first_version=1, windows=WINDOWS, plans=PLANS)


def counted(delta: Delta) -> dict[tuple[str, int, float, str], tuple[tuple[int, ...], int]]:
    """Good and bad, or occupied bins, and unjudged rows by (metric, step, seconds after the start, entity)."""
    return {
        (group.metric, group.step, group.bucket_start - moment(0).timestamp(), group.served_entity_id): (
            tuple(value for value, rows in enumerate(group.counts) for _ in range(rows)),
            group.unjudged,
        )
        for group in delta.groups
    }


@pytest.mark.parametrize("feed", [True, False], ids=["change feed", "watermark"])
@pytest.mark.parametrize("shape", payload_tables.SHAPES)
def test_the_same_rows_count_the_same_in_every_shape(shape: str, feed: bool, warehouse: Warehouse) -> None:
    name = create(warehouse, shape, feed=feed)
    insert(warehouse, name, shape, ROWS)
    # Without a change feed the newest second is not over.
    insert(warehouse, name, shape, [Logged("newest", 701, entity=None)])
    delta = read_all(InferenceTable(warehouse, name, hold_back_seconds=0))
    assert counted(delta) == {
        ("errors", 0, 0, "m/1"): ((0, 1), 0),
        ("errors", 0, 300, "m/2"): ((0,), 1),
        ("errors", 1, 600, "m/1"): ((0,), 0),
        ("errors", 1, 600, "m/2"): ((1,), 0),
        ("slow", 0, 0, "m/1"): ((0, 1), 0),
        ("slow", 0, 300, "m/2"): ((0,), 1),
        ("slow", 1, 600, "m/1"): ((0,), 0),
        ("slow", 1, 600, "m/2"): ((), 1),
        ("short", 0, 0, "m/1"): ((0, 10), 0),
        ("short", 0, 300, "m/2"): ((18, 20), 0),
        ("short", 1, 600, "m/1"): ((18,), 0),
        ("short", 1, 600, "m/2"): ((), 1),
    }
    assert delta.entities == {"m/1": 3, "m/2": 3}
    assert delta.mapping["m/2"] == "2"
    assert delta.outside == (5 if feed else 4), "before, between, refused, nobody, newest"
    assert delta.rows == delta.outside + 6
    assert (delta.duplicates, delta.late, dict(delta.failed)) == (0, 0, {})
    assert delta.sampling_fraction == (None if shape == "unity" else 1.0)


@pytest.mark.parametrize("shape", payload_tables.SHAPES)
def test_the_newest_row_and_logged_errors_by_entity(shape: str, warehouse: Warehouse) -> None:
    name = create(warehouse, shape)
    table = InferenceTable(warehouse, name)
    assert table.newest() is None
    insert(warehouse, name, shape, [*ROWS, ROWS[2]])
    assert table.newest() == moment(700)
    everything = {"m/1": (1, 0), "m/2": (1, 1), "": (1, 1)}
    assert table.failures_logged(moment(0), moment(700)) == everything, "tracers count, copies do not"
    # An answer is done, and counted, when its duration is over: 101 ms after 299.999 s, and 10 ms after 663 s.
    assert table.failures_logged(moment(300.1), moment(663.01)) == {**everything, "m/2": (0, 1)}, "half open"
    assert table.failures_logged(moment(300.101), moment(663.011)) == {"m/2": (1, 1), "": (1, 1)}


@pytest.mark.parametrize("shape", payload_tables.SHAPES)
def test_a_duration_that_is_none_or_absurd_hides_no_failure(shape: str, warehouse: Warehouse) -> None:
    name = create(warehouse, shape)
    durations = [None, -5, LONGEST_MS, 400 * LONGEST_MS]
    insert(warehouse, name, shape, [Logged(f"d{index}", 0, 500, ms) for index, ms in enumerate(durations)])
    table = InferenceTable(warehouse, name)
    assert table.failures_logged(moment(0), moment(1)) == {"m/1": (2, 0)}
    assert table.failures_logged(moment(1), moment(LONGEST_MS / 1000)) == {}
    assert table.failures_logged(moment(LONGEST_MS / 1000), moment(LONGEST_MS / 1000 + 1)) == {"m/1": (2, 0)}


@pytest.mark.parametrize("shape", payload_tables.SHAPES)
def test_a_level_comes_from_rows_of_the_champion_alone(shape: str, warehouse: Warehouse) -> None:
    name = create(warehouse, shape)
    insert(warehouse, name, shape, ROWS)
    metrics = [plan.metric for plan in PLANS]
    table = InferenceTable(warehouse, name)
    everyone = table.level(metrics, moment(0), moment(700), rate_seconds=3600)
    assert [(level.rows, level.bad) for level in everyone] == [(5, 2.0), (4, 0.0), (5, 3.3)]
    only = table.level(metrics, moment(0), moment(700), rate_seconds=3600, entities=["m/2"])
    assert [(level.rows, level.bad) for level in only] == [(2, 1.0), (1, 0.0), (2, 1.9)]
    assert [level.threshold_ms for level in (everyone[1], only[1])] == [101, 100], (
        "p95 of 10, 10, 100 and 101, and of 100"
    )


def test_a_legacy_row_names_its_version_and_the_feedback_model_is_nobody(warehouse: Warehouse) -> None:
    name = create(warehouse, "legacy")
    rows = [
        Logged("a", 1, entity="c.s.m/3"),
        Logged("b", 2, entity="feedback/1"),
        Logged("c", 3, entity="c.s.feedback/1"),
    ]
    insert(warehouse, name, "legacy", rows)
    delta = read_all(InferenceTable(warehouse, name))
    assert delta.mapping == {"c.s.m/3": "3"}
    assert delta.entities == {"c.s.m/3": 1}
    assert delta.outside == 2


def test_only_tracers_map_entities_of_today(warehouse: Warehouse) -> None:
    name = create(warehouse, "gateway")
    insert(
        warehouse, name, "gateway", [Logged("a", 1, entity="e1"), Logged("t", 2, entity="e2", client=tracer_id("7"))]
    )
    delta = read_all(InferenceTable(warehouse, name))
    assert delta.mapping == {"e2": "7"}
    assert delta.entities == {"e1": 1}


def test_the_newest_shape_without_an_entity_is_refused_by_name(warehouse: Warehouse) -> None:
    name = create(warehouse, "unity", without=["served_entity_id"])
    with pytest.raises(TableUnreadable, match=f"{name} is in the shape of Unity AI Gateway without served_entity_id"):
        InferenceTable(warehouse, name).shape()


def test_a_table_of_no_shape_is_refused_with_what_the_nearest_lacks(warehouse: Warehouse) -> None:
    name = create(warehouse, "gateway", without=["execution_duration_ms", "response"])
    table = InferenceTable(warehouse, name)
    with pytest.raises(TableUnreadable, match="nearest is AI Gateway, and it lacks execution_duration_ms, response;"):
        table.shape()
    assert isinstance(table.latest(), Cursor), "that there is a table can be said all the same"


def test_a_table_that_is_not_there(warehouse: Warehouse) -> None:
    table = InferenceTable(warehouse, "main.default.not_there_payload")
    assert table.latest() is None
    assert table.newest() is None
    with pytest.raises(TableMissing):
        table.shape()


def test_shapes_are_recognised_without_their_optional_columns_and_in_any_case() -> None:
    for shape in SHAPES:
        found = recognise("t", [need.upper() for need in shape.needs])
        assert found.name == shape.name
        assert [found.expression(name).split(" AS ")[0] for name in CANONICAL if "NULL" in found.expression(name)]
