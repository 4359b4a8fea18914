"""The drift sensor, the check in Dagster and the mend job, against the real workspace."""

from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test
from databricks.sdk import WorkspaceClient

from release_pipeline.assets.context import ModelContext
from release_pipeline.automation.drift_check import build_drift_check
from release_pipeline.automation.jobs import ENDPOINT_TAG
from release_pipeline.automation.next_run import resume_run
from release_pipeline.build import build_release
from release_pipeline.rollout.ledger import Action
from release_pipeline.spec import ReleaseSpec
from tests.pipeline.checkpoint import World
from tests.pipeline.conftest import MODELS, Model
from tests.pipeline.test_drift import alias_moved, killed_mend, tag_changed


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def tick(spec: ReleaseSpec, instance: dg.DagsterInstance, cursor: str | None = None) -> dg.SensorResult:
    repository = build_release(spec, MODELS).get_repository_def()
    (sensor,) = [each for each in repository.sensor_defs if each.name == f"{spec.name}_drift"]
    result = sensor(dg.build_sensor_context(instance=instance, cursor=cursor, repository_def=repository))
    assert isinstance(result, dg.SensorResult)
    return result


def evaluation(result: dg.SensorResult) -> dg.AssetCheckEvaluation:
    (event,) = [event for event in result.asset_events if isinstance(event, dg.AssetCheckEvaluation)]
    return event


def told_live(result: dg.SensorResult) -> list[tuple[Any, ...]]:
    """What is live, as the sensor tells it."""
    observations = [event for event in result.asset_events if isinstance(event, dg.AssetObservation)]
    return [
        (
            event.asset_key.path[-1],
            event.partition,
            event.metadata["live_version"].value,
            event.metadata["routes"].value,
        )
        for event in observations
    ]


def said(result: dg.SensorResult) -> str:
    assert not result.run_requests
    return str(result.skip_reason)


def mending(model: Model) -> ReleaseSpec:
    """The same YAML with mend_drift."""
    automation = model.spec.automation.model_copy(update={"mend_drift": True})
    return model.spec.model_copy(update={"automation": automation})


def run_mend(model: Model, instance: dg.DagsterInstance, release: str) -> dg.ExecuteInProcessResult:
    instance.add_dynamic_partitions(f"{model.spec.name}_releases", [release])
    job = build_release(model.spec, MODELS).resolve_job_def(f"{model.spec.name}_mend")
    return job.execute_in_process(partition_key=release, instance=instance, raise_on_error=False)


def test_the_sensor_and_mending_are_off_unless_the_yaml_says_so(make_spec: Callable[..., ReleaseSpec]) -> None:
    for switch, status in (
        ({}, dg.DefaultSensorStatus.STOPPED),
        ({"drift_sensor": True}, dg.DefaultSensorStatus.RUNNING),
    ):
        spec = make_spec(name="m", automation=switch)
        assert spec.automation.mend_drift is False
        (sensor,) = [
            each for each in build_release(spec, MODELS).get_repository_def().sensor_defs if each.name == "m_drift"
        ]
        assert (sensor.default_status, sensor.minimum_interval_seconds) == (status, 300)


def test_the_check_is_reported_when_its_outcome_changes_and_nothing_else_happens(
    deployed: tuple[Model, str], client: WorkspaceClient, instance: dg.DagsterInstance
) -> None:
    model, _ = deployed
    first = tick(model.spec, instance)
    assert evaluation(first).passed
    assert evaluation(first).asset_key == dg.AssetKey([model.spec.name, "promoted_alias"])
    assert tick(model.spec, instance, first.cursor).asset_events == []
    rows = model.parts().ledger.read()
    alias_moved(model, client)
    second = tick(model.spec, instance, first.cursor)
    assert "alias champion names version 2" in said(second)
    failed = evaluation(second)
    assert (failed.check_name, failed.passed, failed.severity) == ("drift", False, dg.AssetCheckSeverity.ERROR)
    table = failed.metadata["drift"]
    assert isinstance(table, dg.TableMetadataValue)
    assert [record.data["right"] for record in table.records] == ["endpoint"]
    assert model.parts().ledger.read() == rows
    assert World.of(model).alias == "2"


