"""Commit versions, the change feed and inference tables: nothing lost, nothing twice, also across a kill."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from release_pipeline.local_workspace.sql.engine import SqlEngine
from release_pipeline.local_workspace.sql.failures import SqlFailure

PAYLOAD = "main.default.agent_payload"
FEED = "TBLPROPERTIES (delta.enableChangeDataFeed = true)"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SqlEngine]:
    engine = SqlEngine(tmp_path, ("main",))
    yield engine
    engine.close()


def inference_row(number: int) -> dict[str, Any]:
    return {
        "databricks_request_id": f"request-{number}",
        "client_request_id": None,
        "request_time": datetime(2026, 11, 21, 23, 30, tzinfo=UTC) + timedelta(seconds=number),
        "status_code": 200,
        "sampling_fraction": 1.0,
        "execution_duration_ms": 12,
        "request": '{"input": "hi"}',
        "response": '{"output": "ho"}',
        "logging_error_codes": ["MAX_REQUEST_SIZE_EXCEEDED"] if number % 2 else None,
        "served_entity_id": "entity",
        "requester": "someone@example.com",
    }


def test_every_write_is_a_version_newest_first(engine: SqlEngine) -> None:
    for statement in (
        "CREATE TABLE t (x INT)",
        "INSERT INTO t VALUES (1), (2)",
        "UPDATE t SET x = 3 WHERE x = 2",
        "UPDATE t SET x = 3 WHERE x = 99",
        "DELETE FROM t WHERE x = 1",
        "MERGE INTO t USING (SELECT 7 AS x) AS s ON t.x = s.x WHEN NOT MATCHED THEN INSERT (x) VALUES (s.x)",
        "ALTER TABLE t ADD COLUMN y STRING",
        "TRUNCATE TABLE t",
        "CREATE OR REPLACE TABLE t (z INT)",
    ):
        engine.execute(statement)
    history = engine.execute("DESCRIBE HISTORY main.default.t")
    assert [column.name for column in history.columns][:3] == ["version", "timestamp", "operation"]
    assert [(row[0], row[2]) for row in history.rows] == [
        ("7", "CREATE OR REPLACE TABLE"),
        ("6", "TRUNCATE"),
        ("5", "ADD COLUMNS"),
        ("4", "MERGE"),
        ("3", "DELETE"),
        ("2", "UPDATE"),
        ("1", "WRITE"),
        ("0", "CREATE TABLE"),
    ]
    times = [row[1] for row in history.rows]
    assert times == sorted(times, key=str, reverse=True)
    assert engine.execute("DESCRIBE HISTORY t LIMIT 2").rows == history.rows[:2]
    engine.execute("DROP TABLE t")
    engine.execute("CREATE TABLE t (x INT)")
    assert [row[0] for row in engine.execute("DESCRIBE HISTORY t").rows] == ["0"]


def test_table_changes_gives_the_rows_of_a_range(engine: SqlEngine) -> None:
    engine.execute(f"CREATE TABLE t (x INT, s STRING) {FEED}")
    engine.execute("INSERT INTO t VALUES (1, 'a')")
    engine.execute("INSERT INTO t (s, x) SELECT 'b', 2")
    engine.execute("INSERT INTO t BY NAME SELECT 'c' AS s, 3 AS x")
    engine.execute("MERGE INTO t USING (SELECT 4 AS x, 'd' AS s) AS s ON t.x = s.x WHEN NOT MATCHED THEN INSERT *")
    result = engine.execute("SELECT * FROM table_changes('main.default.t', 2, 4) ORDER BY x")
    names = [column.name for column in result.columns]
    assert names == ["x", "s", "_change_type", "_commit_version", "_commit_timestamp"]
    assert [row[:4] for row in result.rows] == [
        ["2", "b", "insert", "2"],
        ["3", "c", "insert", "3"],
        ["4", "d", "insert", "4"],
    ]
    times = {row[0]: row[1] for row in engine.execute("DESCRIBE HISTORY t").rows}
    assert [row[4] for row in result.rows] == [times["2"], times["3"], times["4"]]
    assert [column.name for column in engine.execute("SELECT * FROM t").columns] == ["x", "s"]
    joined = engine.execute(
        "SELECT c.x FROM table_changes(main.default.t, :first) AS c JOIN t ON t.x = c.x WHERE c._commit_version < 4",
        {"first": ("3", "BIGINT")},
    )
    assert joined.rows == [["3"]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("table_changes('t', 3)", "Start version 3 is after the latest version of the table (2)"),
        ("table_changes('t', 2, 1)", "CDC range from start 2 to end 1 was invalid"),
        ("table_changes('plain', 0)", "[DELTA_MISSING_CHANGE_DATA]"),
        ("table_changes('late', 0)", "[DELTA_MISSING_CHANGE_DATA]"),
        ("table_changes('changed', 1)", "records additions only"),
        ("table_changes('missing', 0)", "[TABLE_OR_VIEW_NOT_FOUND]"),
        ("table_changes('t', x)", "constants or parameters"),
        ("table_changes('t', '2026-01-01')", "whole numbers"),
        ("table_changes('t')", "[WRONG_NUM_ARGS]"),
    ],
)
def test_table_changes_refuses_what_was_not_recorded(engine: SqlEngine, call: str, message: str) -> None:
    engine.execute(f"CREATE TABLE t (x INT) {FEED}")
    engine.execute("INSERT INTO t VALUES (1)")
    engine.execute("INSERT INTO t VALUES (2)")
    engine.execute("CREATE TABLE plain (x INT)")
    engine.execute("CREATE TABLE late (x INT)")
    engine.execute("ALTER TABLE late SET TBLPROPERTIES ('delta.enableChangeDataFeed' = 'true')")
    engine.execute(f"CREATE TABLE changed (x INT) {FEED}")
    engine.execute("INSERT INTO changed VALUES (1)")
    engine.execute("DELETE FROM changed")
    with pytest.raises(SqlFailure) as caught:
        engine.execute(f"SELECT * FROM {call}")
    assert message in caught.value.message


def test_a_feed_switched_on_later_records_from_then(engine: SqlEngine) -> None:
    engine.execute("CREATE TABLE t (x INT)")
    engine.execute("INSERT INTO t VALUES (1)")
    engine.execute("ALTER TABLE t SET TBLPROPERTIES ('delta.enableChangeDataFeed' = 'true')")
    engine.execute("INSERT INTO t VALUES (2)")
    assert engine.execute("SELECT x FROM table_changes('t', 2)").rows == [["2"]]
    assert engine.execute("SELECT x FROM t ORDER BY x").rows == [["1"], ["2"]]


def test_an_inference_table_has_the_gateways_shape(engine: SqlEngine) -> None:
    engine.create_inference_table(PAYLOAD)
    engine.create_inference_table(PAYLOAD)
    assert engine.append_inference_rows(PAYLOAD, [inference_row(1), inference_row(2)], 100) == 1
    table = engine.table(PAYLOAD)
    assert table is not None
    assert {column.name: column.type_text for column in table.columns} == {
        "databricks_request_id": "STRING",
        "request_date": "DATE",
        "client_request_id": "STRING",
        "request_time": "TIMESTAMP",
        "status_code": "INT",
        "sampling_fraction": "DOUBLE",
        "execution_duration_ms": "BIGINT",
        "request": "STRING",
        "response": "STRING",
        "logging_error_codes": "ARRAY<STRING>",
        "served_entity_id": "STRING",
        "requester": "STRING",
    }
    first = engine.execute(f"SELECT * FROM {PAYLOAD} ORDER BY request_time").rows[0]
    assert first[:4] == ["request-1", "2026-11-21", None, "2026-11-21T23:30:01.000Z"]
    assert first[9] == '["MAX_REQUEST_SIZE_EXCEEDED"]'


def test_times_of_any_zone_become_utc(engine: SqlEngine) -> None:
    engine.create_inference_table(PAYLOAD)
    late = datetime(2026, 11, 22, 1, 0, tzinfo=timezone(timedelta(hours=2)))
    engine.append_inference_rows(PAYLOAD, [{"request_time": late}, {"request_time": late.isoformat()}], 1)
    expected = ["2026-11-21T23:00:00.000Z", "2026-11-21"]
    assert engine.execute(f"SELECT request_time, request_date FROM {PAYLOAD}").rows == [expected, expected]


def test_rows_and_log_position_commit_together(engine: SqlEngine) -> None:
    engine.create_inference_table(PAYLOAD)
    assert engine.inference_log_position(PAYLOAD) == 0
    engine.append_inference_rows(PAYLOAD, [inference_row(1)], 77)
    with pytest.raises(SqlFailure):
        engine.append_inference_rows(PAYLOAD, [inference_row(2) | {"status_code": "not a number"}], 99)
    assert engine.inference_log_position(PAYLOAD) == 77
    assert engine.execute(f"SELECT count(*) FROM {PAYLOAD}").rows == [["1"]]
    assert engine.append_inference_rows(PAYLOAD, [], 120) == 2
    assert engine.inference_log_position(PAYLOAD) == 120


def test_inference_tables_need_their_schema_and_their_name(engine: SqlEngine) -> None:
    with pytest.raises(SqlFailure, match="SCHEMA_NOT_FOUND"):
        engine.create_inference_table("main.nowhere.agent_payload")
    engine.execute("CREATE TABLE taken (x INT)")
    with pytest.raises(SqlFailure, match="not an inference table"):
        engine.create_inference_table("main.default.taken")
    with pytest.raises(SqlFailure, match="TABLE_OR_VIEW_NOT_FOUND"):
        engine.append_inference_rows(PAYLOAD, [], 1)


@settings(max_examples=20, deadline=None)
@given(data=st.data(), sizes=st.lists(st.integers(0, 6), min_size=1, max_size=8))
def test_consecutive_ranges_give_every_row_exactly_once(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, sizes: list[int]
) -> None:
    engine = SqlEngine(tmp_path_factory.mktemp("ranges"), ("main",))
    engine.create_inference_table(PAYLOAD)
    written: list[str] = []
    for size in sizes:
        batch = [inference_row(len(written) + number) for number in range(size)]
        engine.append_inference_rows(PAYLOAD, batch, len(written) + size)
        written += [row["databricks_request_id"] for row in batch]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(sizes)))) | {0, len(sizes) + 1})
    seen: list[str | None] = []
    for start, following in pairwise(cuts):
        query = f"SELECT databricks_request_id FROM table_changes('{PAYLOAD}', {start}, {following - 1})"
        seen += [row[0] for row in engine.execute(query).rows]
    engine.close()
    assert sorted(seen, key=str) == sorted(written)


APPENDER = """
import sys
from itertools import pairwise
from pathlib import Path
from release_pipeline.local_workspace.sql.engine import SqlEngine
engine = SqlEngine(Path(sys.argv[1]), ("main",))
engine.create_inference_table("main.default.agent_payload")
total = engine.inference_log_position("main.default.agent_payload")
while True:
    rows = [{"databricks_request_id": str(total + number), "status_code": 200} for number in range(50)]
    total += len(rows)
    engine.append_inference_rows("main.default.agent_payload", rows, total)
    print(total, flush=True)
"""


def test_a_killed_writer_leaves_rows_and_position_in_step(tmp_path: Path) -> None:
    confirmed = 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", APPENDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(7):
            confirmed = int(process.stdout.readline())
        process.kill()
        process.communicate()
        engine = SqlEngine(tmp_path, ("main",))
        position = engine.inference_log_position(PAYLOAD)
        counted = engine.execute(f"SELECT count(*), count(DISTINCT databricks_request_id) FROM {PAYLOAD}").rows
        changed = engine.execute(f"SELECT count(*) FROM table_changes('{PAYLOAD}', 0)").rows
        newest = engine.execute(f"DESCRIBE HISTORY {PAYLOAD} LIMIT 1").rows[0][0]
        engine.close()
        assert position >= confirmed
        assert counted == [[str(position), str(position)]]
        assert changed == [[str(position)]]
        assert newest == str(position // 50)
