"""Inference tables of many sizes for `benchmarks.tick`: filled before the server starts, and scans counted after."""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from release_pipeline.local_workspace.sql.dialect import parse
from release_pipeline.local_workspace.sql.engine import SqlEngine
from release_pipeline.local_workspace.sql.names import Session
from release_pipeline.local_workspace.sql.rewrite import Rewriter
from release_pipeline.workspace.sql.warehouse import Value, timestamp

CATALOGS = ("main",)
COMMIT_ROWS = 100_000
START = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
"""Event time of the first new row; the others go back from here. New rows are near the time of their commits."""
MICROSECONDS_APART = 60_000


def table_name(rows: int) -> str:
    """The table that holds so many rows before the first tick."""
    return f"main.default.tick_{rows}_payload"


def first_row_at(rows: int) -> datetime:
    """Event time of a table's oldest row."""
    return START - rows * timedelta(microseconds=MICROSECONDS_APART)


def insert(table: str, first: int, end: int) -> str:
    """A statement that adds rows number ``first`` to ``end``, the latter excluded; new ones count from 0.

    One row in a hundred is an error and one in ten the challenger's; bodies are short, so that many rows fit.
    """
    time = f"timestamp_micros({int(START.timestamp())} * 1000000L + n * {MICROSECONDS_APART})"
    return f"""
    INSERT INTO {table} SELECT concat('request-', n), CAST({time} AS DATE), NULL, {time},
        CASE WHEN n % 100 = 7 THEN 500 ELSE 200 END, 1.0, abs(n * 7919) % 400,
        concat('{{"group": "', CASE WHEN n % 3 = 0 THEN 'gold' ELSE 'silver' END, '"}}'),
        concat('{{"output": "answer ', n, '"}}'), NULL, CASE WHEN n % 10 = 3 THEN 'e2' ELSE 'e1' END, 'someone'
    FROM range({first}, {end}) AS numbers(n)
    """


def fill(data_dir: Path, sizes: Iterable[int]) -> None:
    """Create the tables and their rows, in commits of `COMMIT_ROWS`, through the server's own engine."""
    engine = SqlEngine(data_dir, CATALOGS)
    for size in sizes:
        engine.create_inference_table(table_name(size))
        for first in range(-size, 0, COMMIT_ROWS):
            engine.execute(insert(table_name(size), first, min(first + COMMIT_ROWS, 0)))
    engine.close()


def rows_scanned(data_dir: Path, ticks: Iterable[Iterable[tuple[str, Mapping[str, Value]]]]) -> list[float]:
    """Rows of tables that the engine reads for each tick's statements, as its own profile of them counts."""
    engine = SqlEngine(data_dir, CATALOGS)
    scanned = [float(sum(_rows_of(engine, *statement) for statement in statements)) for statements in ticks]
    engine.close()
    return scanned


def _rows_of(engine: SqlEngine, statement: str, values: Mapping[str, Value]) -> int:
    bound = {name: _bound(value) for name, value in values.items()}
    with engine._transaction() as cursor:
        rewriter = Rewriter(cursor, Session(), bound, CATALOGS)
        query = rewriter.rewrite(parse(statement))
        profile = cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}", rewriter.bound).fetchall()[0][1]
    return _scans(json.loads(profile)["operator"])


def _scans(operators: list[dict[str, Any]]) -> int:
    return sum(int(each.get("rows_scanned", 0)) + _scans(each.get("children", [])) for each in operators)


def _bound(value: Value) -> tuple[str | None, str]:
    if isinstance(value, datetime):
        return timestamp(value), "TIMESTAMP"
    return None if value is None else str(value), "BIGINT" if isinstance(value, int) else "STRING"
