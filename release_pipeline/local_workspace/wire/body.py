"""Reading a request's JSON body, with the service's answer when it is not what it should be.

Every field whose kind a handler relies on is read through here: a wrong kind that came further would be a 500, which
clients repeat for minutes.
"""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from release_pipeline.local_workspace.errors import ApiError, InvalidParameter
from release_pipeline.local_workspace.json_text import read_json

#: Digits of the largest number that is read from a text; a few more than sqlite's integers could hold are none.
_MOST_DIGITS = 18


async def json_object(request: Request) -> dict[str, Any]:
    """The request's body as a JSON object; an empty body is an empty object.

    Raises:
        ApiError: 400 MALFORMED_REQUEST when the body is not JSON.
        InvalidParameter: The body is JSON, but not an object.
    """
    raw = await request.body()
    try:
        body = read_json(raw) if raw else {}
    except ValueError:
        raise ApiError("The request's body is not valid JSON.", error_code="MALFORMED_REQUEST") from None
    if not isinstance(body, dict):
        raise InvalidParameter("The request's body must be a JSON object.")
    return body


def text(body: dict[str, Any], key: str, default: str | None = None) -> str:
    """A text field of a body or of a query; a number is taken as its text, null as missing, as the service does.

    Raises:
        InvalidParameter: The field is missing or empty and there is no default, or it is no text.
    """
    value = body.get(key)
    if value is None:
        value = default
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or (default is None and not value):
        raise InvalidParameter(f"The field {key!r} is missing, empty or no text.")
    return value


def whole(body: Mapping[str, Any], key: str, default: int) -> int:
    """A field that is a whole number, 0 or more, or the text of one; missing, null or empty, the default.

    Raises:
        InvalidParameter: The field is something else.
    """
    value = body.get(key)
    number = str(default if value is None or value == "" else value)
    if isinstance(value, bool) or not (number.isascii() and number.isdecimal() and len(number) <= _MOST_DIGITS):
        raise InvalidParameter(f"The field {key!r} is not a number that this server could have meant.")
    return int(number)


def mapping(body: dict[str, Any], key: str) -> dict[str, Any]:
    """A field that is an object; null is taken as an empty one.

    Raises:
        InvalidParameter: The field is something else.
    """
    value = body.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidParameter(f"The field {key!r} must be an object.")
    return value


def objects(body: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """A field that is a list of objects; null is taken as an empty one.

    Raises:
        InvalidParameter: The field is something else.
    """
    value = body.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InvalidParameter(f"The field {key!r} must be a list of objects.")
    return value
