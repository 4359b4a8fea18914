"""Spans of traces without the credentials and secrets that a scoring process was given.

mlflow writes into them what a model's functions took, gave back and raised.
"""

from typing import Any

from mlflow.entities import LiveSpan, SpanStatus

from release_pipeline.local_workspace.serving.redaction import redact


def hide_secrets(span: LiveSpan) -> None:
    """Take them out of a span that is about to end; mlflow calls this for each."""
    for key, value in span.attributes.items():
        if (clean := redacted(value)) != value:
            span.set_attribute(key, clean)
    status = span.status
    if status.description and (clean := redact(status.description)) != status.description:
        # It takes a status with its description, although its annotation does not say so.
        span.set_status(SpanStatus(status.status_code, clean))  # type: ignore[arg-type]
    for event in span._span.events:  # what was raised, which mlflow lets nobody change
        event._attributes = redacted(dict(event.attributes or {}))


def redacted(value: Any) -> Any:
    """A value as JSON knows them, with every text in it, keys and numbers too, redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redact(str(key)): redacted(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(each) for each in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        text = str(value)
        return value if (clean := redact(text)) == text else clean
    return value
