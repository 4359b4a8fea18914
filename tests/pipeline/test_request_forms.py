"""A model is asked before its deployment with the same bodies as after it, in whatever form they carry their table."""

from pathlib import Path
from typing import Any

import mlflow
import pytest

from release_pipeline.errors import ModelInvalid
from release_pipeline.evaluation.clean_predict import answer, ask
from release_pipeline.spec_file import read_spec
from release_pipeline.workspace import tracking
from release_pipeline.workspace.client import connect
from tests.conftest import RunningWorkspace
from tests.pipeline.conftest import MODELS, write_folder

pytestmark = [
    # mlflow would rather have type hints, which a model of tables cannot give.
    pytest.mark.filterwarnings("ignore:.*[Tt]ype hint.*:UserWarning"),
    # It uses what pandas is about to change.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow.*"),
]


@pytest.fixture
def load(workspace: RunningWorkspace, make_spec: Any) -> Any:
    """The model of one file as a release logs it, loaded again."""

    def loaded(source: str, example: dict[str, Any], config: str | dict[str, Any] | None = None) -> Any:
        spec = make_spec(model={"source": source, "config": config, "input_example": example})
        chosen: Path | dict[str, Any] | None = MODELS / config if isinstance(config, str) else config
        run = tracking.log_model(connect(), spec, spec.name, source=MODELS / source, config=chosen, folder=MODELS)
        return mlflow.pyfunc.load_model(run.model_uri)

    return loaded


def test_a_table_in_every_form(load: Any) -> None:
    split = {"dataframe_split": {"columns": ["area"], "data": [[2.0], [5.0]]}}
    model = load("price_model.py", split, {"rate": 3.0})
    assert model.metadata.get_input_schema().to_dict() == [{"type": "double", "name": "area", "required": True}]
    forms: list[dict[str, Any]] = [
        split,
        {"dataframe_records": [{"area": 2.0}, {"area": 5.0}]},
        {"inputs": {"area": [2.0, 5.0]}},
    ]
    assert [list(ask(model, form)) for form in forms] == [[6.0, 15.0]] * 3
    assert "Model is missing inputs ['area']" in answer(model, {"dataframe_records": [{"rooms": 2.0}]})["problem"]


@pytest.mark.slow
def test_texts_of_a_model_with_type_hints(load: Any) -> None:
    model = load("length_model.py", {"inputs": ["a word"]})
    assert ask(model, {"inputs": ["words and words", "a word"]}) == ["long", "short"]


@pytest.mark.slow
def test_an_agent_has_the_configuration_of_its_release_and_not_the_one_for_its_author(load: Any) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}], "custom_inputs": {"tenant": "north"}}
    answers = [ask(load("chat_agent.py", body, config), body) for config in ("first.yaml", {"says": "test"})]
    assert [said["messages"][0]["content"] for said in answers] == ["first: hello", "test: hello"]
    assert [said["custom_outputs"] for said in answers] == [{"tenant": "north"}] * 2
    with pytest.raises(ModelInvalid, match="Config file is not provided"):
        load("chat_agent.py", body)


@pytest.mark.slow
def test_one_yaml_configures_its_agent_for_each_environment(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_folder(tmp_path, "m", model={"config": {"says": "{{ env.REGION }}"}})
    body = {"messages": [{"role": "user", "content": "hello"}], "custom_inputs": {"tenant": "north"}}
    answers = []
    for region in ("north", "south"):
        monkeypatch.setenv("REGION", region)
        answers.append(ask(load("chat_agent.py", body, read_spec(file).model.config), body))
    assert [said["messages"][0]["content"] for said in answers] == ["north: hello", "south: hello"]


def test_other_parameters_are_another_content() -> None:
    files, requirements = [MODELS / "chat_agent.py"], ["mlflow"]
    parameters: list[dict[str, Any] | None] = [None, {"a": 1, "b": {"c": "x"}}, {"a": 1, "b": {"c": "y"}}]
    digests = [tracking.content_digest(files, requirements, each) for each in parameters]
    assert len(set(digests)) == 3
    assert tracking.content_digest(files, requirements, {"b": {"c": "x"}, "a": 1}) == digests[1]
