"""The model registry through mlflow's own client: log, register, find, alias, tag, download, load."""

import io
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import PermissionDenied
from mlflow.exceptions import RestException
from mlflow.models.auth_policy import AuthPolicy, SystemAuthPolicy, UserAuthPolicy
from mlflow.models.resources import DatabricksServingEndpoint, DatabricksTable

from tests.conftest import RunningWorkspace

BASE = "/api/2.0/mlflow/unity-catalog"
AGENT = """
import uuid

import mlflow
from mlflow.pyfunc import ResponsesAgent
from mlflow.types.responses import ResponsesAgentRequest, ResponsesAgentResponse


class Echo(ResponsesAgent):
    def predict(self, request: ResponsesAgentRequest) -> ResponsesAgentResponse:
        text = request.input[-1].content
        item = self.create_text_output_item(text=f"echo: {text}", id=str(uuid.uuid4()))
        return ResponsesAgentResponse(output=[item])


mlflow.models.set_model(Echo())
"""


@dataclass
class Registered:
    name: str
    run_id: str
    model_id: str


@pytest.fixture(scope="module")
def agent(workspace: RunningWorkspace, tmp_path_factory: pytest.TempPathFactory) -> Registered:
    source = tmp_path_factory.mktemp("agent") / "agent.py"
    source.write_text(AGENT)
    name = f"main.default.echo_{uuid.uuid4().hex[:8]}"
    mlflow.set_experiment("/Shared/registry")
    resources = [DatabricksServingEndpoint("other"), DatabricksTable("main.default.facts")]
    with mlflow.start_run() as run:
        logged = mlflow.pyfunc.log_model(
            name="agent",
            python_model=str(source),
            input_example={"input": [{"role": "user", "content": "hello"}]},
            pip_requirements=["mlflow"],
            auth_policy=AuthPolicy(
                system_auth_policy=SystemAuthPolicy(resources=resources),
                user_auth_policy=UserAuthPolicy(api_scopes=["sql.statement-execution"]),
            ),
        )
    version = mlflow.register_model(logged.model_uri, name)
    assert str(version.version) == "1"
    return Registered(name, run.info.run_id, logged.model_id)


@pytest.fixture
def registry(workspace: RunningWorkspace) -> mlflow.MlflowClient:
    return mlflow.MlflowClient()


@pytest.fixture
def empty(registry: mlflow.MlflowClient) -> str:
    name = f"main.default.empty_{uuid.uuid4().hex[:8]}"
    registry.create_registered_model(name, description="nothing yet", tags={"team": "a"})
    return name


