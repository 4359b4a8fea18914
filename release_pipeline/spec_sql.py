"""SQL expressions in the YAML: one expression each, checked before they become part of a larger statement.

The check is a tokeniser, not a parser: it keeps an expression from ending the parentheses that it is put in, from
being or holding a statement or a subquery, and from hiding the rest in a comment. Whether columns and functions exist
is for the warehouse to say.
"""

import re
from typing import Final

_TOKEN: Final = re.compile(
    r"""
    (?P<text>[rR]'[^']*'|[rR]"[^"]*"|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|`(?:[^`]|``)*`)
    |(?P<comment>--|/\*)
    |(?P<pipe>\|>)
    |(?P<path>[.:]\s*[A-Za-z_]\w*)
    |(?P<word>[A-Za-z_]\w*)
    |(?P<open>[(\[])
    |(?P<close>[)\]])
    |(?P<comma>,)
    |(?P<semicolon>;)
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
    for token in _TOKEN.finditer(text):
        if token.start() != end:
            break
        end = token.end()
        value = token.group()
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
            case "open":
                closes.append(")" if value == "(" else "]")
            case "close" if not closes or closes.pop() != value:
                return f"closes a {value} that was not opened; balance its parentheses"
            case "comma" if not closes:
                return "has a comma outside parentheses; write one expression"
    if end != len(text):
        return "has a quote that is not closed; close it"
    return "has a parenthesis that is not closed; close it" if closes else None


def names_in(text: str) -> frozenset[str]:
    """The words of an expression in lower case, outside strings: its columns, functions and keywords."""
    found = set()
    for token in _TOKEN.finditer(text):
        if token.lastgroup == "word":
            found.add(token.group().lower())
        elif token.lastgroup == "text" and token.group().startswith("`"):
            found.add(token.group()[1:-1].replace("``", "`").lower())
    return frozenset(found)
