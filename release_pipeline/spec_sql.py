"""SQL expressions in the YAML: one expression each, checked before they become part of a larger statement.

The check is a tokeniser, not a parser: it keeps an expression from ending the parentheses that it is put in, from
being or holding a statement or a subquery, and from hiding the rest in a comment. A row is counted when it is new, and
may be counted again; so an expression may depend on the row alone, not on other rows, the time or chance. Whether
columns and functions exist is for the warehouse to say.
"""

import re
from typing import Final

_TOKEN: Final = re.compile(
    r"""
    (?P<text>[rR]'[^']*'|[rR]"[^"]*"|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|`(?:[^`]|``)*`)
    |(?P<comment>--|/\*)
    |(?P<pipe>\|>)
    |(?P<cast>\??::)
    |(?P<path>[.:]\s*[A-Za-z_]\w*)
    |(?P<word>[A-Za-z_]\w*)
    |(?P<open>[(\[])
    |(?P<close>[)\]])
    |(?P<comma>,)
    |(?P<semicolon>;)
    |(?P<colon>:)
    |(?P<question>\?)
    |(?P<other>[^'"`])
    """,
    re.VERBOSE | re.DOTALL,
)
#: Every subquery and statement needs one of these; a column of such a name goes in backticks.
_STATEMENT_WORDS: Final = frozenset(
    """
    ALTER CALL CREATE DELETE DESCRIBE DROP EXECUTE GRANT INSERT INTERSECT INTO JOIN MERGE REVOKE SELECT TABLE TRUNCATE
    UNION UPDATE VALUES WITH
    """.split()  # noqa: SIM905
)

#: Functions that need no parentheses, and differ from run to run.
_CLOCKS: Final = frozenset("CURRENT_DATE CURRENT_TIME CURRENT_TIMESTAMP LOCALTIMESTAMP".split())  # noqa: SIM905
#: Functions that differ from run to run; without parentheses they are columns.
_CHANGING: Final = _CLOCKS | frozenset(
    """
    CURDATE GETDATE MONOTONICALLY_INCREASING_ID NOW RAND RANDN RANDOM RANDSTR SHUFFLE SPARK_PARTITION_ID UNIFORM UUID
    """.split()  # noqa: SIM905
)
#: After these a colon begins a parameter, after any other word a path into JSON.
_BEFORE_VALUES: Final = frozenset(
    """
    AND BETWEEN CASE DIV ELSE ESCAPE FROM ILIKE IN IS LIKE NOT OR REGEXP RLIKE THEN WHEN
    """.split()  # noqa: SIM905
)


def expression_problem(text: str) -> str | None:
    """What keeps a text from being one SQL expression, as the end of a sentence that begins with its name.

    Args:
        text: What stands in the YAML.

    Returns:
        For instance ``has a semicolon; write one expression``, or None where nothing is wrong.
    """
    if not text.strip():
        return "is empty; write one expression, such as status_code >= 500"
    closes: list[str] = []
    end = 0
    before = ""
    for token in _TOKEN.finditer(text):
        if token.start() != end:
            break
        end = token.end()
        value = token.group()
        if (token.lastgroup in ("path", "colon") and value.startswith(":") and not _is_value(before)) or (
            token.lastgroup == "question"
        ):
            return (
                f"has the parameter marker {value}, and nothing gives it a value; write the value itself, and a path "
                "into JSON without a blank before its colon"
            )
        if problem := _changing(value, text[end:]):
            return problem
        before = value
        match token.lastgroup:
            case "comment":
                return "has a comment; put it on a line of the YAML, after #"
            case "semicolon":
                return "has a semicolon; write one expression"
            case "pipe":
                return "has a query (|>); write one expression over the columns of a row"
            case "word" if value.upper() in _STATEMENT_WORDS:
                return (
                    f"has {value.upper()}, which belongs to statements; write one expression over the columns of a "
                    "row, and a column of that name in backticks"
                )
            case "word" if value.upper() == "OVER":
                return (
                    "has OVER, which looks at other rows; write one expression over the columns of a row, and a column "
                    "of that name in backticks"
                )
            case "open":
                closes.append(")" if value == "(" else "]")
            case "close" if not closes or closes.pop() != value:
                return f"closes a {value} that was not opened; balance its parentheses"
            case "comma" if not closes:
                return "has a comma outside parentheses; write one expression"
    if end != len(text):
        return "has a quote that is not closed; close it"
    return "has a parenthesis that is not closed; close it" if closes else None


def _is_value(token: str) -> bool:
    """Whether a token ends a value, so that a colon right after it begins a path into that."""
    return bool(re.search(r"[\w)\]`]$", token)) and token.upper() not in _BEFORE_VALUES


def _changing(token: str, rest: str) -> str | None:
    """What is wrong with a function whose result is not the row's own."""
    name = token.strip("`.: \n\t").upper()
    called = rest.lstrip().startswith("(")
    if (name in _CLOCKS and token.upper() == name) or (name in _CHANGING and called):
        return f"has {name}, which changes from run to run; write what depends on the row alone"
    if name == "UNIX_TIMESTAMP" and re.match(r"\s*\(\s*\)", rest):
        return "has UNIX_TIMESTAMP without a time, which changes from run to run; name a column, such as request_time"
    return None


def names_in(text: str) -> frozenset[str]:
    """The words of an expression in lower case, outside strings: its columns, functions and keywords."""
    found = set()
    for token in _TOKEN.finditer(text):
        if token.lastgroup == "word":
            found.add(token.group().lower())
        elif token.lastgroup == "text" and token.group().startswith("`"):
            found.add(token.group()[1:-1].replace("``", "`").lower())
    return frozenset(found)
