"""What served when is read off any legal ledger: one state at every time, and the one that was true."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from release_pipeline.operate.history import History, history, serving
from release_pipeline.operate.history_text import answer_text, history_dict
from release_pipeline.operate.moment import parse_moment
from release_pipeline.rollout.ledger import EVENTS, Action, Entry, Phase
from release_pipeline.rollout.rollback_time import seconds_to_zero_traffic
from tests.operate.ledger_stories import BEGIN, Story, stories

#: A little before the first row until long after the last one, so that borders are hit.
MOMENTS = st.integers(-2, 60_000).map(lambda ms: BEGIN + timedelta(milliseconds=ms))


def one_state_at(found: History, moment: datetime) -> None:
    holding = [
        each
        for each in found.served
        if (each.since is None or each.since <= moment) and (each.until is None or moment < each.until)
    ]
    assert len(holding) == 1
    assert found.at(moment).served is holding[0]
    assert sum(holding[0].shares.values()) in (0, 100)
    assert bool(holding[0].shares) == bool(serving(holding[0].shares))


@settings(max_examples=60, deadline=None)
@given(stories(), st.lists(MOMENTS, min_size=1, max_size=5))
def test_at_every_time_exactly_one_state_held_and_it_is_the_true_one(story: Story, moments: list[datetime]) -> None:
    found = history(story.entries)
    for moment in [*moments, *(at for at, _ in story.truth), *(entry.at for entry in story.entries)]:
        one_state_at(found, moment)
        answer = found.at(moment)
        true = [shares for at, shares in story.truth if at <= moment]
        assert serving(answer.served.shares) == (true[-1] if true else {})
        assert (answer.served.since is not None) == bool(true)
        named = [alias for at, alias in story.live if at <= moment]
        assert answer.served.aliases.get("champion") == (named[-1] if named else None)
        under_way = [span for span in story.spans if span[0] <= moment and (span[1] is None or moment < span[1])]
        assert len(answer.under_way) == len(under_way)
        assert answer_text(answer)


@settings(max_examples=25, deadline=None)
@given(stories(), st.data())
def test_a_ledger_that_ends_anywhere_and_clocks_that_disagree_leave_one_state_at_every_time(
    story: Story, data: st.DataObject
) -> None:
    cut = story.entries[: data.draw(st.integers(0, len(story.entries)))]
    skew = st.integers(-5000, 5000).map(lambda ms: timedelta(milliseconds=ms))
    skewed = [replace(entry, at=entry.at + data.draw(skew)) for entry in cut]
    found = history(skewed)
    for moment in [entry.at for entry in skewed] + data.draw(st.lists(MOMENTS, max_size=3)):
        one_state_at(found, moment)
    assert all(each.until is None or each.since <= each.until for each in found.changes)
    assert len(history_dict(found, "m")["events"]) == sum(entry.action in EVENTS for entry in cut)


def row(sequence: int, action: Action, phase: Phase, *, minute: int, actor: str = "run:1", **after: Any) -> Entry:
    at = BEGIN + timedelta(minutes=minute)
    return Entry("r1", sequence, at, actor, action, phase, after=after, evidence_digest="abcdef0123", reason="shown")


DEPLOY: dict[str, Any] = {
    "challenger_version": "2",
    "champion_version": "1",
    "entities": {"challenger": "m_2", "champion": "m_1"},
    "routes": {"m_1": 100, "m_2": 0},
}
ENTRIES = [
    row(1, Action.DEPLOY, Phase.INTENT, minute=0, **DEPLOY),
    row(2, Action.DEPLOY, Phase.DONE, minute=1, **DEPLOY),
    row(3, Action.SET_TRAFFIC, Phase.INTENT, minute=2, routes={"m_1": 75, "m_2": 25}),
    row(4, Action.SET_TRAFFIC, Phase.DONE, minute=4, actor="run:2", routes={"m_1": 75, "m_2": 25}),
    row(5, Action.SET_TRAFFIC, Phase.INTENT, minute=6, routes={"m_1": 50, "m_2": 50}),
    row(6, Action.ROLL_BACK, Phase.INTENT, minute=7, actor="user:ada", routes={"m_1": 100, "m_2": 0}, remove=["m_2"]),
]


def said_at(minute: float, entries: list[Entry] = ENTRIES) -> str:
    return answer_text(history(entries).at(BEGIN + timedelta(minutes=minute)))


def test_the_answer_says_who_did_it_on_what_evidence_and_what_was_under_way() -> None:
    assert said_at(-1).startswith("The ledger begins 2026-03-01 12:00:00 UTC; it does not say")
    assert "version 1 100 %" in said_at(0.5)
    assert "deploy of release r1 found it so (row 1)" in said_at(0.5)
    during, after = said_at(3), said_at(5)
    assert "version 1 100 %, 2 0 %" in during
    assert "under way: set traffic of release r1 by run:1" in during
    assert "meant to give 1 75 %, 2 25 %; done 2026-03-01 12:04:00 UTC" in during
    assert "version 1 75 %, 2 25 %" in after
    assert "by run:1, finished by run:2, on evidence abcdef0123 (row 4): shown" in after
    assert "under way" not in after
    now = said_at(9)
    assert "version 1 75 %, 2 25 %" in now
    assert now.count("under way") == 2, "the step that was given up may have come true, too"
    assert now.count("still open") == 2


def test_a_rollback_counts_from_zero_traffic_and_tells_how_long_it_took() -> None:
    zero = (BEGIN + timedelta(minutes=7, seconds=30)).isoformat()
    done = row(7, Action.ROLL_BACK, Phase.DONE, minute=9, **{**ENTRIES[-1].after, "zero_traffic_at": zero})
    assert seconds_to_zero_traffic(ENTRIES, "r1") is None
    entries = [*ENTRIES, done]
    assert seconds_to_zero_traffic(entries, "r1") == 30
    assert seconds_to_zero_traffic(entries, "r2") is None
    assert "75 %" in said_at(7.4, entries)
    assert "version 1 100 %," in said_at(7.6, entries)
    assert "under way: roll back" in said_at(7.6, entries), "the entity was still to be removed"
    assert "under way" not in said_at(10, entries)
    assert history(entries).served[-1].shares == {"1": 100}, "the rejected version does not stand by either"


@pytest.mark.parametrize(
    ("text", "utc", "naive"),
    [
        ("2026-11-21T14:03:01+01:00", datetime(2026, 11, 21, 13, 3, 1, tzinfo=UTC), False),
        ("2026-11-21T14:03Z", datetime(2026, 11, 21, 14, 3, tzinfo=UTC), False),
        (" 2026-11-21 14:03 ", datetime(2026, 11, 21, 14, 3, tzinfo=UTC), True),
        ("2026-11-21", datetime(2026, 11, 21, tzinfo=UTC), True),
    ],
)
def test_a_time_without_a_zone_is_utc(text: str, utc: datetime, naive: bool) -> None:
    assert parse_moment(text) == (utc, naive)


@pytest.mark.parametrize("text", ["", "yesterday", "14:03", "2026-13-01", "0001-01-01T00:00+23:00"])
def test_what_is_no_time_is_told_with_how_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match=r"2026-11-21T14:03\+01:00"):
        parse_moment(text)
