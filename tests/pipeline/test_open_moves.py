"""A move whose run was killed between its intent and its write: what speaks against it counts before it is finished."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import dagster as dg
import pytest

from release_pipeline.assets.canary_traffic import take_step
from release_pipeline.assets.promoted_alias import promote
from release_pipeline.automation.jobs import ACTION_TAG
from release_pipeline.build import build_release
from release_pipeline.errors import NotAllowed
from release_pipeline.gate.verdict import Action as GateAction
from release_pipeline.rollout.ledger import EVENTS, Action, Entry, Phase
from release_pipeline.rollout.state import ReleaseState, Stage
from release_pipeline.rollout.transition import Rollout
from release_pipeline.rollout.verified_write import VerifiedWrite
from release_pipeline.spec import ReleaseSpec
from release_pipeline.spec_rollout import PromotionPart, RampPart
from tests.pipeline.checkpoint import World
from tests.pipeline.conftest import MODELS, Model, eventually
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


def begun_and_harmful(
    model: Model, release: str, action: Action, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """A move whose run was killed, before anything showed against it; the ids of the served entities."""
    model.step(release)
    ids = entities(model, release)
    begin = model.promote if action is Action.PROMOTE else lambda key: model.step(key, 1)
    killed(model, lambda: begin(release), monkeypatch)
    assert request(tick(model.spec, instance)).tags[ACTION_TAG] == f"finish_{action.value}"
    return ids


@pytest.mark.parametrize("action", [Action.PROMOTE, Action.SET_TRAFFIC])
def test_harm_that_shows_while_a_move_is_open_is_written_down_by_the_tick_that_sees_it(
    action: Action, deployed: tuple[Model, str], instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, release = deployed
    ids = begun_and_harmful(model, release, action, instance, monkeypatch)

    def asked() -> dg.SensorResult | None:
        failures(model, ids)
        result = tick(model.spec, instance)
        return result if request(result).tags[ACTION_TAG] == "roll_back" else None

    wanted = request(eventually(asked))
    assert wanted.job_name == f"{model.spec.name}_rollback"
    reason = wanted.run_config["ops"][f"{model.spec.name}_roll_back"]["config"]["reason"]
    assert "errors is 100 %" in reason
    written = acts(model)[-1]
    assert (written.action, written.phase, written.actor, written.reason) == (
        Action.ROLL_BACK,
        Phase.INTENT,
        f"sensor:{model.spec.name}_gate",
        reason,
    ), "before any run has begun"
    assert written.evidence_digest
    with pytest.raises(NotAllowed):
        promote(model.parts(), release)
    assert take_step(model.parts(), model.spec, release).release.open_intent == written
    model.parts().rollout.roll_back(release, reason=reason)
    is_rolled_back(model, release)
    assert [entry.phase for entry in acts(model) if (entry.release, entry.action) == (release, Action.ROLL_BACK)] == [
        Phase.INTENT,
        Phase.DONE,
    ]


@pytest.mark.parametrize("action", [Action.PROMOTE, Action.SET_TRAFFIC])
def test_harm_that_a_run_sees_while_a_move_is_open_takes_the_release_back_even_while_paused(
    action: Action, deployed: tuple[Model, str], instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, release = deployed
    ids = begun_and_harmful(model, release, action, instance, monkeypatch)

    def harmful() -> bool:
        failures(model, ids)
        seen = model.parts().observer.look(release)
        return seen is not None and seen.verdict.action is GateAction.ROLL_BACK

    eventually(harmful)
    model.parts("user:ada").events.pause("incident 12")
    try:
        if action is Action.PROMOTE:
            with pytest.raises(NotAllowed, match=r"was begun, and is not finished: .*errors is 100 %"):
                promote(model.parts(), release)
        else:
            take_step(model.parts(), model.spec, release)
    finally:
        model.parts("user:ada").events.unpause("over")
    is_rolled_back(model, release)


def is_rolled_back(model: Model, release: str) -> None:
    """To the champion, and the version says why."""
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


def test_two_runs_that_finish_the_same_have_both_finished_it(
    deployed: tuple[Model, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, release = deployed
    model.step(release)
    killed(model, lambda: model.promote(release), monkeypatch)
    outcome, overtaken = Rollout._outcome, list[ReleaseState]()

    def late(self: Rollout, *args: Any, **named: Any) -> list[Entry]:
        if not overtaken:
            overtaken.append(stands(model, release))  # so that the other one goes past this
            overtaken.append(model.parts("run:quick").rollout.resume(release))
        return outcome(self, *args, **named)

    monkeypatch.setattr(Rollout, "_outcome", late)
    assert model.parts("run:slow").rollout.resume(release).stage is Stage.PROMOTED
    done = [entry for entry in acts(model) if (entry.action, entry.phase) == (Action.PROMOTE, Phase.DONE)]
    assert [entry.actor for entry in done if entry.release == release] == ["run:quick"]


def test_a_promotion_is_closed_while_paused_although_somebody_has_deleted_the_alias(
    deployed: tuple[Model, str], instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, release = deployed
    model.step(release)
    killed(model, lambda: model.promote(release), monkeypatch)
    model.parts().registry.delete_alias(model.spec.promotion.alias)
    model.parts("user:ada").events.pause("incident 12")
    try:
        assert sentence(tick(model.spec, instance)).startswith("closed the open promote: Hold: paused")
    finally:
        model.parts("user:ada").events.unpause("over")
        model.parts().registry.set_alias(model.spec.promotion.alias, "1")
    assert World.of(model).shares == {"1": 75, "2": 25}


def test_a_release_that_is_materialised_again_finishes_no_move_of_its_own(
    deployed: tuple[Model, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, release = deployed
    killed(model, lambda: model.step(release), monkeypatch)
    model.parts("user:ada").events.pause("incident 12")
    try:
        state = model.parts().rollout.deploy(release, "2", model.entity("2"), table_version=0)
    finally:
        model.parts("user:ada").events.unpause("over")
    assert state.open_intent is not None
    assert state.open_intent.action is Action.SET_TRAFFIC
    assert World.of(model).shares == {"1": 100}


def test_the_end_of_a_bake_that_was_begun_is_not_finished_by_a_run_that_comes_behind_a_pause(
    deployed: tuple[Model, str], instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, release = deployed
    model.step(release)
    model.promote(release)
    killed(model, lambda: model.parts().rollout.retire(release), monkeypatch)
    wanted = request(tick(model.spec, instance))
    assert wanted.tags[ACTION_TAG] == "finish_retire"
    model.parts("user:ada").events.pause("incident 12")
    try:
        job = build_release(model.spec, MODELS).get_repository_def().get_job(f"{model.spec.name}_retire")
        instance.add_dynamic_partitions(f"{model.spec.name}_releases", [release])
        ran = job.execute_in_process(instance=instance, partition_key=release, tags=dict(wanted.tags))
    finally:
        model.parts("user:ada").events.unpause("over")
    assert ran.success
    newest = acts(model)[-1]
    assert (newest.action, newest.phase) == (Action.RETIRE, Phase.FAILED)
    assert World.of(model).versions == {"1", "2"}, "the way back is kept"
