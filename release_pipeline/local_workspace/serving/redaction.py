"""Error texts of a scoring process, without the credential that it was given."""

import os
import traceback


def redact(text: str) -> str:
    """The text with the workspace's token replaced."""
    token = os.environ.get("DATABRICKS_TOKEN", "")
    return text.replace(token, "[REDACTED]") if token else text


def describe(error: BaseException) -> str:
    """``Type: message`` in one line; of a longer message its last line, which is where Python says what was wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return redact(f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__)


def traceback_text(error: BaseException) -> str:
    """The traceback for the log of the entity."""
    return redact("".join(traceback.format_exception(error)))
