"""Results as the statement API carries them: Databricks type names, and every value a string or null."""

import base64
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any


@dataclass(frozen=True)
class ResultColumn:
    """One column of a result.

    Attributes:
        name: The name as the user wrote it.
        type_text: The Databricks type in full, such as ``ARRAY<STRING>``.
        type_name: The type's short name in the API, such as ``LONG``.
    """

    name: str
    type_text: str
    type_name: str


@dataclass(frozen=True)
class ResultSet:
    """What a statement answered.

    Attributes:
        columns: The columns, in order.
        rows: Rows of strings or None, in order.
        truncated: Whether a row limit or byte limit cut it short.
    """

    columns: tuple[ResultColumn, ...] = ()
    rows: list[list[str | None]] = field(default_factory=list)
    truncated: bool = False


# DuckDB's type id -> (Databricks type_text, API type_name).
_SCALARS = {
    "boolean": ("BOOLEAN", "BOOLEAN"),
    "tinyint": ("TINYINT", "BYTE"),
    "smallint": ("SMALLINT", "SHORT"),
    "utinyint": ("SMALLINT", "SHORT"),
    "integer": ("INT", "INT"),
    "usmallint": ("INT", "INT"),
    "bigint": ("BIGINT", "LONG"),
    "uinteger": ("BIGINT", "LONG"),
    "ubigint": ("BIGINT", "LONG"),
    "hugeint": ("BIGINT", "LONG"),
    "float": ("FLOAT", "FLOAT"),
    "double": ("DOUBLE", "DOUBLE"),
    "date": ("DATE", "DATE"),
    "blob": ("BINARY", "BINARY"),
    "interval": ("INTERVAL", "INTERVAL"),
    "sqlnull": ("VOID", "NULL"),
}


def databricks_type(duckdb_type: Any) -> tuple[str, str]:
    """The Databricks type text and API type name of a DuckDB type object."""
    kind = duckdb_type.id
    if kind in _SCALARS:
        return _SCALARS[kind]
    if kind.startswith("timestamp"):
        return "TIMESTAMP", "TIMESTAMP"
    if kind == "decimal":
        precision, scale = (value for _, value in duckdb_type.children)
        return f"DECIMAL({precision},{scale})", "DECIMAL"
    if kind in ("list", "array"):
        return f"ARRAY<{databricks_type(duckdb_type.children[0][1])[0]}>", "ARRAY"
    if kind == "map":
        key, value = (databricks_type(child)[0] for _, child in duckdb_type.children)
        return f"MAP<{key}, {value}>", "MAP"
    if kind == "struct":
        fields = ", ".join(f"{name}: {databricks_type(child)[0]}" for name, child in duckdb_type.children)
        return f"STRUCT<{fields}>", "STRUCT"
    return ("VOID", "NULL") if str(duckdb_type) == '"NULL"' else ("STRING", "STRING")


def catalog_type(type_text: str) -> str:
    """A type as Unity Catalog and DESCRIBE write it, such as ``map<string,struct<Name:bigint>>``."""
    return re.sub(r"\w+(?!\w*:)", lambda word: word.group().lower(), type_text).replace(", ", ",").replace(": ", ":")


def converter(type_name: str) -> Callable[[Any], str | None]:
    """The function that turns a Python value from DuckDB into the API's string, by API type name."""
    return _nested if type_name in ("ARRAY", "MAP", "STRUCT") else _text


def _nested(value: Any) -> str | None:
    if value is None:
        return None
    return json.dumps(_plain(value), separators=(",", ":"), ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return _text(value)


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return str(value)
