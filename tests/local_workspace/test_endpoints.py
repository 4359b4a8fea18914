"""The life cycle of serving endpoints, through the real SDK."""

import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import (
    InvalidParameterValue,
    OperationFailed,
    ResourceAlreadyExists,
    ResourceConflict,
    ResourceDoesNotExist,
)
from databricks.sdk.service.serving import (
    EndpointCoreConfigInput,
    EndpointTag,
)

from tests.conftest import RunningWorkspace
from tests.local_workspace.conftest import (
    AGENT,
    BAD,
    create,
    entity,
    is_running,
    raw_entity,
    said,
    say,
    scoring_processes,
    settled,
    start_creating,
    traffic,
    update,
    wait_for,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def invoke(client: WorkspaceClient, name: str, entity_name: str | None = None, text: str = "hello") -> Any:
    path = f"/serving-endpoints/{name}" + (f"/served-models/{entity_name}" if entity_name else "") + "/invocations"
    return client.api_client.do("POST", path, body=say(text))


def put(client: WorkspaceClient, name: str, entities: list[Any], routes: dict[str, int] | None = None) -> Any:
    body: dict[str, Any] = {"served_entities": entities}
    if routes is not None:
        body["traffic_config"] = {
            "routes": [{"served_entity_name": key, "traffic_percentage": value} for key, value in routes.items()]
        }
    return client.api_client.do("PUT", f"/api/2.0/serving-endpoints/{name}/config", body=body)


def test_from_creation_to_deletion(client: WorkspaceClient, endpoint_name: str) -> None:
    nameless = entity("")
    nameless.name = None
    config = EndpointCoreConfigInput(name=endpoint_name, served_entities=[nameless])
    ready = client.serving_endpoints.create_and_wait(
        endpoint_name, config=config, tags=[EndpointTag("team", "docs")], description="what it is"
    )
    assert (ready.state.ready.value, ready.state.config_update.value) == ("READY", "NOT_UPDATING")
    assert (ready.config.config_version, ready.pending_config) == (1, None)
    served = ready.config.served_entities[0]
    assert (served.name, served.entity_version, served.state.deployment.value) == ("echo-1", "1", "DEPLOYMENT_READY")
    assert [r.as_dict() for r in ready.config.traffic_config.routes] == [
        {"served_entity_name": "echo-1", "served_model_name": "echo-1", "traffic_percentage": 100}
    ]
    assert (ready.description, ready.tags[0].as_dict()) == ("what it is", {"key": "team", "value": "docs"})
    assert ready.creator == client.current_user.me().user_name
    assert endpoint_name in {endpoint.name for endpoint in client.serving_endpoints.list()}
    assert said(invoke(client, endpoint_name)) == "echo: hello"
    client.serving_endpoints.delete(endpoint_name)
    with pytest.raises(ResourceDoesNotExist):
        client.serving_endpoints.get(endpoint_name)
    with pytest.raises(ResourceDoesNotExist):
        invoke(client, endpoint_name)


def test_while_it_is_created(client: WorkspaceClient, endpoint_name: str) -> None:
    created = start_creating(client, endpoint_name, raw_entity("a", version=1))
    assert "config" not in created
    assert created["state"] == {"ready": "NOT_READY", "config_update": "IN_PROGRESS"}
    pending = created["pending_config"]
    # A version sent as a number comes back as text, or later comparisons fail.
    assert pending["served_entities"][0]["entity_version"] == "1"
    assert pending["served_models"][0]["model_name"] == AGENT
    assert pending["served_entities"][0]["state"]["deployment"] == "DEPLOYMENT_CREATING"
    with pytest.raises(ResourceDoesNotExist):
        invoke(client, endpoint_name)
    with pytest.raises(ResourceConflict):
        put(client, endpoint_name, [raw_entity("b")])
    with pytest.raises(ResourceAlreadyExists):
        start_creating(client, endpoint_name, raw_entity("a"))
    client.serving_endpoints.delete(endpoint_name)  # allowed at any time


@pytest.mark.parametrize(
    ("entities", "routes", "words"),
    [
        ([raw_entity("a")], {"a": 90}, "sum to 100, got 90"),
        ([raw_entity("a")], {"b": 100}, "'b', which is not a served entity"),
        ([raw_entity("a"), raw_entity("b")], None, "traffic_config is required"),
        ([raw_entity("a"), raw_entity("b")], {"a": 101, "b": -1}, "from 0 to 100"),
        ([raw_entity("a"), raw_entity("a")], {"a": 100}, "two entities named 'a'"),
        ([], None, "at least one entity"),
        ([raw_entity("a", model="echo")], None, "catalog.schema.model"),
        ([raw_entity("a", version="latest")], None, "must be a number"),
        ([raw_entity("a") | {"workload_size": "Huge"}], None, "workload_size"),
        ([raw_entity("a") | {"environment_vars": {"K": "{{secrets/keys/openai}}"}}], None, "'openai' of scope 'keys'"),
    ],
)
def test_a_configuration_that_is_refused(
    client: WorkspaceClient, shared_endpoint: Callable[[str], str], entities: Any, routes: Any, words: str
) -> None:
    name = shared_endpoint(AGENT)
    before = client.serving_endpoints.get(name).as_dict()
    with pytest.raises(InvalidParameterValue, match=words):
        put(client, name, entities, routes)
    assert client.serving_endpoints.get(name).as_dict() == before


def test_a_model_version_that_does_not_exist_or_is_not_ready(client: WorkspaceClient, endpoint_name: str) -> None:
    with pytest.raises(ResourceDoesNotExist):
        start_creating(client, endpoint_name, raw_entity("a", version="99"))
    registry = "/api/2.0/mlflow/unity-catalog"
    model = f"main.default.{endpoint_name.replace('-', '_')}"
    client.api_client.do("POST", f"{registry}/registered-models/create", body={"name": model})
    client.api_client.do("POST", f"{registry}/model-versions/create", body={"name": model, "source": "dbfs:/x"})
    with pytest.raises(InvalidParameterValue, match="PENDING_REGISTRATION"):
        start_creating(client, endpoint_name, raw_entity("a", model=model))


def test_an_endpoint_that_does_not_exist(client: WorkspaceClient) -> None:
    with pytest.raises(ResourceDoesNotExist):
        put(client, "no-such-endpoint", [raw_entity("a")])
    with pytest.raises(ResourceDoesNotExist):
        client.serving_endpoints.get_permissions("0" * 32)


def test_no_request_fails_during_a_swap(client: WorkspaceClient, endpoint_name: str) -> None:
    create(client, endpoint_name, entity("champion"))
    answers: Counter[tuple[int, str]] = Counter()
    done = threading.Event()
    url = f"{client.config.host}/serving-endpoints/{endpoint_name}/invocations"

    def load() -> None:
        with requests.Session() as session:
            session.headers["Authorization"] = f"Bearer {client.config.token}"
            while not done.is_set():
                answer = session.post(url, json=say("hello"), timeout=60)
                answers[answer.status_code, answer.headers.get("served-model-name", "")] += 1

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        update(client, endpoint_name, entity("challenger", version="2"))
        seen = answers[200, "challenger"]
        wait_for(lambda: answers[200, "challenger"] > seen + 20)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert {status for status, _ in answers} == {200}
    assert answers[200, "champion"] > 0


@linux
def test_a_stream_under_way_survives_the_end_of_its_entity(
    workspace: RunningWorkspace, client: WorkspaceClient, endpoint_name: str, tmp_path: Any
) -> None:
    others = scoring_processes(workspace)
    create(client, endpoint_name, entity("old"))
    (old,) = scoring_processes(workspace) - others
    signal = tmp_path / "go"
    with requests.post(
        f"{workspace.url}/serving-endpoints/{endpoint_name}/invocations",
        json=say(f"one {signal} two", stream=True),
        headers={"Authorization": f"Bearer {workspace.token}"},
        stream=True,
        timeout=60,
    ) as response:
        lines = response.iter_lines()
        next(lines)
        update(client, endpoint_name, entity("new", version="2"))
        assert said(invoke(client, endpoint_name)) == "echo: hello"
        signal.touch()
        assert [line for line in lines if line][-1] == b"data: [DONE]"
    wait_for(lambda: not is_running(old))


@linux
def test_traffic_alone_starts_no_process(
    workspace: RunningWorkspace, client: WorkspaceClient, endpoint_name: str
) -> None:
    pair = [entity("a"), entity("b", version="2", GREETING="hello")]
    create(client, endpoint_name, *pair, traffic=traffic(a=100, b=0))
    before = scoring_processes(workspace)
    changed = update(client, endpoint_name, *pair, traffic=traffic(a=50, b=50))
    assert changed.config.config_version == 2
    assert {r.served_entity_name: r.traffic_percentage for r in changed.config.traffic_config.routes} == {
        "a": 50,
        "b": 50,
    }
    assert scoring_processes(workspace) == before


def test_traffic_follows_the_weights(client: WorkspaceClient, endpoint_name: str) -> None:
    pair = [entity("a"), entity("b", version="2")]
    create(client, endpoint_name, *pair, traffic=traffic(a=100, b=0))

    def served_by(number: int) -> Counter[str]:
        url = f"{client.config.host}/serving-endpoints/{endpoint_name}/invocations"
        with requests.Session() as session:
            session.headers["Authorization"] = f"Bearer {client.config.token}"
            return Counter(
                session.post(url, json=say("hello"), timeout=60).headers["served-model-name"] for _ in range(number)
            )

    assert served_by(50) == {"a": 50}
    assert said(invoke(client, endpoint_name, "b")) == "echo: hello"  # an entity at 0 % answers by its name
    update(client, endpoint_name, *pair, traffic=traffic(a=80, b=20))
    # 400 draws at 0.2: outside of [40, 130] less than once in ten million runs.
    assert 40 <= served_by(400)["b"] <= 130


def test_a_failed_update_keeps_the_old_configuration(client: WorkspaceClient, endpoint_name: str) -> None:
    create(client, endpoint_name, entity("good"))
    pair = [entity("good"), entity("bad", BAD)]
    with pytest.raises(OperationFailed):
        client.serving_endpoints.update_config_and_wait(
            endpoint_name, served_entities=pair, traffic_config=traffic(good=50, bad=50)
        )
    failed = client.serving_endpoints.get(endpoint_name)
    assert (failed.state.ready.value, failed.state.config_update.value) == ("READY", "UPDATE_FAILED")
    assert failed.config.config_version == 1
    assert [served.name for served in failed.config.served_entities] == ["good"]
    states = {served.name: served.state for served in failed.pending_config.served_entities}
    assert states["bad"].deployment.value == "DEPLOYMENT_FAILED"
    assert states["bad"].deployment_state_message == "RuntimeError: the weights are missing"
    assert "the weights are missing" in client.serving_endpoints.logs(endpoint_name, "bad").logs
    assert "the weights are missing" in client.serving_endpoints.build_logs(endpoint_name, "bad").logs
    assert said(invoke(client, endpoint_name)) == "echo: hello"
    again = update(client, endpoint_name, entity("good"))
    assert (again.config.config_version, again.pending_config) == (3, None)


def test_a_first_deployment_that_fails(client: WorkspaceClient, endpoint_name: str) -> None:
    start_creating(client, endpoint_name, raw_entity("bad", model=BAD))
    failed = settled(client, endpoint_name).as_dict()
    assert failed["state"] == {"ready": "NOT_READY", "config_update": "UPDATE_FAILED"}
    assert "config" not in failed
    client.serving_endpoints.delete(endpoint_name)


def test_the_last_answer_can_be_sent_back(client: WorkspaceClient, endpoint_name: str) -> None:
    # Clients build a request from an answer, output-only fields included; routes may name a served model.
    create(client, endpoint_name, entity("a"))
    config = client.serving_endpoints.get(endpoint_name).as_dict()["config"]
    routes = [{"served_model_name": "a", "traffic_percentage": 100}]
    body = {"served_entities": config["served_entities"], "traffic_config": {"routes": routes}}
    path = f"/api/2.0/serving-endpoints/{endpoint_name}/config"
    client.api_client.do("PUT", path, body=body)
    assert settled(client, endpoint_name).as_dict()["config"] == {**config, "config_version": 2}
    client.api_client.do("PUT", path, body={"served_models": config["served_models"]})
    assert settled(client, endpoint_name).as_dict()["config"] == {**config, "config_version": 3}


def test_a_process_that_dies_is_started_again(client: WorkspaceClient, endpoint_name: str) -> None:
    create(client, endpoint_name, entity("a"))
    answer = requests.post(
        f"{client.config.host}/serving-endpoints/{endpoint_name}/invocations",
        json=say("die"),
        headers={"Authorization": f"Bearer {client.config.token}"},
        timeout=60,
    )
    assert (answer.status_code, answer.json()["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE")
    state = client.serving_endpoints.get(endpoint_name)
    assert said(invoke(client, endpoint_name)) == "echo: hello"  # it waits for the new process
    metrics = client.serving_endpoints.export_metrics(endpoint_name).contents.read().decode()
    counts = {line.split("{")[0]: line.split()[-1] for line in metrics.splitlines() if line.startswith("request_")}
    assert int(counts["request_5xx_count_total"]) == int(counts["request_count_total"]) - 1 > 0
    assert "ended with code 7" in client.serving_endpoints.build_logs(endpoint_name, "a").logs
    if state.config.served_entities[0].state.deployment.value == "DEPLOYMENT_RECOVERING":
        assert state.state.ready.value == "NOT_READY"


@linux
def test_a_killed_server_comes_back_as_it_was(
    workspace: RunningWorkspace, client: WorkspaceClient, endpoint_name: str
) -> None:
    create(client, endpoint_name, entity("a"))
    put(client, endpoint_name, [raw_entity("a"), raw_entity("b", version="2")], {"a": 30, "b": 70})
    orphans = scoring_processes(workspace)
    workspace.restart()
    wait_for(lambda: not any(is_running(pid) for pid in orphans))
    # The update that was under way is finished: it was acknowledged.
    after = settled(client, endpoint_name).as_dict()
    assert after["state"]["config_update"] == "NOT_UPDATING"
    assert after["config"]["config_version"] == 2
    assert {r["served_entity_name"]: r["traffic_percentage"] for r in after["config"]["traffic_config"]["routes"]} == {
        "a": 30,
        "b": 70,
    }
    assert said(invoke(client, endpoint_name)) == "echo: hello"
