"""A move whose run was killed between its intent and its write: what speaks against it counts before it is finished."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import dagster as dg
import pytest

from release_pipeline.assets.canary_traffic import take_step
from release_pipeline.assets.promoted_alias import promote
from release_pipeline.automation.jobs import ACTION_TAG
from release_pipeline.errors import NotAllowed
from release_pipeline.rollout.ledger import EVENTS, Action, Entry, Phase
from release_pipeline.rollout.state import ReleaseState, Stage
from release_pipeline.rollout.verified_write import VerifiedWrite
from release_pipeline.spec import ReleaseSpec
from release_pipeline.spec_rollout import PromotionPart, RampPart
from tests.pipeline.checkpoint import World
from tests.pipeline.conftest import Model, eventually
from tests.pipeline.test_sensor import request, sentence, tick

pytestmark = pytest.mark.slow

NEVER: dict[str, Any] = {"windows": ("mon 00:00-00:01",), "timezone": "Pacific/Kiritimati"}


class Killed(BaseException):
    """A run that is no more."""


def killed(model: Model, act: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """``act``, killed between its intent and its write."""

    def kill(self: VerifiedWrite, intent: Entry) -> None:
        raise Killed

    with monkeypatch.context() as patch, suppress(Killed):
        patch.setattr(VerifiedWrite, "carry_out", kill)
        act()


def stands(model: Model, release: str) -> ReleaseState:
    state = model.parts().rollout.state(release)
    assert state is not None
    return state


def entities(model: Model, release: str) -> dict[str, str]:
    """Served entity ids by version, as tracers have shown them."""
    evidence = model.parts().observer.evidence
    eventually(lambda: model.parts().observer.look(release) and {"1", "2"} <= set(evidence.mapping().values()))
    return {version: entity for entity, version in evidence.mapping().items()}


def failures(model: Model, ids: dict[str, str]) -> None:
    """Rows of both versions, as the endpoint logs them: the challenger's are failures."""
    for version, status in (("1", 200), ("2", 500)):
        model.parts().workspace.warehouse.execute(
            f"INSERT INTO {model.spec.payload_table} "
            "(databricks_request_id, request_time, status_code, served_entity_id, response) "
            f"SELECT uuid(), current_timestamp(), {status}, '{ids[version]}', '{{}}' FROM range(20)"
        )


def acts(model: Model) -> list[Entry]:
    return [entry for entry in model.parts().ledger.read() if entry.action not in EVENTS]


