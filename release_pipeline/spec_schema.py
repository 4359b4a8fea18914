"""The schema that editors and ``dg check yaml`` hold a release's YAML against.

It is the specification's own, put so that a validator names what is wrong: of a field that may be one of several things
("anyOf"), it would only say that none of them fits.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

_TEMPLATE: Final = {"type": "string", "pattern": r"\{\{.*\}\}"}
#: Whether a value is of one of them is plain to see, so the last of several things is whatever is left.
_TOLD_APART: Final = ("null", "array", "object")


def written_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A specification's JSON schema as its YAML is written: with templates, and YAML's bare ``on`` and ``off``."""
    return {key: _put(value) for key, value in schema.items()}


def _put(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_put(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {key: _put(value) for key, value in schema.items()}
    if isinstance(changed.get("anyOf"), list):
        return _one_after_another(changed.pop("anyOf")) | changed
    if isinstance(changed.get("enum"), list) and set(changed["enum"]) == {"on", "off"}:
        changed["enum"] = ["on", "off", True, False]  # YAML 1.1 reads a bare `on` as true
        changed.pop("type")
    if changed.get("type") in ("integer", "number", "boolean") or "enum" in changed:
        told = {key: changed.pop(key) for key in ("title", "description", "default") if key in changed}
        return _unless(_TEMPLATE, changed) | told
    return changed


def _one_after_another(choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Holds a value against the one choice of its type, and against the last where it has none."""
    first, *others = sorted(choices, key=lambda choice: choice.get("type") not in _TOLD_APART)
    if not others:
        return dict(first)
    kind = {"type": first["type"]}
    return {"if": kind, "then": first, "else": _one_after_another(others)}


def _unless(other: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    return {"if": other, "else": schema}
