"""The process of a removed entity waits for its return, where the workspace is told so."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from databricks.sdk import WorkspaceClient

from tests.conftest import RunningWorkspace
from tests.local_workspace.conftest import AGENT, create, entity, register, settled, traffic, update

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkspaceClient]:
    """A client of a workspace that keeps processes warm, with two versions of the agent."""
    running = RunningWorkspace(tmp_path, "--keep-warm-seconds", "600")
    monkeypatch.setenv("DATABRICKS_HOST", running.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", running.token)
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "no-databrickscfg"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "databricks-uc")
    for _ in range(2):
        register("echo_responses_agent.py", AGENT)
    yield WorkspaceClient()
    running.stop()


def built(client: WorkspaceClient, name: str) -> str:
    """How the entity `two` was built, with the times."""
    return str(client.serving_endpoints.build_logs(name, "two").logs)


def test_an_entity_that_comes_back_goes_on_in_the_same_process(warm: WorkspaceClient) -> None:
    one, two, other = entity("one"), entity("two", version="2"), entity("two", version="2", MOOD="new")
    create(warm, "warm", one, two, traffic=traffic(one=100, two=0))
    log = built(warm, "warm")
    assert log.count("Ready.") == 1
    assert update(warm, "warm", one).config.served_entities[0].name == "one"
    back = update(warm, "warm", one, two, traffic=traffic(one=0, two=100))
    assert back.state.ready.value == "READY"
    assert built(warm, "warm") == log, "another process was started"
    body = {"input": [{"role": "user", "content": "hello"}]}
    assert warm.api_client.do("POST", "/serving-endpoints/warm/invocations", body=body)["output"]
    # What is not equal is no return.
    update(warm, "warm", one, other, traffic=traffic(one=0, two=100))
    assert built(warm, "warm") != log
    assert built(warm, "warm").count("Ready.") == 1
    # Nor is an entity of an endpoint that was deleted another endpoint's.
    warm.serving_endpoints.delete("warm")
    create(warm, "colder", one, two, traffic=traffic(one=100, two=0))
    assert built(warm, "colder") != log


def test_usually_an_entity_that_comes_back_starts_anew(
    client: WorkspaceClient, models: None, set_faults: Callable[..., requests.Response]
) -> None:
    one, two = entity("one"), entity("two", version="2")
    create(client, "cold", one, two, traffic=traffic(one=100, two=0))
    log = built(client, "cold")
    update(client, "cold", one)
    update(client, "cold", one, two, traffic=traffic(one=100, two=0))
    assert built(client, "cold") != log
    # An update that is made to fail changes nothing, and the next one is as usual.
    set_faults(updates_to_fail=1)
    failed = update(client, "cold", one, two, traffic=traffic(one=60, two=40))
    assert failed.state.config_update.value == "UPDATE_FAILED"
    shares = {route.served_entity_name: route.traffic_percentage for route in failed.config.traffic_config.routes}
    assert shares == {"one": 100, "two": 0}
    assert settled(client, "cold").state.ready.value == "READY"
    again = update(client, "cold", one, two, traffic=traffic(one=60, two=40))
    assert again.state.config_update.value == "NOT_UPDATING"
    client.serving_endpoints.delete("cold")