def _call(client: WorkspaceClient, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    sent = {"query": body} if method == "GET" else {"body": body}
    answer = client.api_client.do(method, BASE + path, **sent)
    assert isinstance(answer, dict)
    return answer


def _pending_version(client: WorkspaceClient, name: str) -> str:
    body = {"name": name, "source": "models:/m-1"}
    return str(_call(client, "POST", "/model-versions/create", body)["model_version"]["version"])


def test_a_registered_version_is_ready_and_tells_where_it_came_from(
    registry: mlflow.MlflowClient, agent: Registered
) -> None:
    version = registry.get_model_version(agent.name, "1")
    assert version.status == "READY"
    assert (version.run_id, version.model_id) == (agent.run_id, agent.model_id)
    assert version.user_id == "developer@localhost"
    assert version.creation_timestamp <= version.last_updated_timestamp


def test_declared_resources_are_recorded_as_dependencies(client: WorkspaceClient, agent: Registered) -> None:
    found = _call(client, "GET", "/model-versions/get", {"name": agent.name, "version": "1"})["model_version"]
    assert {(item["type"], item["name"]) for item in found["model_version_dependencies"]} == {
        ("DATABRICKS_MODEL_ENDPOINT", "other"),
        ("DATABRICKS_TABLE", "main.default.facts"),
    }


def test_a_version_is_downloaded_and_loaded_by_number_and_by_alias(
    registry: mlflow.MlflowClient, agent: Registered, tmp_path: Path
) -> None:
    registry.set_registered_model_alias(agent.name, "champion", "1")
    for uri in (f"models:/{agent.name}/1", f"models:/{agent.name}@champion"):
        loaded = mlflow.pyfunc.load_model(uri)
        answer = loaded.predict({"input": [{"role": "user", "content": "hi"}]})
        assert answer["output"][0]["content"][0]["text"] == "echo: hi"
    folder = mlflow.artifacts.download_artifacts(f"models:/{agent.name}/1", dst_path=str(tmp_path))
    assert (Path(folder) / "MLmodel").is_file()


def test_the_files_of_a_ready_version_cannot_be_changed(client: WorkspaceClient, agent: Registered) -> None:
    path = f"/Models/{agent.name.replace('.', '/')}/1/MLmodel"
    with pytest.raises(PermissionDenied):
        client.files.upload(path, io.BytesIO(b"changed"), overwrite=True)
    with pytest.raises(PermissionDenied):
        client.files.delete(path)
    assert client.files.get_metadata(path).content_length != len(b"changed")


def test_an_alias_moves_and_goes(registry: mlflow.MlflowClient, client: WorkspaceClient, empty: str) -> None:
    first, second = (_pending_version(client, empty) for _ in range(2))
    registry.set_registered_model_alias(empty, "champion", first)
    registry.set_registered_model_alias(empty, "champion", second)
    registry.set_registered_model_alias(empty, "before", first)
    assert str(registry.get_model_version_by_alias(empty, "champion").version) == second
    assert registry.get_model_version(empty, second).aliases == ["champion"]
    aliases = registry.get_registered_model(empty).aliases
    assert {alias: str(version) for alias, version in aliases.items()} == {"champion": second, "before": first}
    registry.delete_registered_model_alias(empty, "champion")
    with pytest.raises(RestException) as gone:
        registry.get_model_version_by_alias(empty, "champion")
    assert gone.value.error_code == "RESOURCE_DOES_NOT_EXIST"


@pytest.mark.parametrize("alias", ["latest", "v3", "has space", ""])
def test_an_alias_that_would_be_mistaken_is_refused(
    workspace: RunningWorkspace, client: WorkspaceClient, empty: str, alias: str
) -> None:
    body = {"name": empty, "alias": alias, "version": _pending_version(client, empty)}
    answer = requests.post(
        f"{workspace.url}{BASE}/registered-models/alias", json=body, auth=("token", workspace.token), timeout=30
    )
    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")


def test_an_alias_to_a_version_that_does_not_exist_is_refused(registry: mlflow.MlflowClient, empty: str) -> None:
    with pytest.raises(RestException) as refused:
        registry.set_registered_model_alias(empty, "champion", "7")
    assert refused.value.error_code == "RESOURCE_DOES_NOT_EXIST"


def test_tags_and_descriptions(registry: mlflow.MlflowClient, client: WorkspaceClient, empty: str) -> None:
    version = _pending_version(client, empty)
    registry.set_model_version_tag(empty, version, "rejected", "errors rose")
    registry.set_model_version_tag(empty, version, "gone", "x")
    registry.delete_model_version_tag(empty, version, "gone")
    registry.update_model_version(empty, version, description="the one")
    registry.set_registered_model_tag(empty, "owner", "b")
    registry.delete_registered_model_tag(empty, "team")
    registry.update_registered_model(empty, description="changed")
    found = registry.get_model_version(empty, version)
    assert (found.tags, found.description) == ({"rejected": "errors rose"}, "the one")
    model = registry.get_registered_model(empty)
    assert (model.tags, model.description) == ({"owner": "b"}, "changed")


def test_searching_versions(
    registry: mlflow.MlflowClient, client: WorkspaceClient, empty: str, agent: Registered
) -> None:
    numbers = [_pending_version(client, empty) for _ in range(3)]
    found = registry.search_model_versions(f"name='{empty}'")
    assert [str(version.version) for version in found] == numbers[::-1]
    pages = registry.search_model_versions(f"name='{empty}'", max_results=2)
    assert len(pages) == 2
    rest = registry.search_model_versions(f"name='{empty}'", max_results=2, page_token=pages.token)
    assert [str(version.version) for version in rest] == numbers[:1]
    assert not rest.token
    by_run = registry.search_model_versions(f"run_id='{agent.run_id}'")
    assert [version.name for version in by_run] == [agent.name]
    with pytest.raises(RestException) as refused:
        registry.search_model_versions("tags.x = 'y'")
    assert refused.value.error_code == "INVALID_PARAMETER_VALUE"


def test_a_search_never_carries_aliases_or_tags(registry: mlflow.MlflowClient, agent: Registered) -> None:
    # The client drops them from a search; whoever needs them must get the version itself.
    registry.set_model_version_tag(agent.name, "1", "seen", "yes")
    registry.set_registered_model_alias(agent.name, "searched", "1")
    (found,) = registry.search_model_versions(f"name='{agent.name}'")
    for attribute in (found.tags, found.aliases):
        with pytest.raises(Exception, match="get_model_version"):
            attribute()
    assert registry.get_model_version(agent.name, "1").tags["seen"] == "yes"


def test_searching_models_lists_them_all(registry: mlflow.MlflowClient, empty: str, agent: Registered) -> None:
    names: list[str] = []
    token = None
    while token is None or token:
        page = registry.search_registered_models(max_results=1, page_token=token)
        names += [model.name for model in page]
        token = page.token or ""
    assert names == sorted(names)
    assert {empty, agent.name} <= set(names)


def test_a_pending_version_becomes_ready_only_with_its_files(
    registry: mlflow.MlflowClient, client: WorkspaceClient, empty: str
) -> None:
    version = _pending_version(client, empty)
    key = {"name": empty, "version": version}
    assert registry.get_model_version(empty, version).status == "PENDING_REGISTRATION"
    with pytest.raises(Exception, match="no MLmodel file"):
        _call(client, "POST", "/model-versions/finalize", key)
    folder = registry.get_model_version_download_uri(empty, version)
    client.files.upload(f"{folder}/MLmodel", io.BytesIO(b"flavors: {}\n"))
    assert _call(client, "POST", "/model-versions/finalize", key)["model_version"]["status"] == "READY"


def test_a_deleted_version_takes_its_alias_and_files_along_and_its_number_is_not_used_again(
    registry: mlflow.MlflowClient, client: WorkspaceClient, empty: str
) -> None:
    version = _pending_version(client, empty)
    folder = registry.get_model_version_download_uri(empty, version)
    client.files.upload(f"{folder}/MLmodel", io.BytesIO(b"x"))
    registry.set_registered_model_alias(empty, "champion", version)
    registry.delete_model_version(empty, version)
    assert registry.get_registered_model(empty).aliases == {}
    with pytest.raises(Exception, match="Not Found"):
        client.files.get_directory_metadata(folder)
    assert _pending_version(client, empty) == str(int(version) + 1)
    registry.delete_registered_model(empty)
    with pytest.raises(RestException) as gone:
        registry.get_registered_model(empty)
    assert gone.value.error_code == "RESOURCE_DOES_NOT_EXIST"


def test_registering_again_makes_the_next_version_of_the_same_model(
    registry: mlflow.MlflowClient, agent: Registered
) -> None:
    with pytest.raises(RestException) as taken:
        registry.create_registered_model(agent.name)
    assert taken.value.error_code == "RESOURCE_ALREADY_EXISTS"
    again = mlflow.register_model(f"models:/{agent.model_id}", agent.name, tags={"release": "2"})
    assert (str(again.version), registry.get_model_version(agent.name, "2").tags) == ("2", {"release": "2"})


@pytest.mark.parametrize("name", ["none.default.m", "main.none.m", "main.default"])
def test_a_model_needs_a_catalog_and_a_schema_that_exist(
    workspace: RunningWorkspace, client: WorkspaceClient, name: str
) -> None:
    answer = requests.post(
        f"{workspace.url}{BASE}/registered-models/create",
        json={"name": name},
        auth=("token", workspace.token),
        timeout=30,
    )
    expected = (400, "INVALID_PARAMETER_VALUE") if name == "main.default" else (404, "RESOURCE_DOES_NOT_EXIST")
    assert (answer.status_code, answer.json()["error_code"]) == expected


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"{", "MALFORMED_REQUEST"), (b"[]", "INVALID_PARAMETER_VALUE"), (b"", "INVALID_PARAMETER_VALUE")],
)
def test_a_body_that_makes_no_sense_is_the_clients_mistake(workspace: RunningWorkspace, body: bytes, code: str) -> None:
    url = f"{workspace.url}{BASE}/model-versions/create"
    answer = requests.post(url, data=body, auth=("token", workspace.token), timeout=30)
    assert (answer.status_code, answer.json()["error_code"]) == (400, code)


