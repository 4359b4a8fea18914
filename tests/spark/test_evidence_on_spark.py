"""The rows of evidence that the gate writes are the same on real Spark and on the local workspace."""

import uuid
from typing import Any

import pytest

from release_pipeline.workspace.evidence_table import _COLUMNS, EvidenceTable
from release_pipeline.workspace.sql.warehouse import quoted
from tests.conftest import RunningWorkspace
from tests.pipeline.payload_tables import RecordingWarehouse, warehouse
from tests.pipeline.test_evidence_table import odd_rows
from tests.spark.spark_side import same

pytestmark = pytest.mark.slow


@pytest.mark.timeout(600)
def test_evidence_is_written_as_it_is_here(spark: Any, workspace: RunningWorkspace) -> None:
    recording = RecordingWarehouse(warehouse())
    table = EvidenceTable(recording, f"main.default.e{uuid.uuid4().hex[:10]}_evidence")
    table.create()
    recording.sent.clear()
    table.append(odd_rows())
    (sent,) = recording.sent
    ours = warehouse().execute(f"SELECT * FROM {table.name} ORDER BY kind")
    view = table.name.replace(".", "_")
    columns = ", ".join(f"{name} {kind}" for name, kind in _COLUMNS.items())
    query = sent.statement.split(") ", 1)[1].replace(quoted(table.name), view)

    def on_spark() -> list[dict[str, Any]]:
        return [row.asDict() for row in spark.sql(query, args=dict(sent.parameters)).collect()]

    spark.createDataFrame([], columns).createOrReplaceTempView(view)
    theirs = sorted(on_spark(), key=lambda row: str(row["kind"]))
    assert len(ours) == len(theirs) == 3
    for mine, other in zip(ours, theirs, strict=True):
        assert same(mine, other), f"{mine}\n{other}"
    spark.createDataFrame([tuple(row.values()) for row in theirs], columns).createOrReplaceTempView(view)
    assert on_spark() == [], "an ingest that is there is not written again"
    recording.sent.clear()
    assert len(table.mapping()) == 1
    (read,) = recording.sent
    statement = read.statement.replace(quoted(table.name), view)
    (other,) = (row.asDict() for row in spark.sql(statement, args=dict(read.parameters)).collect())
    assert read.rows is not None
    assert same(read.rows[0], other)
