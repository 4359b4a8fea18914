"""Databricks SQL as this workspace reads it: one statement, of a kind and with functions that it knows."""

import logging
from typing import Any, cast

import sqlglot
from sqlglot import exp
from sqlglot.dialects.databricks import Databricks
from sqlglot.errors import SqlglotError
from sqlglot.parsers.databricks import DatabricksParser
from sqlglot.tokenizer_core import Token, TokenType

from release_pipeline.local_workspace.sql.failures import (
    HIDDEN_COLUMN,
    SqlFailure,
    syntax_error,
    unresolved_column,
    unresolved_routine,
    unsupported,
)
from release_pipeline.local_workspace.sql.functions import REWRITTEN, TRANSLATED
from release_pipeline.local_workspace.sql.names import split_name

# sqlglot warns about properties that DuckDB has no place for; they are read before they are dropped.
logging.getLogger("sqlglot").setLevel(logging.ERROR)

Parameters = dict[str, tuple[str | None, str]]

STATEMENTS = (
    exp.Query,
    exp.Insert,
    exp.Update,
    exp.Delete,
    exp.Merge,
    exp.Create,
    exp.Drop,
    exp.Alter,
    exp.TruncateTable,
)
_SPECIAL = """
    CAST TRY_CAST CEIL FLOOR EXTRACT TRIM SUBSTR SUBSTRING POSITION PERCENTILE PERCENTILE_APPROX APPROX_PERCENTILE
    MAX_BY MIN_BY INITCAP LISTAGG STRING_AGG OVERLAY CHAR CHR
""".split()  # noqa: SIM905
# What sqlglot raises, instead of an error of its own, for some malformed statements.
_SQLGLOT_SLIPS = (AttributeError, LookupError, TypeError, ValueError, NotImplementedError)
_TABLE_FUNCTIONS = ("table_changes", "range")
_REWRITTEN_NAMES = frozenset(name for name, _ in REWRITTEN)


def _builder(name: str) -> Any:
    """Build a call: as an unknown function where functions.py writes it, as sqlglot does elsewhere."""
    original = DatabricksParser.FUNCTIONS.get(name)

    def build(args: list[exp.Expr], **options: Any) -> exp.Expr:
        if (name, len(args)) in REWRITTEN or original is None:
            return exp.Anonymous(this=name, expressions=args)
        try:
            return cast(exp.Expr, original(args, **options))
        except TypeError:
            return cast(exp.Expr, original(args))

    return build


class WorkspaceParser(DatabricksParser):
    """sqlglot's parser of Databricks SQL, knowing only the functions that this workspace runs."""

    FUNCTIONS = {
        **{name: DatabricksParser.FUNCTIONS[name] for name in TRANSLATED if name in DatabricksParser.FUNCTIONS},
        **{name: _builder(name) for name in _REWRITTEN_NAMES},
    }
    FUNCTION_PARSERS = {name: parse for name, parse in DatabricksParser.FUNCTION_PARSERS.items() if name in _SPECIAL}
    NO_PAREN_FUNCTIONS = {
        token: DatabricksParser.NO_PAREN_FUNCTIONS[token]
        for token in (TokenType.CURRENT_DATE, TokenType.CURRENT_TIMESTAMP)
    }


class WorkspaceDialect(Databricks):
    """Databricks SQL read by WorkspaceParser."""

    parser_class = WorkspaceParser  # type: ignore[assignment]


def tokens(statement: str) -> list[Token]:
    """The statement's tokens.

    Raises:
        SqlFailure: A quote or comment is not closed.
    """
    try:
        return list(Databricks().tokenize(statement))
    except SqlglotError as error:
        raise syntax_error(_first_line(error)) from None


def expand_identifier_clauses(statement: str, parameters: Parameters) -> str:
    """Replace every ``IDENTIFIER(:name)`` and ``IDENTIFIER('a.b')`` by the name, in backticks.

    Raises:
        SqlFailure: The parameter is missing, or its value is not a name.
    """
    if "identifier" not in statement.lower():
        return statement
    found = tokens(statement)
    pieces: list[str] = []
    position = 0
    for index, token in enumerate(found):
        texts = [each.text for each in found[index + 1 : index + 5]]
        if token.text.upper() != "IDENTIFIER" or texts[:1] != ["("]:
            continue
        if texts[1:2] == [":"] and texts[3:4] == [")"]:
            name, last = bound_value(texts[2], parameters)[0], found[index + 4]
        elif texts[2:3] == [")"] and found[index + 2].token_type == TokenType.STRING:
            name, last = texts[1], found[index + 3]
        else:
            raise unsupported("IDENTIFIER() of anything but one parameter or one string")
        quoted = ".".join("`" + part.replace("`", "``") + "`" for part in split_name(name or ""))
        pieces += [statement[position : token.start], quoted]
        position = last.end + 1
    return "".join(pieces) + statement[position:]


