"""What a statement must not reach: files, the network, settings, the engine's own state, other statements."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from release_pipeline.local_workspace.sql.engine import SqlEngine
from release_pipeline.local_workspace.sql.failures import SqlFailure


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqlEngine]:
    folder = tmp_path_factory.mktemp("safety")
    (folder / "secret.csv").write_text("word\nhidden-word\n")
    engine = SqlEngine(folder, ("main",))
    engine.execute("CREATE TABLE t (x INT, s STRING) TBLPROPERTIES (delta.enableChangeDataFeed = true)")
    engine.execute("INSERT INTO t VALUES (1, 'kept')")
    yield engine
    engine.close()


ATTACKS = [
    "SELECT * FROM read_csv('{file}')",
    "SELECT * FROM read_csv_auto('{file}')",
    "SELECT * FROM read_text('{file}')",
    "SELECT * FROM read_blob('{file}')",
    "SELECT * FROM read_json('{file}')",
    "SELECT * FROM read_parquet('{file}')",
    "SELECT * FROM read_files('{file}')",
    "SELECT * FROM read_csv('http://127.0.0.1:9/x.csv')",
    "SELECT * FROM read_parquet('s3://bucket/x.parquet')",
    "SELECT * FROM 'https://127.0.0.1:9/x.parquet'",
    "COPY t TO 's3://bucket/x.parquet'",
    "SELECT * FROM sniff_csv('{file}')",
    "SELECT * FROM glob('/*')",
    "SELECT * FROM '{file}'",
    'SELECT * FROM "{file}"',
    "SELECT * FROM `{file}`",
    "SELECT * FROM csv.`{file}`",
    "SELECT * FROM json.`{file}`",
    "SELECT * FROM IDENTIFIER('`{file}`')",
    "SELECT (SELECT count(*) FROM read_csv('{file}'))",
    "CREATE TABLE stolen AS SELECT * FROM read_csv('{file}')",
    "CREATE VIEW stolen AS SELECT * FROM read_csv('{file}')",
    "CREATE TABLE stolen (x INT) LOCATION '/tmp/stolen'",
    "INSERT INTO t SELECT 1, content FROM read_text('{file}')",
    "MERGE INTO t USING read_csv('{file}') AS s ON false WHEN NOT MATCHED THEN INSERT *",
    "SELECT * FROM query('SELECT 1')",
    "SELECT * FROM query_table('t')",
    "SELECT query('SELECT 1')",
    "SELECT getenv('PATH')",
    "SELECT current_setting('threads')",
    "SELECT system.current_setting('threads')",
    "SELECT main.default.current_setting('threads')",
    "SELECT current_query()",
    "SELECT nextval('x')",
    "SELECT getvariable('x')",
    "SELECT write_log('x')",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_tables()",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM pragma_table_info('t')",
    "SELECT * FROM pragma_database_list",
    "SELECT * FROM sqlite_master",
    "WITH RECURSIVE sqlite_master AS (SELECT * FROM sqlite_master) SELECT * FROM sqlite_master",
    "WITH RECURSIVE a AS (SELECT * FROM duckdb_tables), duckdb_tables AS (SELECT 1 AS x) SELECT * FROM a",
    "WITH RECURSIVE a AS (SELECT * FROM `pragma_database_list`), pragma_database_list AS (SELECT 1) SELECT * FROM a",
    "WITH RECURSIVE a AS (SELECT 1 UNION ALL SELECT 2 FROM b), b AS (SELECT * FROM a) SELECT * FROM b",
    "SELECT * FROM information_schema.key_column_usage",
    "SELECT * FROM tables.information_schema.tables",
    "SELECT schema_oid FROM main.information_schema.tables",
    "SELECT * FROM pg_catalog.pg_class",
    "SELECT * FROM __workspace.tables",
    "SELECT * FROM `__workspace`.`commits`",
    "SELECT * FROM main.__workspace.tables",
    "UPDATE __workspace.tables SET version = 99",
    "DROP SCHEMA __workspace CASCADE",
    "SELECT * FROM `main.default`.`t`",
    "SELECT __commit_version FROM t",
    "SELECT t.`__COMMIT_VERSION` FROM t",
    "UPDATE t SET __commit_version = 5",
    "INSERT INTO t (x, __commit_version) VALUES (1, 99)",
    "CREATE TABLE mine (__commit_version INT)",
    "ALTER TABLE t DROP COLUMN __commit_version",
    "ALTER TABLE t RENAME TO other",
    "CREATE TABLE `a/b` (x INT)",
    "CREATE TABLE `a.b` (x INT)",
    "CREATE SCHEMA main.`a.b`",
    "CREATE SCHEMA `__workspace`.x",
    "DROP SCHEMA `main.default`",
    "ATTACH 'other.db' AS other",
    "ATTACH DATABASE 'other.db'",
    "DETACH other",
    "USE other",
    "COPY t TO '/tmp/out.csv'",
    "COPY t FROM '{file}'",
    "COPY INTO t FROM '{file}' FILEFORMAT = CSV",
    "EXPORT DATABASE '/tmp/out'",
    "IMPORT DATABASE '/tmp/out'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "PRAGMA database_list",
    "PRAGMA version",
    "SET threads = 1",
    "SET enable_external_access = true",
    "RESET threads",
    "CALL pragma_version()",
    "CHECKPOINT",
    "VACUUM",
    "EXPLAIN SELECT 1",
    "EXPLAIN ANALYZE SELECT 1",
    "CREATE FUNCTION f() RETURNS INT RETURN 1",
    "CREATE TEMPORARY FUNCTION f() RETURNS INT RETURN 1",
    "CREATE MACRO f() AS 1",
    "CREATE SECRET s (TYPE s3)",
    "CREATE SEQUENCE s",
    "CREATE TEMPORARY VIEW v AS SELECT 1",
    "CREATE INDEX i ON t (x)",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SELECT 1; DROP TABLE t",
    "SELECT 1 /* */; DELETE FROM t",
    "SELECT 1; -- more\nDELETE FROM t",
    "WITH d AS (DELETE FROM t RETURNING *) SELECT * FROM d",
    "WITH i AS (INSERT INTO t VALUES (9, 'x')) SELECT 1",
    "SELECT $1",
    "SELECT ?",
    "SELECT @@version",
    "SELECT 1 INTO OUTFILE '/tmp/out'",
    "DELETE FROM t RETURNING read_text('{file}')",
    "SELECT * FROM t TABLESAMPLE (10 PERCENT) REPEATABLE (read_text('{file}'))",
    "SELECT " + "(" * 3000 + "1" + ")" * 3000,
    "SELECT 1" + " + 1" * 20000,
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack[:60])
def test_attacks_are_refused_and_change_nothing(
    engine: SqlEngine, tmp_path_factory: pytest.TempPathFactory, attack: str
) -> None:
    secret = next(Path(tmp_path_factory.getbasetemp()).glob("safety*/secret.csv"))
    before = engine.execute("DESCRIBE HISTORY t").rows
    with pytest.raises(SqlFailure) as caught:
        engine.execute(attack.replace("{file}", str(secret)))
    assert "hidden-word" not in caught.value.message
    assert engine.execute("SELECT * FROM t").rows == [["1", "kept"]]
    assert engine.execute("DESCRIBE HISTORY t").rows == before
    assert engine.execute("SHOW TABLES").rows == [["default", "t", "false"]]


def test_duckdb_itself_is_confined_behind_the_allowlist(engine: SqlEngine, tmp_path: Path) -> None:
    import duckdb

    file = tmp_path / "secret.csv"
    file.write_text("word\nhidden-word\n")
    cursor = engine._root.cursor()
    for statement in (
        f"SELECT * FROM read_csv('{file}')",
        f"COPY (SELECT 1) TO '{tmp_path / 'out.csv'}'",
        f"ATTACH '{tmp_path / 'other.db'}'",
        "SET enable_external_access = true",
        "SET lock_configuration = false",
        "INSTALL httpfs",
        "LOAD httpfs",
    ):
        with pytest.raises(duckdb.Error):
            cursor.execute(statement)
    cursor.close()
    assert list(tmp_path.iterdir()) == [file]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqlEngine]:
    engine = SqlEngine(tmp_path_factory.mktemp("scratch"), ("main",))
    engine.execute("CREATE TABLE t (x INT, s STRING) TBLPROPERTIES (delta.enableChangeDataFeed = true)")
    yield engine
    engine.close()


WORDS = st.sampled_from(
    """
    SELECT FROM t x s * , ( ) WHERE = 1 'a' AND NOT IN CASE WHEN THEN END JOIN ON GROUP BY ORDER LIMIT UNION ALL WITH AS
    INSERT INTO VALUES UPDATE SET DELETE MERGE USING CREATE TABLE VIEW INT STRING ARRAY< > :p IDENTIFIER OVER PARTITION
    INTERVAL DAY count( table_changes( get_json_object( CAST( explode( -> :: . ; SHOW DESCRIBE HISTORY TABLES ` NULL
    LATERAL QUALIFY EXISTS PIVOT FOR VERSION OF TBLPROPERTIES struct( map( timestamp date
    """.split()  # noqa: SIM905
)


@settings(max_examples=400, deadline=None)
@example(words=["IDENTIFIER", "("])
@given(words=st.lists(WORDS, max_size=14))
def test_no_text_breaks_the_engine(scratch: SqlEngine, words: list[str]) -> None:
    message = "none"
    try:
        scratch.execute(" ".join(words), {"p": ("1", "INT")}, row_limit=5)
    except SqlFailure as failure:
        message = failure.message
    assert message
    assert "__commit_version" not in message
    assert scratch.execute("SELECT 1").rows == [["1"]]
