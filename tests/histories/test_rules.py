"""The rules of histories see what they are there to see."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from release_pipeline.rollout.ledger import Action, Entry, Phase
from release_pipeline.workspace.endpoint import EndpointState, ServedEntity
from tests.faults.observer import Sight
from tests.histories.rules import MOST_TICKS_OPEN, Rules
from tests.histories.wire import Asked

DEPLOYED: dict[str, Any] = {
    "challenger_version": "2",
    "champion_version": "1",
    "entities": {"challenger": "m_2", "champion": "m_1"},
}


def row(sequence: int, action: Action, phase: Phase, release: str = "r1", config: int = 1, **after: Any) -> Entry:
    return Entry(
        release=release,
        sequence=sequence,
        at=datetime(2026, 1, 1, 0, sequence, tzinfo=UTC),
        actor="run:0",
        action=action,
        phase=phase,
        before={},
        after=after,
        config_version=config,
        evidence_digest="",
        reason="",
        entry_id=f"e{sequence}",
    )


def sight(*entries: Entry, **routes: int) -> Sight:
    routes = routes or {"m_1": 100, "m_2": 0}
    entities = tuple(ServedEntity(name, "m", name[-1]) for name in routes)
    return Sight(EndpointState("m", "1", True, False, False, 1, entities, routes), "1", entries)


BEGUN = (row(1, Action.DEPLOY, Phase.INTENT, **DEPLOYED), row(2, Action.DEPLOY, Phase.DONE, **DEPLOYED))
STEP = row(3, Action.SET_TRAFFIC, Phase.INTENT, step=0, traffic_percent=40)
BACK = row(3, Action.ROLL_BACK, Phase.INTENT, rejected="2", status="rejected")


def judged(rules: Rules, seen: Sight, *asked: Asked) -> str:
    return "; ".join(rules.judge(seen, asked, at_once=False))


def test_what_is_as_it_should_be_is_no_complaint() -> None:
    rules = Rules()
    assert judged(rules, sight(*BEGUN), Asked({"1": 100, "2": 0}, "e1")) == ""
    assert judged(rules, sight(*BEGUN, STEP), Asked({"1": 60, "2": 40}, "e3")) == ""


def test_two_releases_under_way_and_gaps_are_seen() -> None:
    second = [replace(entry, release="r2", sequence=entry.sequence + 2) for entry in BEGUN]
    assert "are under way at once" in judged(Rules(), sight(*BEGUN, *second))
    assert "numbered" in judged(Rules(), sight(BEGUN[0], replace(BEGUN[1], sequence=3)))


def test_what_is_asked_for_without_an_intent_or_over_a_change_by_hand_is_seen() -> None:
    rules = Rules()
    assert "without an intent" in judged(rules, sight(*BEGUN), Asked({"1": 100}, ""))
    rules.by_hand(2)
    shares = {"1": 60, "2": 40}
    assert "made by hand" in judged(rules, sight(*BEGUN, STEP), Asked(shares, "e3"))
    assert judged(rules, sight(*BEGUN, replace(STEP, config_version=2)), Asked(shares, "e3")) == ""
    assert judged(rules, sight(*BEGUN, BACK), Asked({"1": 100}, "e3")) == "", "a rollback outranks it"


def test_a_rejected_version_that_is_given_traffic_is_seen() -> None:
    rules, done = Rules(), replace(BACK, sequence=4, phase=Phase.DONE, entry_id="e4")
    rules.judge(sight(*BEGUN, BACK, done), [], at_once=False)
    said = judged(rules, sight(*BEGUN, BACK, done, m_1=50, m_2=50), Asked({"1": 50, "2": 50}, "e3"))
    assert "asked for traffic of the rejected versions" in said
    assert "were rejected, and have traffic" in said


def test_a_change_by_hand_is_forgiven_until_all_is_well_again() -> None:
    rules = Rules()
    rules.by_hand(2)
    assert judged(rules, sight(*BEGUN, m_1=50, m_2=50)) == ""
    assert judged(rules, sight(*BEGUN)) == ""
    assert "the ledger says" in judged(rules, sight(*BEGUN, m_1=50, m_2=50))


def test_an_intent_that_stays_open_is_seen() -> None:
    rules, seen = Rules(), sight(*BEGUN, STEP)
    assert [rules.ticked(seen) for _ in range(MOST_TICKS_OPEN)] == [[]] * MOST_TICKS_OPEN
    assert "is open after" in str(rules.ticked(seen))


def test_a_move_while_paused_is_seen_unless_a_person_asked_for_it() -> None:
    seen, asked = sight(*BEGUN, STEP), [Asked({"1": 60, "2": 40}, "e3")]
    assert Rules().judge(seen, asked, at_once=False, paused=True) == ["paused, and yet there was a set_traffic"]
    assert Rules().judge(seen, asked, at_once=False) == []
    by_hand = replace(STEP, after={**STEP.after, "by_hand": True})
    assert Rules().judge(sight(*BEGUN, by_hand), asked, at_once=False, paused=True) == []
    assert "paused" not in judged(Rules(), sight(*BEGUN, BACK), Asked({"1": 100}, "e3"))
