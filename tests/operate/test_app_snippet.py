"""What ``release-pipeline app-snippet`` prints is valid, and its Python is run against the real workspace."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from databricks.sdk.service.apps import App

from release_pipeline.cli import main
from release_pipeline.operate.app_snippet import app_name, snippets
from tests.conftest import RunningWorkspace
from tests.pipeline.conftest import make_spec
from tests.served_models import CHAT, ECHO, PLAIN, endpoints

__all__ = ["make_spec"]

MakeSpec = Callable[..., Any]
Served = Callable[[str], str]
EXAMPLES: dict[str, dict[str, Any]] = {
    ECHO: {"input": [{"role": "user", "content": "hello"}]},
    CHAT: {"messages": [{"role": "user", "content": "hello"}]},
    PLAIN: {"dataframe_records": [{"x": 1.0}]},
}


@pytest.fixture(scope="module")
def served(workspace: RunningWorkspace) -> Iterator[Callable[[str], str]]:
    """Endpoints of this module."""
    with endpoints() as found:
        yield found


def test_the_bundle_and_the_variable_name_the_same_resource(make_spec: MakeSpec) -> None:
    spec = make_spec()
    texts = snippets(spec)
    ((key, app),) = yaml.safe_load(texts["databricks.yml"])["resources"]["apps"].items()
    (resource,) = App.from_dict(app).resources or []
    assert resource.serving_endpoint is not None
    assert key == app["name"].replace("-", "_")
    assert resource.serving_endpoint.name == spec.endpoint_name
    assert resource.serving_endpoint.permission.value == "CAN_QUERY"
    assert yaml.safe_load(texts["app.yaml"])["env"] == [{"name": "SERVING_ENDPOINT", "valueFrom": resource.name}]
    assert app_name(make_spec(name="My_Very_Long_Name_Of_A_Model_That_Goes_On")) == "my-very-long-name-of-a-mod-app"


def run(text: str, call: str, endpoint: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a snippet as an app's own code would, with what Databricks puts into its environment."""
    (folder / "app.py").write_text(text)
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import os\nfrom app import ask\n{call}"],
        cwd=folder,
        env={**os.environ, "SERVING_ENDPOINT": endpoint, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("model", "call", "said"),
    [
        (ECHO, "print('|'.join(ask('one two')))", "echo:| one| two"),
        pytest.param(CHAT, "print('|'.join(ask('one two')))", "echo: |one |two ", marks=pytest.mark.slow),
        pytest.param(
            PLAIN, "print(ask({'dataframe_records': [{'x': 4.0}]}))", "{'predictions': [8.0]}", marks=pytest.mark.slow
        ),
    ],
)
def test_the_python_asks_the_endpoint(
    make_spec: MakeSpec, served: Served, tmp_path: Path, model: str, call: str, said: str
) -> None:
    text = snippets(make_spec(model={"input_example": EXAMPLES[model]}))["app.py"]
    ended = run(text, call, served(model), tmp_path)
    assert (ended.returncode, ended.stdout) == (0, said + "\n"), ended.stderr


@pytest.mark.slow
def test_an_error_within_the_stream_is_raised(make_spec: MakeSpec, served: Served, tmp_path: Path) -> None:
    text = snippets(make_spec())["app.py"]
    ended = run(text, "for piece in ask('one break'): print(piece)", served(ECHO), tmp_path)
    assert ended.stdout == "echo:\n one\n"
    assert "the tool did not answer" in ended.stderr.splitlines()[-1]


@pytest.mark.slow
def test_an_agent_that_acts_as_the_caller_is_asked_with_the_callers_token(
    make_spec: MakeSpec, served: Served, workspace: RunningWorkspace, tmp_path: Path
) -> None:
    spec = make_spec(model={"user_api_scopes": ["sql.statement-execution", "serving.serving-endpoints"]})
    texts = snippets(spec)
    (app,) = yaml.safe_load(texts["databricks.yml"])["resources"]["apps"].values()
    assert App.from_dict(app).user_api_scopes == ["serving.serving-endpoints", "sql.statement-execution"]
    endpoint, call = served(ECHO), "print(''.join(ask('hello', os.environ['OF_THE_USER'])))"
    ended = run(texts["app.py"], call, endpoint, tmp_path, OF_THE_USER=workspace.token, DATABRICKS_TOKEN="the app's")
    assert (ended.returncode, ended.stdout) == (0, "echo: hello\n"), ended.stderr
    refused = run(texts["app.py"], call, endpoint, tmp_path, OF_THE_USER="nobody's")
    assert "AuthenticationError" in refused.stderr


def test_the_command_prints_all_files_or_one() -> None:
    def command(*words: str) -> str:
        result = CliRunner().invoke(main, ["app-snippet", "python_docs_agent", *words])
        assert result.exit_code == 0, result.stderr
        return result.stdout

    texts = json.loads(command("--json"))
    assert list(texts) == ["databricks.yml", "app.yaml", "app.py", "requirements.txt"]
    assert command("--only", "app.py") == texts["app.py"]
    assert all(f"# --- {name} ---\n{text}" in command() for name, text in texts.items())
    for name in ("databricks.yml", "app.yaml"):
        assert yaml.safe_load(texts[name])
    compile(texts["app.py"], "app.py", "exec")
    wrong = CliRunner().invoke(main, ["app-snippet", "no_such_model"])
    assert wrong.exit_code == 2
