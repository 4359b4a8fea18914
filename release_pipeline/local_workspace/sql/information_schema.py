"""``information_schema``: the schemas, tables and columns that a statement can ask for as tables.

Columns are those of the service that people filter and join by. The rows are written into the statement as literals,
so that nothing of the engine's own tables comes into reach.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from sqlglot import exp, parse_one

from release_pipeline.local_workspace.sql import catalog
from release_pipeline.local_workspace.sql.failures import table_not_found
from release_pipeline.local_workspace.sql.names import SchemaName, TableName

NAME = "information_schema"
_EVERY_CATALOG = "system"
_COLUMNS = {
    "schemata": {"catalog_name": "VARCHAR", "schema_name": "VARCHAR"},
    "tables": {
        "table_catalog": "VARCHAR",
        "table_schema": "VARCHAR",
        "table_name": "VARCHAR",
        "table_type": "VARCHAR",
        "data_source_format": "VARCHAR",
    },
    "columns": {
        "table_catalog": "VARCHAR",
        "table_schema": "VARCHAR",
        "table_name": "VARCHAR",
        "column_name": "VARCHAR",
        "ordinal_position": "INTEGER",
        "is_nullable": "VARCHAR",
        "data_type": "VARCHAR",
        "full_data_type": "VARCHAR",
    },
}


def query(cursor: Any, name: TableName, catalogs: Iterable[str]) -> exp.Expr:
    """The DuckDB query of one view of a catalog's ``information_schema``; ``system`` has every catalog's rows.

    Args:
        cursor: A cursor in the statement's transaction.
        name: The view, in the schema ``information_schema``.
        catalogs: The catalogs that exist.

    Raises:
        SqlFailure: There is no such view, or no such catalog.
    """
    catalogs = list(catalogs)
    if name.name not in _COLUMNS or name.catalog not in (*catalogs, _EVERY_CATALOG):
        raise table_not_found(name)
    asked = catalogs if name.catalog == _EVERY_CATALOG else [name.catalog]
    rows = [row for each in asked for row in _rows(cursor, name.name, each)]
    columns = _COLUMNS[name.name]
    lists = []
    for index, (column, kind) in enumerate(columns.items()):
        values = ", ".join(_literal(row[index]) for row in rows)
        lists.append(f"UNNEST(CAST([{values}] AS {kind}[])) AS {column}")
    return parse_one(f"SELECT {', '.join(lists)}", read="duckdb")


def _rows(cursor: Any, view: str, catalog_name: str) -> Iterator[tuple[str | int, ...]]:
    for schema in catalog.schemas(cursor, catalog_name):
        if view == "schemata":
            yield catalog_name, schema
            continue
        for info in catalog.tables_in(cursor, SchemaName(catalog_name, schema)):
            place = (catalog_name, schema, info.name.name)
            if view == "tables":
                yield *place, info.kind, "VIEW" if info.kind == "VIEW" else "DELTA"
                continue
            for position, column in enumerate(catalog.with_columns(cursor, info).columns):
                nullable = "YES" if column.nullable else "NO"
                full = column.type_text
                yield *place, column.name, position, nullable, full.partition("<")[0].partition("(")[0], full


def _literal(value: str | int) -> str:
    return str(value) if isinstance(value, int) else exp.Literal.string(value).sql(dialect="duckdb")
