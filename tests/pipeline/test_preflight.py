"""Preflight against the real workspace, asked by its own user and by a service principal that was granted nothing."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner
from databricks.sdk import WorkspaceClient
from databricks.sdk.service.catalog import PermissionsChange, Privilege
from databricks.sdk.service.iam import ServicePrincipal
from databricks.sdk.service.serving import (
    AiGatewayInferenceTableConfig,
    AiGatewayUsageTrackingConfig,
    EndpointTag,
    ServingEndpointAccessControlRequest,
    ServingEndpointPermissionLevel,
)
from databricks.sdk.service.sql import WarehouseAccessControlRequest, WarehousePermissionLevel

from release_pipeline.build import build_release
from release_pipeline.cli import main
from release_pipeline.errors import RegistryError
from release_pipeline.rollout.mending import mend
from release_pipeline.rollout.parts import connect_parts
from release_pipeline.rollout.preflight import Outcome, Preflight, await_update, preflight
from release_pipeline.spec import Resource
from release_pipeline.spec_file import read_spec
from release_pipeline.workspace.client import connect
from release_pipeline.workspace.registry import Registry
from release_pipeline.workspace.tracking import find_run
from tests.conftest import RunningWorkspace
from tests.pipeline.checkpoint import World
from tests.pipeline.conftest import MODELS, Model, eventually, write_folder

pytestmark = pytest.mark.slow

PASSES = ["USE CATALOG", "USE SCHEMA", "model", "ledger", "evidence", "rows", "endpoint", "endpoint creator"]
PASSES += ["endpoint owner", "champion", "inference table", "update"]
WAITS = "waiting for an update that is not this release's"


@pytest.fixture
def robot(client: WorkspaceClient) -> Iterator[ServicePrincipal]:
    """A service principal without any grant."""
    made = client.service_principals_v2.create(display_name="robot")
    yield made
    if any(made.id == each.id for each in client.service_principals_v2.list()):
        client.service_principals_v2.delete(str(made.id))


@pytest.fixture
def as_robot(client: WorkspaceClient, robot: ServicePrincipal, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on the pipeline's token is the robot's; ``client`` stays the workspace's own user."""
    token = str(client.token_management.create_obo_token(str(robot.application_id)).token_value)
    assert client.config.token != token
    monkeypatch.setenv("DATABRICKS_TOKEN", token)


def look(model: Model, *resources: tuple[str, str]) -> Preflight:
    declared = tuple(Resource(type=kind, name=name) for kind, name in resources)  # type: ignore[arg-type]
    spec = model.spec.model_copy(update={"model": model.spec.model.model_copy(update={"resources": declared})})
    found = preflight(model.parts(), spec)
    assert found is not None
    return found


def failures(found: Preflight) -> dict[str, str]:
    return {check.name: check.sentence for check in found.of(Outcome.FAILED)}


def warnings(found: Preflight) -> dict[str, str]:
    return {check.name: check.sentence for check in found.of(Outcome.WARNING)}


def run_grants(client: WorkspaceClient, sentence: str) -> None:
    """Do what the GRANT statements of a failure say; the local workspace takes them by the API only."""
    found = re.findall(r"GRANT ([A-Z ]+) ON ([A-Z]+) (\S+) TO `([^`]+)`", sentence)
    assert found, sentence
    for privilege, kind, name, principal in found:
        change = PermissionsChange(principal=principal, add=[Privilege(privilege.replace(" ", "_"))])
        client.grants.update(kind, name.replace("`", ""), changes=[change])


def run_call(client: WorkspaceClient, sentence: str) -> None:
    """Make the permission call that a failure names."""
    found = re.search(r"(PATCH|PUT) (/api/\S+) with (\{.*\})\.$", sentence)
    assert found, sentence
    client.api_client.do(found[1], found[2], body=json.loads(found[3]))


def test_the_workspaces_own_user_passes_with_and_without_an_endpoint(model: Model) -> None:
    before = look(model)
    assert (failures(before), warnings(before)) == ({}, {})
    assert [check.name for check in before.checks] == PASSES
    model.champion()
    after = look(model)
    assert (failures(after), warnings(after)) == ({}, {})


