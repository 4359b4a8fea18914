"""``table_changes``: the rows that a range of commit versions added; and ``VERSION AS OF``: those that were there.

A table with a change feed keeps, in a hidden column, the version that added each row. Rows are appended in order of
version, so DuckDB skips the blocks outside the range: the work is in proportion to what is new.

Only additions are recorded. A range that holds or precedes a commit which changed or removed rows is refused, because
the answer would be incomplete; on the service such a range also yields updates and deletes.
"""

from sqlglot import exp, parse_one

from release_pipeline.local_workspace.sql.catalog import TableInfo
from release_pipeline.local_workspace.sql.failures import HIDDEN_COLUMN, SqlFailure, bad_request, unsupported


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


def changes_query(info: TableInfo, start: int, end: int) -> exp.Expr:
    """The DuckDB query of the rows added by versions ``start`` to ``end``, both included."""
    name = exp.Literal.string(info.name.full).sql(dialect="duckdb")
    text = (
        f"SELECT r.* EXCLUDE ({HIDDEN_COLUMN}), 'insert' AS _change_type, r.{HIDDEN_COLUMN} AS _commit_version, "
        f"c.committed_at AS _commit_timestamp FROM {info.name.physical} AS r "
        f"JOIN (SELECT version, committed_at FROM __workspace.commits "
        f"WHERE full_name = {name} AND version BETWEEN {start:d} AND {end:d}) AS c ON c.version = r.{HIDDEN_COLUMN} "
        f"WHERE r.{HIDDEN_COLUMN} BETWEEN {start:d} AND {end:d}"
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
