"""One tick of the gate sensor, and one of the promotion schedule, against the real workspace."""

import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from release_pipeline.automation.jobs import ACTION_TAG
from release_pipeline.build import build_release
from release_pipeline.gate.verdict import HoldReason
from release_pipeline.rollout.ledger import Action, Phase
from release_pipeline.spec import PromotionPart, ReleaseSpec
from tests.pipeline.conftest import MODELS, Model, eventually


def tick(spec: ReleaseSpec, instance: dg.DagsterInstance, cursor: str | None = None) -> dg.SensorResult:
    repository = build_release(spec, MODELS).get_repository_def()
    gate = repository.get_sensor_def(f"{spec.name}_gate")
    context = dg.build_sensor_context(instance=instance, cursor=cursor, repository_def=repository)
    result = gate(context)
    assert isinstance(result, dg.SensorResult)
    assert len(result.run_requests or []) <= 1
    return result


def sentence(result: dg.SensorResult) -> str:
    """Why a tick asked for no run."""
    assert not result.run_requests
    assert result.skip_reason is not None
    text = result.skip_reason
    return text if isinstance(text, str) else str(text.skip_message)


def request(result: dg.SensorResult) -> dg.RunRequest:
    assert result.run_requests, result.skip_reason
    return result.run_requests[0]


def promotion_at(
    spec: ReleaseSpec, instance: dg.DagsterInstance, late: timedelta = timedelta()
) -> dg.RunRequest | dg.SkipReason:
    """What the promotion schedule asks for when it fires, ``late`` after its time."""
    promotion = spec.promotion.model_copy(update={"schedule": "0 9 * * *", "automatic": False})
    scheduled = spec.model_copy(update={"promotion": promotion})
    repository = build_release(scheduled, MODELS).get_repository_def()
    (schedule,) = repository.schedule_defs
    context = dg.build_schedule_context(
        instance=instance,
        scheduled_execution_time=datetime.now(UTC) - late,
        repository_def=repository,
    )
    asked: Any = schedule(context)
    return asked


def ask_until(
    model: Model, spec: ReleaseSpec, instance: dg.DagsterInstance, done: Callable[[str], bool], text: str = "hello"
) -> Any:
    """Ask and tick until the sensor says what is waited for."""
    result = None
    for _ in range(20):
        before = model.counted(model.parts())
        model.ask(30, text)
        model.rows(before + 30)
        result = tick(spec, instance)
        if done("" if result.run_requests else sentence(result)):
            return result
    raise AssertionError(result)


def test_without_a_release_there_is_nothing_to_do(
    workspace: object, make_spec: Callable[..., ReleaseSpec], instance: dg.DagsterInstance
) -> None:
    assert "no release of" in sentence(tick(make_spec(), instance))


def test_a_deployed_release_takes_its_first_step(deployed: tuple[Model, str], instance: dg.DagsterInstance) -> None:
    model, release = deployed
    wanted = request(tick(model.spec, instance))
    assert wanted.job_name == f"{model.spec.name}_canary_step"
    assert wanted.partition_key == release
    assert wanted.tags[ACTION_TAG] == "step_0"
    assert wanted.run_key == request(tick(model.spec, instance)).run_key, "the same run is asked for, not another one"


@pytest.mark.parametrize(
    ("action", "job"),
    [
        (Action.DEPLOY, "canary_step"),
        (Action.SET_TRAFFIC, "canary_step"),
        (Action.PROMOTE, "promote"),
        (Action.RETIRE, "retire"),
        (Action.ROLL_BACK, "rollback"),
    ],
)
def test_an_open_intent_is_finished_by_the_job_of_its_action(
    action: Action, job: str, deployed: tuple[Model, str], instance: dg.DagsterInstance
) -> None:
    model, release = deployed
    ledger = model.parts().ledger
    entries = ledger.read()
    ledger.append(
        entries,
        release=release,
        actor="run:killed",
        action=action,
        phase=Phase.INTENT,
        after=entries[-1].after,
        reason="it was worse",
    )
    wanted = request(tick(model.spec, instance))
    assert wanted.job_name == f"{model.spec.name}_{job}"
    assert wanted.tags[ACTION_TAG] == f"finish_{action.value}"
    assert ("it was worse" in str(wanted.run_config)) == (action is Action.ROLL_BACK)


def test_a_tick_waits_for_a_run_of_its_release_and_backs_off_from_a_failed_one(
    deployed: tuple[Model, str], instance: dg.DagsterInstance
) -> None:
    model, release = deployed
    first = request(tick(model.spec, instance))
    tags = {"dagster/partition": release, **first.tags}
    job = f"{model.spec.name}_canary_step"
    run = create_run_for_test(instance, job_name=job, tags=tags, status=dg.DagsterRunStatus.STARTED)
    assert f"waiting for run {run.run_id[:8]} ({job})" in sentence(tick(model.spec, instance))
    instance.report_run_failed(run)
    assert f"run {run.run_id[:8]} failed; next try in" in sentence(tick(model.spec, instance))
    again = eventually(lambda: (tick(model.spec, instance).run_requests or [None])[0])
    assert again.run_key != first.run_key, "a run key is used up for ever"
    assert again.tags == first.tags


