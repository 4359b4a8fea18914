"""The rows of a log, checked as a whole before any is used, and read release by release."""

import csv
import gzip
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from release_pipeline.errors import LogError, first_sentence
from release_pipeline.gate.betting import Floats
from release_pipeline.replay_log.cells import CHALLENGER, Cells, cells, chance, literal, quoted
from release_pipeline.replay_log.columns import find_columns
from release_pipeline.spec import ReleaseSpec

_PARQUET: Final = (".parquet", ".pq")
_CSV: Final = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
_DELIMITERS: Final = (",", ";", "\t", "|")
_TABLE: Final = re.compile(r"^[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*){2}$")
_KINDS: Final = "a .parquet, .csv or .csv.gz file, or a table as catalog.schema.table"

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class ReleaseRows:
    """The rows of one release in the order of arrival.

    Attributes:
        arrived: When each could first be read, unix seconds.
        requested: Time of the request, unix seconds.
        challenger: Whether the challenger answered.
        first: Whether it is the first of its request id; the others are duplicates.
        answered: Whether a version answered it.
        values: Per metric the badness, for a `slow` metric without a column of its own milliseconds; NaN where it
            cannot be judged.
        chances: Per metric with more than two bins where its values are rounded, in (0, 1).
        segments: Per metric with segments the labels.
        percent: Configured traffic of the challenger, percent; None where the log does not say.
    """

    name: str
    arrived: Floats
    requested: Floats
    challenger: Flags
    first: Flags
    answered: Flags
    values: Mapping[str, Floats]
    chances: Mapping[str, Floats] = field(default_factory=dict)
    segments: Mapping[str, NDArray[np.object_]] = field(default_factory=dict)
    percent: Floats | None = None


class _Source(NamedTuple):
    """What FROM reads, and the number of a row in it."""

    relation: str
    number: str


