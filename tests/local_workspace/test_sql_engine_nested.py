"""Arrays, maps and structs in tables, tables without a change feed, and ``information_schema``."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from databricks.sdk import WorkspaceClient

from release_pipeline.local_workspace.sql.engine import SqlEngine
from release_pipeline.local_workspace.sql.failures import SqlFailure

RATINGS = "MAP<STRING, STRUCT<value: STRING, rationale: STRING>>"
CREATE = (
    f"CREATE TABLE assessments (id STRING NOT NULL, tags ARRAY<STRING>, labels MAP<STRING, STRING>, "
    f"text_assessment STRUCT<ratings: {RATINGS}, free_text_comment: STRING>) "
    "TBLPROPERTIES ('delta.enableChangeDataFeed' = 'false')"
)
FILL = (
    "INSERT INTO assessments VALUES ('a', array('x', 'y'), map('model_version', '3'), named_struct('ratings', "
    "map('correct', named_struct('value', 'positive', 'rationale', CAST(NULL AS STRING))), 'free_text_comment', 'ok'))",
    "INSERT INTO assessments SELECT 'b', array(), map(), NULL",
    "INSERT INTO assessments (id) VALUES ('c')",
)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SqlEngine]:
    engine = SqlEngine(tmp_path, ("main", "other"))
    for statement in (CREATE, *FILL):
        engine.execute(statement)
    yield engine
    engine.close()


def test_nested_values_are_answered_as_json(engine: SqlEngine) -> None:
    answer = engine.execute("SELECT * FROM assessments ORDER BY id")
    assert [column.type_text for column in answer.columns] == [
        "STRING",
        "ARRAY<STRING>",
        "MAP<STRING, STRING>",
        f"STRUCT<ratings: {RATINGS}, free_text_comment: STRING>",
    ]
    first = answer.rows[0]
    assert [json.loads(value or "") for value in first[1:]] == [
        ["x", "y"],
        {"model_version": "3"},
        {"ratings": {"correct": {"value": "positive", "rationale": None}}, "free_text_comment": "ok"},
    ]
    assert answer.rows[1:] == [["b", "[]", "{}", None], ["c", None, None, None]]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("labels['model_version']", ["3", None, None]),
        ("labels.model_version", ["3", None, None]),
        ("element_at(labels, 'nothing')", [None, None, None]),
        ("text_assessment.ratings['correct'].value", ["positive", None, None]),
        ("a.text_assessment.ratings.correct.value = 'positive'", ["true", None, None]),
        ("text_assessment.free_text_comment", ["ok", None, None]),
        ("size(tags)", ["2", "0", None]),
        ("size(labels)", ["1", "0", None]),
        ("size(text_assessment.ratings)", ["1", None, None]),
        ("tags[0]", ["x", None, None]),
        ("array_contains(tags, 'y')", ["true", "false", None]),
        ("map_keys(labels)", ['["model_version"]', "[]", None]),
    ],
)
def test_parts_of_nested_values(engine: SqlEngine, expression: str, expected: list[str | None]) -> None:
    rows = engine.execute(f"SELECT {expression} FROM assessments AS a ORDER BY id").rows
    assert [row[0] for row in rows] == expected


def test_rows_are_added_once_however_often_they_are_offered(engine: SqlEngine) -> None:
    engine.execute("CREATE TABLE scores (id STRING, score DOUBLE)")
    missing = (
        "INSERT INTO scores SELECT id, :score FROM assessments AS a "
        "WHERE NOT EXISTS (SELECT 1 FROM scores AS s WHERE s.id = a.id)"
    )
    anti = "INSERT INTO scores SELECT a.id, 0.0 FROM assessments AS a LEFT ANTI JOIN scores AS s ON s.id = a.id"
    merge = (
        "MERGE INTO scores AS s USING (SELECT id, 2.0D AS score FROM assessments) AS a ON s.id = a.id "
        "WHEN MATCHED AND s.score < a.score THEN UPDATE SET score = a.score WHEN NOT MATCHED THEN INSERT *"
    )
    counts = [
        engine.execute(statement, {"score": ("1.0", "DOUBLE")}).rows[0][0]
        for statement in (missing, missing, anti, merge, merge)
    ]
    assert counts == ["3", "0", "0", "3", "0"]
    newest = (
        "SELECT id, score FROM scores QUALIFY row_number() OVER (PARTITION BY id ORDER BY score DESC) = 1 ORDER BY 1"
    )
    assert engine.execute(newest).rows == [["a", "2.0"], ["b", "2.0"], ["c", "2.0"]]


def test_a_table_without_a_change_feed_has_a_history_and_no_changes(engine: SqlEngine) -> None:
    with pytest.raises(SqlFailure, match=r"DELTA_MISSING_CHANGE_DATA.*change data feed.*was not enabled"):
        engine.execute("SELECT * FROM table_changes('assessments', 0)")
    history = engine.execute("DESCRIBE HISTORY assessments").rows
    assert [(row[0], row[2]) for row in history] == [
        ("3", "WRITE"),
        ("2", "WRITE"),
        ("1", "WRITE"),
        ("0", "CREATE TABLE"),
    ]
    assert engine.execute("SHOW TBLPROPERTIES assessments").rows == [["delta.enableChangeDataFeed", "false"]]


def test_columns_are_described(engine: SqlEngine) -> None:
    types = [
        ["id", "string", None],
        ["tags", "array<string>", None],
        ["labels", "map<string,string>", None],
        [
            "text_assessment",
            "struct<ratings:map<string,struct<value:string,rationale:string>>,free_text_comment:string>",
            None,
        ],
    ]
    assert engine.execute("DESCRIBE TABLE assessments").rows == types
    asked = "SELECT column_name, data_type, full_data_type, is_nullable FROM {}.columns WHERE table_name = :table"
    for place in ("information_schema", "main.information_schema", "system.information_schema"):
        rows = engine.execute(asked.format(place), {"table": ("assessments", "STRING")}).rows
        assert [row[:2] for row in rows] == [
            ["id", "STRING"],
            ["tags", "ARRAY"],
            ["labels", "MAP"],
            ["text_assessment", "STRUCT"],
        ]
        assert [row[2] for row in rows][1:3] == ["ARRAY<STRING>", "MAP<STRING, STRING>"]
        assert [row[3] for row in rows] == ["NO", "YES", "YES", "YES"]
    assert engine.execute(asked.format("other.information_schema"), {"table": ("assessments", "STRING")}).rows == []


def test_information_schema_lists_tables_and_schemas(engine: SqlEngine) -> None:
    engine.execute("CREATE SCHEMA other.shelf")
    engine.execute("CREATE VIEW other.shelf.recent AS SELECT 1 AS x")
    tables = (
        "SELECT table_catalog, table_schema, table_name, table_type FROM system.information_schema.tables ORDER BY 3"
    )
    assert engine.execute(tables).rows == [
        ["main", "default", "assessments", "MANAGED"],
        ["other", "shelf", "recent", "VIEW"],
    ]
    schemas = "SELECT s.schema_name FROM other.information_schema.schemata AS s ORDER BY 1"
    assert engine.execute(schemas).rows == [["default"], ["shelf"]]


@pytest.mark.parametrize("name", ["information_schema.views", "nowhere.information_schema.tables"])
def test_what_information_schema_does_not_have(engine: SqlEngine, name: str) -> None:
    with pytest.raises(SqlFailure, match="TABLE_OR_VIEW_NOT_FOUND"):
        engine.execute(f"SELECT * FROM {name}")


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO information_schema.tables VALUES ('a', 'b', 'c', 'd', 'e')",
        "DROP TABLE information_schema.tables",
        "CREATE TABLE information_schema.mine (x INT)",
        "SELECT get_json_object('{}', '$.*')",
        "SELECT conv('11', 2, 10)",
    ],
)
def test_what_is_refused(engine: SqlEngine, statement: str) -> None:
    with pytest.raises(SqlFailure):
        engine.execute(statement)


def test_nested_columns_reach_a_client(client: WorkspaceClient) -> None:
    def run(statement: str) -> list[list[str]]:
        answer = client.statement_execution.execute_statement(statement, "local", wait_timeout="30s")
        assert answer.result is not None, answer.status
        return answer.result.data_array or []

    run("CREATE TABLE main.default.nested (ratings MAP<STRING, STRUCT<value: STRING, Rationale: STRING>>)")
    run("INSERT INTO main.default.nested VALUES (map('good', named_struct('value', 'yes', 'Rationale', 'short')))")
    assert run("SELECT ratings, ratings['good'].value FROM main.default.nested") == [
        ['{"good":{"value":"yes","Rationale":"short"}}', "yes"]
    ]
    (column,) = client.tables.get("main.default.nested").columns or []
    assert column.type_text == "map<string,struct<value:string,Rationale:string>>"
    run("DROP TABLE main.default.nested")
