"""How a statement fails: the service's condition names and SQLSTATEs, and DuckDB's own errors in their terms."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from release_pipeline.local_workspace.sql.names import SchemaName, TableName

CTE_PREFIX = "cte "
"""What the names of common table expressions begin with in what DuckDB runs, and nothing of its own does."""
HIDDEN_COLUMN = "__commit_version"
"""The column that carries a row's commit version in a table with a change feed; users never see it."""


class SqlFailure(Exception):
    """A statement that the workspace could not run.

    Attributes:
        error_code: The statement API's code (``BAD_REQUEST`` for nearly everything a user can do wrong).
        message: ``[CONDITION] sentence SQLSTATE: xxxxx``, with the user's names, never the engine's.
    """

    def __init__(self, error_code: str, message: str) -> None:
        super().__init__(message)
        self.error_code = error_code
        self.message = message


def bad_request(condition: str, sentence: str, sqlstate: str) -> SqlFailure:
    """A failure with a condition name and SQLSTATE, as Databricks SQL words them."""
    return SqlFailure("BAD_REQUEST", f"[{condition}] {sentence} SQLSTATE: {sqlstate}")


def table_not_found(name: "TableName") -> SqlFailure:
    """The failure of naming a table or view that is not there."""
    return bad_request(
        "TABLE_OR_VIEW_NOT_FOUND",
        f"The table or view {name.quoted} cannot be found. Check the spelling, the schema and the catalog.",
        "42P01",
    )


def schema_not_found(name: "SchemaName") -> SqlFailure:
    """The failure of naming a schema that is not there."""
    return bad_request("SCHEMA_NOT_FOUND", f"The schema {name.quoted} cannot be found.", "42704")


def unsupported(what: str) -> SqlFailure:
    """The failure of Databricks SQL that the local workspace does not run."""
    return bad_request("UNSUPPORTED_FEATURE", f"The local workspace does not run {what}.", "0A000")


def syntax_error(sentence: str) -> SqlFailure:
    """The failure of text that is not one statement of Databricks SQL."""
    return bad_request("PARSE_SYNTAX_ERROR", sentence, "42601")


def unresolved_column(name: str, candidates: Iterable[str] = ()) -> SqlFailure:
    """The failure of naming a column that no table in the statement has."""
    suggestions = ", ".join(f"`{candidate}`" for candidate in candidates)
    condition = "UNRESOLVED_COLUMN.WITH_SUGGESTION" if suggestions else "UNRESOLVED_COLUMN.WITHOUT_SUGGESTION"
    tail = f" Did you mean one of the following? [{suggestions}]." if suggestions else ""
    quoted = ".".join(f"`{part}`" for part in name.split("."))
    return bad_request(
        condition, f"A column, variable, or function parameter with name {quoted} cannot be resolved.{tail}", "42703"
    )


_MISSING_COLUMN = re.compile(
    r'Referenced column "([^"]+)" not found'
    r'|does not have a column named "([^"]+)"'
    r"|Referenced update column ([^ ]+) not found"
    r'|does not contain referenced column "([^"]+)"'
    r"|Column with name (\S+) does not exist"
    r'|does not have a column with name "([^"]+)"'
)
_CANDIDATES = re.compile(r"Candidate (?:bindings|columns): ?:? ?(.*)")
_MISSING_TABLE_ALIAS = re.compile(r'Referenced table "([^"]+)" not found')
_MISSING_FUNCTION = re.compile(r"(?:Scalar |Aggregate |Table |Window )?Function with name (\S+) does not exist")


def from_duckdb(error: Exception) -> SqlFailure:
    """DuckDB's error as the service would report it, without DuckDB's names, excerpts or advice.

    Args:
        error: What DuckDB raised for a statement that this package wrote.
    """
    kind, _, text = str(error).partition(": ")
    if not kind.endswith("Error"):
        text = str(error)
    if match := _MISSING_COLUMN.search(text):
        name = next(group for group in match.groups() if group)
        found = _CANDIDATES.search(text)
        names = re.findall(r'"((?:[^"]|"")+)"', found.group(1)) if found else []
        return unresolved_column(name, [each for each in names if each != HIDDEN_COLUMN])
    if match := _MISSING_TABLE_ALIAS.search(text):
        return unresolved_column(match.group(1))
    if match := _MISSING_FUNCTION.search(text):
        return unresolved_routine(match.group(1))
    sentence = _clean(text)
    if "Division by zero" in text or "division by zero" in text:
        return bad_request(
            "DIVIDE_BY_ZERO", "Division by zero. Use `try_divide` to tolerate it and return NULL instead.", "22012"
        )
    match kind:
        case "Parser Error" | "Syntax Error":
            return syntax_error(sentence)
        case "Conversion Error":
            return bad_request("CAST_INVALID_INPUT", sentence, "22018")
        case "Out of Range Error":
            return bad_request("ARITHMETIC_OVERFLOW", sentence, "22003")
        case "Constraint Error":
            return bad_request("DELTA_VIOLATE_CONSTRAINT", sentence, "23001")
        case "INTERRUPT Error" | "Interrupt Error":
            return SqlFailure("CANCELLED", "The statement was cancelled.")
        case "Out of Memory Error":
            return SqlFailure("RESOURCE_EXHAUSTED", "The statement needs more memory than the local workspace has.")
        case "Binder Error":
            return bad_request("DATATYPE_MISMATCH", sentence, "42K09")
        case _:
            return SqlFailure("BAD_REQUEST", sentence)


def unresolved_routine(name: str) -> SqlFailure:
    """The failure of calling a function that Databricks SQL, or this workspace, does not have."""
    return bad_request(
        "UNRESOLVED_ROUTINE",
        f"Cannot resolve routine `{name.lower()}`: the local workspace has no such function.",
        "42883",
    )


def _clean(text: str) -> str:
    """The first sentence of DuckDB's text: no excerpt of the rewritten statement, no physical names."""
    text = re.split(r"\n+\s*(?:LINE \d+:|Did you mean|Candidate|Use TRY)", text)[0]
    text = re.sub(r'"([^".\s]+\.[^".\s]+)"\.', r"\1.", text)
    text = re.sub(rf',?\s*"?{HIDDEN_COLUMN}"?', "", text)
    text = text.replace(CTE_PREFIX, "")
    return " ".join(text.split())
