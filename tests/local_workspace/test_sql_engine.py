"""Statements of Databricks SQL against the engine itself: what they do, what they answer, how they fail."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from release_pipeline.local_workspace.sql.cancellation import Cancellation
from release_pipeline.local_workspace.sql.engine import SqlEngine
from release_pipeline.local_workspace.sql.failures import SqlFailure
from release_pipeline.local_workspace.sql.names import Session

Rows = list[list[str | None]]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SqlEngine]:
    engine = SqlEngine(tmp_path, ("main", "dev"))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqlEngine]:
    engine = SqlEngine(tmp_path_factory.mktemp("engine"), ("main",))
    engine.execute("CREATE TABLE letters (id BIGINT, letter STRING)")
    engine.execute("INSERT INTO letters VALUES (1, 'a'), (2, 'b'), (3, NULL)")
    yield engine
    engine.close()


def rows(engine: SqlEngine, statement: str, **parameters: tuple[str | None, str]) -> Rows:
    return engine.execute(statement, parameters).rows


def failure(engine: SqlEngine, statement: str, **parameters: tuple[str | None, str]) -> str:
    with pytest.raises(SqlFailure) as caught:
        engine.execute(statement, parameters)
    assert caught.value.error_code == "BAD_REQUEST"
    return caught.value.message


def test_every_kind_of_value_is_text_of_the_statement_api(engine: SqlEngine) -> None:
    engine.execute(
        "CREATE TABLE main.default.kinds (i INT NOT NULL COMMENT 'a number', l BIGINT, d DOUBLE, b BOOLEAN, s STRING, "
        "t TIMESTAMP, day DATE, m MAP<STRING, STRING>, a ARRAY<STRING>, st STRUCT<x: INT, y: ARRAY<INT>>, "
        "n DECIMAL(10, 2)) USING DELTA CLUSTER BY (i) COMMENT 'all of them' TBLPROPERTIES ('owner.team' = 'ml')"
    )
    engine.execute(
        "INSERT INTO main.default.kinds VALUES (1, 2, 0.5, true, 'x', timestamp '2026-11-21 14:03:01.123', "
        "date '2026-11-21', map('k', 'v'), array('a', 'b'), named_struct('x', 1, 'y', array(2)), 1.5), "
        "(2, null, null, null, null, null, null, null, null, null, null)"
    )
    result = engine.execute("SELECT * FROM main.default.kinds ORDER BY i")
    assert [(column.name, column.type_text, column.type_name) for column in result.columns] == [
        ("i", "INT", "INT"),
        ("l", "BIGINT", "LONG"),
        ("d", "DOUBLE", "DOUBLE"),
        ("b", "BOOLEAN", "BOOLEAN"),
        ("s", "STRING", "STRING"),
        ("t", "TIMESTAMP", "TIMESTAMP"),
        ("day", "DATE", "DATE"),
        ("m", "MAP<STRING, STRING>", "MAP"),
        ("a", "ARRAY<STRING>", "ARRAY"),
        ("st", "STRUCT<x: INT, y: ARRAY<INT>>", "STRUCT"),
        ("n", "DECIMAL(10,2)", "DECIMAL"),
    ]
    first, second = result.rows
    assert first[:7] == ["1", "2", "0.5", "true", "x", "2026-11-21T14:03:01.123Z", "2026-11-21"]
    assert [json.loads(value or "") for value in first[7:10]] == [{"k": "v"}, ["a", "b"], {"x": 1, "y": [2]}]
    assert first[10] == "1.50"
    assert second == ["2", *[None] * 10]


def test_names_are_qualified_by_session_and_may_qualify_columns(engine: SqlEngine) -> None:
    engine.execute("CREATE SCHEMA dev.ml")
    engine.execute("CREATE TABLE dev.ml.t (id INT, nested STRUCT<a: INT>)")
    engine.execute("INSERT INTO t VALUES (1, named_struct('a', 7))", session=Session("dev", "ml"))
    assert rows(engine, "SELECT dev.ml.t.id, ml.t.id, T.Id, t.nested.a FROM dev.ml.t") == [["1", "1", "1", "7"]]
    assert rows(engine, "SELECT count(*) FROM `DEV`.`ML`.`T`") == [["1"]]
    assert "`main`.`default`.`t` cannot be found" in failure(engine, "SELECT * FROM t")


def test_result_columns_have_the_users_names(shared: SqlEngine) -> None:
    result = shared.execute("SELECT count(*), max(id), letter AS l, id + 1 FROM letters GROUP BY ALL LIMIT 1")
    assert [column.name for column in result.columns] == ["count(1)", "max(id)", "l", "id + 1"]


def test_common_table_expressions_hide_tables_of_the_same_name(shared: SqlEngine) -> None:
    assert rows(shared, "WITH letters AS (SELECT 9 AS id) SELECT * FROM letters") == [["9"]]
    inner = "WITH letters AS (SELECT id FROM letters WHERE id = 2) SELECT * FROM letters"
    assert rows(shared, inner) == [["2"]]
    assert rows(shared, "WITH a AS (SELECT 1 AS x), b AS (SELECT x + 1 AS y FROM a) SELECT * FROM b") == [["2"]]
    assert rows(shared, "WITH A AS (SELECT 1 AS x) SELECT a.x, l.* FROM a JOIN A AS l ON a.x = l.x") == [["1", "1"]]
    upward = "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT n.i + 1 FROM n WHERE n.i < 3) SELECT max(i) FROM n"
    assert rows(shared, upward) == [["3"]]
    later = "WITH RECURSIVE a AS (SELECT max(id) AS id FROM letters), letters AS (SELECT 9 AS id) SELECT id FROM a"
    assert rows(shared, later) == rows(shared, "SELECT max(id) FROM letters"), "what comes later is not there yet"
    with pytest.raises(SqlFailure, match='Duplicate CTE name "a"'):
        rows(shared, "WITH a AS (SELECT 1), a AS (SELECT 2) SELECT * FROM a")
    assert rows(shared, "WITH t(a, b) AS (SELECT 1, 2) SELECT t.b FROM t") == [["2"]]


def test_merge_inserts_updates_and_expands_stars(engine: SqlEngine) -> None:
    engine.execute("CREATE TABLE t (id INT PRIMARY KEY, s STRING)")
    engine.execute("INSERT INTO t VALUES (1, 'old')")
    source = "(SELECT 1 AS id, 'new' AS s UNION ALL SELECT 2, 'two')"
    engine.execute(
        f"MERGE INTO main.default.t AS t USING {source} AS s ON t.id = s.id "
        "WHEN MATCHED THEN UPDATE SET * WHEN NOT MATCHED THEN INSERT *"
    )
    assert rows(engine, "SELECT * FROM t ORDER BY id") == [["1", "new"], ["2", "two"]]
    engine.execute(
        f"MERGE INTO t USING {source} AS s ON t.id = s.id WHEN MATCHED AND s.id = 2 THEN DELETE "
        "WHEN MATCHED THEN UPDATE SET t.s = concat(s.s, '!')"
    )
    assert rows(engine, "SELECT * FROM t") == [["1", "new!"]]


def test_insert_where_not_exists_is_idempotent(engine: SqlEngine) -> None:
    engine.execute("CREATE TABLE t (id INT, s STRING)")
    insert = "INSERT INTO t (id, s) SELECT :id, :s WHERE NOT EXISTS (SELECT 1 FROM t WHERE id = :id)"
    counts = [rows(engine, insert, id=("1", "INT"), s=("x", "STRING"))[0][0] for _ in range(3)]
    assert counts == ["1", "0", "0"]
    assert rows(engine, "SELECT * FROM t") == [["1", "x"]]


def test_overwrite_and_replace_may_read_what_they_replace(engine: SqlEngine) -> None:
    engine.execute("CREATE TABLE t AS SELECT 1 AS x UNION ALL SELECT 2")
    engine.execute("INSERT OVERWRITE t SELECT x * 10 FROM t")
    engine.execute("CREATE OR REPLACE TABLE t AS SELECT x + 1 AS x FROM t")
    assert rows(engine, "SELECT * FROM t ORDER BY x") == [["11"], ["21"]]


def test_views_follow_their_tables(engine: SqlEngine) -> None:
    engine.execute("CREATE TABLE t (x INT) TBLPROPERTIES (delta.enableChangeDataFeed = true)")
    engine.execute("CREATE VIEW v (y) AS SELECT x FROM t WHERE x > 1")
    engine.execute("INSERT INTO t VALUES (1), (2)")
    assert rows(engine, "SELECT * FROM v") == [["2"]]
    assert "is a view" in failure(engine, "DELETE FROM v")
    assert "[WRONG_COMMAND_FOR_OBJECT_TYPE]" in failure(engine, "DROP TABLE v")
    engine.execute("DROP VIEW v")
    assert "[TABLE_OR_VIEW_NOT_FOUND]" in failure(engine, "SELECT * FROM v")


def test_schemas_are_created_listed_and_dropped(engine: SqlEngine) -> None:
    engine.execute("CREATE SCHEMA IF NOT EXISTS main.ml COMMENT 'models'")
    engine.execute("CREATE SCHEMA IF NOT EXISTS main.ml")
    assert engine.schemas("main") == ["default", "ml"]
    assert rows(engine, "SHOW SCHEMAS IN main") == [["default"], ["ml"]]
    assert rows(engine, "SHOW CATALOGS") == [["dev"], ["main"]]
    engine.execute("CREATE TABLE main.ml.t (x INT)")
    assert rows(engine, "SHOW TABLES IN main.ml LIKE 't*|nothing'") == [["ml", "t", "false"]]
    assert "[SCHEMA_NOT_EMPTY]" in failure(engine, "DROP SCHEMA main.ml")
    engine.execute("DROP SCHEMA main.ml CASCADE")
    assert not engine.schema_exists("main", "ml")
    assert engine.table("main.ml.t") is None
    assert "[SCHEMA_NOT_FOUND]" in failure(engine, "CREATE TABLE main.ml.t (x INT)")
    assert "[NO_SUCH_CATALOG_EXCEPTION]" in failure(engine, "CREATE SCHEMA elsewhere.ml")


def test_describe_table_shows_databricks_types(engine: SqlEngine) -> None:
    engine.execute("CREATE TABLE t (id BIGINT, tags MAP<STRING, ARRAY<INT>>)")
    engine.execute("ALTER TABLE t ADD COLUMNS (note STRING)")
    described = [["id", "bigint", None], ["tags", "map<string,array<int>>", None], ["note", "string", None]]
    assert rows(engine, "DESCRIBE TABLE t") == rows(engine, "desc extended main.default.t") == described
    assert rows(engine, "SHOW COLUMNS IN t") == [["id"], ["tags"], ["note"]]


@pytest.mark.parametrize(
    ("type_name", "value", "expected"),
    [
        ("STRING", "it's; --", "it's; --"),
        ("INT", "7", "7"),
        ("BIGINT", "9007199254740993", "9007199254740993"),
        ("LONG", "1", "1"),
        ("DOUBLE", "0.1", "0.1"),
        ("DECIMAL(10,2)", "1.25", "1.25"),
        ("BOOLEAN", "true", "true"),
        ("DATE", "2026-11-21", "2026-11-21"),
        ("TIMESTAMP", "2026-11-21T14:00:00+02:00", "2026-11-21T12:00:00.000Z"),
        ("TIMESTAMP", "2026-11-21 14:00:00", "2026-11-21T14:00:00.000Z"),
        ("INT", None, None),
    ],
)
def test_parameters_are_typed_values(
    shared: SqlEngine, type_name: str, value: str | None, expected: str | None
) -> None:
    assert rows(shared, "SELECT :v", v=(value, type_name)) == [[expected]]


def test_parameters_name_tables_only_through_identifier(shared: SqlEngine) -> None:
    assert rows(shared, "SELECT count(*) FROM IDENTIFIER(:t)", t=("main.default.letters", "STRING")) == [["3"]]
    assert rows(shared, "SELECT count(*) FROM identifier('`main`.default.letters')") == [["3"]]
    attack = "letters; DROP TABLE letters"
    assert "[PARSE_SYNTAX_ERROR]" in failure(shared, "SELECT * FROM IDENTIFIER(:t)", t=(attack, "STRING"))


def test_a_parameter_without_a_value_is_unbound(shared: SqlEngine) -> None:
    assert failure(shared, "SELECT :here, :there", here=("1", "INT")).startswith(
        "[UNBOUND_SQL_PARAMETER] Found the unbound parameter: there."
    )
    assert "unknown type 'POINT'" in failure(shared, "SELECT :v", v=("1", "POINT"))
    assert "[CAST_INVALID_INPUT]" in failure(shared, "SELECT :v", v=("one", "INT"))


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=40))
def test_any_text_survives_as_parameter_and_as_literal(shared: SqlEngine, text: str) -> None:
    literal = "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
    assert rows(shared, f"SELECT :v, {literal}", v=(text, "STRING")) == [[text, text]]


@pytest.mark.parametrize(
    ("statement", "condition", "detail"),
    [
        ("SELECT * FROM nowhere.a.b", "TABLE_OR_VIEW_NOT_FOUND", "`nowhere`.`a`.`b`"),
        ("INSERT INTO missing VALUES (1)", "TABLE_OR_VIEW_NOT_FOUND", "`main`.`default`.`missing`"),
        ("DESCRIBE HISTORY missing", "TABLE_OR_VIEW_NOT_FOUND", "`missing`"),
        ("SELECT lettr FROM letters", "UNRESOLVED_COLUMN.WITH_SUGGESTION", "`letter`"),
        ("SELECT letters.nope FROM letters", "UNRESOLVED_COLUMN", "`nope`"),
        ("UPDATE letters SET nope = 1", "UNRESOLVED_COLUMN", "`nope`"),
        ("INSERT INTO letters (nope) VALUES (1)", "UNRESOLVED_COLUMN", "`nope`"),
        ("SELECT no_such_function(1)", "UNRESOLVED_ROUTINE", "`no_such_function`"),
        ("SELECT * FROM", "PARSE_SYNTAX_ERROR", ""),
        ("SELEC 1", "PARSE_SYNTAX_ERROR", "'1'"),
        ("SELECT 'open", "PARSE_SYNTAX_ERROR", ""),
        ("", "PARSE_SYNTAX_ERROR", "0 were given"),
        ("SELECT 1; SELECT 2", "PARSE_SYNTAX_ERROR", "2 were given"),
        ("SELECT 1 / 0", "DIVIDE_BY_ZERO", "try_divide"),
        ("SELECT 1.5e0 / 0", "DIVIDE_BY_ZERO", "try_divide"),
        ("SELECT CAST('x' AS INT)", "CAST_INVALID_INPUT", "'x'"),
        ("CREATE TABLE letters (x INT)", "TABLE_OR_VIEW_ALREADY_EXISTS", "`letters`"),
    ],
)
def test_failures_are_the_services(shared: SqlEngine, statement: str, condition: str, detail: str) -> None:
    message = failure(shared, statement)
    assert message.startswith(f"[{condition}")
    assert detail in message
    assert "SQLSTATE: " in message
    assert "LINE 1" not in message
    assert '"main.default"' not in message


def test_a_failed_statement_changes_nothing(engine: SqlEngine) -> None:
    engine.execute("CREATE TABLE t (x INT NOT NULL)")
    assert "[DELTA_VIOLATE_CONSTRAINT]" in failure(engine, "INSERT INTO t VALUES (1), (NULL)")
    assert "[CAST_INVALID_INPUT]" in failure(engine, "CREATE OR REPLACE TABLE t AS SELECT CAST(x AS INT) FROM "
                                             "(VALUES ('1'), ('no')) AS q(x)")  # fmt: skip
    assert rows(engine, "SELECT count(*) FROM t") == [["0"]]
    assert [row[0] for row in rows(engine, "DESCRIBE HISTORY t")] == ["0"]


def test_limits_cut_and_the_inline_limit_fails(shared: SqlEngine) -> None:
    cut = shared.execute("SELECT * FROM range(10)", row_limit=3)
    assert (len(cut.rows), cut.truncated) == (3, True)
    whole = shared.execute("SELECT * FROM range(3)", row_limit=3)
    assert (len(whole.rows), whole.truncated) == (3, False)
    assert shared.execute("SELECT repeat('x', 100) FROM range(10)", byte_limit=350).truncated
    assert "Inline byte limit exceeded" in failure(shared, "SELECT repeat('x', 1000000) FROM range(30)")


def test_a_running_statement_can_be_cancelled(shared: SqlEngine) -> None:
    cancellation = Cancellation()
    slow = "SELECT count(*) FROM range(1000000) AS a JOIN range(1000000) AS b ON a.range * b.range % 7 = 3"
    timer = threading.Timer(0.2, cancellation.cancel)
    timer.start()
    with pytest.raises(SqlFailure) as caught:
        shared.execute(slow, cancellation=cancellation)
    timer.join()
    assert caught.value.error_code == "CANCELLED"
    with pytest.raises(SqlFailure, match="cancelled"):
        shared.execute("SELECT 1", cancellation=cancellation)


def test_threads_write_without_conflict_and_readers_see_whole_commits(engine: SqlEngine) -> None:
    engine.execute("CREATE TABLE t (writer INT, x INT)")
    partial: list[str | None] = []

    def write(writer: int) -> None:
        for x in range(10):
            engine.execute(f"INSERT INTO t SELECT {writer}, {x} FROM range(10)")

    def read() -> None:
        for _ in range(30):
            count = rows(engine, "SELECT count(*) FROM t")[0][0]
            if int(count or 0) % 10:
                partial.append(count)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    threads += [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert partial == []
    assert rows(engine, "SELECT count(*), count(DISTINCT writer) FROM t") == [["400", "4"]]
    assert rows(engine, "DESCRIBE HISTORY t LIMIT 1")[0][0] == "40"
