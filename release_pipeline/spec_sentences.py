"""Sentences for what is wrong in a release's YAML: field, value, bound, and what to do; never a secret."""

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

SECRET_WORD = re.compile(r"(token|secret|password|api_?key|credential)", re.IGNORECASE)

Place = tuple[str | int, ...]
#: Characters of a value that a sentence shows.
_SHOWN: Final = 80

#: What a field must be, by pydantic's name of the problem; for others pydantic's own words do.
_KINDS: Final[Mapping[str, str]] = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping of names to values",
    "model_type": "a mapping of names to values",
}
_REMEDIES: Final[Mapping[str, str]] = {
    "greater_than": "raise it",
    "greater_than_equal": "raise it",
    "less_than": "lower it",
    "less_than_equal": "lower it",
    "literal_error": "write one of them",
    "string_type": "put quotes around it",
    "list_type": "put brackets around it",
    "tuple_type": "put brackets around it",
    "too_short": "add one",
    "string_too_short": "write one",
    "string_too_long": "shorten it",
}


def sentences(
    error: ValidationError, written: Mapping[str, Any], model: type[BaseModel]
) -> Iterator[tuple[Place, str]]:
    """Each mistake once: where it stands in what was written, and a sentence.

    Args:
        error: What pydantic says of it, which is more than one problem where a field may be one of several things.
        written: What was validated.
        model: By which model.
    """
    found: dict[Place, list[Mapping[str, Any]]] = {}
    for problem in error.errors():
        found.setdefault(_place(problem["loc"], written, missing=problem["type"] == "missing"), []).append(problem)
    # A name that is mistyped is not missing as well.
    meant = {(*place[:-1], near) for place, problems in found.items() if (near := _near(place, problems, model))}
    for place, problems in found.items():
        # Where an item of a list is wrong, pydantic says that the list is too short, or no number, as well.
        within = any(len(other) > len(place) and other[: len(place)] == place for other in found)
        told = [problem for problem in problems if not (within and problem["type"] in ("too_short", *_KINDS))]
        if told and not (told[0]["type"] == "missing" and place in meant):
            yield place, _sentence(place, told, model)


def _place(loc: Sequence[str | int], written: Any, *, missing: bool) -> Place:
    """A problem's place without pydantic's names for the members of a union."""
    place: list[str | int] = []
    for index, part in enumerate(loc):
        try:
            written = written[part]
        except (KeyError, IndexError, TypeError):
            if not (missing and index == len(loc) - 1):
                continue
        place.append(part)
    return tuple(place)


def _sentence(place: Place, problems: Sequence[Mapping[str, Any]], model: type[BaseModel]) -> str:
    where = ".".join(str(part) for part in place) or "attributes"
    kind, message = problems[0]["type"], str(problems[0]["msg"]).removeprefix("Value error, ")
    fields, field = _field(place, model)
    if kind == "missing":
        meaning = f" ({field.description.rstrip('.')})" if field and field.description else ""
        return f"field `{where}` is missing; add it{meaning}."
    if kind == "extra_forbidden":
        near = _near(place, problems, model)
        meant = f"`{near}`" if near else f"one of {', '.join(fields)}"
        return f"field `{where}` is not known; write {meant}, or remove it."
    hidden = SECRET_WORD.search(where) or where.startswith(("endpoint.environment", "notifications.addresses"))
    value = "" if hidden else f" (value: {_shown(problems[0].get('input'))})"
    if all(problem["type"] in _KINDS for problem in problems):
        message = f"must be {' or '.join(dict.fromkeys(_KINDS[problem['type']] for problem in problems))}"
    elif kind != "value_error":  # pydantic's own words; ours may begin with the name of a variable
        message = re.sub(r"^(Input|String|Tuple|List) should ", "must ", message)
    if ";" not in message:
        # A template whose variable is not set is nothing.
        empty = kind in _KINDS and problems[0].get("input") is None
        remedy = "write it, or set the variable that it names" if empty else _REMEDIES.get(kind, "change it")
        message += f"; {remedy}{_default(field)}"
    return f"field `{where}`{value}: {message}."


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _near(place: Place, problems: Sequence[Mapping[str, Any]], model: type[BaseModel]) -> str | None:
    """The field that an unknown one was probably meant to be."""
    if problems[0]["type"] != "extra_forbidden":
        return None
    return next(iter(get_close_matches(str(place[-1]), _field(place, model)[0], n=1)), None)


def _field(place: Place, model: type[BaseModel]) -> tuple[list[str], FieldInfo | None]:
    """The names that may stand at a place, and the field that does; None within a list or a mapping of the user's."""
    within: type[BaseModel] | None = model
    fields: list[str] = []
    field: FieldInfo | None = None
    for part in place:
        if isinstance(part, int) and within is not None:
            field = None  # an item, of the model that the list has
            continue
        fields = list(within.model_fields) if within else []
        field = within.model_fields.get(str(part)) if within else None
        within = _model_in(field.annotation) if field else None
    return fields, field


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for each in get_args(annotation) if (found := _model_in(each))), None)


def _default(field: FieldInfo | None) -> str:
    if field is None or field.is_required():
        return ""
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    plain = isinstance(value, (int, float)) or (isinstance(value, (str, list)) and value != "" and value != [])
    if isinstance(value, bool):
        value = str(value).lower()
    return f", or leave it out for {value}" if plain and "(" not in str(value) else ", or leave it out"
