"""Functions and expressions of Databricks SQL, each with the answer that its documentation promises."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from release_pipeline.local_workspace.sql.engine import SqlEngine
from release_pipeline.local_workspace.sql.failures import SqlFailure


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqlEngine]:
    folder: Path = tmp_path_factory.mktemp("functions")
    engine = SqlEngine(folder, ("main",))
    engine.execute("CREATE TABLE numbers AS SELECT explode(sequence(1, 9)) AS x")
    yield engine
    engine.close()


TIMES = [
    ("unix_millis(timestamp '2026-01-01 00:00:00.5')", "1767225600500"),
    ("unix_micros(timestamp '2026-01-01')", "1767225600000000"),
    ("unix_seconds(timestamp '2026-01-01 00:00:01.9')", "1767225601"),
    ("unix_timestamp(timestamp '2026-01-01 00:00:01.9')", "1767225601"),
    ("unix_timestamp('2026-01-01 00:00:01')", "1767225601"),
    ("unix_timestamp('2026', 'yyyy')", "1767225600"),
    ("unix_timestamp() > 1700000000", "true"),
    ("timestamp_millis(5)", "1970-01-01T00:00:00.005Z"),
    ("timestamp_seconds(1.5)", "1970-01-01T00:00:01.500Z"),
    ("timestamp_micros(1000)", "1970-01-01T00:00:00.001Z"),
    ("from_unixtime(5)", "1970-01-01 00:00:05"),
    ("to_timestamp('2026-01-01T02:00:00+02:00')", "2026-01-01T00:00:00.000Z"),
    ("to_timestamp('2026-01-01 05', 'yyyy-MM-dd HH')", "2026-01-01T05:00:00.000Z"),
    ("try_to_timestamp('soon')", None),
    ("CAST('2026-01-01T00:00:00Z' AS TIMESTAMP)", "2026-01-01T00:00:00.000Z"),
    ("try_cast('soon' AS TIMESTAMP)", None),
    ("timestampadd(MINUTE, -5, timestamp '2026-01-01')", "2025-12-31T23:55:00.000Z"),
    ("timestamp '2026-01-01' + INTERVAL 5 MINUTES", "2026-01-01T00:05:00.000Z"),
    ("timestamp '2026-01-02' - INTERVAL '1' DAY", "2026-01-01T00:00:00.000Z"),
    ("timestampdiff(SECOND, timestamp '2026-01-01 00:00:00.9', timestamp '2026-01-01 00:00:01.1')", "0"),
    ("timestampdiff(MINUTE, timestamp '2026-01-01 00:00:30', timestamp '2026-01-01 00:02:00')", "1"),
    ("date_trunc('HOUR', timestamp '2026-01-01 05:06:07')", "2026-01-01T05:00:00.000Z"),
    ("date_format(timestamp '2026-01-02 03:04:05', 'yyyy-MM-dd HH:mm:ss')", "2026-01-02 03:04:05"),
    ("date_add(date '2026-01-31', 1)", "2026-02-01"),
    ("date_sub(date '2026-01-01', 1)", "2025-12-31"),
    ("datediff('2026-01-03', '2026-01-01')", "2"),
    ("to_date('2026-01-03')", "2026-01-03"),
    ("dayofweek(date '2026-11-22')", "1"),
    ("hour(timestamp '2026-01-01 05:00:00')", "5"),
    ("year(date '2026-01-01')", "2026"),
    ("current_timestamp() BETWEEN timestamp '2020-01-01' AND now()", "true"),
    ("current_date() > date '2020-01-01'", "true"),
]
JSON = [
    ('get_json_object(\'{"a":{"b":"x"}}\', \'$.a.b\')', "x"),
    ('get_json_object(\'{"a":{"b":"x"}}\', \'$.a\')', '{"b":"x"}'),
    ("get_json_object('{\"a\":[1,{\"c\":2}]}', '$.a[1].c')", "2"),
    ("get_json_object('{\"a\":null}', '$.a')", None),
    ("get_json_object('{\"a\":1}', '$.b')", None),
    ("get_json_object('data: not json', '$.a')", None),
    ("get_json_object(NULL, '$.a')", None),
    ("get_json_object('{\"a\":\"x\"}', '$.a') = 'x'", "true"),
    ("get_json_object('[1,2]', '$[1]')", "2"),
    ("get_json_object('[1,2]', '$[-1]')", None),  # Spark does not count from the end
    ("get_json_object('{\"a b\":1}', '$[\\'a b\\']')", "1"),
    ('(SELECT j:a.b FROM (SELECT \'{"a":{"b":"x"}}\' AS j))', "x"),
    ("(SELECT j:a[0]::int + 1 FROM (SELECT '{\"a\":[4]}' AS j))", "5"),
    ("to_json(named_struct('a', 1))", '{"a":1}'),
]
TEXT = [
    ("'abc' RLIKE '^a.c$'", "true"),
    ("'abc' RLIKE 'b'", "true"),
    ("regexp_extract('a12', '([a-z])(\\\\d+)', 2)", "12"),
    ("regexp_extract('a12', '([a-z])(\\\\d+)')", "a"),
    ("regexp_replace('aaa', 'a', 'b')", "bbb"),
    ("concat('a', 1, 'b')", "a1b"),
    ("concat('a', NULL)", None),
    ("concat_ws('-', 'a', NULL, 'b')", "a-b"),
    ("substring('abc', 2, 1)", "b"),
    ("instr('abc', 'c')", "3"),
    ("startswith('abc', 'a') AND endswith('abc', 'c') AND contains('abc', 'b')", "true"),
    ("'ABC' ILIKE '%b%'", "true"),
    ("'a_c' LIKE 'a\\\\_c' AND NOT 'abc' LIKE 'a\\\\_c'", "true"),
    ("'A%C' ILIKE 'a\\\\%c' OR false", "true"),
    ("'abc' LIKE 'a_c'", "true"),
    ("sha2('a', 256)", "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"),
    ("split('a,b', ',')[1]", "b"),
    ("md5('abc')", "900150983cd24fb0d6963f7d28e17f72"),
    ("conv(substr(md5('abc'), 1, 8), 16, 10)", "2416005272"),  # 0x90015098
]
GENERAL = [
    ("try_cast('x' AS INT)", None),
    ("'5'::bigint + 1", "6"),
    ("1 / 2", "0.5"),
    ("7 DIV 2", "3"),
    ("pmod(-1, 3)", "2"),
    ("CAST(2.7 AS INT)", "2"),
    ("CAST(-2.7 AS BIGINT)", "-2"),
    ("CAST(1999 / 1000 AS BIGINT)", "1"),
    ("CAST('12' AS INT) + CAST(true AS INT)", "13"),
    ("CAST(x AS INT) FROM (SELECT CAST(2.9 AS DOUBLE) AS x)", "2"),
    ("CAST(x AS BIGINT) FROM (SELECT CAST(2.9 AS DECIMAL(4, 1)) AS x)", "2"),
    ("CAST(x AS INT) FROM (SELECT ' 12 ' AS x)", "12"),
    ("CAST(CAST(CAST(CAST(CAST(CAST(7.9 AS INT) AS INT) AS INT) AS INT) AS INT) AS INT)", "7"),
    ("try_cast('2.7' AS INT)", None),
    ("try_cast(2.7 AS INT)", "2"),
    ("try_cast('300' AS TINYINT)", None),
    ("floor(CAST(-2.5 AS DOUBLE))", "-3"),
    ("ceil(CAST(2.1 AS DOUBLE))", "3"),
    ("isnan(CAST('NaN' AS DOUBLE))", "true"),
    ("least(2, NULL, 1)", "1"),
    ("try_divide(1, 0)", None),
    ("if(1 > 2, 'a', 'b')", "b"),
    ("nvl(NULL, 'x')", "x"),
    ("NULL <=> NULL", "true"),
    ("greatest(1, 3, 2)", "3"),
    ("size(array(1, 2))", "2"),
    ("array(1, 2)[0]", "1"),
    ("element_at(array(1, 2), 1)", "1"),
    ("map('a', 1)['a']", "1"),
    ("map('a', 1)['b']", None),
    ("element_at(map('a', 1), 'a')", "1"),
    ("size(map('a', 1, 'b', 2))", "2"),
    ("array_size(array(1, 2))", "2"),
    ("cardinality(map())", "0"),
    ("array_contains(array('a', 'b'), 'b')", "true"),
    ("transform(array(1, 2), x -> x + 1)", "[2,3]"),
    ("filter(array(1, 2), x -> x > 1)", "[2]"),
    ("exists(array(1, 2), x -> x = 2)", "true"),
    ("aggregate(array(1, 2, 3), 0, (acc, x) -> acc + x)", "6"),
    ("named_struct('a', 1, 'b', 'x')", '{"a":1,"b":"x"}'),
    ("CAST('NaN' AS DOUBLE)", "NaN"),
]
AGGREGATES = [
    ("count_if(x > 3)", "6"),
    ("percentile_approx(x, 0.5)", "5"),
    ("percentile(x, 0.25)", "3.0"),
    ("sum(x) FILTER (WHERE x > 5)", "30"),
    ("avg(x)", "5.0"),
    ("max_by(x, -x)", "1"),
    ("approx_count_distinct(x) BETWEEN 8 AND 10", "true"),
    ("bool_or(x = 9)", "true"),
    ("size(collect_list(x))", "9"),
]


@pytest.mark.parametrize(("expression", "expected"), TIMES + JSON + TEXT + GENERAL)
def test_expressions(engine: SqlEngine, expression: str, expected: str | None) -> None:
    assert engine.execute(f"SELECT {expression}").rows == [[expected]]


def test_a_text_with_a_fraction_is_no_whole_number(engine: SqlEngine) -> None:
    with pytest.raises(SqlFailure, match="CAST_INVALID_INPUT"):
        engine.execute("SELECT CAST('2.7' AS INT)")


@pytest.mark.parametrize(("expression", "expected"), AGGREGATES)
def test_aggregates(engine: SqlEngine, expression: str, expected: str) -> None:
    assert engine.execute(f"SELECT {expression} FROM numbers").rows == [[expected]]


def test_windows_and_qualify(engine: SqlEngine) -> None:
    newest = "SELECT x, lag(x) OVER (ORDER BY x) AS before FROM numbers QUALIFY row_number() OVER (ORDER BY x DESC) = 1"
    assert engine.execute(newest).rows == [["9", "8"]]


def test_lateral_view_explode_and_values(engine: SqlEngine) -> None:
    exploded = "SELECT k, e FROM (SELECT 'a' AS k, array(5, 6) AS es) LATERAL VIEW explode(es) AS e ORDER BY e"
    assert engine.execute(exploded).rows == [["a", "5"], ["a", "6"]]
    assert engine.execute("SELECT y FROM VALUES (1, 'a'), (2, 'b') AS t(x, y) WHERE x = 2").rows == [["b"]]


def test_nulls_sort_first_as_in_databricks(engine: SqlEngine) -> None:
    ordered = engine.execute("SELECT x FROM (VALUES (2), (NULL), (1)) AS t(x) ORDER BY x").rows
    assert ordered == [[None], ["1"], ["2"]]
