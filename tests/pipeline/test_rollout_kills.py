"""A run that is killed between any two of its calls is finished, or was never begun, after the next tick.

Killed means: a BaseException after the N-th write of the action, for every N until it ends unharmed. What the server
then holds is looked at; then the functions that the next tick's run would call go on from it with new parts. Every
transition, with processes that are really killed, is in tests/faults.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from release_pipeline.errors import Superseded, UpdateFailed
from release_pipeline.rollout.ledger import Action, Phase
from release_pipeline.rollout.state import Stage, current_release
from release_pipeline.workspace.registry import TAG_REASON, TAG_RELEASE, TAG_STATUS
from tests.pipeline.checkpoint import Checkpoint, World
from tests.pipeline.conftest import Model, next_tick
from tests.pipeline.killer import Killer, Kills

MOST_CALLS = 80
CHAMPION, CHALLENGER = "1", "2"


# Between two writes the server does not change, so a kill after each write leaves every state that a kill can leave.
AFTER_WRITES = Kills("writes", "after")


@pytest.fixture
def killer(monkeypatch: pytest.MonkeyPatch) -> Killer:
    return Killer(monkeypatch)


@dataclass(frozen=True)
class Change:
    """An action on the releases of one model, and what it must come to.

    Attributes:
        act: Begins the action in a run of its own; asked again, it begins anew.
        stage: Where the release is at the end.
        shares: Traffic by version at the end.
        versions: Versions on the endpoint at the end.
        alias: Version of the alias at the end.
        status: Tag of the challenger's version at the end; None where the action does not set it.
        tag_of: The version that is tagged.
        challenger_alias: Version of the alias `challenger` at the end.
    """

    action: Action
    act: Callable[[], Any]
    stage: Stage
    shares: Mapping[str, int]
    versions: set[str]
    alias: str | None
    status: str | None = None
    challenger_alias: str | None = CHALLENGER
    tag_of: str = CHALLENGER


def killed_at(model: Model, release: str, killer: Killer, change: Change, at: int) -> bool:
    """Kill the action at one call, look, let the next tick go on, and look again; False where it was not killed."""
    before = World.of(model)
    killed = killer.kills(change.act, at=at, kills=AFTER_WRITES)
    between = World.of(model)
    begun = len(between.entries) > len(before.entries)
    is_sound(before, between, change, begun)
    if killed:
        ticks = 0
        while next_tick(model, release):
            ticks += 1
        assert ticks <= 1, "one tick is enough to finish what is open"
        assert next_tick(model, release) is False
        if not begun:
            assert World.of(model) == before, "nothing was changed before the intent was written"
            change.act()
    has_come_true(model, release, change, before)
    return killed


def is_sound(before: World, now: World, change: Change, begun: bool) -> None:
    """What holds between any two calls."""
    moved = (now.shares, now.versions, now.alias) != (before.shares, before.versions, before.alias)
    assert begun or not moved, "the intent is written ahead of what it announces"
    assert now.alias in (before.alias, change.alias)
    if before.endpoint is None or change.shares == {}:
        return  # a first release: nobody was served before, or nobody will be
    assert sum(now.shares.values()) == 100
    assert now.shares in (before.shares, change.shares) or (
        # on its way back, the champion has all traffic before the challenger's entity goes
        change.action is Action.ROLL_BACK and now.shares == {CHAMPION: 100}
    )
    if before.alias is not None:
        assert now.alias in now.versions, "the alias names a version that does not serve"
    if now.alias != before.alias:
        assert now.shares == {change.alias: 100}, "the alias moved before the traffic"
    for gone in before.versions - now.versions:
        assert now.shares.get(gone, 0) == 0
        assert now.shares == change.shares, f"version {gone} left before the other had all traffic"
        assert now.alias == change.alias != gone, f"version {gone} left while the alias named it"


def has_come_true(model: Model, release: str, change: Change, before: World) -> None:
    """The end of the action, however often it was killed."""
    now = World.of(model)
    state = current_release(now.entries, release)
    assert state is not None
    assert state.open_intent is None
    assert state.stage is change.stage
    assert now.shares == change.shares
    assert now.versions == change.versions
    assert now.endpoint is None or not now.endpoint.updating
    assert now.alias == change.alias
    assert now.challenger_alias == change.challenger_alias
    assert [entry.sequence for entry in now.entries] == list(range(1, len(now.entries) + 1))
    added = now.entries[len(before.entries) :]
    assert [(entry.action, entry.phase) for entry in added if entry.release == release] == [
        (change.action, Phase.INTENT),
        (change.action, Phase.DONE),
    ], "the intent is written once, and so is its outcome"
    if change.status is not None:
        version = model.parts().registry.get(change.tag_of)
        assert version is not None
        assert version.tags[TAG_STATUS] == change.status
        if change.status == "promoted":
            assert version.tags[TAG_RELEASE] == release


@dataclass
class Changes:
    """The actions on a champion of version 1 and a challenger of version 2."""

    model: Model

    def set_traffic(self, release: str) -> Change:
        return Change(
            Action.SET_TRAFFIC,
            lambda: self.model.step(release),
            Stage.RAMPING,
            {CHAMPION: 75, CHALLENGER: 25},
            {CHAMPION, CHALLENGER},
            CHAMPION,
        )

    def promote(self, release: str) -> Change:
        return Change(
            Action.PROMOTE,
            lambda: self.model.promote(release),
            Stage.PROMOTED,
            {CHALLENGER: 100},
            {CHAMPION, CHALLENGER},
            CHALLENGER,
            status="promoted",
            challenger_alias=None,
        )

    def roll_back(self, release: str) -> Change:
        return Change(
            Action.ROLL_BACK,
            lambda: self.model.parts("run").rollout.roll_back(release, reason="it is worse"),
            Stage.ROLLED_BACK,
            {CHAMPION: 100},
            {CHAMPION},
            CHAMPION,
            status="rejected",
            challenger_alias=None,
        )


@pytest.fixture
def changes(model: Model) -> Changes:
    """A champion that serves, and a registered challenger."""
    assert (model.champion(), model.register("second")) == (CHAMPION, CHALLENGER)
    return Changes(model)


def until_unharmed(kill_at: Callable[[int], bool]) -> None:
    """Kill at the first call, at the second, and so on until nothing is left to be killed."""
    for at in range(1, MOST_CALLS):
        if not kill_at(at):
            return
    raise AssertionError(f"an action takes more than {MOST_CALLS} calls")


def test_a_deployment_that_failed_and_is_started_again_is_finished_after_a_kill_behind_each_of_its_writes(
    changes: Changes, killer: Killer, set_faults: Callable[..., Any]
) -> None:
    model, release = changes.model, changes.model.release()
    set_faults(updates_to_fail=1)
    with pytest.raises(UpdateFailed):
        model.deploy(release, CHALLENGER)
    entity = model.entity(CHALLENGER)

    def again() -> None:
        model.parts().rollout.deploy(release, CHALLENGER, entity, table_version=0)

    # The first write of each makes the ledger, if there is none; both tags are written again until both are there.
    for write, at in (("intent", 2), ("endpoint", 2), ("alias", 2), ("reason", 2), ("status", 3)):
        assert killer.kills(again, at=at, kills=AFTER_WRITES), write
    assert not killer.kills(again, at=3, kills=AFTER_WRITES)
    found, world = model.parts().registry.get(CHALLENGER), World.of(model)
    assert found is not None
    assert (found.tags[TAG_STATUS], found.tags[TAG_REASON]) == ("challenger", "")
    assert (world.shares, world.versions) == ({CHAMPION: 100}, {CHAMPION, CHALLENGER})
    assert (world.alias, world.challenger_alias) == (CHAMPION, CHALLENGER)


def test_a_killed_traffic_step_and_a_killed_promotion_are_finished(
    beside_champion: tuple[Model, Checkpoint], killer: Killer
) -> None:
    model, deployed = beside_champion
    changes = Changes(model)
    points = {"set_traffic": 0, "promote": 0}

    def kill_at(at: int) -> bool:
        release = deployed.restore(model)
        stepped = killed_at(model, release, killer, changes.set_traffic(release), at)
        promoted = killed_at(model, release, killer, changes.promote(release), at)
        points["set_traffic"] += stepped
        points["promote"] += promoted
        return stepped or promoted

    until_unharmed(kill_at)
    assert points["set_traffic"] >= 3
    assert points["promote"] >= 5


@pytest.mark.parametrize("promoting", [False, True], ids=["in-the-ramp", "in-a-killed-promotion"])
def test_a_rollback_that_is_killed_again_and_again_comes_to_its_end(
    promoting: bool, changes: Changes, killer: Killer
) -> None:
    model = changes.model
    model.deploy(release := model.release(), CHALLENGER)
    model.step(release)
    if promoting:
        # Killed when the traffic has moved and the alias has not; the rollback outranks what is open.
        assert killer.kills(changes.promote(release).act, at=2, kills=Kills("writes", "after"))
        model.parts().endpoint.wait(timeout_seconds=60, progress=model.said.append)
        assert World.of(model).shares == {CHALLENGER: 100}
    before = World.of(model)
    for at in range(1, MOST_CALLS):
        killed = killer.kills(changes.roll_back(release).act, at=at, kills=Kills("calls", "before"))
        now = World.of(model)
        state = current_release(now.entries, release)
        assert state is not None
        assert now.alias == CHAMPION in now.versions
        begun = len(now.entries) > len(before.entries)
        # Never neither: what is open stays open until the rollback takes its place, which stays open until it is done.
        assert state.open_intent is not None or state.stage is Stage.ROLLED_BACK or not (promoting or begun)
        if not killed:
            break
    assert at > 15
    assert state.stage is Stage.ROLLED_BACK
    assert state.open_intent is None
    assert (now.shares, now.versions) == ({CHAMPION: 100}, {CHAMPION})
    assert [entry.phase for entry in now.entries[len(before.entries) :]] == [Phase.INTENT, Phase.DONE]
    assert not next_tick(model, release)


def test_a_run_that_comes_late_does_not_act_on_what_it_saw(deployed: tuple[Model, str]) -> None:
    model, release = deployed
    seen = model.config()
    model.step(release)
    with pytest.raises(Superseded, match="nothing was changed"):
        model.parts("late run").rollout.set_traffic(
            release, step=1, expected_config=seen, evidence_digest="", reason="what it saw"
        )
    assert World.of(model).shares == {CHAMPION: 75, CHALLENGER: 25}
    assert current_release(model.parts().ledger.read(), release).step == 0
