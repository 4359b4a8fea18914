"""``table_changes``: the rows that a range of commit versions added; and ``VERSION AS OF``: those that were there.

A table with a change feed keeps, in a hidden column, the version that added each row. Rows are appended in order of
version, so DuckDB skips the blocks outside the range: the work is in proportion to what is new.

Only additions are recorded. A range that holds or precedes a commit which changed or removed rows is refused, because
the answer would be incomplete; on the service such a range also yields updates and deletes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlglot import exp, parse_one

from release_pipeline.local_workspace.sql import catalog
from release_pipeline.local_workspace.sql.catalog import TableInfo
from release_pipeline.local_workspace.sql.dialect import Parameters, bound_value
from release_pipeline.local_workspace.sql.failures import HIDDEN_COLUMN, SqlFailure, bad_request, unsupported
from release_pipeline.local_workspace.sql.names import TableName

_LIFTED: Final = "rp_lifted_version_"
# Strings, quoted names and comments are passed over; what is found in none of them has groups.
_CALL: Final = re.compile(
    r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|`[^`]*`|--[^\n]*|/\*.*?\*/"""
    r"""|(\btable_changes\s*\(\s*'[^'\\]*'\s*,\s*)(\d+)(?:(\s*,\s*)(\d+))?(?=\s*\))""",
    re.IGNORECASE | re.DOTALL,
)
_LIFTED_NAME: Final = re.compile(rf":({_LIFTED}\d+)\b")
_RANGE: Final = re.compile(rf"\${_LIFTED}(\d+)_(first|last)\b")


@dataclass(frozen=True)
class Changes:
    """A call of ``table_changes``: the table, and the parameters that hold its first version and, maybe, its last."""

    name: TableName
    parameters: tuple[str, ...]

    def range(self, cursor: Any, values: Parameters) -> tuple[int, int]:
        """The first and last version that it reads now.

        Raises:
            SqlFailure: The table is gone, or has not kept the changes of these versions.
        """
        versions = [int(bound_value(name, values)[0] or "") for name in self.parameters]
        return check_range(catalog.require(cursor, self.name), versions[0], versions[1] if versions[1:] else None)


def lift_versions(statement: str, parameters: Parameters) -> tuple[str, Parameters]:
    """The statement with parameters in place of the numbers in its calls of ``table_changes``, and all its values.

    So a statement that reads on from where it last stopped is the same statement again.

    Raises:
        SqlFailure: Its own text could be taken for such a parameter.
    """
    if _LIFTED in statement:
        raise unsupported(f"{_LIFTED} in a statement")
    if "table_changes" not in statement.lower():
        return statement, parameters
    values = dict(parameters)

    def lift(call: re.Match[str]) -> str:
        head, first, comma, last = call.groups()
        if head is None:
            return call.group()
        number = sum(name.startswith(_LIFTED) for name in values)
        values[f"{_LIFTED}{number}"] = (first, "BIGINT")
        if last is None:
            return f"{head}:{_LIFTED}{number}"
        values[f"{_LIFTED}{number + 1}"] = (last, "BIGINT")
        return f"{head}:{_LIFTED}{number}{comma}:{_LIFTED}{number + 1}"

    return _CALL.sub(lift, statement), values


def as_written(text: str, parameters: Parameters) -> str:
    """A part of a lifted statement with its numbers again."""
    return _LIFTED_NAME.sub(lambda found: parameters[found[1]][0] or "", text)


def is_lifted(node: exp.Expr) -> bool:
    """Whether this is a parameter that :func:`lift_versions` made, or what :func:`with_ranges` fills in."""
    return isinstance(node, exp.Placeholder) and node.name.startswith(_LIFTED)


def with_ranges(text: str, ranges: Sequence[tuple[int, int]]) -> str:
    """A statement in DuckDB's SQL with the versions that its queries of changes read, in their order."""
    return _RANGE.sub(lambda found: str(ranges[int(found[1])][found[2] == "last"]), text)