class LogTable:
    """A log in a database of its own, in memory.

    Args:
        log: A file, or a table in the workspace.
        spec: Says which metrics are wanted, and which steps there are.
        arms: Arm by served entity id, where the log has no column ``arm``.

    Raises:
        LogError: The log cannot be read, lacks a column, or has a cell that cannot be what it should be.
        WorkspaceError: The table cannot be read.
    """

    def __init__(self, log: str, spec: ReleaseSpec, arms: Mapping[str, int]) -> None:
        import duckdb

        self._log, self._gate = log, spec.gate
        self._connection = duckdb.connect()
        self._connection.execute("SET TimeZone = 'UTC'")
        source = self._source()
        try:
            described = self._connection.execute(f"DESCRIBE SELECT * FROM {source.relation}").fetchall()
            types = {name: kind for name, kind, *_ in described}
            columns = find_columns(log, [name for name in types if name != "rp_row"], spec.gate)
            found = cells(columns, types, spec.gate, arms, spec.ramp.steps)
            self._load(source, found)
        except duckdb.Error as error:
            raise LogError(f"{log} cannot be read: {_reason(error)}.") from None
        self._has = {name for name in found.values if name == "percent" or name.startswith("segment_")}
        self._own = frozenset(columns.badness)
        self.releases = self._releases()

    def own_column(self, metric: str) -> bool:
        """Whether a metric's values are its badness already."""
        return metric in self._own

    def rows(self, release: str) -> ReleaseRows:
        """The rows of one release."""
        metrics = self._gate.metrics
        scores = {index: metric for index, metric in enumerate(metrics) if metric.bins > 2}
        more = [f"value_{index}" for index in range(len(metrics))] + sorted(self._has)
        more += [f"{chance(metric.name)} AS chance_{index}" for index, metric in scores.items()]
        got: dict[str, Any] = self._connection.execute(
            f"""
            SELECT arrived, requested, arm = {CHALLENGER} AS challenger, answered, {", ".join(more)},
                row_number() OVER (PARTITION BY id ORDER BY arrived, rp_row) = 1 AS first
            FROM log WHERE release = ? ORDER BY arrived, rp_row
            """,
            [release],
        ).fetchnumpy()
        return ReleaseRows(
            name=release,
            arrived=got["arrived"],
            requested=got["requested"],
            challenger=got["challenger"],
            first=got["first"],
            answered=got["answered"],
            values={metric.name: got[f"value_{index}"] for index, metric in enumerate(metrics)},
            chances={metric.name: got[f"chance_{index}"] for index, metric in scores.items()},
            segments={
                metric.name: got[f"segment_{index}"]
                for index, metric in enumerate(metrics)
                if f"segment_{index}" in self._has
            },
            percent=got.get("percent"),
        )

    def _source(self) -> _Source:
        path, name = Path(self._log), self._log.lower()
        if name.endswith((*_PARQUET, *_CSV)) or path.exists():
            if not path.is_file():
                raise LogError(f"there is no file {self._log}; give {_KINDS}.")
            if name.endswith(_PARQUET):
                return _Source(f"read_parquet({literal(_no_pattern(self._log))})", "row_number() OVER ()")
            if name.endswith(_CSV):
                return _Source(_csv_relation(path), "row_number() OVER ()")
        elif _TABLE.match(self._log):
            from release_pipeline.replay_log.workspace_table import copy_table

            copy_table(self._log, self._connection, lambda names: find_columns(self._log, names, self._gate).used)
            return _Source("copied", "rp_row")
        raise LogError(f"{self._log} is no log; give {_KINDS}.")

    def _load(self, source: _Source, found: Cells) -> None:
        """All rows into the table ``log``, if no cell is wrong."""
        values = ", ".join(f"{sql} AS {name}" for name, sql in found.values.items())
        wrong = " ".join(f"WHEN {check.wrong} THEN {index}" for index, check in enumerate(found.checks))
        self._connection.execute(
            f"CREATE TEMP TABLE log AS SELECT {source.number} AS rp_row, {values}, CASE {wrong} END AS rp_wrong "
            f"FROM {source.relation}"
        )
        first = self._connection.execute(
            "SELECT rp_row, rp_wrong FROM log WHERE rp_wrong IS NOT NULL ORDER BY rp_row LIMIT 1"
        ).fetchone()
        if first is None:
            return
        row, check = int(first[0]), found.checks[first[1]]
        cell = self._connection.execute(
            f"SELECT CAST({quoted(check.column)} AS VARCHAR) FROM (SELECT {quoted(check.column)}, {source.number} "
            f"AS rp_number FROM {source.relation}) WHERE rp_number = {row}"
        ).fetchone()
        value = "nothing" if cell is None or cell[0] is None else repr(cell[0][:80])
        raise LogError(f"{self._log}: column {check.column} has {value} in row {row}; expected {check.expected}.")

    def _releases(self) -> tuple[str, ...]:
        """In the order of their first rows; rows are put together by release where they are not yet."""
        found = self._connection.execute(
            "SELECT release, max(rp_row) - min(rp_row) + 1 = count(*) FROM log GROUP BY release ORDER BY min(rp_row)"
        ).fetchall()
        if not found:
            raise LogError(f"{self._log} has no rows; there is nothing to replay.")
        if not all(together for _, together in found):
            self._connection.execute("CREATE TEMP TABLE sorted AS SELECT * FROM log ORDER BY release, rp_row")
            self._connection.execute("DROP TABLE log")
            self._connection.execute("ALTER TABLE sorted RENAME TO log")
        return tuple(name for name, _ in found)


def _csv_relation(path: Path) -> str:
    """All cells as texts, so that a wrong one can be named; nothing is guessed that could leave rows out.

    Raises:
        LogError: The first line has no header.
    """
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8-sig")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8-sig") as file
        ):
            header = file.readline().rstrip("\r\n")
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise LogError(f"{path} cannot be read: {first_sentence(error)}.") from None
    delimiter = max(_DELIMITERS, key=header.count)
    names = next(csv.reader([header], delimiter=delimiter), [])
    if not names or len({name.lower() for name in names}) < len(names):
        raise LogError(f"{path} begins with {header[:80]!r}; the first line must name the columns, each once.")
    columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in names)
    return (
        f"read_csv({literal(_no_pattern(str(path)))}, auto_detect = false, header = true, "
        f"delim = {literal(delimiter)}, quote = '\"', escape = '\"', columns = {{{columns}}})"
    )


def _reason(error: Exception) -> str:
    """What DuckDB says, in short."""
    cells = re.search(r"on Line: (\d+).*Expected Number of Columns: (\d+) Found: (\d+)", str(error), re.DOTALL)
    if cells:
        return f"line {cells[1]} has {cells[3]} cells where the header has {cells[2]}"
    return first_sentence(error)


def _no_pattern(path: str) -> str:
    """A path that DuckDB does not take for a pattern of paths."""
    return re.sub(r"([*?\[])", r"[\1]", path)
