"""The days after a promotion, in the real workspace: guards stay on, and time does not end what nobody watched."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
import requests

from release_pipeline.automation.jobs import ACTION_TAG
from release_pipeline.automation.next_run import next_run
from release_pipeline.build import build_release
from release_pipeline.gate.verdict import Action, GoReason, HoldReason, Verdict
from release_pipeline.rollout.ledger import Action as Act
from release_pipeline.rollout.ledger import Entry, Phase
from release_pipeline.rollout.state import ReleaseState, Stage
from release_pipeline.spec import ReleaseSpec
from release_pipeline.spec_rollout import PromotionPart
from tests.pipeline.checkpoint import World
from tests.pipeline.conftest import MODELS, Model, eventually, look
from tests.pipeline.test_sensor import ask_until, request, sentence, tick

START = datetime(2026, 1, 1, tzinfo=UTC)
TOLERANT = {"name": "errors", "kind": "errors", "margin": 0.3}
SCALE = "scale_to_zero_enabled"


def ask(model: Model, count: int, text: str = "hello") -> None:
    """Ask, and wait for the rows."""
    before = model.counted(model.parts())
    model.ask(count, text)
    model.rows(before + count)


def in_bake(model: Model, config: str) -> str:
    """A release of one configuration, promoted over a champion that 30 rows are known of; its key."""
    model.champion()
    ask(model, 30)
    model.deploy(release := model.release(), model.register(config))
    model.step(release)
    look(model, release)  # as the run that takes the step does
    model.promote(release)
    return release


def acts(model: Model, release: str) -> list[tuple[Act, Phase]]:
    return [(entry.action, entry.phase) for entry in model.parts().ledger.read() if entry.release == release]


def settings(model: Model, name: str) -> object:
    endpoint = model.parts().endpoint.read()
    assert endpoint is not None
    return next(entity.settings for entity in endpoint.entities if entity.name == name)[SCALE]


def test_rows_since_the_promotion_take_a_release_back_and_rows_before_it_do_not(
    deployed: tuple[Model, str], instance: dg.DagsterInstance
) -> None:
    model, release = deployed
    evidence = model.parts().observer.evidence

    def fail(count: int) -> dg.SensorResult:
        """Failures of the challenger, as the endpoint logs them, and a tick."""
        model.parts().workspace.warehouse.execute(
            f"INSERT INTO {model.spec.payload_table} "
            "(databricks_request_id, request_time, status_code, served_entity_id, response) "
            f"SELECT uuid(), current_timestamp(), 500, '{entity}', '{{}}' FROM range({count})"
        )
        return tick(model.spec, instance)

    model.step(release)
    eventually(lambda: look(model, release) and "2" in evidence.mapping().values())
    entity = next(each for each, version in evidence.mapping().items() if version == "2")
    fail(5)
    model.promote(release)
    assert "its bake ends in" in sentence(tick(model.spec, instance))
    wanted = request(eventually(lambda: (result := fail(20)).run_requests and result))
    assert (wanted.job_name, wanted.tags[ACTION_TAG]) == (f"{model.spec.name}_rollback", "roll_back")
    reason = wanted.run_config["ops"][f"{model.spec.name}_roll_back"]["config"]["reason"]
    assert reason.startswith("Roll back during the bake: errors is 100 % of ")
    (errors,) = look(model, release).verdict.metrics
    assert errors.challenger_n % 20 == 0, "those before the promotion are not among them"


@pytest.mark.slow
def test_a_guard_that_fails_in_the_bake_brings_the_old_champion_back_without_a_ramp(
    make_model: Callable[..., Model], instance: dg.DagsterInstance
) -> None:
    model = make_model(
        gate={"metrics": [TOLERANT], "bucket_seconds": 1},
        endpoint={"scale_to_zero": False},
        promotion={"bake_scale_to_zero": True},
    )
    release = in_bake(model, "failing")
    world = World.of(model)
    assert (world.shares, world.alias, world.versions) == ({"2": 100}, "2", {"1", "2"})
    state = model.parts().rollout.state(release)
    assert state is not None
    assert settings(model, state.entities["champion"]) is True, "it sleeps during the bake"
    ask(model, 30)
    ask(model, 1)  # the watermark passes the rows before
    baking = sentence(tick(model.spec, instance))
    assert baking.startswith("version 2 is live: Hold: ")
    assert "its bake ends in" in baking
    assert "errors is 0 % of 3" in baking
    found = ask_until(model, model.spec, instance, lambda text: not text, "a question")
    wanted = request(found)
    assert (wanted.job_name, wanted.tags[ACTION_TAG]) == (f"{model.spec.name}_rollback", "roll_back")
    before = model.config()
    instance.add_dynamic_partitions(f"{model.spec.name}_releases", [release])
    job = build_release(model.spec, MODELS).resolve_job_def(f"{model.spec.name}_rollback")
    assert job.execute_in_process(
        partition_key=release, instance=instance, tags=wanted.tags, run_config=wanted.run_config
    ).success
    world = World.of(model)
    assert (world.shares, world.alias, world.versions) == ({"1": 100}, "1", {"1"})
    assert settings(model, state.entities["champion"]) is False, "it does not sleep any more"
    assert model.config() == before + 2, "all traffic back, then the other entity out"
    assert acts(model, release)[-2:] == [(Act.ROLL_BACK, Phase.INTENT), (Act.ROLL_BACK, Phase.DONE)]
    version = model.parts().registry.get("2")
    assert version is not None
    assert version.tags["release_pipeline.status"] == "rejected"
    assert version.tags["release_pipeline.reason"].startswith("Roll back during the bake: errors is ")
    assert model.ask(3, "a question") == [200] * 3
    assert "is rolled back" in sentence(tick(model.spec, instance))


@pytest.mark.slow
def test_harm_in_the_bake_of_a_first_release_calls_a_person_and_deletes_nothing(
    model: Model, instance: dg.DagsterInstance
) -> None:
    model.deploy(release := model.release(), model.register("failing"))
    model.promote(release)
    found = ask_until(model, model.spec, instance, lambda text: text.startswith(HoldReason.FROZEN), "a question")
    assert "a person must decide" in sentence(found)
    assert acts(model, release)[-1] == (Act.FREEZE, Phase.DONE)
    over = model.spec.model_copy(update={"promotion": PromotionPart(bake_seconds=0)})
    assert sentence(tick(over, instance)).startswith(HoldReason.FROZEN), "time does not end it"
    assert World.of(model).shares == {"1": 100}
    model.deploy(better := model.release(), model.register("second"))
    assert model.parts().rollout.state(better).stage is Stage.DEPLOYED  # type: ignore[union-attr]


@pytest.mark.slow
def test_harm_in_the_bake_freezes_where_the_policy_is_to_freeze(
    make_model: Callable[..., Model], instance: dg.DagsterInstance
) -> None:
    model = make_model(ramp={"steps": [50], "on_harm": "freeze"}, promotion={"bake_seconds": 0})
    release = in_bake(model, "failing")
    spec = model.spec.model_copy(update={"promotion": PromotionPart(bake_seconds=3600)})
    ask_until(model, spec, instance, lambda text: text.startswith(HoldReason.FROZEN), "a question")
    assert acts(model, release)[-1] == (Act.FREEZE, Phase.DONE)
    assert sentence(tick(model.spec, instance)).startswith(HoldReason.FROZEN), "time does not end it"
    assert World.of(model).shares == {"2": 100}


@pytest.mark.slow
def test_a_table_that_nobody_writes_to_keeps_the_bake_from_ending(
    make_model: Callable[..., Model],
    instance: dg.DagsterInstance,
    set_faults: Callable[..., requests.Response],
) -> None:
    model = make_model(
        gate={"bucket_seconds": 1, "max_lag_minutes": 1, "metrics": [TOLERANT]}, promotion={"bake_seconds": 60}
    )
    release = in_bake(model, "second")
    ask(model, 10)
    look(model, release)
    set_faults(freeze_inference_tables=True)
    model.clock.advance(30)
    look(model, release)  # a reading after the newest row
    model.ask(12, "nobody will know")
    for seconds in (30, 61):
        model.clock.advance(seconds)
        observed = look(model, release)
    assert observed.verdict.reason == HoldReason.TABLE_FROZEN
    run, why = next_run(observed.release, observed.verdict, model.spec, model.clock.now())
    assert run is None
    assert why.startswith(HoldReason.TABLE_FROZEN)


def promoted(**changed: object) -> ReleaseState:
    """A release that was promoted at START."""
    state = ReleaseState("r", Stage.PROMOTED, "2", "1", {}, None, (), START, START, 5)
    return replace(state, **changed)  # type: ignore[arg-type]


def held(reason: HoldReason) -> Verdict:
    return Verdict(Action.HOLD, reason, "Hold: because.", ())


@pytest.mark.parametrize(
    ("verdict", "before", "after"),
    [
        (held(HoldReason.BAKING), None, "retire"),
        (held(HoldReason.TABLE_FROZEN), None, None),
        (held(HoldReason.LAGGING), None, None),
        (held(HoldReason.UNLOGGED_ERRORS), None, None),
        (held(HoldReason.FROZEN), None, None),
        (held(HoldReason.MAPPING_UNKNOWN), "send_tracers", "send_tracers"),
        (Verdict(Action.ROLL_BACK, GoReason.GUARD, "Roll back.", ()), "roll_back", "roll_back"),
    ],
)
def test_time_ends_a_bake_only_where_nothing_was_wrong(
    verdict: Verdict, before: str | None, after: str | None, make_spec: Callable[..., ReleaseSpec]
) -> None:
    spec = make_spec()
    for seconds, wanted in ((59, before), (60, after)):
        run, why = next_run(promoted(), verdict, spec, START + timedelta(seconds=seconds))
        assert (run.action if run else None) == wanted
        assert why


def test_a_pause_keeps_the_old_champion_and_stops_no_rollback(make_spec: Callable[..., ReleaseSpec]) -> None:
    spec = make_spec()
    pause = Entry("", 9, START, "user:ann", Act.PAUSE, Phase.DONE, reason="holidays")
    later = START + timedelta(days=1)
    run, why = next_run(promoted(paused=pause), held(HoldReason.BAKING), spec, later)
    assert run is None
    assert why == "PAUSED: the bake is over; paused by user:ann: holidays"
    back = Verdict(Action.ROLL_BACK, GoReason.GUARD, "Roll back.", ())
    run, _ = next_run(promoted(paused=pause), back, spec, later)
    assert run is not None
    assert run.job == "rollback"