def bound_value(name: str, parameters: Parameters) -> tuple[str | None, str]:
    """The value and type bound to a named parameter.

    Raises:
        SqlFailure: Nothing is bound to it.
    """
    if name not in parameters:
        raise SqlFailure(
            "BAD_REQUEST",
            f"[UNBOUND_SQL_PARAMETER] Found the unbound parameter: {name}. "
            "Give it a value in the statement's `parameters`. SQLSTATE: 42P02",
        )
    return parameters[name]


def parse(statement: str) -> exp.Expr:
    """Read one statement and refuse what this workspace does not run.

    Args:
        statement: Databricks SQL; a closing semicolon is allowed.

    Raises:
        SqlFailure: Not one well-formed statement, or one with a forbidden part.
    """
    try:
        trees = [tree for tree in sqlglot.parse(statement, read=WorkspaceDialect) if tree is not None]
    except SqlglotError as error:
        raise syntax_error(_first_line(error)) from None
    except RecursionError:
        raise syntax_error("The statement is nested too deeply.") from None
    except _SQLGLOT_SLIPS:
        raise syntax_error("The statement is not one that the local workspace can read.") from None
    trees = [tree for tree in trees if not isinstance(tree, exp.Semicolon)]
    if len(trees) != 1:
        raise syntax_error(f"Exactly one statement is needed, and {len(trees)} were given.")
    tree = trees[0]
    if not isinstance(tree, STATEMENTS):
        if isinstance(tree, exp.Condition | exp.Alias):
            raise syntax_error(f"Syntax error at or near '{statement.split()[0]}' (line 1, position 1).")
        raise unsupported(f"{(tree.name if isinstance(tree, exp.Command) else tree.key).upper()} statements")
    _refuse_forbidden(tree)
    return tree


def to_duckdb(tree: exp.Expr) -> str:
    """The rewritten tree as DuckDB's SQL.

    Raises:
        SqlFailure: sqlglot has no way to write it.
    """
    try:
        return tree.sql(dialect="duckdb")
    except SqlglotError as error:
        raise syntax_error(f"The statement cannot be translated: {str(error).splitlines()[0]}") from None
    except _SQLGLOT_SLIPS:
        raise syntax_error("The statement is not one that the local workspace can translate.") from None


def _refuse_forbidden(tree: exp.Expr) -> None:
    for node in tree.walk():
        if isinstance(node, exp.Anonymous) and (node.name.upper(), len(node.expressions)) not in REWRITTEN:
            in_from = isinstance(node.parent, exp.Table)
            if not (in_from and node.name.lower() in _TABLE_FUNCTIONS):
                raise unresolved_routine(node.name)
        elif (
            isinstance(node, exp.Table) and isinstance(node.this, exp.Func) and not isinstance(node.this, exp.Anonymous)
        ):
            raise unresolved_routine(node.this.sql_name())
        elif isinstance(node, exp.Dot) and isinstance(node.expression, exp.Func):
            raise unresolved_routine(node.sql(dialect="databricks").partition("(")[0])
        elif isinstance(node, exp.Table) and (
            _travels_by_time(node) or node.args.get("when") or node.args.get("changes")
        ):
            raise unsupported("time travel, except VERSION AS OF a whole number")
        elif isinstance(node, exp.Identifier) and node.name.lower() == HIDDEN_COLUMN:
            raise unresolved_column(node.name)
        elif isinstance(node, exp.Placeholder) and not node.args.get("this"):
            raise unsupported("positional parameters; name them, as in :name")
        elif isinstance(node, exp.DML) and node is not tree and not isinstance(node.parent, exp.When):
            raise unsupported("a write inside another statement")
        elif isinstance(node, exp.Into | exp.Command | exp.Parameter | exp.SessionParameter | exp.Pragma):
            raise unsupported(f"{node.key.upper()} here")


def _travels_by_time(table: exp.Table) -> bool:
    """Whether a table is read as of anything but the number of a version."""
    version = table.args.get("version")
    if version is None:
        return False
    number = version.expression
    return version.name.upper() != "VERSION" or not (isinstance(number, exp.Literal) and number.name.isdigit())


def _first_line(error: SqlglotError) -> str:
    details = getattr(error, "errors", None)
    if details:
        first = details[0]
        return f"Syntax error at or near '{first['highlight']}' (line {first['line']}, position {first['col']})."
    return f"Syntax error. {str(error).splitlines()[0]}"
