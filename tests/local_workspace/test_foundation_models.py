"""The foundation model that the local workspace comes with, and how the pipeline finds such models."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import NotFound, PermissionDenied
from mlflow.deployments import get_deploy_client

from release_pipeline.errors import WorkspaceError
from release_pipeline.workspace.client import Workspace, connect
from release_pipeline.workspace.foundation_models import FoundationModel, foundation_models
from tests.conftest import RunningWorkspace
from tests.local_workspace.agents_that_read import Person
from tests.local_workspace.conftest import create, entity, scoring_processes

pytestmark = pytest.mark.slow

HELLO: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello there"}]


@pytest.fixture
def provided(workspace: RunningWorkspace) -> FoundationModel:
    """The one that the workspace lists; the tests know its name no other way."""
    (only,) = foundation_models(connect(), task="llm/v1/chat")
    return only


@pytest.fixture
def openai_client(workspace: RunningWorkspace) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{workspace.url}/serving-endpoints", api_key=workspace.token, max_retries=0) as client:
        yield client


def test_only_the_services_own_models_are_found(
    client: WorkspaceClient, endpoint_name: str, provided: FoundationModel
) -> None:
    lookalike = f"databricks-{endpoint_name}"
    create(client, lookalike, entity("only"))
    try:
        assert lookalike in [each.name for each in client.serving_endpoints.list()]
        assert foundation_models(connect()) == (provided,)
    finally:
        client.serving_endpoints.delete(lookalike)
    assert provided.endpoint.startswith("databricks-")
    assert provided.model.startswith("system.ai.")
    assert provided.ready
    assert foundation_models(connect(), task="llm/v1/embeddings") == ()


def test_its_catalog_schema_and_model_can_be_read(client: WorkspaceClient, provided: FoundationModel) -> None:
    catalog, schema, model = provided.model.split(".")
    assert client.catalogs.get(catalog).catalog_type.value == "SYSTEM_CATALOG"
    listed = {str(each.full_name) for each in client.schemas.list(catalog)}
    assert listed == {f"{catalog}.{schema}", f"{catalog}.serving"}
    assert client.schemas.get(f"{catalog}.{schema}").name == schema
    assert client.registered_models.get(provided.model).name == model
    with pytest.raises(NotFound):
        client.registered_models.get(f"{catalog}.{schema}.no_such_model")


def test_chat_completions_are_the_same_every_time(openai_client: openai.OpenAI, provided: FoundationModel) -> None:
    answers = [openai_client.chat.completions.create(model=provided.endpoint, messages=HELLO) for _ in range(2)]
    assert answers[0] == answers[1]
    assert answers[0].object == "chat.completion"
    assert answers[0].choices[0].message.content == "You said: hello there"
    assert (answers[0].usage.prompt_tokens, answers[0].usage.completion_tokens) == (4, 4)
    stream = openai_client.chat.completions.create(model=provided.endpoint, messages=HELLO, stream=True)
    *chunks, last = list(stream)
    assert "".join(chunk.choices[0].delta.content for chunk in chunks) == "You said: hello there"
    assert {chunk.object for chunk in (*chunks, last)} == {"chat.completion.chunk"}
    assert last.choices[0].finish_reason == "stop"
    cut = openai_client.chat.completions.create(model=provided.endpoint, messages=HELLO, max_tokens=3)
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == ("You said: hello", "length")
    parts: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "in parts"}]}]
    answer = openai_client.chat.completions.create(model=provided.endpoint, messages=parts)
    assert answer.choices[0].message.content == "You said: in parts"


def test_what_is_no_chat_request_is_refused(openai_client: openai.OpenAI, provided: FoundationModel) -> None:
    with pytest.raises(openai.BadRequestError, match="messages must be a list"):
        openai_client.responses.create(model=provided.endpoint, input="hello")
    for options, words in (
        ({"messages": []}, "messages must be"),
        ({"messages": HELLO, "max_tokens": 0}, "max_tokens"),
    ):
        with pytest.raises(openai.BadRequestError, match=words):
            openai_client.chat.completions.create(model=provided.endpoint, **options)


def test_the_deployments_client_asks_it_too(provided: FoundationModel) -> None:
    answer = get_deploy_client("databricks").predict(endpoint=provided.endpoint, inputs={"messages": HELLO})
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "You said: hello there"}


def test_everybody_may_query_it_and_nobody_change_it(
    client: WorkspaceClient, person: Person, provided: FoundationModel
) -> None:
    path = f"/serving-endpoints/{provided.endpoint}/invocations"
    answer: Any = person.client.api_client.do("POST", path, body={"messages": HELLO})
    assert answer["choices"][0]["message"]["content"] == "You said: hello there"
    before = client.serving_endpoints.get(provided.endpoint)
    assert before.permission_level.value == "CAN_QUERY"
    for change in (
        lambda: client.serving_endpoints.delete(provided.endpoint),
        lambda: client.serving_endpoints.update_config(provided.endpoint, served_entities=[entity("mine")]),
        lambda: client.serving_endpoints.update_permissions(before.id, access_control_list=[]),
    ):
        with pytest.raises(PermissionDenied, match="manage"):
            change()
    assert client.serving_endpoints.get(provided.endpoint) == before
    # Its shape is described like that of any endpoint.
    document = client.serving_endpoints.get_open_api(provided.endpoint).contents.read()
    assert b'"messages"' in document


def test_nothing_runs_for_it_before_the_first_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = RunningWorkspace(tmp_path)
    try:
        monkeypatch.setenv("DATABRICKS_HOST", fresh.url)
        monkeypatch.setenv("DATABRICKS_TOKEN", fresh.token)
        (only,) = foundation_models(connect())
        assert only.ready
        assert scoring_processes(fresh) == set()
        path = f"/serving-endpoints/{only.endpoint}/invocations"
        answer: Any = WorkspaceClient().api_client.do("POST", path, body={"messages": HELLO})
        assert answer["choices"]
        (process,) = scoring_processes(fresh)
        # Small, because it loads no mlflow.
        maps = Path(f"/proc/{process}/maps").read_text()
        assert "pandas" not in maps
        # A restart, with everything stored, brings neither a second one nor its process.
        fresh.restart()
        assert foundation_models(connect()) == (only,)
        assert scoring_processes(fresh) == set()
    finally:
        fresh.stop()


def test_the_example_of_the_page_runs(
    workspace: RunningWorkspace, provided: FoundationModel, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Path(__file__).parents[2] / "docs" / "foundation-models.md"
    example = page.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(compile(example, page.name, "exec"), names)
    names["client"].close()
    listed, answer = capsys.readouterr().out.splitlines()
    assert listed.split() == [provided.task, provided.endpoint, provided.model]
    assert answer == "You said: hello"


def test_a_workspace_that_refuses_to_list_is_a_sentence(workspace: RunningWorkspace) -> None:
    stranger = WorkspaceClient(host=workspace.url, token="dapi-of-nobody")
    with pytest.raises(WorkspaceError, match=r"^the endpoints could not be listed: .+\.$"):
        foundation_models(Workspace(client=stranger, host=workspace.url))