def test_what_people_did_from_the_command_line_is_told_to_dagster(
    deployed: tuple[Model, str], instance: dg.DagsterInstance
) -> None:
    model, release = deployed
    first = tick(model.spec, instance)
    ((asset, partition, live, routes),) = told_live(first)
    assert (asset, partition, live) == ("promoted_alias", release, "1")
    assert "100 %" in routes
    model.step(release)
    model.promote(release)  # as the command does, without a run of Dagster's
    promoted = tick(model.spec, instance, first.cursor)
    assert [each[2] for each in told_live(promoted)] == ["2"]
    model.parts().rollout.roll_back(release, reason="a person said so")
    rolled_back = tick(model.spec, instance, promoted.cursor)
    assert [each[2] for each in told_live(rolled_back)] == ["1"]
    assert tick(model.spec, instance, rolled_back.cursor).asset_events == []


def test_the_mend_job_mends_and_makes_the_check_pass(
    deployed: tuple[Model, str], client: WorkspaceClient, instance: dg.DagsterInstance
) -> None:
    model, release = deployed
    alias_moved(model, client)
    done = run_mend(model, instance, release)
    assert done.success
    (event,) = done.get_asset_check_evaluations()
    assert (event.check_name, event.passed) == ("drift", True)
    assert World.of(model).alias == "1"
    again = run_mend(model, instance, release)
    assert not again.success
    (failed,) = [event for event in again.all_events if event.is_step_failure]
    assert "nothing to mend" in str(failed.step_failure_data.user_failure_data)


def test_the_sensor_asks_for_the_mend_only_where_the_yaml_says_so_and_not_while_paused(
    deployed: tuple[Model, str], client: WorkspaceClient, instance: dg.DagsterInstance
) -> None:
    model, release = deployed
    tag_changed(model, client)
    assert "somebody else" in said(tick(model.spec, instance))
    model.parts().events.pause("a person works on the endpoint")
    assert "somebody else" in said(tick(mending(model), instance))
    model.parts().events.unpause("done")
    (request,) = tick(mending(model), instance).run_requests or []
    assert (request.job_name, request.partition_key) == (f"{model.spec.name}_mend", release)
    assert run_mend(model, instance, str(request.partition_key)).success
    result = tick(mending(model), instance)
    assert evaluation(result).passed
    assert "what the ledger says" in said(result)


def test_a_run_on_the_endpoint_is_waited_for(
    deployed: tuple[Model, str], client: WorkspaceClient, instance: dg.DagsterInstance
) -> None:
    model, _ = deployed
    alias_moved(model, client)
    tags = {ENDPOINT_TAG: model.spec.endpoint_name}
    run = create_run_for_test(instance, job_name="any", status=dg.DagsterRunStatus.STARTED, tags=tags)
    result = tick(mending(model), instance)
    assert f"waiting for run {run.run_id[:8]}" in said(result)
    assert not result.asset_events
    instance.report_run_canceled(run)
    assert tick(mending(model), instance).run_requests


def test_an_open_mend_is_finished_by_either_sensor(
    deployed: tuple[Model, str], client: WorkspaceClient, instance: dg.DagsterInstance
) -> None:
    model, release = deployed
    killed_mend(model, release, {"champion": "1"})
    (request,) = tick(model.spec, instance).run_requests or []
    assert request.job_name == f"{model.spec.name}_mend"
    intent = model.parts().ledger.read()[-1]
    assert intent.action is Action.MEND
    assert resume_run(intent).job == "mend"
    assert run_mend(model, instance, release).success


def test_the_check_can_be_run_by_hand_and_not_being_able_to_look_is_no_pass(
    deployed: tuple[Model, str],
    instance: dg.DagsterInstance,
    client: WorkspaceClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, _ = deployed
    check = build_drift_check(ModelContext(model.spec, MODELS))

    def outcome() -> Any:
        job = dg.define_asset_job("look", selection=dg.AssetSelection.checks(check))
        defs = dg.Definitions(asset_checks=[check], jobs=[job])
        done = defs.resolve_job_def("look").execute_in_process(instance=instance)
        (event,) = done.get_asset_check_evaluations()
        return event.passed, event.description

    assert outcome() == (True, "Endpoint and alias are what the ledger says.")
    alias_moved(model, client)
    passed, told = outcome()
    assert not passed
    assert "alias champion names version 2, but the ledger says version 1" in told
    monkeypatch.setenv("DATABRICKS_TOKEN", "wrong")
    passed, told = outcome()
    assert not passed
    assert told.startswith("Nobody could look")


def test_without_a_release_and_without_a_workspace_the_sensor_says_so(
    workspace: object,
    make_spec: Callable[..., ReleaseSpec],
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "no release of" in said(tick(make_spec(), instance))
    monkeypatch.setenv("DATABRICKS_HOST", "http://127.0.0.1:9")
    result = tick(make_spec(), instance, "kept")
    assert "nothing answers" in said(result)
    assert result.cursor == "kept"
