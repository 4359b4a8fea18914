"""What is tried again and again, and looks that are taken anew before something is removed or moved."""

import re
from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from release_pipeline.assets.canary_traffic import take_step
from release_pipeline.automation import gate_sensor
from release_pipeline.automation.jobs import ACTION_TAG
from release_pipeline.errors import EndpointError, NotAllowed, Superseded
from release_pipeline.rollout.deployment import planned_promotion
from release_pipeline.rollout.ledger import EVENTS, Action, Entry, Ledger, Phase
from release_pipeline.rollout.observer import Observer
from release_pipeline.rollout.state import Stage
from release_pipeline.spec import ReleaseSpec
from release_pipeline.spec_rollout import AutomationPart, RampPart
from release_pipeline.workspace.endpoint import Endpoint
from tests.pipeline.checkpoint import World
from tests.pipeline.conftest import Model, eventually
from tests.pipeline.test_sensor import request, sentence, tick

pytestmark = pytest.mark.slow


def impatient(spec: ReleaseSpec, **parts: Any) -> ReleaseSpec:
    return spec.model_copy(update={"automation": AutomationPart(most_attempts=1), **parts})


def fail(instance: dg.DagsterInstance, wanted: dg.RunRequest) -> str:
    """A run that was asked for, and failed; the beginning of its id."""
    tags = {**wanted.tags, "dagster/partition": str(wanted.partition_key)}
    run = create_run_for_test(instance, job_name=str(wanted.job_name), tags=tags)
    instance.report_run_failed(run)
    return str(run.run_id)[:8]


def opened(model: Model, release: str, action: Action, after: dict[str, Any]) -> None:
    """An intent whose run was killed."""
    ledger = model.parts().ledger
    ledger.append(
        ledger.read(), release=release, actor="run:killed", action=action, phase=Phase.INTENT, after=after, reason="so"
    )


def acts(model: Model) -> list[Entry]:
    return [entry for entry in model.parts().ledger.read() if entry.action not in EVENTS]


def test_a_step_that_fails_too_often_freezes_where_the_policy_is_to_freeze(
    deployed: tuple[Model, str], instance: dg.DagsterInstance
) -> None:
    model, release = deployed
    spec = impatient(model.spec, ramp=RampPart(steps=model.spec.ramp.steps, min_step_seconds=0, on_harm="freeze"))
    run = fail(instance, request(tick(spec, instance)))
    told = sentence(tick(spec, instance))
    assert told.startswith(f"step_0 failed 1 times (automation.most_attempts), last in run {run}")
    state = model.parts().rollout.state(release)
    assert state is not None
    assert state.frozen is not None
    assert (state.stage, state.frozen.reason) == (Stage.DEPLOYED, told)
    assert "frozen since" in sentence(tick(spec, instance))


