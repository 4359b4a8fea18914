"""When a cron expression of five fields can fire; Dagster, which fires it, has no public check of its own."""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime, time, timedelta

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
# Minute, hour, day of the month, month, day of the week (7 is Sunday again): lowest, highest, names from the lowest on.
_FIELDS: tuple[tuple[int, int, Sequence[str]], ...] = (
    (0, 59, ()),
    (0, 23, ()),
    (1, 31, ()),
    (1, 12, _MONTHS),
    (0, 7, _WEEKDAYS),
)
_ITEM = re.compile(r"(?:\*|([0-9]{1,2}|[a-z]{3})(?:-([0-9]{1,2}|[a-z]{3}))?)(?:/([0-9]{1,2}))?")


def can_fire(expression: str) -> bool:
    """Whether every field is within its bounds and some named day exists in some named month.

    Fields take ``*``, numbers, names of months and weekdays, ranges (which may run past the end, as ``fri-mon``),
    lists with commas and steps with a slash.
    """
    texts = expression.lower().split()
    if len(texts) != len(_FIELDS):
        return False
    fields = [_values(text, *bounds) for text, bounds in zip(texts, _FIELDS, strict=True)]
    return all(fields) and any(day <= _LONGEST[month - 1] for day in fields[2] for month in fields[3])


def week_minutes(expression: str) -> set[tuple[int, int]]:
    """Weekdays (0 is Monday) and minutes of the day at which an expression that :func:`can_fire` may fire, some year.

    Where days of the month are named, any weekday comes in time.
    """
    texts = expression.lower().split()
    minutes, hours, _, _, weekdays = (_values(text, *bounds) for text, bounds in zip(texts, _FIELDS, strict=True))
    days = {(day - 1) % 7 for day in weekdays} if texts[2] == "*" else set(range(7))
    return {(day, hour * 60 + minute) for day in days for hour in hours for minute in minutes}


def next_times(expression: str, after: datetime) -> Iterator[datetime]:
    """The wall-clock times behind ``after``, which has no zone, at which an expression that can fire does.

    As cron has it: where a day of the month and a weekday are both named, either will do.
    """
    texts = expression.lower().split()
    minutes, hours, days, months, weekdays = (
        _values(text, *bounds) for text, bounds in zip(texts, _FIELDS, strict=True)
    )
    any_day, any_weekday = texts[2] == "*", texts[4] == "*"
    day = after.date()
    while True:
        by_day, by_weekday = day.day in days, day.isoweekday() in weekdays or day.isoweekday() % 7 in weekdays
        named = by_day and by_weekday if any_day or any_weekday else by_day or by_weekday
        if named and day.month in months:
            for hour in sorted(hours):
                yield from (
                    at for minute in sorted(minutes) if (at := datetime.combine(day, time(hour, minute))) > after
                )
        day += timedelta(days=1)


def _values(text: str, low: int, high: int, names: Sequence[str]) -> set[int]:
    """The values that one field names, empty where it is wrong."""
    found: set[int] = set()
    for item in text.split(","):
        match = _ITEM.fullmatch(item)
        if match is None:
            return set()
        first, last, step = match.groups()
        start = low if first is None else _number(first, low, names)
        end = _number(last, low, names) if last else (high if first is None or step else start)
        if not low <= start <= high or not low <= end <= high or (step and int(step) == 0):
            return set()
        whole = list(range(start, end + 1)) if start <= end else [*range(start, high + 1), *range(low, end + 1)]
        found.update(whole[:: int(step or 1)])
    return found


def _number(text: str, low: int, names: Sequence[str]) -> int:
    """The number that a text stands for, -1 where it is no name of the field."""
    if text.isdecimal():
        return int(text)
    return names.index(text) + low if text in names else -1