def check_range(info: TableInfo, start: int, end: int | None) -> tuple[int, int]:
    """The first and last version that a call reads.

    Args:
        info: The table.
        start: First version asked for.
        end: Last version asked for; None or anything past the last commit means the last commit.

    Raises:
        SqlFailure: The range is reversed, begins after the last commit, or was not recorded.
    """
    if end is not None and end < start:
        raise bad_request(
            "DELTA_INVALID_CDC_RANGE",
            f"CDC range from start {start} to end {end} was invalid. End cannot be before start.",
            "22003",
        )
    if start > info.version:
        raise SqlFailure(
            "BAD_REQUEST",
            f"[DELTA_INVALID_CDC_RANGE] Start version {start} is after the latest version of the table "
            f"({info.version}): start version cannot be greater than the latest version of the table. SQLSTATE: 22003",
        )
    last = info.version if end is None else min(end, info.version)
    if start < info.vacuumed:
        raise bad_request(
            "DELTA_CHANGE_DATA_FILE_NOT_FOUND",
            f"A file of version {start} of {info.name.quoted} that the transaction log names cannot be found: VACUUM "
            f"has removed files of the versions before {info.vacuumed}.",
            "KD002",
        )
    if info.change_feed_since is None or start < info.change_feed_since:
        raise bad_request(
            "DELTA_MISSING_CHANGE_DATA",
            f"The change data feed of {info.name.quoted} has no changes of versions [{start}, {last}]: "
            "it was not enabled. Set the table property delta.enableChangeDataFeed = true and read from the version "
            "that set it.",
            "KD002",
        )
    if start <= info.last_rewrite:
        raise unsupported(
            f"table_changes over versions that changed or removed rows (version {info.last_rewrite} of "
            f"{info.name.quoted} did); it records additions only, so begin after that version"
        )
    return start, last


def changes_query(info: TableInfo, number: int) -> exp.Expr:
    """The DuckDB query of the rows added by the versions of range ``number``, which :func:`with_ranges` fills in."""
    name = exp.Literal.string(info.name.full).sql(dialect="duckdb")
    versions = f"BETWEEN ${_LIFTED}{number}_first AND ${_LIFTED}{number}_last"
    text = (
        f"SELECT r.* EXCLUDE ({HIDDEN_COLUMN}), 'insert' AS _change_type, r.{HIDDEN_COLUMN} AS _commit_version, "
        f"c.committed_at AS _commit_timestamp FROM {info.name.physical} AS r "
        f"JOIN (SELECT version, committed_at FROM __workspace.commits "
        f"WHERE full_name = {name} AND version {versions}) AS c ON c.version = r.{HIDDEN_COLUMN} "
        f"WHERE r.{HIDDEN_COLUMN} {versions}"
    )
    return parse_one(text, read="duckdb")


def version_query(info: TableInfo, version: int) -> exp.Expr:
    """The DuckDB query of a table's rows as they were after one commit.

    Raises:
        SqlFailure: There is no such commit, or what it left cannot be told any more.
    """
    if version > info.version:
        raise bad_request(
            "DELTA_VERSION_NOT_FOUND",
            f"Cannot time travel {info.name.quoted} to version {version}: its versions end at {info.version}.",
            "22003",
        )
    if version < info.vacuumed:
        raise bad_request(
            "DELTA_UNSUPPORTED_TIME_TRAVEL_BEYOND_DELETED_FILE_RETENTION_DURATION",
            f"Cannot time travel {info.name.quoted} to version {version}: VACUUM has removed files of the versions "
            f"before {info.vacuumed}.",
            "0AKDE",
        )
    if version == info.version:
        return public_query(info)
    if info.change_feed_since is None or version < max(info.change_feed_since, info.last_rewrite):
        raise unsupported(
            f"time travel to version {version} of {info.name.quoted}: it keeps the versions of rows that were only "
            "added since, and only with a change feed"
        )
    return parse_one(
        f"SELECT * EXCLUDE ({HIDDEN_COLUMN}) FROM {info.name.physical} "
        f"WHERE {HIDDEN_COLUMN} IS NULL OR {HIDDEN_COLUMN} <= {version:d}",
        read="duckdb",
    )


def public_query(info: TableInfo) -> exp.Expr:
    """The DuckDB query of a table's rows without its hidden column, where it has one."""
    columns = f"* EXCLUDE ({HIDDEN_COLUMN})" if info.has_change_feed else "*"
    return parse_one(f"SELECT {columns} FROM {info.name.physical}", read="duckdb")
