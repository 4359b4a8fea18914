"""A run that writes after a rollback it did not see: the rejected version has no traffic in the end, and it is told."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import dagster as dg
import pytest
import requests
from databricks.sdk.errors.platform import TemporarilyUnavailable

from release_pipeline.errors import Superseded, WorkspaceError
from release_pipeline.rollout.ledger import Action, Phase
from release_pipeline.rollout.rollback_time import seconds_to_zero_traffic
from release_pipeline.rollout.rolling_back import came_back
from release_pipeline.rollout.state import ReleaseState, Stage
from release_pipeline.workspace.endpoint import Endpoint
from release_pipeline.workspace.registry import SUPERSEDED, TAG_STATUS, Registry
from tests.pipeline.checkpoint import World
from tests.pipeline.conftest import Model, TurnedClock, together
from tests.pipeline.test_sensor import request, sentence, tick


def held(monkeypatch: pytest.MonkeyPatch, owner: type, write: str, act: Callable[[], Any]) -> Callable[[], Any]:
    """Begin ``act`` in a thread of its own, up to its first ``write``; what lets it go on and tells what it came to."""
    reached, go_on = threading.Event(), threading.Event()
    real, results = getattr(owner, write), list[Any]()

    def slow(self: Any, *args: Any) -> None:
        if threading.current_thread() is thread and not reached.is_set():
            reached.set()
            go_on.wait(60)
        real(self, *args)

    def run() -> None:
        try:
            results.append(act())
        except Exception as error:
            results.append(error)

    def release() -> Any:
        go_on.set()
        thread.join(100)
        assert results, "it did not end"
        return results[0]

    monkeypatch.setattr(owner, write, slow)
    thread = threading.Thread(target=run)
    thread.start()
    assert reached.wait(60)
    return release


@pytest.mark.parametrize(
    ("act", "write"),
    [
        ("step", "update"),
        pytest.param("promote", "update", marks=pytest.mark.slow),
        pytest.param("promote", "set_alias", marks=pytest.mark.slow),
        pytest.param("promote", "tag", marks=pytest.mark.slow),
        pytest.param("retire", "update", marks=pytest.mark.slow),
    ],
    ids=["a step", "a promotion", "the alias of a promotion", "the tags of a promotion", "the end of the bake"],
)
def test_a_write_that_comes_after_a_rollback_is_taken_back(
    act: str, write: str, deployed: tuple[Model, str], monkeypatch: pytest.MonkeyPatch, instance: dg.DagsterInstance
) -> None:
    model, release = deployed
    model.step(release)
    if act == "retire":
        model.promote(release)
    acts: dict[str, Callable[[], Any]] = {
        "step": lambda: model.step(release, 1),
        "promote": lambda: model.promote(release),
        "retire": lambda: model.parts("run:slow").rollout.retire(release, by_hand=True),
    }
    owner = Endpoint if write == "update" else Registry
    let_go = held(monkeypatch, owner, write, acts[act])
    model.parts("user:ada").rollout.roll_back(release, reason="wrong prices")
    told = let_go()
    assert isinstance(told, Superseded), told
    assert "roll_back by user:ada came after this" in str(told)
    assert "the release was rolled back once more, and verified" in str(told)
    world = World.of(model)
    assert (world.shares, world.versions, world.alias) == ({"1": 100}, {"1"}, "1")
    found = model.parts().registry.get("2")
    assert found is not None
    assert (found.tags[TAG_STATUS], found.tags["release_pipeline.reason"]) == ("rejected", "wrong prices")
    rollbacks = [entry.phase for entry in world.entries if entry.release == release and entry.action == "roll_back"]
    assert rollbacks == [Phase.INTENT, Phase.DONE] * 2
    assert "is rolled back" in sentence(tick(model.spec, instance))
    assert model.parts().rollout.roll_back(release, reason="again").stage is Stage.ROLLED_BACK
    assert len(World.of(model).entries) == len(world.entries), "asked again it happens no more"


def test_a_write_that_lands_when_its_run_is_gone_is_found_by_the_next_tick(
    deployed: tuple[Model, str], instance: dg.DagsterInstance
) -> None:
    model, release = deployed
    state, parts = model.step(release), model.parts()
    before = parts.endpoint.read()
    parts.rollout.roll_back(release, reason="replaced by another", status=SUPERSEDED)
    assert before is not None
    parts.endpoint.update(before.entities, {state.entities["champion"]: 50, state.entities["challenger"]: 50})
    parts.endpoint.wait(timeout_seconds=60, progress=model.said.append)
    wanted = request(tick(model.spec, instance))
    assert (wanted.job_name, wanted.partition_key) == (f"{model.spec.name}_rollback", release)
    config = wanted.run_config["ops"][f"{model.spec.name}_roll_back"]["config"]
    parts.rollout.roll_back(release, **config)
    world = World.of(model)
    assert (world.shares, world.versions) == ({"1": 100}, {"1"})
    assert "no release under way" in sentence(tick(model.spec, instance))
    found = parts.registry.get("2")
    assert found is not None
    assert found.tags[TAG_STATUS] == SUPERSEDED, "it was not found to be bad by this"


def test_an_update_is_asked_once_and_again_only_behind_a_look_at_the_ledger(
    deployed: tuple[Model, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from databricks.sdk import _base_client

    model, release = deployed
    perform, tries = _base_client._BaseClient._perform, list[str]()

    def busy(self: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        if method == "PUT":
            tries.append(method)
            if len(tries) == 2:
                model.parts("user:ada").rollout.begin_roll_back(release, reason="wrong prices")
            raise TemporarilyUnavailable("try again", retry_after_secs=1)
        return perform(self, method, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(_base_client._BaseClient, "_perform", busy)
        patch.setattr("release_pipeline.rollout.rolling_back._LOOKS", 1)
        with pytest.raises(Superseded, match="is taken back by the rollback, which is still open"):
            model.step(release)
    assert len(tries) == 2, "the third would have come after the rollback"
    model.parts().rollout.roll_back(release, reason="wrong prices")
    assert World.of(model).shares == {"1": 100}


def test_an_update_that_the_service_does_not_take_at_first_is_done_by_the_same_run(
    deployed: tuple[Model, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from databricks.sdk import _base_client

    model, release = deployed
    perform, tries = _base_client._BaseClient._perform, list[str]()

    def drops(self: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        answer = perform(self, method, *args, **kwargs)
        if method == "PUT" and not tries:
            tries.append(method)
            raise TimeoutError("no answer came")
        return answer

    monkeypatch.setattr(_base_client._BaseClient, "_perform", drops)
    assert model.step(release).traffic_percent == 25
    assert tries


def test_a_rollback_is_in_the_ledger_whatever_the_endpoint_says_and_whoever_writes(
    deployed: tuple[Model, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, release = deployed
    model.step(release)
    parts = model.parts("user:ada")
    ledger, append, said = type(parts.ledger), type(parts.ledger).append, list[str]()

    def raced(self: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs["action"] is Action.ROLL_BACK and len(said) < 2:
            said.append("pause")
            model.parts("user:eve").events.pause(f"said {len(said)}")
            model.parts("user:eve").events.unpause("go on")
        return append(self, *args, **kwargs)

    def down(self: Endpoint) -> None:
        raise WorkspaceError("endpoint could not be read: 503")

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "append", raced)
        patch.setattr(Endpoint, "read", down)
        with pytest.raises(WorkspaceError, match="503"):
            parts.rollout.roll_back(release, reason="wrong prices")
    state = model.parts().rollout.state(release)
    assert state is not None
    assert state.open_intent is not None
    assert (state.open_intent.action, state.open_intent.actor) == (Action.ROLL_BACK, "user:ada")
    assert len(said) == 2
    model.parts().rollout.roll_back(release, reason="wrong prices")
    assert World.of(model).shares == {"1": 100}


def test_a_rejection_wins_over_a_rollback_that_only_makes_way(deployed: tuple[Model, str]) -> None:
    model, release = deployed
    model.step(release)
    rollout = model.parts().rollout
    rollout.begin_roll_back(release, reason="replaced by release 2", status=SUPERSEDED)
    rollout.begin_roll_back(release, reason="replaced by release 2")
    assert rollout.state(release).open_intent.after["status"] == SUPERSEDED, "the same request"  # type: ignore[union-attr]
    rollout.roll_back(release, reason="wrong prices")
    found = model.parts().registry.get("2")
    assert found is not None
    assert (found.tags[TAG_STATUS], found.tags["release_pipeline.reason"]) == ("rejected", "wrong prices")
    rows = [entry for entry in World.of(model).entries if entry.release == release]
    assert seconds_to_zero_traffic(rows, release) is not None


def test_a_rollback_that_is_asked_for_during_an_update_waits_it_out_and_is_done(
    deployed: tuple[Model, str], set_faults: Callable[..., requests.Response]
) -> None:
    model, release = deployed
    model.step(release)
    state = model.parts().rollout.state(release)
    now = model.parts().endpoint.read()
    assert state is not None
    assert now is not None
    names = state.entities
    set_faults(update_seconds=2)
    model.parts().endpoint.update(now.entities, {names["champion"]: 40, names["challenger"]: 60})
    model.parts("user:ada").rollout.roll_back(release, reason="wrong prices")
    assert any("waiting for the update in progress" in line for line in model.said)
    world = World.of(model)
    assert (world.shares, world.alias) == ({"1": 100}, "1")
    rollbacks = [entry.phase for entry in world.entries if entry.release == release and entry.action == "roll_back"]
    assert rollbacks == [Phase.INTENT, Phase.DONE]


@pytest.mark.slow
def test_two_rollbacks_at_the_same_moment_are_one(deployed: tuple[Model, str]) -> None:
    model, release = deployed
    model.step(release)
    asked = [
        lambda who=who: model.parts(who).rollout.roll_back(release, reason=f"asked by {who}")  # type: ignore[misc]
        for who in ("user:ada", "user:grace")
    ]
    states = together(*asked)
    assert [state.stage for state in states] == [Stage.ROLLED_BACK] * 2, states
    ledger = model.parts().ledger.read()
    rows = [entry for entry in ledger if (entry.release, entry.action) == (release, Action.ROLL_BACK)]
    assert [entry.phase for entry in rows] == [Phase.INTENT, Phase.DONE]
    assert {state.reason for state in states} == {rows[0].reason}
    assert World.of(model).shares == {"1": 100}


def test_an_alias_that_arrives_after_a_rollback_is_put_back_by_the_next_tick(
    deployed: tuple[Model, str], instance: dg.DagsterInstance
) -> None:
    model, release = deployed
    model.step(release)
    model.parts().rollout.roll_back(release, reason="wrong prices")
    alias = model.spec.promotion.alias
    model.parts().registry.set_alias(alias, "2")  # of a promotion whose run was killed meanwhile
    wanted = request(tick(model.spec, instance))
    assert (wanted.job_name, wanted.partition_key) == (f"{model.spec.name}_rollback", release)
    model.parts().rollout.roll_back(release, reason="wrong prices")
    assert World.of(model).alias == "1"
    model.parts().registry.set_alias(alias, "2")
    later = TurnedClock()
    later.advance(3600)
    rollout = replace(model.parts().rollout, clock=later)
    assert came_back(rollout, stands(model, release)) == "", "by then it is a change by hand"
    model.parts().registry.set_alias(alias, "1")


def stands(model: Model, release: str) -> ReleaseState:
    state = model.parts().rollout.state(release)
    assert state is not None
    return state
