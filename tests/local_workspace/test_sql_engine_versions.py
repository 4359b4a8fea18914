"""Time travel, and what OPTIMIZE and VACUUM leave of older versions."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from release_pipeline.local_workspace.sql.engine import SqlEngine
from release_pipeline.local_workspace.sql.failures import SqlFailure

FEED = "TBLPROPERTIES (delta.enableChangeDataFeed = true)"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SqlEngine]:
    engine = SqlEngine(tmp_path, ("main",))
    engine.execute(f"CREATE TABLE t (x INT) {FEED}")
    for number in (1, 2, 3):
        engine.execute(f"INSERT INTO t VALUES ({number})")
    yield engine
    engine.close()


def xs(engine: SqlEngine, relation: str) -> list[str | None]:
    return [row[0] for row in engine.execute(f"SELECT x FROM {relation} ORDER BY x").rows]


def refused(engine: SqlEngine, statement: str) -> str:
    with pytest.raises(SqlFailure) as caught:
        engine.execute(statement)
    return caught.value.message


def test_a_version_holds_the_rows_that_were_there_then(engine: SqlEngine) -> None:
    assert xs(engine, "t VERSION AS OF 0") == []
    assert xs(engine, "`main`.`default`.`t` VERSION AS OF 2 AS old") == ["1", "2"]
    assert xs(engine, "t VERSION AS OF 3") == ["1", "2", "3"]
    fresh = "SELECT t.x FROM t WHERE NOT EXISTS (SELECT 1 FROM t VERSION AS OF 2 AS old WHERE old.x = t.x)"
    assert engine.execute(fresh).rows == [["3"]]
    described = engine.execute("SELECT * FROM t VERSION AS OF 1")
    assert [column.name for column in described.columns] == ["x"], "the hidden column stays hidden"


def test_the_newest_version_of_any_table_can_be_travelled_to(engine: SqlEngine) -> None:
    engine.execute("CREATE TABLE plain (x INT)")
    engine.execute("INSERT INTO plain VALUES (7)")
    assert xs(engine, "plain VERSION AS OF 1") == ["7"]
    assert "only with a change feed" in refused(engine, "SELECT * FROM plain VERSION AS OF 0")


def test_versions_that_are_not_there_or_cannot_be_told_are_refused(engine: SqlEngine) -> None:
    assert "[DELTA_VERSION_NOT_FOUND]" in refused(engine, "SELECT * FROM t VERSION AS OF 4")
    assert "except VERSION AS OF a whole number" in refused(engine, "SELECT * FROM t TIMESTAMP AS OF '2026-01-01'")
    assert "except VERSION AS OF a whole number" in refused(engine, "SELECT * FROM t VERSION AS OF 'x'")
    engine.execute("CREATE VIEW v AS SELECT * FROM t")
    assert "has no versions" in refused(engine, "SELECT * FROM v VERSION AS OF 0")
    engine.execute("DELETE FROM t WHERE x = 1")
    assert "were only added since" in refused(engine, "SELECT * FROM t VERSION AS OF 3")
    assert xs(engine, "t VERSION AS OF 4") == ["2", "3"]


def test_vacuum_takes_the_versions_before_an_optimize_and_no_row(engine: SqlEngine) -> None:
    engine.execute("OPTIMIZE main.default.t")
    engine.execute("INSERT INTO t VALUES (5)")
    engine.execute("VACUUM `main`.`default`.`t`")
    assert xs(engine, "t VERSION AS OF 2") == ["1", "2"], "files stay for a week"
    engine.execute("VACUUM t RETAIN 0 HOURS;")
    operations = [row[2] for row in engine.execute("DESCRIBE HISTORY t LIMIT 6").rows]
    assert operations == ["VACUUM END", "VACUUM START", "VACUUM END", "VACUUM START", "WRITE", "OPTIMIZE"]
    assert "[DELTA_UNSUPPORTED_TIME_TRAVEL_BEYOND" in refused(engine, "SELECT * FROM t VERSION AS OF 3")
    assert "[DELTA_CHANGE_DATA_FILE_NOT_FOUND]" in refused(engine, "SELECT * FROM table_changes('t', 3)")
    assert xs(engine, "table_changes('t', 4)") == ["5"]
    assert xs(engine, "t VERSION AS OF 4") == ["1", "2", "3"]
    assert xs(engine, "t") == ["1", "2", "3", "5"]


def test_vacuum_alone_takes_nothing(engine: SqlEngine) -> None:
    engine.execute("VACUUM t RETAIN 0 HOURS")
    assert xs(engine, "table_changes('t', 1)") == ["1", "2", "3"]
    assert "does not run" in refused(engine, "VACUUM t DRY RUN")
    assert "does not run" in refused(engine, "OPTIMIZE t ZORDER BY (x)")
    assert "[TABLE_OR_VIEW_NOT_FOUND]" in refused(engine, "OPTIMIZE nothing")


def test_a_file_of_an_earlier_version_of_the_workspace_opens(tmp_path: Path) -> None:
    import duckdb

    SqlEngine(tmp_path, ("main",)).close()
    with duckdb.connect(str(tmp_path / "tables.duckdb")) as connection:
        connection.execute("ALTER TABLE __workspace.tables DROP COLUMN vacuumed")
    engine = SqlEngine(tmp_path, ("main",))
    engine.execute("CREATE TABLE t (x INT)")
    engine.close()
