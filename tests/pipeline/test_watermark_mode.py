"""A table without a change feed: every second is read once, and rows that come later than that are counted by arm."""

import pytest

from release_pipeline.rollout.evidence_fold import so_far
from release_pipeline.rollout.ingest import ingest_rows
from release_pipeline.rollout.reconciliation import Reconciliation
from release_pipeline.rollout.state import ReleaseState, Stage
from release_pipeline.spec_gate import GatePart, Metric
from release_pipeline.workspace.counts import LATE_SECONDS, Cell, Counted, Cursor
from release_pipeline.workspace.evidence_table import EvidenceRow
from release_pipeline.workspace.inference_table import InferenceTable, MetricPlan
from tests.conftest import RunningWorkspace
from tests.pipeline import payload_tables
from tests.pipeline.payload_tables import START, Logged, RecordingWarehouse, insert, moment
from tests.pipeline.test_inference_table import ERRORS, WINDOWS, filled, only, read

FIRST = int(moment(0).timestamp())
HOUR = FIRST // 3600


@pytest.fixture
def warehouse(workspace: RunningWorkspace) -> RecordingWarehouse:
    return RecordingWarehouse(payload_tables.warehouse())


def test_without_a_change_feed_every_second_is_read_once(warehouse: RecordingWarehouse) -> None:
    plan = MetricPlan(ERRORS, 60)
    table = filled(warehouse, [Logged("a", 0.5), Logged("b", 10.999), Logged("b", 10.999), Logged("c", 11)], feed=False)
    first = read(table, plan)
    assert (only(first).counts, first.duplicates, first.rows, first.late) == ((2, 0), 1, 2, 0)
    assert first.cells == (Cell(HOUR, 0, "m/1", 2),)
    assert first.to_version == int(moment(10).timestamp())
    assert first.committed_at.timestamp() - first.lag_seconds == moment(11).timestamp()
    insert(warehouse, table.name, "gateway", [Logged("late", 3), Logged("a", 0.5), Logged("d", 11.5), Logged("e", 20)])
    second = read(table, plan, after=first.to_version)
    assert only(second).counts == (2, 0), "c and d; e's second is not over, and who is late is never judged"


def test_late_rows_are_counted_by_step_and_entity_once_an_hour_and_once_only(warehouse: RecordingWarehouse) -> None:
    plans = [MetricPlan(ERRORS, 60)]
    table = filled(warehouse, [Logged("a", 1), Logged("b", 2, entity="m/2"), Logged("c", 1000)], feed=False)
    first = read(table, *plans)
    known = Counted(FIRST).add(first.cells, first.to_version)
    late = [Logged("x", 3), Logged("y", 4, 500, entity="m/2"), Logged("z", 4, entity="m/2"), Logged("a", 1)]
    insert(warehouse, table.name, "gateway", [*late, Logged("t", 5, entity=None), Logged("d", 2000), Logged("e", 2001)])
    warehouse.sent.clear()
    second = read(table, *plans, after=first.to_version, counted=known)
    assert (second.late, len(warehouse.sent)) == (0, 3), (
        "its newest row, a profile and counts; nothing is counted again"
    )
    known = known.add(second.cells, second.to_version)
    insert(warehouse, table.name, "gateway", [Logged("f", 3700), Logged("g", 3800), Logged("h", 3801)])
    third = read(table, *plans, after=second.to_version, counted=known)
    assert third.late_cells == (Cell(HOUR, 0, "m/1", 1), Cell(HOUR, 0, "m/2", 2))
    assert third.late == 3, "a copy that comes late is no late row, nor is one that nobody answered"
    known = known.add([*third.cells, *third.late_cells], third.to_version)
    insert(warehouse, table.name, "gateway", [Logged("i", 7300), Logged("w", 3600), Logged("j", 7301)])
    fourth = read(table, *plans, after=third.to_version, counted=known)
    assert fourth.late_cells == (Cell(HOUR + 1, 0, "m/1", 1),), "what was counted as late is known"


