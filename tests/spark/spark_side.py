"""What the gate sends, recorded, and the same statements on Spark.

``table_changes`` and ``VERSION AS OF`` are Delta's, and Delta's own jar does not come with pyspark. So these, and only
these, are replaced by queries over a view that holds the feed as the local workspace gave it out; table names become
views. All else is sent to Spark as it is, with the same bound values.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from release_pipeline.workspace.sql.warehouse import Row, Warehouse, parse_timestamp, quoted
from tests.pipeline.payload_tables import COLUMN, Sent

_FEED = re.compile(r"table_changes\('([^']+)', (\d+), (\d+)\)")
_VERSION = re.compile(r"(\S+) VERSION AS OF (\d+)")


class SparkTable:
    """The rows of one table of the local workspace as views in Spark."""

    def __init__(self, spark: Any, warehouse: Warehouse, table: str, columns: str, *, feed: bool) -> None:
        self._spark = spark
        self._table = table
        self._view = table.replace(".", "_")
        types = dict(column.split(" ", 1) for column in COLUMN.split(columns))
        source = table
        if feed:
            types |= {"_change_type": "STRING", "_commit_version": "BIGINT", "_commit_timestamp": "TIMESTAMP"}
            source = f"table_changes('{table}', 1, 1000000)"
        # Results carry times in whole milliseconds, tables in microseconds.
        chosen = [f"unix_micros({name}) AS {name}" if kind == "TIMESTAMP" else name for name, kind in types.items()]
        rows = warehouse.execute(f"SELECT {', '.join(chosen)} FROM {source}")
        texts = spark.createDataFrame(
            [tuple(row.values()) for row in rows], ", ".join(f"{name} STRING" for name in types)
        )
        casts = [f"{_typed(name, kind)} AS {name}" for name, kind in types.items()]
        frame = texts.selectExpr(*casts).cache()
        frame.createOrReplaceTempView(self._view)

    def run(self, sent: Sent) -> list[dict[str, Any]]:
        """The rows that Spark answers to a statement."""
        statement = without_delta(sent.statement, (self._table,))
        assert self._table not in statement, "nothing but the table's name and versions may be replaced"
        return [row.asDict() for row in self._spark.sql(statement, args=dict(sent.parameters)).collect()]


def without_delta(statement: str, tables: Iterable[str]) -> str:
    """A statement that reads views in place of tables and of their versions."""
    statement = _FEED.sub(
        lambda call: (
            f"(SELECT * FROM {call[1].replace('.', '_')} WHERE _commit_version BETWEEN {call[2]} AND {call[3]})"
        ),
        statement,
    )
    statement = _VERSION.sub(r"(SELECT * FROM \1 WHERE _commit_version <= \2)", statement)
    for table in tables:
        statement = statement.replace(quoted(table), table.replace(".", "_"))
    return statement


def same(ours: Row, theirs: Mapping[str, Any]) -> bool:
    """Whether two rows are equal: numbers as numbers, times as times, and texts as they are."""
    return list(ours) == list(theirs) and all(_same(ours[name], theirs[name]) for name in ours)


def _same(ours: str | None, theirs: Any) -> bool:
    if ours is None or theirs is None:
        return ours is theirs
    if isinstance(theirs, bool):
        return ours == str(theirs).lower()
    if isinstance(theirs, datetime):
        whole = theirs.astimezone().replace(microsecond=theirs.microsecond // 1000 * 1000)
        return parse_timestamp(ours) == whole  # results carry milliseconds
    return ours == theirs if isinstance(theirs, str) else float(ours) == float(theirs)


def _typed(name: str, kind: str) -> str:
    """SQL that makes a column of its type out of the text of a result."""
    if kind == "TIMESTAMP":
        return f"timestamp_micros(CAST({name} AS BIGINT))"
    return f"from_json({name}, '{kind}')" if "<" in kind else f"CAST({name} AS {kind})"
