"""Evidence goes into its table as it was given, in few statements, and an ingest is there wholly or not at all."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from release_pipeline.errors import StatementFailed
from release_pipeline.workspace.evidence_table import EvidenceRow, EvidenceTable
from tests.conftest import RunningWorkspace
from tests.pipeline.payload_tables import RecordingWarehouse, warehouse

AT = datetime(2026, 3, 2, 10, 0, 0, 123000, tzinfo=UTC)


def odd_rows(release: str = "20260302-100000", ingest: int = 1) -> list[EvidenceRow]:
    """Rows with everything in them that JSON, SQL or a line could trip over; the ingest row last."""
    text = "a 'quoted' \"text\"\\n \\ with\nlines,\ttabs, :lines, ${x}, é, 漢字 and 🎈"
    block = EvidenceRow(
        *(release, ingest, "block", AT, 2, 1772445600.25, "errors", text, (3, 0, 2**40), (0, 1), 7, 2**53 + 1),
        watermark=0.1 + 0.2,
        lag_seconds=1e-300,
        log_capitals={"harm": [0.1, -2.5e-7, float("-inf")], "noninferiority": []},
        detail={"unjudged": [1, 0], "text": text},
    )
    mapping = EvidenceRow(release, ingest, "mapping", AT, detail={"served_entity_id": text, "version": "3"})
    last = EvidenceRow(release, ingest, "ingest", AT, watermark=float("-inf"), lag_seconds=float("inf"))
    return [block, mapping, last]


@pytest.fixture
def table(workspace: RunningWorkspace) -> EvidenceTable:
    """A new table."""
    found = EvidenceTable(warehouse(), f"main.default.e{uuid.uuid4().hex[:10]}_evidence")
    found.create()
    return found


def without_writers(rows: list[EvidenceRow]) -> list[EvidenceRow]:
    from dataclasses import replace

    assert all(row.writer for row in rows)
    return sorted((replace(row, writer="") for row in rows), key=lambda row: row.kind)


def test_rows_come_back_as_they_were_given(table: EvidenceTable) -> None:
    rows = odd_rows()
    table.append(rows)
    assert without_writers(table.read(rows[0].release)) == sorted(rows, key=lambda row: row.kind)
    assert table.mapping() == {rows[1].detail["served_entity_id"]: "3"}


def test_of_many_mappings_the_newest_of_each_entity_is_read(table: EvidenceTable) -> None:
    recording = RecordingWarehouse(warehouse())
    recorded = EvidenceTable(recording, table.name)
    for number in range(4):
        at = AT + timedelta(minutes=number if number != 3 else -1)
        rows = [
            EvidenceRow("r", number, "mapping", at, detail={"served_entity_id": f"e{each}", "version": str(number)})
            for each in range(210)
            if each < 205 or number == 3
        ]
        recorded.append([*rows, EvidenceRow("r", number, "ingest", at)])
    recording.sent.clear()
    found = recorded.mapping()
    assert found["e0"] == "2", "rows that were written later may be older"
    assert len(found) == 200, "only so many entities, the newest ones"
    assert "e207" not in found
    (sent,) = recording.sent
    assert sent.rows is not None
    assert len(sent.rows) == 200, "one row of each entity"


def test_an_ingest_that_is_there_is_not_written_again(table: EvidenceTable) -> None:
    table.append(odd_rows())
    before = table.read("20260302-100000")
    table.append(odd_rows())
    table.append(odd_rows(ingest=2))
    found = table.read("20260302-100000")
    assert [row for row in found if row.ingest == 1] == before
    assert len(found) == 6
    counted = warehouse().execute(f"SELECT count(*) AS n FROM {table.name}")
    assert counted[0]["n"] == "6", "the repeated one wrote nothing"


def test_many_rows_are_a_few_statements_and_the_last_one_makes_them_count(
    table: EvidenceTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = RecordingWarehouse(warehouse())
    recorded = EvidenceTable(recording, table.name)
    last = odd_rows()[-1]
    blocks = [EvidenceRow(last.release, 1, "block", AT, at, metric="errors", champion=(at,)) for at in range(1100)]
    insert = recorded._insert

    def dies(rows: list[EvidenceRow], writer: str) -> None:
        if rows[-1].kind == "ingest":
            raise StatementFailed("lost")
        insert(rows, writer)

    with monkeypatch.context() as patch:
        patch.setattr(recorded, "_insert", dies)
        with pytest.raises(StatementFailed):
            recorded.append([*blocks, last])
    assert len(recording.sent) == 2
    assert recorded.read(last.release) == [], "an ingest without its last row is none"
    recording.sent.clear()
    recorded.append([*blocks, last])
    assert len(recording.sent) == 3
    assert all(len(each.parameters) == 3 for each in recording.sent)
    found = recorded.read(last.release)
    assert [row.champion for row in found if row.kind == "block"] == [(at,) for at in range(1100)]
    assert len(found) == 1101
