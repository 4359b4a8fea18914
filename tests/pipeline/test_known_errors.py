"""The platform's troubleshooting table, row by row: the error on a real server, and what the pipeline says of it.

Each row of docs/troubleshooting.md's section "The platform's own errors" names its test here, which
tests/docs/test_known_errors.py holds true.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.core import Config
from databricks.sdk.service.serving import (
    AiGatewayRateLimit,
    AiGatewayRateLimitRenewalPeriod,
    ServingEndpointAccessControlRequest,
    ServingEndpointPermissionLevel,
)

from release_pipeline.errors import (
    EndpointError,
    EndpointHidden,
    NotConfigured,
    UpdateInProgress,
    WorkspaceError,
)
from release_pipeline.operate.status import status
from release_pipeline.operate.status_text import status_lines
from release_pipeline.workspace.client import Workspace, connect
from release_pipeline.workspace.endpoint import Endpoint, ServedEntity
from tests.conftest import RunningWorkspace
from tests.local_workspace.agents_that_read import Person
from tests.pipeline.conftest import Model

pytestmark = pytest.mark.slow

HELLO: dict[str, Any] = {"input": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def somebody(workspace: RunningWorkspace) -> Iterator[Person]:
    """A user to whom nothing was granted."""
    client = WorkspaceClient()
    made = Person(workspace, client)
    yield made
    client.users_v2.delete(made.id)


def as_(person: Person) -> Workspace:
    """The workspace as somebody sees it."""
    return Workspace(client=person.client, host=os.environ["DATABRICKS_HOST"])


def impatient() -> Workspace:
    """The workspace, asked by a client that gives up soon."""
    client = WorkspaceClient(config=Config(retry_timeout_seconds=1))
    return Workspace(client=client, host=os.environ["DATABRICKS_HOST"])


def give(model: Model, person: Person, level: str) -> None:
    state = model.parts().endpoint.read()
    assert state is not None
    grant = ServingEndpointAccessControlRequest(
        user_name=person.name, permission_level=ServingEndpointPermissionLevel(level)
    )
    WorkspaceClient().serving_endpoints.update_permissions(state.id, access_control_list=[grant])


def said_by(error: type[Exception], call: Callable[[], object]) -> str:
    """The sentence of the pipeline's error that a call raises; it tells no token and no client's settings."""
    with pytest.raises(error) as raised:
        call()
    sentence = str(raised.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert "Config:" not in sentence
    assert os.environ.get("DATABRICKS_TOKEN", "none") not in sentence
    return sentence


def test_no_credentials(workspace: RunningWorkspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("DATABRICKS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    sentence = said_by(NotConfigured, connect)
    assert sentence.startswith("no Databricks credentials: ")
    assert "cannot configure default credentials" in sentence
    assert "set DATABRICKS_HOST and DATABRICKS_TOKEN, or a profile" in sentence


def test_credentials_that_have_ended(workspace: RunningWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-that-was-revoked")
    sentence = said_by(WorkspaceError, lambda: Endpoint(connect(), "any").read())
    assert sentence.startswith("endpoint any could not be read: ")
    assert "the credentials are wrong or have ended: check DATABRICKS_TOKEN, or the profile" in sentence


def test_permission_denied(deployed: tuple[Model, str], somebody: Person) -> None:
    model, _ = deployed
    name = model.spec.endpoint_name
    theirs = Endpoint(as_(somebody), name)
    assert f"endpoint {name} may not be seen" in said_by(EndpointHidden, theirs.read)
    state = model.parts().endpoint.read()
    assert state is not None
    served = state.entities
    give(model, somebody, "CAN_VIEW")
    sentence = said_by(EndpointError, lambda: theirs.query_entity(served[0].name, HELLO))
    assert "it takes CAN_QUERY, which an app gets with a resource: see `release-pipeline app-snippet`" in sentence
    give(model, somebody, "CAN_QUERY")
    assert theirs.query_entity(served[0].name, HELLO)["output"]
    for change in (
        lambda: theirs.update(served, {served[0].name: 100, served[1].name: 0}),
        lambda: theirs.set_tags({"a": "b"}),
    ):
        assert "`release-pipeline preflight` tells which permission is missing" in said_by(EndpointError, change)


def test_stuck_in_not_ready(model: Model, set_faults: Callable[..., object], tmp_path: Path) -> None:
    set_faults(update_seconds=600)
    version, endpoint = model.register("first"), model.parts().endpoint
    # Its process takes its time before it does anything.
    (tmp_path / "sitecustomize.py").write_text("import time; time.sleep(60)")
    plain = model.entity(version)
    variables = {**plain.settings["environment_vars"], "PYTHONPATH": str(tmp_path)}
    entity = replace(plain, settings={**plain.settings, "environment_vars": variables})
    create(model, entity)
    sentence = said_by(UpdateInProgress, lambda: endpoint.wait(timeout_seconds=0.5, progress=model.said.append))
    assert f"endpoint {endpoint.name} was not ready within" in sentence
    assert f"{entity.name} creating" in sentence
    assert f"`databricks serving-endpoints build-logs {endpoint.name} {entity.name}`" in sentence
    # What the sentence names is there to be read.
    logs = WorkspaceClient().serving_endpoints.build_logs(endpoint.name, entity.name).logs
    assert f"Loading {model.spec.model.registered_name} version {version}" in logs
    assert "creating" in model.said[0]


def test_a_404_while_it_is_provisioned(model: Model, set_faults: Callable[..., object]) -> None:
    set_faults(update_seconds=600)
    version, endpoint = model.register("first"), model.parts().endpoint
    entity = model.entity(version)
    create(model, entity)
    sentence = said_by(EndpointError, lambda: endpoint.query_entity(entity.name, HELLO))
    assert f"served entity {entity.name} of {endpoint.name} did not answer: it is still being set up" in sentence
    assert "try again when `release-pipeline status` says ready" in sentence


def test_resource_does_not_exist(deployed: tuple[Model, str]) -> None:
    model, _ = deployed
    nowhere = Endpoint(connect(), "no-such-endpoint")
    assert nowhere.read() is None
    sentence = said_by(EndpointError, lambda: nowhere.query_entity("a", HELLO))
    assert "there is no endpoint no-such-endpoint; `databricks serving-endpoints list` shows" in sentence
    endpoint = model.parts().endpoint
    state = endpoint.read()
    assert state is not None
    sentence = said_by(EndpointError, lambda: endpoint.query_entity("no-such-entity", HELLO))
    assert f"the endpoint serves {', '.join(each.name for each in state.entities)} instead" in sentence


def test_rate_limit_exceeded(model: Model) -> None:
    model.champion()
    endpoint = Endpoint(impatient(), model.spec.endpoint_name)
    state = endpoint.read()
    assert state is not None
    limit = AiGatewayRateLimit(calls=1, renewal_period=AiGatewayRateLimitRenewalPeriod.MINUTE)
    WorkspaceClient().serving_endpoints.put_ai_gateway(endpoint.name, rate_limits=[limit])
    entity = state.entities[0].name
    endpoint.query_entity(entity, HELLO)
    # The client has tried again, for as long as it was allowed to.
    sentence = said_by(EndpointError, lambda: endpoint.query_entity(entity, HELLO))
    assert "The rate limit of the endpoint is reached" in sentence
    assert "wait and try again, or raise the rate limits of the endpoint's AI Gateway" in sentence
    assert "Timed out after 0:00:01" in sentence


def test_missing_from_the_list_of_ones_own(model: Model, somebody: Person) -> None:
    model.champion()
    give(model, somebody, "CAN_VIEW")
    name = model.spec.endpoint_name
    # The service's page filters by owner; its list, and `status`, do not.
    listed = {each.name: each.creator for each in somebody.client.serving_endpoints.list()}
    owner = listed[name]
    assert owner != somebody.name
    hint = f"  endpoint {name} belongs to {owner}: the Serving page shows it under All, not under Owned by me"
    assert hint in status_lines(status(as_(somebody), model.spec))
    mine = status_lines(status(connect(), model.spec))
    assert not [line for line in mine if "Owned by me" in line]


def create(model: Model, entity: ServedEntity) -> None:
    """Ask for the endpoint, and do not wait."""
    from release_pipeline.workspace.endpoint import InferenceTableName

    catalog, schema, table = model.spec.payload_table.split(".")
    where = InferenceTableName(catalog, schema, table.removesuffix("_payload"))
    model.parts().endpoint.create(entity, tags={}, inference_table=where)
