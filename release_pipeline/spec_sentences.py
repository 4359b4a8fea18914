"""Sentences for what is wrong in a release's YAML: field, value, bound, and what to do; never a secret."""

import re
from typing import Any

SECRET_WORD = re.compile(r"(token|secret|password|api_?key|credential)", re.IGNORECASE)


def sentence(problem: dict[str, Any]) -> str:
    """One problem, as pydantic's ``ValidationError.errors()`` gives it, in one sentence."""
    where = ".".join(str(part) for part in problem["loc"]) or "attributes"
    kind, message = problem["type"], str(problem["msg"]).removeprefix("Value error, ")
    if kind == "missing":
        return f"field `{where}` is missing; add it."
    if kind == "extra_forbidden":
        return f"field `{where}` is not known; see docs/reference.md for the fields, or remove it."
    hidden = SECRET_WORD.search(where) or where.startswith(("endpoint.environment", "notifications.addresses"))
    value = "" if hidden else f" (value: {problem.get('input')!r:.80})"
    if kind != "value_error":  # pydantic's own words; ours may begin with the name of a variable
        message = (message[0].lower() + message[1:]).removeprefix("input ")
    return f"field `{where}`{value}: {message}."