def test_attempts_count_that_are_recorded_as_failed(
    deployed: tuple[Model, str], instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, release = deployed
    spec = model.spec.model_copy(update={"automation": AutomationPart(most_attempts=2)})

    def refuse(self: Endpoint, *args: Any, **named: Any) -> None:
        raise EndpointError("endpoint refused the new configuration: quota.")

    monkeypatch.setattr(Endpoint, "update", refuse)
    for _ in range(2):
        wanted = eventually(lambda: tick(spec, instance).run_requests)[0]
        assert wanted.tags[ACTION_TAG] == "step_0"
        tags = {**wanted.tags, "dagster/partition": release}
        run = create_run_for_test(instance, job_name=str(wanted.job_name), tags=tags)
        with pytest.raises(EndpointError):
            take_step(model.parts(), spec, release)
        assert (acts(model)[-1].action, acts(model)[-1].phase) == (Action.SET_TRAFFIC, Phase.FAILED)
        instance.report_run_failed(run)
    assert request(tick(spec, instance)).job_name == f"{spec.name}_rollback"


def test_a_first_release_that_serves_is_frozen_and_never_taken_from_its_users(
    make_model: Callable[..., Model], instance: dg.DagsterInstance
) -> None:
    tolerant = {"name": "errors", "kind": "errors", "margin": 0.3}
    model = make_model(
        gate={"metrics": [tolerant], "bucket_seconds": 1},
        promotion={"automatic": True, "bake_seconds": 60},
        automation={"most_attempts": 1},
    )
    release = model.release()
    model.deploy(release, model.register("first"))
    fail(instance, request(tick(model.spec, instance)))
    assert sentence(tick(model.spec, instance)).startswith("promote failed 1 times (automation.most_attempts)")
    state = model.parts().rollout.state(release)
    assert state is not None
    assert state.frozen is not None
    assert "a person must roll the release back" in sentence(tick(model.spec, instance))
    assert set(model.ask(3)) == {200}


@pytest.mark.parametrize("done", ["nothing", "its traffic"])
def test_an_open_promotion_of_a_frozen_release_is_closed_or_else_tried_further_but_seldom(
    done: str, deployed: tuple[Model, str], instance: dg.DagsterInstance
) -> None:
    model, release = deployed
    state = model.step(release)
    freezes = RampPart(steps=model.spec.ramp.steps, min_step_seconds=0, on_harm="freeze")
    spec, parts = impatient(model.spec, ramp=freezes), model.parts()
    before, after = planned_promotion(spec, state, "")
    parts.ledger.append(
        parts.ledger.read(),
        release=release,
        actor="run:killed",
        action=Action.PROMOTE,
        phase=Phase.INTENT,
        before=before,
        after=after,
        config_version=model.config(),
        reason="so",
    )
    if done == "its traffic":
        now = parts.endpoint.read()
        assert now is not None
        parts.endpoint.update(now.entities, after["routes"])
        parts.endpoint.wait(timeout_seconds=60, progress=model.said.append)
    fail(instance, request(tick(spec, instance)))
    told = sentence(tick(spec, instance))
    assert told.startswith("finish_promote failed 1 times (automation.most_attempts)")
    state = parts.rollout.state(release)  # type: ignore[assignment]
    assert state.frozen is not None
    if done == "nothing":
        assert (state.open_intent, state.steps[-1].ended_at) == (None, None)
        assert "frozen since" in sentence(tick(spec, instance))
    else:
        assert state.open_intent is not None
        pause = re.search(r"next try in (\d+) s", told)
        assert pause is not None
        assert int(pause[1]) > 500


def test_a_rollback_is_never_given_up(deployed: tuple[Model, str], instance: dg.DagsterInstance) -> None:
    model, release = deployed
    model.parts().rollout.begin_roll_back(release, reason="worse")
    spec, before = impatient(model.spec), model.parts().ledger.read()
    for _ in range(2):
        wanted = eventually(lambda: tick(spec, instance).run_requests)[0]
        assert wanted.job_name == f"{spec.name}_rollback"
        fail(instance, wanted)
        assert "next try in" in sentence(tick(spec, instance))
    assert model.parts().ledger.read() == before


def test_a_rollback_whose_machine_died_is_waited_for_no_longer_than_two_minutes(
    deployed: tuple[Model, str], instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, release = deployed
    job, tags = f"{model.spec.name}_rollback", {"dagster/partition": release}
    model.step(release)
    model.parts().rollout.begin_roll_back(release, reason="worse")
    dead = create_run_for_test(instance, job_name=job, tags=tags, status=dg.DagsterRunStatus.STARTED)
    assert f"waiting for run {dead.run_id[:8]} ({job})" in sentence(tick(model.spec, instance))
    monkeypatch.setattr(gate_sensor, "ROLLBACK_PATIENCE_SECONDS", 1e-3)
    assert request(tick(model.spec, instance)).job_name == job
    monkeypatch.setattr(gate_sensor, "ROLLBACK_PATIENCE_SECONDS", 60.0)
    again = create_run_for_test(instance, job_name=job, tags=tags, status=dg.DagsterRunStatus.STARTED)
    assert f"waiting for run {again.run_id[:8]} ({job})" in sentence(tick(model.spec, instance)), "for the newest"


def test_an_end_of_a_bake_that_fails_too_often_is_given_up_and_the_version_stays_live(
    deployed: tuple[Model, str], instance: dg.DagsterInstance
) -> None:
    model, release = deployed
    model.step(release)
    model.promote(release)
    opened(model, release, Action.RETIRE, {"routes": {}, "remove": []})
    spec, world = impatient(model.spec), World.of(model)
    wanted = request(tick(spec, instance))
    assert wanted.job_name == f"{spec.name}_retire"
    run = fail(instance, wanted)
    told = sentence(tick(spec, instance))
    assert told.startswith(f"finish_retire failed 1 times (automation.most_attempts), last in run {run}")
    newest = acts(model)[-1]
    assert (newest.action, newest.phase, newest.reason) == (Action.RETIRE, Phase.FAILED, told)
    state = model.parts().rollout.state(release)
    assert state is not None
    assert (state.stage, state.open_intent, state.steps[-1].ended_at) == (Stage.PROMOTED, None, None)
    assert (World.of(model).shares, World.of(model).versions) == (world.shares, world.versions)
    assert "its bake ends in" in sentence(tick(spec, instance)), "it goes on, guards and all"


def test_the_end_of_a_bake_looks_at_the_endpoint_again_before_it_removes_anything(
    deployed: tuple[Model, str],
) -> None:
    model, release = deployed
    model.step(release)
    state, parts = model.promote(release), model.parts()
    now = parts.endpoint.read()
    assert now is not None
    names = state.entities
    parts.endpoint.update(now.entities, {names["champion"]: 100, names["challenger"]: 0})
    parts.endpoint.wait(timeout_seconds=60, progress=model.said.append)
    before = acts(model)
    with pytest.raises(NotAllowed, match="somebody changed it during the bake: the old champion stays"):
        parts.rollout.retire(release)
    assert (acts(model), World.of(model).shares) == (before, {"1": 100})
    assert World.of(model).versions == {"1", "2"}


def test_a_champion_that_was_taken_off_by_hand_is_served_again_by_the_rollback(deployed: tuple[Model, str]) -> None:
    model, release = deployed
    state, parts = model.step(release), model.parts()
    now = parts.endpoint.read()
    assert now is not None
    left = tuple(entity for entity in now.entities if entity.name == state.entities["challenger"])
    parts.endpoint.update(left, {left[0].name: 100})
    parts.endpoint.wait(timeout_seconds=60, progress=model.said.append)
    assert World.of(model).shares == {"2": 100}
    assert parts.rollout.roll_back(release, reason="worse").stage is Stage.ROLLED_BACK
    world = World.of(model)
    assert (world.shares, world.versions, world.alias) == ({"1": 100}, {"1"}, "1")
    assert set(model.ask(5)) == {200}


@pytest.mark.parametrize("moment", ["after the look", "after the ledger was read"])
def test_a_pause_that_comes_between_the_look_and_the_intent_is_honoured(
    moment: str, deployed: tuple[Model, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, release = deployed
    events, look, append = model.parts("user:ada").events, Observer.look, Ledger.append

    def paused_after_look(self: Observer, *args: Any, **named: Any) -> Any:
        seen = look(self, *args, **named)
        events.pause("incident 12")
        return seen

    def paused_before_intent(self: Ledger, *args: Any, **named: Any) -> Any:
        if named["action"] is Action.SET_TRAFFIC:
            events.pause("incident 12")
        return append(self, *args, **named)

    before = acts(model)
    with monkeypatch.context() as patch:
        if moment == "after the look":
            patch.setattr(Observer, "look", paused_after_look)
        else:
            patch.setattr(Ledger, "append", paused_before_intent)
        with pytest.raises(Superseded, match="nothing was changed"):
            take_step(model.parts(), model.spec, release)
    try:
        entries = model.parts().ledger.read()
        assert (entries[-1].action, acts(model)) == (Action.PAUSE, before)
        assert World.of(model).shares == {"1": 100}
    finally:
        events.unpause("over")  # the model is shared


def test_a_pause_holds_the_end_of_a_bake_and_not_a_person_who_asks_for_it(deployed: tuple[Model, str]) -> None:
    model, release = deployed
    model.step(release)
    model.promote(release)
    parts = model.parts()
    parts.events.pause("incident 12")
    try:
        with pytest.raises(Superseded, match="pause by test came in between"):
            parts.rollout.retire(release)
        assert World.of(model).versions == {"1", "2"}
        assert parts.rollout.retire(release, by_hand=True).stage is Stage.FINISHED
    finally:
        parts.events.unpause("over")
