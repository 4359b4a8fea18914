"""The templates of a release's YAML, resolved by Dagster; references to secrets are none, and other texts stay texts.

Dagster reads every text as a template whose result may be a number: `"1"`, quoted, would become 1.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from dagster import ResolutionContext

#: Written in double braces like a template. The service resolves it, in the served process alone.
_REFERENCE: Final = re.compile(r"\{\{\s*(secrets/[^/{}\s]+/[^/{}\s]+)\s*\}\}")
_TEMPLATE: Final = re.compile(r"\{[{%#]")


def resolved(written: Mapping[str, Any], context: "ResolutionContext") -> dict[str, Any]:
    """The attributes with their templates resolved and ``{{secrets/scope/key}}`` as the service reads it.

    Args:
        written: The attributes as the YAML has them.
        context: Dagster's, with what templates may name.
    """
    return {key: _resolved(value, context.at_path(key)) for key, value in written.items()}


def _resolved(value: Any, context: "ResolutionContext") -> Any:
    if isinstance(value, Mapping):
        return resolved(value, context)
    if isinstance(value, list):
        return [_resolved(inner, context.at_path(index)) for index, inner in enumerate(value)]
    if not isinstance(value, str):
        return value
    if not _TEMPLATE.search(_REFERENCE.sub("", value)):
        return _REFERENCE.sub(r"{{\1}}", value)
    return context.resolve_value(_REFERENCE.sub(r"{% raw %}{{\1}}{% endraw %}", value))
