"""Error texts and logs without the credentials and secrets that a scoring process was given."""

import base64
import json
import re
import traceback
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import quote

REDACTED: Final = "[REDACTED]"
SHORTEST = 4
"""A secret with fewer characters is not searched for: it would be found in every other word."""
# Tokens that the workspace gives out; they change while a process runs, so they are known by their look.
_TOKEN: Final = r"dapis?[0-9a-f]{32,48}"


class Redactor:
    """Takes secrets out of text: as they are, line by line, and as base64, URLs, JSON and Python would write them."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        forms: set[str] = set()
        for value in values:
            for part in (value, *value.splitlines()):
                forms |= {part, quote(part, safe=""), json.dumps(part)[1:-1], repr(part)[1:-1]}
                forms.add(base64.b64encode(part.encode()).decode())
        longest_first = sorted((form for form in forms if len(form) >= SHORTEST), key=len, reverse=True)
        self._pattern = re.compile("|".join([*map(re.escape, longest_first), _TOKEN]))

    def redact(self, text: str) -> str:
        """The text with every secret replaced."""
        return self._pattern.sub(REDACTED, text)

    def redact_json(self, value: Any) -> Any:
        """A value as JSON knows them, with every text in it redacted, keys and numbers too."""
        if isinstance(value, str):
            return self.redact(value)
        if isinstance(value, dict):
            return {self.redact(str(key)): self.redact_json(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self.redact_json(each) for each in value]
        if isinstance(value, int | float) and not isinstance(value, bool):
            text = str(value)
            return value if (clean := self.redact(text)) == text else clean
        return value


# One per process: what the process was given.
_redactor = Redactor()


def hide(values: Iterable[str]) -> None:
    """From now on take these values out of this process's error texts."""
    global _redactor
    _redactor = Redactor(values)


def redact(text: str) -> str:
    """The text without what this process was given."""
    return _redactor.redact(text)


def redact_json(value: Any) -> Any:
    """A value as JSON knows them, without what this process was given."""
    return _redactor.redact_json(value)


def describe(error: BaseException) -> str:
    """``Type: message`` in one line; of a longer message its last line, which is where Python says what was wrong."""
    lines = [line.strip() for line in redact(str(error)).splitlines() if line.strip()]
    return redact(f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__)


def traceback_text(error: BaseException) -> str:
    """The traceback for the log of the entity."""
    return redact("".join(traceback.format_exception(error)))
