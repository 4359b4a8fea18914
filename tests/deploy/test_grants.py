"""The script that grants, against the local workspace; then preflight as the principal that it granted to."""

import runpy
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from databricks.sdk import WorkspaceClient
from databricks.sdk.service.iam import ServicePrincipal

from release_pipeline.rollout.preflight import preflight
from release_pipeline.rollout.preflight_resources import resource_problem
from release_pipeline.spec import Resource
from release_pipeline.workspace.client import connect
from release_pipeline.workspace.permissions import Permissions
from tests.pipeline.conftest import MODELS, Model, attributes

SCRIPT = Path(__file__).parents[2] / "deploy" / "grants.py"
COMPONENT = "release_pipeline.ReleasePipelineComponent"


def run(*words: str) -> tuple[int, list[str], str]:
    """Exit code, lines of stdout, and stderr."""
    ended = CliRunner().invoke(runpy.run_path(str(SCRIPT))["main"], list(words))
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
    return ended.exit_code, [" ".join(line.split()) for line in ended.stdout.splitlines()], ended.stderr


def written(folder: Path, name: str, **parts: object) -> tuple[str, ...]:
    """The arguments that name the YAML of one model, which is written."""
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({"type": COMPONENT, "attributes": attributes(name, **parts)}))
    return name, "--spec", str(file)


@pytest.fixture
def robots(client: WorkspaceClient) -> Iterator[Callable[[str], ServicePrincipal]]:
    """Finds the service principal of a display name; takes it away at the end."""
    named: set[str] = set()

    def find(name: str) -> ServicePrincipal:
        named.add(name)
        (found,) = client.service_principals_v2.list(filter=f'displayName eq "{name}"')
        return found

    yield find
    for name in named:
        client.service_principals_v2.delete(str(find(name).id))


def granted_to(client: WorkspaceClient, robot: ServicePrincipal, kind: str, name: str) -> set[str]:
    """Privileges that were granted there and nowhere else."""
    answer = client.grants.get(kind, name, principal=robot.application_id)
    return {each.value for given in answer.privilege_assignments or [] for each in given.privileges or []}


def as_robot(client: WorkspaceClient, robot: ServicePrincipal, patch: pytest.MonkeyPatch) -> None:
    token = client.token_management.create_obo_token(str(robot.application_id)).token_value
    patch.setenv("DATABRICKS_TOKEN", str(token))


def test_a_first_release_gets_what_it_needs_once_and_nothing_else(
    client: WorkspaceClient, robots: Callable[[str], ServicePrincipal], model: Model, tmp_path: Path
) -> None:
    name = f"robot-{uuid.uuid4().hex[:8]}"
    arguments = (*written(tmp_path, model.spec.name), "--principal", name)
    code, lines, _ = run(*arguments, "--dry-run")
    assert code == 1
    assert f"lacks service principal {name}" in lines
    assert lines[-1] == "5 needed: 0 there, 5 lacking"
    assert list(client.service_principals_v2.list(filter=f'displayName eq "{name}"')) == []

    code, lines, errors = run(*arguments)
    assert (code, errors) == (0, "")
    robot = robots(name)
    assert f"made service principal {name}, {robot.application_id}" in lines
    (warehouse,) = client.warehouses.list()
    assert [line for line in lines if line.startswith("granted ")] == [
        "granted USE CATALOG on catalog main",
        "granted USE SCHEMA on schema main.default",
        "granted CREATE MODEL on schema main.default",
        "granted CREATE TABLE on schema main.default",
        f"granted CAN USE on SQL warehouse {warehouse.id}",
    ]
    assert granted_to(client, robot, "CATALOG", "main") == {"USE_CATALOG"}
    assert granted_to(client, robot, "SCHEMA", "main.default") == {"USE_SCHEMA", "CREATE_MODEL", "CREATE_TABLE"}

    code, lines, errors = run(*arguments)
    assert (code, errors) == (0, "")
    assert lines[-1] == "5 needed: 5 there, nothing to do"
    assert not [line for line in lines if line.startswith(("granted", "made"))]
    assert run(*arguments, "--dry-run")[0] == 0

    with pytest.MonkeyPatch.context() as patch:
        as_robot(client, robot, patch)
        found = preflight(model.parts(), model.spec)
    assert found is not None
    assert str(found) == f"preflight: 0 of {len(found.checks)} checks failed, 0 could not be made."