def test_a_model_that_may_not_be_seen_keeps_no_other_check_from_being_told(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unseen(self: Registry, alias: str) -> None:
        raise RegistryError("the registry did not name the alias: PERMISSION_DENIED.")

    monkeypatch.setattr(Registry, "version_of_alias", unseen)
    found = look(model)
    assert [check.name for check in found.checks] == PASSES
    assert warnings(found) == {"champion": "the registry did not name the alias: PERMISSION_DENIED."}


def test_whom_the_yaml_gives_permissions_must_be_known(
    make_model: Callable[..., Model], client: WorkspaceClient, robot: ServicePrincipal
) -> None:
    me, application = str(client.current_user.me().user_name), str(robot.application_id)
    known = [{"user": me, "level": "CAN_VIEW"}, {"service_principal": application, "level": "CAN_QUERY"}]
    found = look(make_model(endpoint={"permissions": [*known, {"group": "callers", "level": "CAN_QUERY"}]}))
    assert (failures(found), warnings(found)) == ({}, {})
    assert [check.name for check in found.checks] == [*PASSES, "permissions"]
    gone = application[:-1] + ("0" if application[-1] != "0" else "1")
    unknown = [{"user": "nobody@example.com", "level": "CAN_QUERY"}, {"service_principal": gone, "level": "CAN_QUERY"}]
    (name, sentence), *others = failures(look(make_model(endpoint={"permissions": unknown}))).items()
    assert (name, others) == ("permissions", [])
    assert sentence.startswith(
        f"endpoint.permissions names nobody@example.com and {gone}, whom this workspace does not"
    )


def test_all_that_a_service_principal_lacks_is_told_at_once_and_each_grant_mends_its_own(
    model: Model, client: WorkspaceClient, robot: ServicePrincipal, as_robot: None
) -> None:
    import mlflow

    mlflow.MlflowClient().create_registered_model(model.spec.model.registered_name)
    lacking = failures(look(model))
    assert list(lacking) == ["USE CATALOG", "USE SCHEMA", "model", "ledger", "evidence"]
    assert all(str(robot.application_id) in sentence and sentence.count(". ") == 0 for sentence in lacking.values())
    assert "GRANT MANAGE ON FUNCTION" in lacking["model"]
    for name in ("USE CATALOG", "USE SCHEMA", "model"):
        run_grants(client, lacking.pop(name))
        assert failures(look(model)) == lacking
    run_grants(client, lacking["ledger"])
    assert failures(look(model)) == {}


def test_tables_that_exist_must_be_readable_and_writable(model: Model, client: WorkspaceClient, as_robot: None) -> None:
    ledger = model.parts().ledger
    ledger.create()
    sentence = failures(look(model))["ledger"]
    assert f"lacks SELECT on table {ledger.table} and MODIFY on table {ledger.table}" in sentence
    run_grants(client, sentence)
    assert "ledger" not in failures(look(model))


def test_the_endpoint_must_be_manageable_and_the_call_goes_by_its_id(
    model: Model, client: WorkspaceClient, robot: ServicePrincipal, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.champion()
    endpoint_id = str(client.serving_endpoints.get(model.spec.endpoint_name).id)
    monkeypatch.setenv("DATABRICKS_TOKEN", token_of(client, robot))
    found = look(model)
    assert f"may not see endpoint {model.spec.endpoint_name} and needs CAN_MANAGE" in failures(found)["endpoint"]
    assert f"GET /api/2.0/serving-endpoints/{model.spec.endpoint_name}" in failures(found)["endpoint"]
    assert failures(found)["endpoint"].count(". ") == 0, "one sentence"
    assert {"endpoint creator", "endpoint owner", "inference table", "update"} <= set(warnings(found))
    query = ServingEndpointAccessControlRequest(
        service_principal_name=robot.application_id, permission_level=ServingEndpointPermissionLevel.CAN_QUERY
    )
    client.serving_endpoints.update_permissions(endpoint_id, access_control_list=[query])
    sentence = failures(look(model))["endpoint"]
    assert "has CAN_QUERY" in sentence
    assert f"/api/2.0/permissions/serving-endpoints/{endpoint_id} " in sentence
    run_call(client, sentence)
    assert "endpoint" not in failures(look(model))


def token_of(client: WorkspaceClient, robot: ServicePrincipal) -> str:
    return str(client.token_management.create_obo_token(str(robot.application_id)).token_value)


@pytest.mark.slow
def test_an_endpoint_whose_creator_is_gone_is_told_before_an_update_needs_it(
    model: Model, client: WorkspaceClient, robot: ServicePrincipal, workspace: RunningWorkspace
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABRICKS_TOKEN", token_of(client, robot))
        model.champion()
    assert client.serving_endpoints.get(model.spec.endpoint_name).creator == robot.application_id
    assert failures(look(model)) == {}
    client.service_principals_v2.delete(str(robot.id))
    found = look(model, ("sql_warehouse", "any"))
    assert "does not exist any more" in failures(found)["endpoint creator"]
    assert list(failures(found)) == ["endpoint creator"]
    assert "does not exist any more" in warnings(found)["sql_warehouse any"], "nobody is left to ask it of"

    # What the sentence says, done: the endpoint is deleted, and made again by somebody who stays.
    assert f"the job {model.spec.name}_mend at once" in failures(found)["endpoint creator"]
    client.serving_endpoints.delete(model.spec.endpoint_name)
    gone = failures(look(model))
    assert list(gone) == ["champion"]
    assert f"names version 1, but endpoint {model.spec.endpoint_name} does not exist; run the job" in gone["champion"]
    state = model.parts().rollout.state()
    assert state is not None
    mend(model.parts(), model.spec, state.release)
    assert failures(look(model)) == {}
    assert client.serving_endpoints.get(model.spec.endpoint_name).creator != robot.application_id
    assert set(model.ask(3)) == {200}


@pytest.mark.slow
def test_a_release_that_cannot_be_is_told_before_anything_is_made(
    tmp_path: Path, as_robot: None, instance: dg.DagsterInstance
) -> None:
    name = f"early_{tmp_path.name[-8:].replace('-', '_')}"
    spec = read_spec(write_folder(tmp_path / name, name))
    repository = build_release(spec, tmp_path / name).get_repository_def()
    release = "20260101-000001"
    instance.add_dynamic_partitions(f"{name}_releases", [release])
    ran = repository.get_job(f"{name}_release").execute_in_process(
        instance=instance, partition_key=release, raise_on_error=False
    )
    (failed,) = ran.filter_events(lambda event: event.is_step_failure)
    assert failed.step_key == f"{name}__logged_model"
    told = failed.step_failure_data.user_failure_data
    assert told is not None
    assert "GRANT USE CATALOG" in str(told.description)
    assert "preflight" in told.metadata, "the table of the checks"
    assert find_run(connect(), spec, release) is None, "nothing was logged"


@pytest.mark.slow
def test_tables_that_the_gate_reads_must_be_readable(
    make_model: Callable[..., Model], client: WorkspaceClient, robot: ServicePrincipal
) -> None:
    truth = "main.default.truth_of_preflight"
    metric = {"name": "wrong", "kind": "label", "table": truth, "badness": "label.wrong", "settle_minutes": 1}
    model = make_model(gate={"metrics": [{**metric, "margin": 0.1}]})
    model.champion()
    model.ask(1)
    model.rows(1)
    model.parts().workspace.warehouse.execute(f"CREATE TABLE IF NOT EXISTS {truth} (request_id STRING, wrong INT)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABRICKS_TOKEN", token_of(client, robot))
        sentence = failures(look(model))["rows"]
        assert f"lacks SELECT on table {model.spec.payload_table} and SELECT on table {truth}" in sentence
        run_grants(client, sentence)
        assert "rows" not in failures(look(model))


@pytest.mark.slow
def test_settings_of_the_endpoint_that_keep_a_release_from_being_watched_fail(
    model: Model, client: WorkspaceClient, set_faults: Callable[..., Any]
) -> None:
    model.champion()
    name, serving = model.spec.endpoint_name, client.serving_endpoints
    gateway = AiGatewayInferenceTableConfig(enabled=False)
    serving.put_ai_gateway(name, inference_table_config=gateway)
    serving.patch(name, add_tags=[EndpointTag(key="release_pipeline", value="another")])
    set_faults(update_seconds=4)
    state = model.parts().endpoint.read()
    assert state is not None
    model.parts().endpoint.update(state.entities, state.routes)
    found = failures(look(model))
    assert list(found) == ["endpoint owner", "inference table", "update"]
    assert "belongs to the releases of another" in found["endpoint owner"]
    assert "wait for the end" in found["update"]
    model.parts().endpoint.wait(timeout_seconds=60, progress=model.said.append)
    run_call(client, found["inference table"].replace(" with its other settings and ", " with "))
    serving.patch(name, delete_tags=["release_pipeline"])
    assert failures(look(model)) == {}


@pytest.mark.slow
def test_a_run_waits_for_an_update_that_is_not_its_own_and_not_for_ever(
    model: Model, set_faults: Callable[..., Any]
) -> None:
    model.champion()
    parts, patient = model.parts(), model.spec
    hasty = patient.model_copy(update={"endpoint": patient.endpoint.model_copy(update={"ready_timeout_seconds": 0})})
    await_update(parts, patient, "another")
    assert model.said.count(said := f"endpoint {model.spec.endpoint_name}: {WAITS}") == 0, "there is none"
    set_faults(update_seconds=3)
    state = parts.endpoint.read()
    assert state is not None
    parts.endpoint.update(state.entities, state.routes)
    await_update(parts, hasty, "another")
    assert "is being updated by somebody else; wait for the end" in failures(look(model))["update"]
    await_update(parts, patient, "another")
    assert model.said.count(said) == 2
    assert failures(look(model)) == {}


@pytest.mark.slow
def test_an_inference_table_that_no_setting_names_is_a_warning_where_it_has_rows(
    model: Model, client: WorkspaceClient
) -> None:
    model.champion()
    eventually(model.parts().payload.newest)
    client.serving_endpoints.put_ai_gateway(
        model.spec.endpoint_name, usage_tracking_config=AiGatewayUsageTrackingConfig(enabled=True)
    )
    found = look(model)
    assert failures(found) == {}
    sentence = warnings(found)["inference table"]
    assert f"names no inference table, but {model.spec.payload_table} has rows, the newest of 20" in sentence
    named = {"registered_name": f"{model.spec.model.registered_name}_other"}
    empty = model.spec.model_copy(update={"model": model.spec.model.model_copy(update=named)})
    without = preflight(connect_parts(empty, actor="test", progress=model.said.append), empty)
    assert without is not None
    assert "has no inference table" in failures(without)["inference table"]


@pytest.mark.slow
def test_an_endpoint_of_another_model_is_refused(make_model: Callable[..., Model]) -> None:
    first = make_model()
    first.champion()
    second = make_model(endpoint={"name": first.spec.endpoint_name})
    found = failures(look(second))
    assert first.spec.name in found["endpoint owner"]
    assert "logs to" in found["inference table"]


@pytest.mark.slow
def test_resources_are_checked_for_whom_the_endpoint_acts_as(
    make_model: Callable[..., Model], client: WorkspaceClient, robot: ServicePrincipal, workspace: RunningWorkspace
) -> None:
    model, other = make_model(), make_model()
    other.champion()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABRICKS_TOKEN", token_of(client, robot))
        model.champion()
    (warehouse,) = client.warehouses.list()
    table, function = other.spec.ledger_table, other.spec.model.registered_name
    resources = [
        ("serving_endpoint", other.spec.endpoint_name),
        ("sql_warehouse", str(warehouse.id)),
        ("function", function),
        ("table", table),
    ]
    found = failures(look(model, *resources))
    assert list(found) == [f"{kind} {name}" for kind, name in resources]
    assert all(str(robot.application_id) in sentence for sentence in found.values())
    for (kind, name), sentence in zip(resources, found.values(), strict=True):
        (run_grants if kind in ("function", "table") else run_call)(client, sentence)
        assert f"{kind} {name}" not in failures(look(model, (kind, name)))
    assert failures(look(model, *resources)) == {}


@pytest.mark.parametrize("kind", ["serving_endpoint", "sql_warehouse", "function", "table"])
def test_a_resource_that_does_not_exist_fails(model: Model, kind: str) -> None:
    sentence = failures(look(model, (kind, "main.default.none")))[f"{kind} main.default.none"]
    assert "does not exist, but model.resources declares it" in sentence


@pytest.mark.parametrize("kind", ["vector_search_index", "genie_space", "uc_connection"])
def test_what_the_workspace_cannot_answer_is_a_warning_and_never_a_pass(model: Model, kind: str) -> None:
    found = look(model, (kind, "main.default.x"))
    assert failures(found) == {}
    assert "cannot be told" in warnings(found)[f"{kind} main.default.x"]


def test_a_permission_of_a_warehouse_that_is_higher_will_do(
    model: Model, client: WorkspaceClient, robot: ServicePrincipal, as_robot: None
) -> None:
    (warehouse,) = client.warehouses.list()
    grant = WarehouseAccessControlRequest(
        service_principal_name=robot.application_id, permission_level=WarehousePermissionLevel.CAN_MANAGE
    )
    client.warehouses.update_permissions(str(warehouse.id), access_control_list=[grant])
    assert f"sql_warehouse {warehouse.id}" not in failures(look(model, ("sql_warehouse", str(warehouse.id))))


def test_a_release_that_has_begun_is_finished_without_asking_again(deployed: tuple[Model, str]) -> None:
    model, release = deployed
    assert preflight(model.parts(), model.spec, release) is None
    assert preflight(model.parts(), model.spec, "another") is not None


def materialise(model: Model, release: str) -> dg.ExecuteInProcessResult:
    job = build_release(model.spec, MODELS).resolve_job_def(f"{model.spec.name}_deploy")
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(f"{model.spec.name}_releases", [release])
        return job.execute_in_process(
            partition_key=release,
            instance=instance,
            asset_selection=[dg.AssetKey([model.spec.name, "deployed_endpoint"])],
            raise_on_error=False,
        )


def test_the_asset_fails_with_every_failure_before_it_touches_anything_and_else_shows_the_table(
    model: Model, client: WorkspaceClient, robot: ServicePrincipal
) -> None:
    from release_pipeline.workspace import tracking
    from release_pipeline.workspace.client import connect

    release = model.release()
    run = tracking.log_model(
        connect(), model.spec, release, source=MODELS / "agent.py", config=MODELS / "first.yaml", folder=MODELS
    )
    version = model.register("first")
    connect().mlflow.set_tag(run.run_id, tracking.TAG_VERSION, version)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABRICKS_TOKEN", token_of(client, robot))
        failed = materialise(model, release)
    assert not failed.success
    (event,) = [event for event in failed.all_events if event.is_step_failure]
    assert "GRANT USE CATALOG ON CATALOG `main`" in str(event.step_failure_data.user_failure_data)
    assert World.of(model).endpoint is None
    assert model.parts().ledger.read() == []

    done = materialise(model, release)
    assert done.success
    (materialised,) = done.asset_materializations_for_node(f"{model.spec.name}__deployed_endpoint")
    table = materialised.metadata["preflight"]
    assert isinstance(table, dg.TableMetadataValue)
    assert {record.data["outcome"] for record in table.records} == {"passed"}


def test_the_command_tells_all_and_its_exit_code_says_whether_anything_failed(
    model: Model, tmp_path_factory: pytest.TempPathFactory, robot: ServicePrincipal, client: WorkspaceClient
) -> None:
    file = write_folder(tmp_path_factory.mktemp("project"), model.spec.name)
    runner = CliRunner()
    passed = runner.invoke(main, ["preflight", model.spec.name, "--spec", str(file), "--json"])
    assert passed.exit_code == 0, passed.output
    assert {row["outcome"] for row in json.loads(passed.output)} == {"passed"}
    document = yaml.safe_load(file.read_text())
    document["attributes"]["model"]["resources"] = [{"type": "table", "name": "main.default.none"}]
    file.write_text(yaml.safe_dump(document))
    failed = runner.invoke(main, ["preflight", model.spec.name, "--spec", str(file)])
    assert failed.exit_code == 1
    assert "main.default.none does not exist" in " ".join(failed.output.split())
    assert runner.invoke(main, ["preflight", model.spec.name, "--spec", "none.yaml"]).exit_code == 2