@pytest.mark.parametrize("action", [Action.PROMOTE, Action.SET_TRAFFIC])
def test_harm_that_shows_while_a_move_is_open_takes_the_release_back_even_while_paused(
    action: Action, deployed: tuple[Model, str], instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, release = deployed
    model.step(release)
    ids = entities(model, release)
    begin = model.promote if action is Action.PROMOTE else lambda key: model.step(key, 1)
    killed(model, lambda: begin(release), monkeypatch)
    assert request(tick(model.spec, instance)).tags[ACTION_TAG] == f"finish_{action.value}"

    def asked() -> dg.SensorResult | None:
        failures(model, ids)
        result = tick(model.spec, instance)
        return result if request(result).tags[ACTION_TAG] == "roll_back" else None

    wanted = request(eventually(asked))
    assert wanted.job_name == f"{model.spec.name}_rollback"
    assert "errors is 100 %" in wanted.run_config["ops"][f"{model.spec.name}_roll_back"]["config"]["reason"]
    model.parts("user:ada").events.pause("incident 12")
    try:
        if action is Action.PROMOTE:
            with pytest.raises(NotAllowed, match=r"was begun, and is not finished: .*errors is 100 %"):
                promote(model.parts(), release)
        else:
            take_step(model.parts(), model.spec, release)
    finally:
        model.parts("user:ada").events.unpause("over")
    world = World.of(model)
    assert (world.shares, world.alias, stands(model, release).stage) == ({"1": 100}, "1", Stage.ROLLED_BACK)
    version = model.parts().registry.get("2")
    assert version is not None
    assert "errors is 100 %" in version.tags["release_pipeline.reason"]


@pytest.mark.parametrize("who", ["the tick", "a run"])
@pytest.mark.parametrize("held", ["paused", "outside its windows", "not approved"])
def test_a_promotion_that_is_held_by_now_is_closed_where_nothing_of_it_was_done(
    held: str, who: str, deployed: tuple[Model, str], instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, release = deployed
    model.step(release)
    killed(model, lambda: model.promote(release), monkeypatch)
    now = model.spec.promotion
    promotion = {"outside its windows": NEVER, "not approved": {"approval": "required"}}.get(held, {})
    monkeypatch.setattr(model, "spec", model.spec.model_copy(update={"promotion": now.model_copy(update=promotion)}))
    if held == "paused":
        model.parts("user:ada").events.pause("incident 12")
    try:
        if who == "a run":
            with pytest.raises(NotAllowed, match="was begun, and is not finished: Hold: "):
                promote(model.parts(), release)
        else:
            assert sentence(tick(model.spec, instance)).startswith("closed the open promote: Hold: ")
    finally:
        if held == "paused":
            model.parts("user:ada").events.unpause("over")
    newest = acts(model)[-1]
    assert (newest.action, newest.phase) == (Action.PROMOTE, Phase.FAILED)
    assert newest.reason.startswith("promote was begun by test and is not finished: Hold: ")
    state = stands(model, release)
    assert (state.stage, state.open_intent, state.steps[-1].ended_at) == (Stage.RAMPING, None, None)
    assert (World.of(model).shares, World.of(model).alias) == ({"1": 75, "2": 25}, "1")


def is_finished_while_paused(model: Model, release: str, instance: dg.DagsterInstance) -> None:
    events = model.parts("user:ada").events
    events.pause("incident 12")
    try:
        assert request(tick(model.spec, instance)).tags[ACTION_TAG] == "finish_promote"
        promote(model.parts(), release)
    finally:
        events.unpause("over")
    assert (World.of(model).alias, stands(model, release).stage) == ("2", Stage.PROMOTED)


def test_a_promotion_that_has_its_traffic_is_finished_while_paused(
    deployed: tuple[Model, str], instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, release = deployed
    model.step(release)

    def kill(self: VerifiedWrite, *args: object, **named: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, suppress(Killed):
        patch.setattr(VerifiedWrite, "_ensure_alias", kill)
        model.promote(release)
    assert World.of(model).shares == {"2": 100}
    is_finished_while_paused(model, release, instance)


def test_a_promotion_by_hand_against_the_gate_is_finished_whatever_holds_the_others(
    deployed: tuple[Model, str], instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, release = deployed
    model.step(release)
    rollout, config = model.parts("user:ada").rollout, model.config()
    how: dict[str, Any] = {"expected_config": config, "evidence_digest": "", "reason": "I know", "by_hand": True}
    killed(model, lambda: rollout.promote(release, **how), monkeypatch)
    is_finished_while_paused(model, release, instance)


def test_a_first_step_that_is_held_by_now_is_closed_and_taken_later(
    deployed: tuple[Model, str], instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, release = deployed
    killed(model, lambda: model.step(release), monkeypatch)
    never: ReleaseSpec = model.spec.model_copy(update={"promotion": PromotionPart(**NEVER)})
    assert sentence(tick(never, instance)).startswith("closed the open set_traffic: Hold: outside promotion.windows")
    assert (stands(model, release).stage, stands(model, release).open_intent) == (Stage.DEPLOYED, None)
    assert request(tick(model.spec, instance)).tags[ACTION_TAG] == "step_0"


def test_harm_with_the_policy_to_freeze_closes_the_open_move_and_the_guards_go_on(
    deployed: tuple[Model, str], instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, release = deployed
    model.step(release)
    ids = entities(model, release)
    killed(model, lambda: model.step(release, 1), monkeypatch)
    steps = model.spec.ramp.steps
    freezes = model.spec.model_copy(update={"ramp": RampPart(steps=steps, min_step_seconds=0, on_harm="freeze")})

    def closed() -> str:
        failures(model, ids)
        result = tick(freezes, instance)
        return "" if result.run_requests else sentence(result)

    assert eventually(closed).startswith("closed the open set_traffic: Hold: frozen")
    state = stands(model, release)
    assert state.frozen is not None
    assert (state.open_intent, state.steps[-1].ended_at) == (None, None)
    assert "frozen since" in sentence(tick(freezes, instance))
    assert World.of(model).shares == {"1": 75, "2": 25}


def test_weights_that_were_changed_by_hand_before_the_first_step_hold_it(
    deployed: tuple[Model, str], instance: dg.DagsterInstance
) -> None:
    model, release = deployed
    names, parts = stands(model, release).entities, model.parts()
    now = parts.endpoint.read()
    assert now is not None
    parts.endpoint.update(now.entities, {names["champion"]: 90, names["challenger"]: 10})
    parts.endpoint.wait(timeout_seconds=60, progress=model.said.append)
    assert sentence(tick(model.spec, instance)).startswith("SHARE_MISMATCH: Hold: the endpoint routes")
    assert take_step(model.parts(), model.spec, release).release.steps == ()
    assert World.of(model).shares == {"1": 90, "2": 10}