def test_a_hold_back_keeps_the_cursor_behind_the_newest_row(warehouse: RecordingWarehouse) -> None:
    name = filled(warehouse, [Logged("a", 0), Logged("b", 100)], feed=False).name
    cursor = InferenceTable(warehouse, name, hold_back_seconds=60).latest()
    assert cursor is not None
    assert (cursor.version, cursor.at) == (int(moment(39).timestamp()), moment(100))


def test_late_rows_are_looked_for_in_a_bounded_time(warehouse: RecordingWarehouse) -> None:
    day = LATE_SECONDS
    table = filled(warehouse, [Logged("a", 1), Logged("b", 2), Logged("c", 2 * day), Logged("d", 2 * day)], feed=False)
    until = FIRST + 2 * day
    known = Counted(FIRST).add([Cell(HOUR, 0, "m/1", 1), Cell(HOUR + 48, 0, "m/1", 1)], until)
    assert known.cells == (Cell(HOUR + 48, 0, "m/1", 1),), "the first read is more than a day ago"
    latest = Cursor(until + 3600, moment(0))
    delta = table.changes(until, latest, first_version=1, windows=WINDOWS, plans=(), counted=known)
    assert delta.late == 1
    young = Counted(until + 1)
    delta = table.changes(until, latest, first_version=1, windows=WINDOWS, plans=(), counted=young)
    assert delta.late == 0, "of rows from before the first read that was noted nothing is known"


def test_an_empty_table_without_a_change_feed_has_no_cursor_yet(warehouse: RecordingWarehouse) -> None:
    assert filled(warehouse, feed=False).latest() is None
    assert filled(warehouse).latest() is not None


def test_a_hold_back_is_no_measured_lag(warehouse: RecordingWarehouse) -> None:
    rows = [Logged("a", 1), Logged("b", 9)]
    assert read(filled(warehouse, rows)).lag_measured
    assert not read(filled(warehouse, rows, feed=False)).lag_measured


def test_late_rows_are_kept_by_arm_and_step_in_the_evidence(warehouse: RecordingWarehouse) -> None:
    gate = GatePart(metrics=(Metric(name="errors", kind="errors"),))
    table = filled(warehouse, [Logged("a", 1), Logged("b", 1000, entity="m/2")], feed=False)
    state = ReleaseState("r", Stage.RAMPING, "2", "1", {}, None, (), START, None, 3)
    mapping = {"m/1": "1", "m/2": "2"}
    rows: list[EvidenceRow] = []
    for late in ([], [Logged("x", 3, entity="m/2"), Logged("y", 4), Logged("z", 5, entity="m/9")]):
        found = so_far(rows, gate)
        latest = table.latest()
        assert latest is not None
        after = found.cursors.get("payload", FIRST - 1)
        delta = table.changes(
            after, latest, first_version=1, windows=WINDOWS, plans=found.plans(["errors"]), counted=found.counted
        )
        rows += ingest_rows(state, found, [], mapping, payload=delta, counters=Reconciliation(), at=START)
        rows[-1].detail["cursors"]["payload"] = delta.to_version
        insert(warehouse, table.name, "gateway", [*late, Logged("n", 3601), Logged("o", 3700)])
        insert(warehouse, table.name, "gateway", [Logged("x", 3, entity="m/2"), Logged("y", 4)])
    found = so_far(rows, gate)
    assert (found.late, dict(found.late_arms)) == (2, {0: (1, 1)})
    assert found.counted is not None
    # As a snapshot keeps it, and as one of an earlier version of the package did.
    kept = so_far([], gate).restored(found.to_dict())
    assert (kept.late_arms, kept.counted) == (found.late_arms, found.counted)
    old = {**found.to_dict(), "reads": [[1, 2, 3]]}
    del old["counted"], old["late_arms"]
    before = so_far([], gate).restored(old)
    assert (before.late, before.late_arms, before.counted) == (2, {}, None)