def test_fields_of_the_wrong_kind_are_the_clients_mistake(workspace: RunningWorkspace, empty: str) -> None:
    wrong: list[tuple[str, str, dict[str, object]]] = [
        ("PATCH", "registered-models/update", {"name": empty, "description": ["x"]}),
        ("PATCH", "registered-models/update", {"name": empty, "new_name": "main.default.other"}),
        ("POST", "registered-models/create", {"name": empty + "2", "tags": {"a": "b"}}),
        ("POST", "registered-models/set-tag", {"name": empty, "key": "", "value": "x"}),
        ("POST", "model-versions/create", {"name": empty, "source": None}),
    ]
    for method, path, body in wrong:
        url = f"{workspace.url}{BASE}/{path}"
        answer = requests.request(method, url, json=body, auth=("token", workspace.token), timeout=30)
        assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE"), (path, body)


@pytest.mark.parametrize("version", ["0", "01", "-1", "1.0", "x", "../1", "9" * 30])
def test_what_is_no_version_number_is_not_found(workspace: RunningWorkspace, agent: Registered, version: str) -> None:
    url = f"{workspace.url}{BASE}/model-versions/get"
    key = {"name": agent.name, "version": version}
    answer = requests.get(url, params=key, auth=("token", workspace.token), timeout=30)
    assert (answer.status_code, answer.json()["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")


def test_a_model_logged_outside_a_run_is_registered_too(
    registry: mlflow.MlflowClient, agent: Registered, tmp_path: Path
) -> None:
    source = tmp_path / "agent.py"
    source.write_text(AGENT)
    logged = mlflow.pyfunc.log_model(name="loose", python_model=str(source), pip_requirements=["mlflow"])
    version = mlflow.register_model(logged.model_uri, agent.name + "_loose")
    found = registry.get_model_version(version.name, version.version)
    assert (found.status, found.model_id) == ("READY", logged.model_id)