def test_a_rollback_waits_for_no_other_run_and_nobody_waits_for_another_models_run(
    deployed: tuple[Model, str], instance: dg.DagsterInstance
) -> None:
    model, release = deployed
    tags = {"dagster/partition": release}
    create_run_for_test(instance, job_name="another_release", tags=tags, status=dg.DagsterRunStatus.STARTED)
    assert request(tick(model.spec, instance)).job_name == f"{model.spec.name}_canary_step"
    job = f"{model.spec.name}_release"
    create_run_for_test(instance, job_name=job, tags=tags, status=dg.DagsterRunStatus.STARTED)
    assert f"({job})" in sentence(tick(model.spec, instance))
    ledger = model.parts().ledger
    entries = ledger.read()
    what = {"action": Action.ROLL_BACK, "phase": Phase.INTENT, "after": entries[-1].after, "reason": "it was worse"}
    ledger.append(entries, release=release, actor="run:killed", **what)
    assert request(tick(model.spec, instance)).job_name == f"{model.spec.name}_rollback"


def test_a_hold_is_a_sentence_and_an_observation_that_is_shown_once(
    deployed: tuple[Model, str], instance: dg.DagsterInstance
) -> None:
    model, release = deployed
    model.step(release)
    before = model.counted(model.parts())
    model.ask(30)
    model.rows(before + 30)
    result = tick(model.spec, instance)
    assert sentence(result).startswith(HoldReason.NOT_ENOUGH)
    (observation,) = result.asset_events
    assert isinstance(observation, dg.AssetObservation)
    assert observation.asset_key == dg.AssetKey([model.spec.name, "canary_traffic"])
    assert observation.partition == release
    assert observation.metadata["traffic_percent"].value == 25
    assert observation.metadata["verdict"].value == "HOLD"
    again = tick(model.spec, instance, result.cursor)
    assert not again.asset_events
    assert again.cursor == result.cursor


def test_what_the_gate_has_passed_is_promoted_by_sensor_or_schedule_and_nothing_else_is(
    deployed: tuple[Model, str], instance: dg.DagsterInstance
) -> None:
    model, release = deployed
    skipped = promotion_at(model.spec, instance)
    assert isinstance(skipped, dg.SkipReason)
    assert "waits for its promotion" in skipped.skip_message
    model.step(release)
    model.step(release, 1)
    skipped = promotion_at(model.spec, instance)
    assert isinstance(skipped, dg.SkipReason)
    assert skipped.skip_message.startswith("NO_DATA: Hold")
    passed = ask_until(model, model.spec, instance, lambda text: text.startswith("passed"))
    assert "waiting for a person" in sentence(passed)
    asked = promotion_at(model.spec, instance)
    assert isinstance(asked, dg.RunRequest)
    assert (asked.partition_key, asked.tags[ACTION_TAG]) == (release, "promote")
    missed = promotion_at(model.spec, instance, late=timedelta(minutes=16))
    assert isinstance(missed, dg.SkipReason)
    assert "is 16 min late, more than 15 min" in missed.skip_message
    automatic = model.spec.model_copy(update={"promotion": PromotionPart(automatic=True)})
    assert request(tick(automatic, instance)).job_name == f"{model.spec.name}_promote"


def test_a_bake_that_is_over_ends(deployed: tuple[Model, str], instance: dg.DagsterInstance) -> None:
    model, release = deployed
    model.step(release)
    model.promote(release)
    assert "its bake ends in" in sentence(tick(model.spec, instance))
    over = model.spec.model_copy(update={"promotion": PromotionPart(bake_seconds=0)})
    assert request(tick(over, instance)).job_name == f"{model.spec.name}_retire"


def test_tracers_that_were_never_sent_are_sent_by_the_run_that_the_next_tick_asks_for(
    model: Model, instance: dg.DagsterInstance
) -> None:
    version, release = model.register("first"), model.release()
    model.parts().rollout.deploy(release, version, model.entity(version), table_version=0)
    model.ask(10)
    model.rows(10)
    wanted = request(tick(model.spec, instance))
    assert wanted.job_name == f"{model.spec.name}_canary_step"
    assert wanted.tags[ACTION_TAG] == "send_tracers"
    defs = build_release(model.spec, MODELS)
    instance.add_dynamic_partitions(f"{model.spec.name}_releases", [release])
    job = defs.resolve_job_def(wanted.job_name)
    assert job.execute_in_process(partition_key=release, instance=instance, tags=wanted.tags).success
    known = eventually(
        lambda: (result := tick(model.spec, instance)) and result.asset_events and not result.run_requests and result
    )
    assert HoldReason.MAPPING_UNKNOWN not in sentence(known)
    assert known.asset_events[0].metadata["errors_requests"].value == 10


def test_a_server_that_is_down_is_a_sentence_and_the_cursor_stays(
    make_spec: Callable[..., ReleaseSpec], instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    monkeypatch.setenv("DATABRICKS_HOST", address)
    monkeypatch.setenv("DATABRICKS_TOKEN", "any")
    result = tick(make_spec(), instance, "where it was")
    assert f"nothing answers at {address}" in sentence(result)
    assert result.cursor == "where it was"
