"""SHOW and DESCRIBE: the statements that tell what is there."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from sqlglot.tokenizer_core import Token, TokenType

from release_pipeline.local_workspace.sql import catalog
from release_pipeline.local_workspace.sql.dialect import tokens
from release_pipeline.local_workspace.sql.failures import syntax_error, unsupported
from release_pipeline.local_workspace.sql.names import SchemaName, Session, check_part, split_name
from release_pipeline.local_workspace.sql.result_values import ResultColumn, ResultSet, catalog_type, converter

_LEADING = re.compile(r"\s*(show|describe|desc)\b", re.IGNORECASE)


def is_command(statement: str) -> bool:
    """Whether the text begins like a statement of this module."""
    return _LEADING.match(statement) is not None


class _Words:
    """The words of a command, taken from the left."""

    def __init__(self, statement: str, found: list[Token]) -> None:
        self.statement = statement
        self.found = [token for token in found if token.token_type != TokenType.SEMICOLON]
        self.at = 0

    def take(self, *words: str) -> bool:
        """Step over the next word if it is one of these."""
        if self.at < len(self.found) and self.found[self.at].text.upper() in words:
            self.at += 1
            return True
        return False

    def name(self) -> list[str]:
        """Step over a dotted name, split in parts."""
        start = self.at
        while self.at < len(self.found) and (
            self.at == start or self.found[self.at].start == self.found[self.at - 1].end + 1
        ):
            self.at += 1
        if start == self.at:
            raise syntax_error("Syntax error at end of input: a name is missing.")
        return split_name(self.statement[self.found[start].start : self.found[self.at - 1].end + 1])

    def text(self) -> str | None:
        """Step over the next word, whatever it is; None at the end."""
        if self.at == len(self.found):
            return None
        self.at += 1
        return self.found[self.at - 1].text

    def end(self) -> None:
        """Check that nothing is left."""
        if self.at < len(self.found):
            raise syntax_error(f"Syntax error at or near '{self.found[self.at].text}'.")


def run(cursor: Any, statement: str, session: Session, catalogs: tuple[str, ...]) -> ResultSet:
    """Answer a SHOW or DESCRIBE statement.

    Raises:
        SqlFailure: It is malformed, names what is not there, or is of a kind that the workspace does not know.
    """
    leading = _LEADING.match(statement)
    # sqlglot's tokenizer takes everything after SHOW for one string, so it gets only what follows.
    rest = statement[leading.end() :] if leading else statement
    words = _Words(rest, tokens(rest))
    if leading and leading.group(1).lower() == "show":
        return _show(cursor, words, session, catalogs)
    return _describe(cursor, words, session)


def _show(cursor: Any, words: _Words, session: Session, catalogs: tuple[str, ...]) -> ResultSet:
    if words.take("CATALOGS"):
        return _answer(["catalog"], ([name] for name in sorted(catalogs) if _like(words)(name)))
    if words.take("SCHEMAS", "DATABASES"):
        parts = words.name() if words.take("IN", "FROM") else [session.catalog]
        if len(parts) != 1:
            raise syntax_error("SHOW SCHEMAS IN needs the name of one catalog.")
        matches = _like(words)
        return _answer(
            ["databaseName"], ([name] for name in catalog.schemas(cursor, check_part(parts[0])) if matches(name))
        )
    if words.take("TABLES", "VIEWS"):
        views = words.found[words.at - 1].text.upper() == "VIEWS"
        schema = (
            session.schema_of(words.name()) if words.take("IN", "FROM") else SchemaName(session.catalog, session.schema)
        )
        catalog.require_schema(cursor, schema)
        matches = _like(words)
        found = [info for info in catalog.tables_in(cursor, schema) if matches(info.name.name)]
        rows = ([schema.schema, info.name.name, "false"] for info in found if not views or info.kind == "VIEW")
        return _answer(
            ["namespace" if views else "database", "viewName" if views else "tableName", "isTemporary"], rows
        )
    if words.take("COLUMNS"):
        words.take("IN", "FROM")
        info = catalog.with_columns(cursor, catalog.require(cursor, session.table(words.name())))
        words.end()
        return _answer(["col_name"], ([column.name] for column in info.columns))
    if words.take("TBLPROPERTIES"):
        info = catalog.require(cursor, session.table(words.name()))
        words.end()
        return _answer(["key", "value"], ([key, value] for key, value in sorted(info.properties.items())))
    raise unsupported(f"SHOW {words.text() or ''}".strip())


def _describe(cursor: Any, words: _Words, session: Session) -> ResultSet:
    if words.take("HISTORY"):
        info = catalog.require(cursor, session.table(words.name()))
        limit = None
        if words.take("LIMIT"):
            text = words.text() or ""
            if not text.isdigit():
                raise syntax_error(f"Syntax error at or near '{text}': LIMIT needs a whole number.")
            limit = int(text)
        words.end()
        return _history(cursor, info, limit)
    if words.take("SCHEMA", "DATABASE"):
        schema = session.schema_of(words.name())
        words.end()
        catalog.require_schema(cursor, schema)
        rows: list[list[str | None]] = [["Catalog Name", schema.catalog], ["Namespace Name", schema.schema]]
        return _answer(["database_description_item", "database_description_value"], rows)
    words.take("TABLE")
    words.take("EXTENDED", "FORMATTED")
    info = catalog.with_columns(cursor, catalog.require(cursor, session.table(words.name())))
    words.end()
    return _answer(
        ["col_name", "data_type", "comment"], ([each.name, catalog_type(each.type_text), None] for each in info.columns)
    )


def _history(cursor: Any, info: catalog.TableInfo, limit: int | None) -> ResultSet:
    text = converter("TIMESTAMP")
    columns = (
        ResultColumn("version", "BIGINT", "LONG"),
        ResultColumn("timestamp", "TIMESTAMP", "TIMESTAMP"),
        ResultColumn("operation", "STRING", "STRING"),
        ResultColumn("operationMetrics", "MAP<STRING, STRING>", "MAP"),
    )
    rows = [
        [str(version), text(at), operation, json.dumps({"numOutputRows": str(count)}, separators=(",", ":"))]
        for version, at, operation, count in catalog.history(cursor, info.name, limit)
    ]
    return ResultSet(columns, rows)


def _like(words: _Words) -> Callable[[str], bool]:
    """The filter of ``[LIKE] 'pattern'``, where ``*`` is anything and ``|`` is or; everything passes without one."""
    words.take("LIKE")
    pattern = words.text()
    words.end()
    if pattern is None:
        return lambda name: True
    return lambda name: any(fnmatchcase(name, each.strip().lower()) for each in pattern.split("|"))


def _answer(names: list[str], rows: Iterable[Sequence[str | None]]) -> ResultSet:
    return ResultSet(tuple(ResultColumn(name, "STRING", "STRING") for name in names), [list(row) for row in rows])
