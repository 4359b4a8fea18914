"""Reads a time that somebody typed."""

from datetime import UTC, datetime


def parse_moment(text: str) -> tuple[datetime, bool]:
    """A time in ISO 8601, in UTC, and whether it was given without a zone and taken as UTC.

    Raises:
        ValueError: It is no such time; the message says how to write one.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
        naive = moment.tzinfo is None
        return (moment.replace(tzinfo=UTC) if naive else moment.astimezone(UTC)), naive
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is no time in ISO 8601; write it as 2026-11-21T14:03+01:00, 2026-11-21T13:03Z, or without a "
            "zone in UTC."
        ) from None
