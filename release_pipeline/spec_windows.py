"""Weekly windows of wall-clock time in a time zone, right on the days when clocks are changed.

A window is wall-clock time: an hour that clocks repeat is inside twice, and an hour that they skip never comes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WINDOW = re.compile(
    r"(?P<days>[a-z]{3}(?:-[a-z]{3})?(?:,[a-z]{3}(?:-[a-z]{3})?)*|daily)"
    r"\s+(?P<start>\d{2}:\d{2})-(?P<end>\d{2}:\d{2})"
)
_EXPECTED = (
    "must be days and times such as `mon-thu 09:00-16:00`, `sat,sun 10:00-12:00` or `daily 22:00-04:00`; 24:00 is the "
    "end of a day"
)


@dataclass(frozen=True)
class Window:
    """One weekly window.

    Attributes:
        days: Weekdays on which it begins, 0 is Monday.
        start: First minute, counted from midnight.
        end: Minute after the last; not after ``start`` where the window runs past midnight.
    """

    days: frozenset[int]
    start: int
    end: int

    def contains(self, local: datetime) -> bool:
        """Whether a wall-clock time lies in it."""
        return self.holds(local.weekday(), local.hour * 60 + local.minute)

    def holds(self, weekday: int, minute: int) -> bool:
        """Whether a minute of the day lies in it on a weekday, 0 is Monday."""
        if self.start < self.end:
            return weekday in self.days and self.start <= minute < self.end
        began_today = weekday in self.days and minute >= self.start
        return began_today or ((weekday - 1) % 7 in self.days and minute < self.end)


def parse_window(text: str) -> Window:
    """The window that a text means.

    Raises:
        ValueError: It means none.
    """
    match = _WINDOW.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is no window; it {_EXPECTED}")
    days: set[int] = set()
    for item in [] if match["days"] == "daily" else match["days"].split(","):
        first, _, last = item.partition("-")
        if first not in _DAYS or (last and last not in _DAYS):
            raise ValueError(f"{text!r} names no weekday in {item!r}; it {_EXPECTED}")
        start, end = _DAYS.index(first), _DAYS.index(last or first)
        days |= {day % 7 for day in range(start, end + 1 if start <= end else end + 8)}
    begin, until = _minute(match["start"], text), _minute(match["end"], text)
    if begin == until or begin == 24 * 60:
        raise ValueError(f"{text!r} has no length; it {_EXPECTED}")
    return Window(frozenset(days or range(7)), begin, until)


def is_open(windows: Sequence[Window], zone: str, moment: datetime) -> bool:
    """Whether ``moment`` lies in any of the windows; always where there are none."""
    local = moment.astimezone(ZoneInfo(zone))
    return not windows or any(window.contains(local) for window in windows)


def next_opening(windows: Sequence[Window], zone: str, moment: datetime) -> datetime | None:
    """When the windows are open next, in their zone; ``moment`` itself where they are, None where they never are.

    Only beginnings of windows, midnights and changes of the clocks can open one, so only these are looked at.
    """
    if is_open(windows, zone, moment):
        return moment.astimezone(ZoneInfo(zone))
    local, tz = moment.astimezone(ZoneInfo(zone)), ZoneInfo(zone)
    candidates = []
    for days_on in range(9):  # a week, and a day for a beginning that clocks have skipped
        day = local.date() + timedelta(days=days_on)
        for window in windows:
            wall = datetime.combine(day, time(window.start // 60, window.start % 60))
            # A wall-clock time that clocks skip is read as the one an hour on; one that they repeat comes twice.
            for fold in (0, 1):
                at = wall.replace(tzinfo=tz, fold=fold).astimezone(UTC).astimezone(tz)
                if at > moment and window.contains(at):
                    candidates.append(at)
        if change := _change(day, tz):
            candidates += [change] if change > moment and is_open(windows, zone, change) else []
    return min(candidates, key=lambda at: at.astimezone(UTC), default=None)


def _change(day: date, tz: ZoneInfo) -> datetime | None:
    """The first minute after the clocks are changed on a day; None where they are not."""
    start = datetime.combine(day, time(), tzinfo=tz).astimezone(UTC)
    minutes = [start + timedelta(minutes=15 * quarter) for quarter in range(4 * 25 + 1)]
    for before, after in pairwise(minutes):
        if before.astimezone(tz).utcoffset() != after.astimezone(tz).utcoffset():
            return after.astimezone(tz)
    return None


def _minute(clock: str, text: str) -> int:
    hour, minute = (int(part) for part in clock.split(":"))
    if not (hour < 24 and minute < 60) and (hour, minute) != (24, 0):
        raise ValueError(f"{text!r} has no time of day in {clock}; it {_EXPECTED}")
    return hour * 60 + minute
