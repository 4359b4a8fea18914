"""Reading JSON that comes from outside, so that whatever is taken can be stored and written again."""

import json
import math
import re
from typing import Any, Final, NoReturn

#: Lists and objects within each other; Python's own limit counts what calls the reader, too.
DEEPEST: Final = 100
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(raw: bytes) -> Any:
    """What a text in JSON says.

    Python's own reader takes more than could be written again: NaN, numbers so large that they become infinite, and
    halves of surrogate pairs, which are no text. Of what is nested too deep it raises an error of another kind.

    Raises:
        ValueError: It is no JSON, not in UTF-8, or nested deeper than `DEEPEST`.
    """
    try:
        text = raw.decode("utf-8-sig")  # with the mark that some tools begin a file with
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if text.count("[") + text.count("{") > DEEPEST:
        _check_depth(value)
    if _SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode()  # a UnicodeEncodeError is a ValueError
    return value


def at(value: Any, *keys: str) -> Any:
    """What lies at a path of keys within objects; None where it goes nowhere."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise ValueError(f"{number[:20]} is too large a number")
    return value


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        if depth > DEEPEST:
            raise ValueError("nested too deep")
        level = [each for holder in level for each in (holder.values() if isinstance(holder, dict) else holder)]
