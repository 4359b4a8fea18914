"""A statement that comes again means what it would mean if it came for the first time."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from release_pipeline.local_workspace.sql.engine import SqlEngine
from release_pipeline.local_workspace.sql.failures import SqlFailure
from release_pipeline.local_workspace.sql.guard import insufficient
from release_pipeline.local_workspace.sql.names import Session, TableName
from release_pipeline.local_workspace.sql.translations import MOST_KEPT

FEED = "TBLPROPERTIES (delta.enableChangeDataFeed = true)"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqlEngine]:
    made = SqlEngine(tmp_path_factory.mktemp("translations"), ("main",))
    yield made
    made.close()


def rows(engine: SqlEngine, statement: str, **values: Any) -> list[list[str | None]]:
    bound = {name: (str(value), "INT" if isinstance(value, int) else "STRING") for name, value in values.items()}
    return engine.execute(statement, bound).rows


def test_values_and_types_of_parameters_are_those_of_each_time(engine: SqlEngine) -> None:
    text = "SELECT :a AS a, :b || :a AS b"
    assert rows(engine, text, a=1, b="x") == [["1", "x1"]]
    assert rows(engine, text, a=2, b="y") == [["2", "y2"]]
    assert engine.execute("SELECT :a / 2 AS half", {"a": ("3", "DOUBLE")}).rows == [["1.5"]]
    assert engine.execute("SELECT :a / 2 AS half", {"a": ("3", "DOUBLE")}).columns[0].type_name == "DOUBLE"
    with pytest.raises(SqlFailure, match="UNBOUND_SQL_PARAMETER"):
        rows(engine, text, a=1)


def test_a_table_that_became_another_one_is_read_as_it_is_now(engine: SqlEngine) -> None:
    read = "SELECT * FROM t ORDER BY 1"
    rows(engine, "CREATE TABLE t (n INT)")
    rows(engine, "INSERT INTO t VALUES (1)")
    assert rows(engine, read) == rows(engine, read) == [["1"]]
    rows(engine, f"CREATE OR REPLACE TABLE t (n INT, m INT) {FEED}")
    rows(engine, "INSERT INTO t VALUES (2, 3)")
    assert rows(engine, read) == rows(engine, read) == [["2", "3"]]
    rows(engine, "DROP TABLE t")
    with pytest.raises(SqlFailure, match="TABLE_OR_VIEW_NOT_FOUND"):
        rows(engine, read)
    rows(engine, "CREATE VIEW t AS SELECT 4 AS k")
    assert rows(engine, read) == rows(engine, read) == [["4"]]
    rows(engine, "DROP VIEW t")


def test_an_insertion_that_comes_again_is_a_commit_of_its_own(engine: SqlEngine) -> None:
    rows(engine, "CREATE TABLE i (n INT)")
    add = "INSERT INTO i SELECT :n WHERE NOT EXISTS (SELECT 1 FROM i WHERE n >= :n)"
    assert [rows(engine, add, n=n) for n in (1, 2, 2, 3)] == [[["1", "1"]], [["1", "1"]], [["0", "0"]], [["1", "1"]]]
    assert rows(engine, "SELECT n FROM i ORDER BY n") == [["1"], ["2"], ["3"]]
    assert rows(engine, "DESCRIBE HISTORY i LIMIT 1")[0][0] == "4"
    rows(engine, "DROP TABLE i")
    rows(engine, f"CREATE TABLE i (n INT) {FEED}")
    for n in (1, 2):
        rows(engine, add, n=n)
    found = rows(engine, "SELECT n, _commit_version FROM table_changes('main.default.i', 1) ORDER BY n")
    assert found == [["1", "1"], ["2", "2"]]
    rows(engine, "DROP TABLE i")


def test_versions_are_those_of_each_time(engine: SqlEngine) -> None:
    rows(engine, f"CREATE TABLE v (n INT) {FEED}")
    changes = "SELECT count(*) AS n FROM table_changes('main.default.v', 0)"
    for count in (1, 2):
        rows(engine, "INSERT INTO v VALUES (7)")
        assert rows(engine, changes) == [[str(count)]]
    rows(engine, "DROP TABLE v")


def test_the_same_statement_over_other_versions_reads_those(engine: SqlEngine) -> None:
    rows(engine, f"CREATE TABLE w (n INT) {FEED}")
    for n in range(1, 5):
        rows(engine, f"INSERT INTO w VALUES ({n})")
    said = r"'table_changes(\'w\', 3)' AS said -- table_changes('w', 9)"
    text = f"SELECT n, {said}\nFROM table_changes('main.default.w', {{}}) WHERE n > :least ORDER BY n"
    for versions, found in (("1, 2", "12"), ("2, 3", "23"), ("3, 99", "34"), ("4", "4"), ("2,2", "2")):
        read = rows(engine, text.format(versions), least=0)
        assert "".join(str(row[0]) for row in read) == found
        assert {row[1] for row in read} == {"table_changes('w', 3)"}
    for versions, wrong in (("5, 6", "DELTA_INVALID_CDC_RANGE"), ("3, 2", "DELTA_INVALID_CDC_RANGE")):
        with pytest.raises(SqlFailure, match=wrong):
            rows(engine, text.format(versions), least=0)
    both = "SELECT a.n, b.n FROM table_changes('w', {}, {}) AS a CROSS JOIN table_changes('w', {}) AS b ORDER BY 1, 2"
    assert rows(engine, both.format(1, 1, 4)) == [["1", "4"]]
    assert rows(engine, both.format(2, 3, 4)) == [["2", "4"], ["3", "4"]]
    for n in (1, 4):
        unnamed = engine.execute(f"SELECT (SELECT min(n) FROM table_changes('w', {n}))")
        assert (unnamed.rows, unnamed.columns[0].name) == ([[str(n)]], f"(SELECT min(n) FROM table_changes('w', {n}))")
    for reserved in (
        both.format(1, 1, 4) + " -- rp_lifted_version_0",
        "SELECT '$rp_lifted_version_0_first'",
        "SELECT :rp_lifted_version_0",
    ):
        with pytest.raises(SqlFailure, match="rp_lifted_version_ in a statement"):
            rows(engine, reserved, rp_lifted_version_0=1)
    rows(engine, "DROP TABLE w")
    with pytest.raises(SqlFailure, match="TABLE_OR_VIEW_NOT_FOUND"):
        rows(engine, text.format("1, 2"), least=0)


def test_what_is_inserted_and_shown_of_changes_is_of_the_versions_that_are_named(engine: SqlEngine) -> None:
    rows(engine, f"CREATE TABLE x (n INT) {FEED}")
    rows(engine, "CREATE TABLE y (n INT)")
    for n in (1, 2):
        rows(engine, f"INSERT INTO x VALUES ({n})")
        rows(engine, f"INSERT INTO y SELECT n FROM table_changes('x', {n}, {n})")
    assert rows(engine, "SELECT n FROM y ORDER BY n") == [["1"], ["2"]]
    rows(engine, "CREATE VIEW z AS SELECT n FROM table_changes('x', 2)")
    assert rows(engine, "SELECT n FROM z") == [["2"]]
    view = engine.table("main.default.z")
    assert view is not None
    assert view.view_text is not None
    assert view.view_text.endswith("('x', 2)")
    for name in ("VIEW z", "TABLE x", "TABLE y"):
        rows(engine, f"DROP {name}")


class _Guard:
    """Lets nobody read or write what it was told."""

    def __init__(self) -> None:
        self.closed = False

    def _ask(self, name: TableName) -> None:
        if self.closed:
            raise insufficient(f"{name.quoted} is closed.")

    read = write = _ask

    def other(self) -> None:
        raise insufficient("no definitions.")


def test_a_guard_is_asked_each_time(engine: SqlEngine) -> None:
    rows(engine, f"CREATE TABLE g (n INT) {FEED}")
    guard = _Guard()
    for statement in ("SELECT n FROM g", "SELECT n FROM table_changes('g', 0)", "INSERT INTO g VALUES (1)"):
        guard.closed = False
        for _ in range(2):
            engine.execute(statement, session=Session(), guard=guard)
        guard.closed = True
        with pytest.raises(SqlFailure, match="is closed"):
            engine.execute(statement, session=Session(), guard=guard)
    rows(engine, "DROP TABLE g")


def test_unqualified_names_mean_what_the_session_says(engine: SqlEngine) -> None:
    rows(engine, "CREATE SCHEMA other")
    rows(engine, "CREATE TABLE main.other.s AS SELECT 1 AS n")
    rows(engine, "CREATE TABLE main.default.s AS SELECT 2 AS n")
    for _ in range(2):
        assert engine.execute("SELECT n FROM s", session=Session("main", "other")).rows == [["1"]]
        assert engine.execute("SELECT n FROM s", session=Session("main", "default")).rows == [["2"]]


def test_old_translations_make_room(engine: SqlEngine) -> None:
    for n in range(MOST_KEPT + 5):
        assert rows(engine, f"SELECT {n} AS n") == [[str(n)]]
    assert rows(engine, "SELECT 0 AS n") == [["0"]]


def test_readers_never_see_half_of_a_change(engine: SqlEngine) -> None:
    over, found = threading.Event(), set[int]()
    rows(engine, "CREATE TABLE c AS SELECT 1 AS n")

    def change() -> None:
        for number in range(10):
            feed = FEED if number % 2 else ""
            rows(engine, f"CREATE OR REPLACE TABLE c {feed} AS SELECT {number} AS n")
        over.set()

    thread = threading.Thread(target=change)
    thread.start()
    while not over.is_set():
        found |= {len(row) for row in rows(engine, "SELECT * FROM c")}
    thread.join()
    assert found == {1}
