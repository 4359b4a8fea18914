"""The templates of a release's YAML, resolved by Dagster; references to secrets are none, and other texts stay texts.

Dagster reads every text as a template whose result may be a number: `"1"`, quoted, would become 1.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from release_pipeline.errors import SpecError
from release_pipeline.spec_lines import Lines, Place

if TYPE_CHECKING:
    from dagster import ResolutionContext

#: Written in double braces like a template. The service resolves it, in the served process alone.
_REFERENCE: Final = re.compile(r"\{\{\s*(secrets/[^/{}\s]+/[^/{}\s]+)\s*\}\}")
_TEMPLATE: Final = re.compile(r"\{[{%#]")


def resolved(
    written: Mapping[str, Any], context: "ResolutionContext", file: Path, lines: Lines | None = None
) -> dict[str, Any]:
    """The attributes with their templates resolved and ``{{secrets/scope/key}}`` as the service reads it.

    Args:
        written: The attributes as the YAML has them.
        context: Dagster's, with what templates may name.
        file: The YAML, for messages.
        lines: Where in it a field stands.

    Raises:
        SpecError: A template cannot be resolved: file, line, field, why, and what to do.
    """
    try:
        return {key: _resolved(value, context.at_path(key), (key,)) for key, value in written.items()}
    except _Unresolved as error:
        line = lines(error.place) if lines else None
        field = ".".join(str(part) for part in error.place)
        raise SpecError(
            f"{file}{f':{line}' if line else ''}: field `{field}`: the template cannot be resolved ({error.reason}); "
            "mend it, or set its variable."
        ) from None


class _Unresolved(Exception):
    """A template that cannot be resolved: where it stands, and why."""

    def __init__(self, place: Place, reason: str) -> None:
        super().__init__(reason)
        self.place, self.reason = place, reason


def _resolved(value: Any, context: "ResolutionContext", place: tuple[str | int, ...]) -> Any:
    if isinstance(value, Mapping):
        return {key: _resolved(inner, context.at_path(key), (*place, key)) for key, inner in value.items()}
    if isinstance(value, list):
        return [_resolved(inner, context.at_path(index), (*place, index)) for index, inner in enumerate(value)]
    if not isinstance(value, str):
        return value
    if not _TEMPLATE.search(_REFERENCE.sub("", value)):
        return _REFERENCE.sub(r"{{\1}}", value)
    try:
        return context.resolve_value(_REFERENCE.sub(r"{% raw %}{{\1}}{% endraw %}", value))
    except Exception as error:  # whatever a template raises is the user's to mend
        told = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        # Behind a traceback stands what it is about, else in front.
        raise _Unresolved(place, told[-1].rpartition("exceptions.")[2] if len(told) > 2 else told[0]) from None
