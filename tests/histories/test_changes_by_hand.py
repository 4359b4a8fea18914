"""Histories told step by step: what the pipeline does about what others change under its hands."""

import pytest

from tests.histories.ground import Ground
from tests.histories.play import Deed, Hand, Play
from tests.histories.wire import Wire
from tests.pipeline.killer import Killer, Kills

MOST_WRITES = 12


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("deed", "hand"),
    [
        pytest.param("start", "weights", marks=pytest.mark.slow),
        pytest.param("tick", "touch", marks=pytest.mark.exhaustive),
        pytest.param("override", "weights", marks=pytest.mark.exhaustive),
    ],
)
def test_what_was_begun_is_not_finished_over_a_change_that_came_in_between(
    deed: Deed, hand: Hand, ground: Ground, wire: Wire, killer: Killer
) -> None:
    told: list[str] = []
    for at in range(1, MOST_WRITES):
        play = Play.begin(ground, wire, killer, served=True)
        if deed != "start":
            play.do("start")
            play.ask("hello", 2)
        said = play.do(deed, (at, Kills("writes", "before")))
        play.change(hand, 50)
        play.do("tick")
        told += play.told
        play.rest(onward=True)
        if said != "killed":
            break
    assert any("nothing was written over that" in each for each in told), told


@pytest.mark.slow
def test_a_challenger_that_was_removed_by_hand_gets_no_traffic_until_a_person_decides(
    ground: Ground, wire: Wire, killer: Killer
) -> None:
    play = Play.begin(ground, wire, killer, served=True)
    play.do("pause")
    play.do("start")
    play.change("remove", 100)
    play.do("unpause")
    assert "somebody removed it" in play.do("tick")
    play.rest(onward=True)


@pytest.mark.slow
def test_a_rollback_brings_back_a_champion_that_was_removed_by_hand(ground: Ground, wire: Wire, killer: Killer) -> None:
    play = Play.begin(ground, wire, killer, served=True)
    play.do("start")
    play.change("remove", 0)
    assert "version 1 has all traffic again" in play.do("rollback")
    play.rest(onward=False)