def test_mistakes_are_sentences(client: WorkspaceClient, tmp_path: Path) -> None:
    name = f"robot-{uuid.uuid4().hex[:8]}"
    code, _, errors = run("no_such_model")
    assert (code, "no_such_model" in errors, "Traceback" in errors) == (2, True, False)
    gone = str(uuid.uuid4())
    code, _, errors = run(*written(tmp_path, "m1"), "--principal", gone)
    assert (code, errors) == (
        1,
        f"grants: there is no service principal {gone}; give a display name to have one made.\n",
    )
    twice = [client.service_principals_v2.create(display_name=name) for _ in range(2)]
    code, _, errors = run(*written(tmp_path, "m1"), "--principal", name)
    for robot in twice:
        client.service_principals_v2.delete(str(robot.id))
    assert code == 1
    assert all(str(robot.application_id) in errors for robot in twice)


@pytest.mark.slow
def test_after_a_release_of_somebody_elses_it_gets_the_model_the_tables_and_the_endpoint(
    client: WorkspaceClient,
    robots: Callable[[str], ServicePrincipal],
    make_model: Callable[..., Model],
    tmp_path: Path,
) -> None:
    model, name = make_model(), f"robot-{uuid.uuid4().hex[:8]}"
    model.champion()
    arguments = (*written(tmp_path, model.spec.name), "--principal", name)
    code, lines, errors = run(*arguments)
    assert (code, errors) == (0, "")
    robot, registered = robots(name), model.spec.model.registered_name
    assert granted_to(client, robot, "FUNCTION", registered) == {"MANAGE", "EXECUTE"}
    assert granted_to(client, robot, "TABLE", model.spec.ledger_table) == {"SELECT", "MODIFY"}
    assert "CREATE_MODEL" not in granted_to(client, robot, "SCHEMA", "main.default")
    assert any("acts as its creator, developer@localhost" in line for line in lines)
    again = subprocess.run([sys.executable, str(SCRIPT), *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.endswith("there, nothing to do\n")
    with pytest.MonkeyPatch.context() as patch:
        as_robot(client, robot, patch)
        found = preflight(model.parts(), model.spec)
    assert found is not None
    assert not found.failed, str(found)


@pytest.mark.slow
def test_resources_and_secrets_are_granted_and_what_is_not_there_is_told_once_and_holds_nothing_up(
    client: WorkspaceClient,
    robots: Callable[[str], ServicePrincipal],
    make_model: Callable[..., Model],
    tmp_path: Path,
) -> None:
    other, name, scope = make_model(), f"robot-{uuid.uuid4().hex[:8]}", f"s{uuid.uuid4().hex[:8]}"
    other.champion()
    client.secrets.create_scope(scope)
    (warehouse,) = client.warehouses.list()
    resources = [
        Resource(type="serving_endpoint", name=other.spec.endpoint_name),
        Resource(type="table", name=other.spec.ledger_table),
        Resource(type="function", name=other.spec.model.registered_name),
        Resource(type="sql_warehouse", name=str(warehouse.id)),
        Resource(type="table", name="main.default.no_such_table"),
    ]
    arguments = written(
        tmp_path,
        f"m{uuid.uuid4().hex[:8]}",
        model={"source": str(MODELS / "agent.py"), "resources": [each.model_dump() for each in resources]},
        endpoint={"environment": {"KEY": f"{{{{secrets/{scope}/key}}}}"}},
    )
    code, lines, errors = run(*arguments, "--principal", name)
    assert code == 1
    robot = robots(name)
    assert errors == "grants: table main.default.no_such_table does not exist; make it, or correct the YAML.\n"
    assert lines[-1].endswith(", 1 failed")
    assert [str(acl.principal) for acl in client.secrets.list_acls(scope)].count(str(robot.application_id)) == 1
    permissions = Permissions(connect())
    who = permissions.principal(str(robot.application_id))
    assert who is not None
    assert [resource_problem(permissions, each, who, False) for each in resources[:4]] == [""] * 4
    assert run(*arguments, "--principal", name)[1][-1].endswith("nothing to do, 1 failed")
