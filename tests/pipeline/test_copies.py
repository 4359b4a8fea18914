"""Rows that were delivered before are known from the table itself, whatever became of its older versions."""

import pytest

from release_pipeline.errors import StatementFailed
from release_pipeline.workspace.inference_table import MetricPlan
from tests.conftest import RunningWorkspace
from tests.pipeline import payload_tables
from tests.pipeline.payload_tables import Logged, RecordingWarehouse, insert
from tests.pipeline.test_inference_table import ERRORS, WINDOWS, filled, only, read


@pytest.fixture
def warehouse(workspace: RunningWorkspace) -> RecordingWarehouse:
    return RecordingWarehouse(payload_tables.warehouse())


def test_copies_are_found_although_the_versions_that_were_read_are_gone(warehouse: RecordingWarehouse) -> None:
    table = filled(warehouse, [Logged("a", 1), Logged("a", 1)], [Logged("b", 2, 500)])
    warehouse.execute(f"OPTIMIZE {table.name}")
    warehouse.execute(f"VACUUM {table.name} RETAIN 0 HOURS")
    with pytest.raises(StatementFailed, match="DELTA_CHANGE_DATA_FILE_NOT_FOUND"):
        warehouse.execute(f"SELECT count(*) FROM table_changes('{table.name}', 1, 2)")
    insert(warehouse, table.name, "gateway", [Logged("a", 1), Logged("c", 3), Logged("c", 3)])
    insert(warehouse, table.name, "gateway", [Logged("b", 2, 500), Logged("d", 1.5)])
    delta = read(table, MetricPlan(ERRORS, 60), after=5)
    assert (only(delta).counts, delta.duplicates, delta.rows) == ((2, 0), 3, 2), "c and d are new"


def test_rows_that_come_while_a_look_reads_are_left_to_the_next(warehouse: RecordingWarehouse) -> None:
    table = filled(warehouse, [Logged("a", 1)], [Logged("b", 2)])
    latest = table.latest()
    assert latest is not None
    insert(warehouse, table.name, "gateway", [Logged("b", 2), Logged("c", 2)])
    plans = [MetricPlan(ERRORS, 60)]
    delta = table.changes(1, latest, first_version=1, windows=WINDOWS, plans=plans)
    assert only(delta).counts == (1, 0), "b's copy, which came later, does not make b one that was there before"
    assert only(read(table, *plans, after=2)).counts == (1, 0)
