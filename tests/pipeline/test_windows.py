"""Windows of wall-clock time: which moments they hold, also where clocks are changed, and when they open next."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from release_pipeline.spec_windows import Window, is_open, next_opening, parse_window

BERLIN = "Europe/Berlin"


def at(text: str, zone: str = BERLIN, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold)


def opened(windows: list[str], moment: datetime, zone: str = BERLIN) -> bool:
    return is_open([parse_window(text) for text in windows], zone, moment)


def opens(windows: list[str], moment: datetime, zone: str = BERLIN) -> datetime | None:
    return next_opening([parse_window(text) for text in windows], zone, moment)


def test_a_window_begins_with_its_first_minute_and_ends_before_its_last() -> None:
    office = ["mon-thu 09:00-16:00"]
    monday = "2026-11-23"
    assert not opened(office, at(f"{monday}T08:59:59"))
    assert opened(office, at(f"{monday}T09:00"))
    assert opened(office, at(f"{monday}T15:59:59"))
    assert not opened(office, at(f"{monday}T16:00"))
    assert not opened(office, at("2026-11-27T10:00")), "Friday"


def test_no_window_is_always_open_and_the_zone_tells_the_day() -> None:
    assert is_open([], BERLIN, datetime(2026, 1, 1, tzinfo=UTC))
    sydney = ["mon 09:00-17:00"]
    sunday_in_utc = datetime(2026, 11, 22, 23, 0, tzinfo=UTC)
    assert opened(sydney, sunday_in_utc, "Australia/Sydney")
    assert not opened(sydney, sunday_in_utc, "UTC")


def test_a_window_past_midnight_belongs_to_the_day_on_which_it_begins() -> None:
    night = ["fri 22:00-04:00"]
    assert opened(night, at("2026-11-27T23:30"))
    assert opened(night, at("2026-11-28T03:59"))
    assert not opened(night, at("2026-11-28T04:00"))
    assert not opened(night, at("2026-11-28T23:00")), "Saturday night"
    assert opened(["sat 10:00-24:00"], at("2026-11-28T23:59:59"))


def test_an_hour_that_clocks_skip_never_comes() -> None:
    # On 29 March 2026 it is 03:00 one second after 01:59:59.
    skipped = ["sun 02:00-03:00"]
    before = datetime(2026, 3, 29, 0, 59, 59, tzinfo=UTC)
    assert not opened(skipped, before)
    assert not opened(skipped, before + timedelta(seconds=1))
    assert opens(skipped, before) == at("2026-04-05T02:00")


def test_a_window_that_begins_in_a_skipped_hour_opens_when_clocks_go_on() -> None:
    across = ["sun 02:30-05:00"]
    before = datetime(2026, 3, 29, 0, 30, tzinfo=UTC)
    assert opens(across, before) == at("2026-03-29T03:00")
    assert opened(across, at("2026-03-29T03:00"))


def test_an_hour_that_clocks_repeat_is_inside_twice() -> None:
    # On 25 October 2026 it is 02:00 one second after 02:59:59.
    repeated = ["sun 02:30-03:00"]
    first, second = at("2026-10-25T02:45"), at("2026-10-25T02:45", fold=1)
    assert second.astimezone(UTC) - first.astimezone(UTC) == timedelta(hours=1)
    between = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)
    assert opened(repeated, first)
    assert not opened(repeated, between), "02:10 again"
    assert opens(repeated, between) == at("2026-10-25T02:30", fold=1)
    assert opened(repeated, second)


def test_nine_o_clock_is_nine_o_clock_on_both_sides_of_a_change() -> None:
    office = ["daily 09:00-10:00"]
    for day, hour in (("2026-03-28", 8), ("2026-03-29", 7), ("2026-10-24", 7), ("2026-10-25", 8)):
        opening = opens(office, datetime.fromisoformat(f"{day}T00:00").replace(tzinfo=UTC))
        assert opening is not None
        assert opening.astimezone(UTC) == datetime.fromisoformat(f"{day}T{hour:02}:00").replace(tzinfo=UTC)


ZONES = st.sampled_from([BERLIN, "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "UTC"])
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@st.composite
def windows(draw: st.DrawFn) -> list[Window]:
    found = []
    for _ in range(draw(st.integers(1, 3))):
        start, end = draw(st.lists(st.integers(0, 95), min_size=2, max_size=2, unique=True))
        text = ",".join(draw(st.lists(st.sampled_from(DAYS), min_size=1, unique=True)))
        found.append(parse_window(f"{text} {start // 4:02}:{15 * (start % 4):02}-{end // 4:02}:{15 * (end % 4):02}"))
    return found


@given(windows(), ZONES, st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)))
def test_the_next_opening_is_the_first_quarter_of_an_hour_that_is_open(
    found: list[Window], zone: str, moment: datetime
) -> None:
    start = moment.replace(minute=moment.minute // 15 * 15, second=0, microsecond=0, tzinfo=UTC)
    opening = next_opening(found, zone, start)
    quarters = (start + timedelta(minutes=15 * number) for number in range(4 * 24 * 9))
    assert opening == next((at for at in quarters if is_open(found, zone, at)), None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("monday 09:00-10:00", "no window"),
        ("mon 9-10", "no window"),
        ("mon 09:00-09:00", "no length"),
        ("mon 24:00-04:00", "no length"),
        ("mon 09:00-25:00", "no time of day"),
        ("mon 09:60-10:00", "no time of day"),
        ("xyz 09:00-10:00", "no weekday"),
        ("mon-xyz 09:00-10:00", "no weekday"),
        ("", "no window"),
    ],
)
def test_a_text_that_is_no_window_is_told_with_what_one_looks_like(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=rf"{says}.*mon-thu 09:00-16:00"):
        parse_window(text)
