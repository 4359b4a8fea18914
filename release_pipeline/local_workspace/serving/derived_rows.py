"""Rows of the request logs and the assessment logs, from logged requests."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from release_pipeline.local_workspace.json_text import at
from release_pipeline.local_workspace.sql.derived_tables import ASSESSMENT_LOGS, REQUEST_LOGS

FEEDBACK = "feedback"
"""The name of the served entity that takes feedback."""

Row = dict[str, Any]


def derived_rows(logged: Iterable[Mapping[str, Any]]) -> dict[str, list[Row]]:
    """Rows by the suffix of their table. Feedback that cannot be read leaves no row, as on the service."""
    rows: dict[str, list[Row]] = {REQUEST_LOGS: [], ASSESSMENT_LOGS: []}
    for row in logged:
        request = _parsed(row.get("request"))
        if row.get("entity_name") == FEEDBACK:
            rows[ASSESSMENT_LOGS] += _assessments(row, request)
        else:
            rows[REQUEST_LOGS].append(_request_log(row, request))
    return rows


def _request_log(row: Mapping[str, Any], request: Any) -> Row:
    response = _parsed(row.get("response"))
    trace = at(response[-1] if isinstance(response, list) and response else response, "databricks_output", "trace")
    conversation = at(request, "databricks_options", "conversation_id") or at(request, "context", "conversation_id")
    return {
        **row,
        "conversation_id": _string(conversation),
        "last_question": _string(_last_question(request)),
        "last_answer": _string(_last_answer(response)),
        "trace": json.dumps(trace) if trace is not None else None,
    }


def _last_question(request: Any) -> str | None:
    """The text of the last message of the user."""
    messages = at(request, "input") or at(request, "messages")
    if isinstance(messages, str):
        return messages
    for message in reversed(messages if isinstance(messages, list) else []):
        if at(message, "role") == "user":
            return _text(at(message, "content"))
    return None


def _last_answer(response: Any) -> str | None:
    """The last text of the answer; of a stream, the parts of the last one put together."""
    if isinstance(response, list):
        done = [event["item"] for event in response if at(event, "type") == "response.output_item.done"]
        if done:
            return _last_answer({"output": done})
        parts = [at(event, "delta") for event in response]
        texts = [part if isinstance(part, str) else _text(at(part, "content")) for part in parts]
        return "".join(text for text in texts if text) or None
    for item in reversed(_list(at(response, "output"))):
        if text := _text(at(item, "content")):
            return text
    for message in reversed(_list(at(response, "messages"))):
        return _text(at(message, "content"))
    for choice in _list(at(response, "choices")):
        return _text(at(choice, "message", "content"))
    return None


def _text(content: Any) -> str | None:
    if isinstance(content, str):
        return content
    texts = [part["text"] for part in _list(content) if isinstance(at(part, "text"), str)]
    return "".join(texts) or None


def _assessments(row: Mapping[str, Any], request: Any) -> Iterator[Row]:
    for record in _list(at(request, "dataframe_records")):
        request_id, source = at(record, "request_id"), _unpacked(at(record, "source"))
        if not isinstance(request_id, str) or not isinstance(source, dict):
            continue
        common = {
            "request_id": _storable(request_id),
            "request_time": row.get("request_time"),
            "source": {name: _string(source.get(name)) for name in ("id", "type")},
        }
        for assessment in _list(_unpacked(at(record, "text_assessments"))):
            if isinstance(assessment, dict):
                yield {**common, "text_assessment": _assessment(assessment, "free_text_comment", "suggested_output")}
        for assessment in _list(_unpacked(at(record, "retrieval_assessments"))):
            if isinstance(assessment, dict):
                position = assessment.get("position")
                judged = _assessment(assessment, "free_text_comment") | {
                    "position": position if type(position) is int and abs(position) < 2**31 else None
                }
                yield {**common, "step_id": _string(assessment.get("step_id")), "retrieval_assessment": judged}


def _assessment(given: Mapping[str, Any], *texts: str) -> Row:
    ratings = given.get("ratings")
    named = ratings.items() if isinstance(ratings, dict) else ()
    return {name: _string(given.get(name)) for name in texts} | {
        "ratings": {
            _storable(name): {part: _string(rating.get(part)) for part in ("value", "rationale")}
            for name, rating in named
            if isinstance(rating, dict)
        }
    }


def _string(value: Any) -> str | None:
    return None if value is None else _storable(value if isinstance(value, str) else json.dumps(value))


def _storable(text: str) -> str:
    # Half of a surrogate pair, which JSON can name, cannot be stored.
    return text.encode(errors="replace").decode()


def _unpacked(value: Any) -> Any:
    """The value, read from its JSON text if it is that: clients send the parts of a record either way."""
    return _parsed(value) if isinstance(value, str) else value


def _parsed(text: Any) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
