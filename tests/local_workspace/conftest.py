"""Models that are really logged and registered, once per session, and endpoints that serve them."""

import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import mlflow
import pandas as pd
import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.service.serving import (
    AiGatewayConfig,
    AiGatewayInferenceTableConfig,
    EndpointCoreConfigInput,
    EndpointStateConfigUpdate,
    Route,
    ServedEntityInput,
    ServingEndpointDetailed,
    TrafficConfig,
)
from mlflow.models import infer_signature

from tests.conftest import RunningWorkspace

if TYPE_CHECKING:
    from tests.local_workspace.agents_that_read import Person

T = TypeVar("T")

MODELS = Path(__file__).parent / "models"
AGENT, CHAT, PLAIN, BAD = "main.default.echo", "main.default.chat", "main.default.doubling", "main.default.bad"


def register(file: str, name: str, **options: Any) -> str:
    """Log a model from its code and register it; the version.

    With its requirements said, unless a test says others: mlflow would load the model once more to find them out.
    """
    mlflow.set_experiment("/Shared/serving")
    with mlflow.start_run(), warnings.catch_warnings():
        # mlflow would rather have type hints, which a model of tables cannot give.
        warnings.simplefilter("ignore", UserWarning)
        options = {"pip_requirements": ["mlflow"]} | options
        info = mlflow.pyfunc.log_model(name="model", python_model=MODELS / file, **options)
    return str(mlflow.register_model(info.model_uri, name).version)


@pytest.fixture(scope="session")
def models(workspace: RunningWorkspace) -> None:
    """Versions 1 and 2 of the agent, and version 1 of each of the other models."""
    assert [register("echo_responses_agent.py", AGENT) for _ in range(2)] == ["1", "2"]
    register("echo_chat_agent.py", CHAT)
    table = infer_signature(pd.DataFrame({"x": [1.0]}), [1.0])
    register("doubling_model.py", PLAIN, signature=table)
    register("unloadable_model.py", BAD, signature=infer_signature(["a"], ["a"]))


def raw_entity(name: str, version: Any = "1", model: str = AGENT) -> dict[str, Any]:
    return {"name": name, "entity_name": model, "entity_version": version, "workload_size": "Small"}


def start_creating(client: WorkspaceClient, name: str, *entities: dict[str, Any]) -> Any:
    body = {"name": name, "config": {"served_entities": list(entities)}}
    return client.api_client.do("POST", "/api/2.0/serving-endpoints", body=body)


def entity(name: str, model: str = AGENT, version: str = "1", **environment: str) -> ServedEntityInput:
    return ServedEntityInput(
        name=name,
        entity_name=model,
        entity_version=version,
        workload_size="Small",
        scale_to_zero_enabled=True,
        environment_vars=environment or None,
    )


def traffic(**percentages: int) -> TrafficConfig:
    """Routes by entity name."""
    routes = [Route(served_model_name=None, served_entity_name=n, traffic_percentage=p) for n, p in percentages.items()]
    return TrafficConfig(routes=routes)


def inference_table(prefix: str) -> AiGatewayConfig:
    return AiGatewayConfig(
        inference_table_config=AiGatewayInferenceTableConfig(
            catalog_name="main", schema_name="default", table_name_prefix=prefix, enabled=True
        )
    )


def create(client: WorkspaceClient, name: str, *entities: ServedEntityInput, **options: Any) -> ServingEndpointDetailed:
    """Create an endpoint and wait for it, more often looking than the SDK's own waiter does."""
    config = EndpointCoreConfigInput(
        name=name, served_entities=list(entities), traffic_config=options.pop("traffic", None)
    )
    client.serving_endpoints.create(name, config=config, **options)
    return settled(client, name)


def update(
    client: WorkspaceClient, name: str, *entities: ServedEntityInput, traffic: TrafficConfig | None = None
) -> ServingEndpointDetailed:
    """Replace an endpoint's configuration and wait for it."""
    client.serving_endpoints.update_config(name, served_entities=list(entities), traffic_config=traffic)
    return settled(client, name)


def settled(client: WorkspaceClient, name: str) -> ServingEndpointDetailed:
    """The endpoint once no update is in progress."""

    def answer() -> ServingEndpointDetailed | None:
        endpoint = client.serving_endpoints.get(name)
        updating = endpoint.state.config_update == EndpointStateConfigUpdate.IN_PROGRESS
        return None if updating else endpoint

    return wait_for(answer)


def wait_for(condition: Callable[[], T | None]) -> T:
    """The first true value of a condition; fails after a long time without one."""
    for _ in range(600):
        if result := condition():
            return result
        time.sleep(0.1)
    raise AssertionError("the condition did not come true")


def say(text: str, **more: Any) -> dict[str, Any]:
    """The body of a request to the agent."""
    return {"input": [{"role": "user", "content": text}], **more}


def said(answer: dict[str, Any]) -> str:
    """What the agent answered."""
    return str(answer["output"][0]["content"][0]["text"])


@pytest.fixture(scope="session")
def reader(workspace: RunningWorkspace) -> None:
    """The versions of an agent that reads tables, by itself and on behalf of its users, and its tables."""
    from tests.local_workspace.agents_that_read import register_reader

    register_reader()


@pytest.fixture
def person(workspace: RunningWorkspace, client: WorkspaceClient) -> Iterator["Person"]:
    """Somebody to whom nothing was granted."""
    from tests.local_workspace.agents_that_read import Person

    made = Person(workspace, client)
    yield made
    if made.id in [each.id for each in client.users_v2.list()]:
        client.users_v2.delete(made.id)


@pytest.fixture
def endpoint_name(client: WorkspaceClient, models: None) -> Iterator[str]:
    """The name of an endpoint of this test, which is deleted after it."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    yield name
    if any(endpoint.name == name for endpoint in client.serving_endpoints.list()):
        client.serving_endpoints.delete(name)


@pytest.fixture(scope="session")
def shared_endpoint(workspace: RunningWorkspace, models: None) -> Iterator[Callable[[str], str]]:
    """Endpoints that tests only query: the name of one that serves version 1 of a model."""
    client = WorkspaceClient()
    names: dict[str, str] = {}

    def endpoint(model: str) -> str:
        if model not in names:
            name = model.replace(".", "-")
            create(client, name, entity("only", model), ai_gateway=inference_table(name.replace("-", "_")))
            names[model] = name
        return names[model]

    yield endpoint
    for name in names.values():
        client.serving_endpoints.delete(name)


def scoring_processes(workspace: RunningWorkspace) -> set[int]:
    """Process ids of the server's scoring processes, started on their own or forked."""
    commands, parents = dict[int, bytes](), dict[int, int]()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
                commands[int(folder.name)] = (folder / "cmdline").read_bytes()
            except (OSError, IndexError):
                continue
    own = {pid for pid in commands if parents[pid] == workspace.process.pid}
    forking = {pid for pid in own if b"serving.fork_server" in commands[pid]}
    started = {pid for pid in own if b"serving.worker" in commands[pid]}
    return started | {pid for pid in commands if parents[pid] in forking}


def is_running(pid: int) -> bool:
    """Whether a process exists and is not merely waiting to be reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"
