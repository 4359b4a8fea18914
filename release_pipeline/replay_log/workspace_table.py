"""A log that is a table in the workspace: its columns are copied page by page, as texts."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from release_pipeline.errors import LogError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

#: Rows of one statement's result, well below what the statement API returns inline.
_PAGE: Final = 50_000


def copy_table(table: str, connection: "DuckDBPyConnection", choose: Callable[[Sequence[str]], Sequence[str]]) -> None:
    """Make the table ``copied`` of the columns of ``table`` that ``choose`` names, and ``rp_row``, the row's number.

    Bodies stay where they are: of a column ``response`` only comes whether it tells an error.

    Raises:
        LogError: The table does not exist, or ``choose`` misses a column.
        WorkspaceError: The workspace cannot be asked.
    """
    import numpy as np

    from release_pipeline.errors import TableMissing
    from release_pipeline.workspace.client import connect
    from release_pipeline.workspace.metric_sql import PATTERNS
    from release_pipeline.workspace.sql.warehouse import quoted

    warehouse = connect().warehouse
    try:
        described = warehouse.execute(f"DESCRIBE TABLE {quoted(table)}")
    except TableMissing:
        raise LogError(f"there is no table {table} in the workspace; give its name as catalog.schema.table.") from None
    names = []
    for row in described:
        # After the columns come sections about partitions and clustering.
        if not row["col_name"] or row["col_name"].startswith("#"):
            break
        names.append(row["col_name"])
    chosen = choose(names)
    in_duckdb = ['"' + name.replace('"', '""') + '"' for name in chosen]
    connection.execute(
        f"CREATE TEMP TABLE copied (rp_row BIGINT, {', '.join(f'{name} VARCHAR' for name in in_duckdb)})"
    )
    columns = ", ".join(map(_column, chosen))
    places = ", ".join(str(place) for place in range(1, len(chosen) + 1))
    values = dict(PATTERNS) if any(name.lower() == "response" for name in chosen) else {}
    copied = 0
    while True:
        # Ordered by all columns, so that rows at a page's edge are neither lost nor read twice.
        page = warehouse.execute(
            f"SELECT {columns} FROM {quoted(table)} ORDER BY {places} LIMIT {_PAGE} OFFSET {copied}", values
        )
        if not page:
            return
        texts = {f"c{index}": np.array([row[name] for row in page], dtype=object) for index, name in enumerate(chosen)}
        connection.register("page", {"rp_row": np.arange(copied + 1, copied + len(page) + 1), **texts})
        connection.execute("INSERT INTO copied SELECT * FROM page")
        connection.unregister("page")
        copied += len(page)
        if len(page) < _PAGE:
            return


def _column(name: str) -> str:
    from release_pipeline.replay_log.cells import STREAM_ERROR, literal
    from release_pipeline.workspace.metric_sql import STREAM_FAILED

    if name.lower() == "response":
        return f"CASE WHEN {STREAM_FAILED} THEN {literal(STREAM_ERROR)} END AS `{name}`"
    return "`" + name.replace("`", "``") + "`"
