"""Templates of the YAML are Dagster's; references to secrets, which look like them, reach the service as they are."""

from pathlib import Path

import pytest
import yaml

from release_pipeline.component import ReleasePipelineComponent
from release_pipeline.errors import SpecError
from release_pipeline.spec_file import read_spec
from tests.pipeline.conftest import write_folder

KEY = "{{secrets/agents/search-1}}"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REGION", "north")
    monkeypatch.chdir(tmp_path)
    environment = {
        "LEVEL": "true",
        "SEARCH_API_KEY": KEY,
        "OTHER_TOKEN": "{{ secrets/agents/2 }}",
        "REGION": "{{ env.REGION }}",
        "N": "1",
    }
    return write_folder(tmp_path, "m", endpoint={"environment": environment, "tags": {"of": "a {{ env.REGION }} b"}})


def test_references_stay_and_templates_are_resolved(file: Path) -> None:
    attributes = yaml.safe_load(file.read_text())["attributes"]
    component = ReleasePipelineComponent.from_attributes_dict(attributes=attributes)
    assert isinstance(component, ReleasePipelineComponent)
    for spec in (component.spec, read_spec(file)):
        assert spec.endpoint.environment == {
            "SEARCH_API_KEY": KEY,
            "OTHER_TOKEN": "{{secrets/agents/2}}",
            "REGION": "north",
            "N": "1",
            "LEVEL": "true",
        }
        assert spec.endpoint.tags == {"of": "a north b"}


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("{{secrets/agents}}", "'secrets' not found in scope"),
        ("{{secrets/a/b/c}}", "'secrets' not found in scope"),
        ("{{ nothing.there }}", "'nothing' not found in scope"),
        ("{% if %}", "TemplateSyntaxError: Expected an expression"),
    ],
)
def test_what_is_neither_is_a_sentence_with_its_line(file: Path, wrong: str, reason: str) -> None:
    text = file.read_text().replace(KEY, wrong)
    file.write_text(text)
    line = next(number for number, each in enumerate(text.splitlines(), start=1) if wrong in each)
    with pytest.raises(SpecError) as raised:
        read_spec(file)
    told = str(raised.value)
    assert told.startswith(
        f"{file}:{line}: field `endpoint.environment.SEARCH_API_KEY`: the template cannot be resolved"
    )
    assert reason in told
    assert "Traceback" not in told
    with pytest.raises(SpecError, match="SEARCH_API_KEY`: the template cannot be resolved"):
        ReleasePipelineComponent.from_attributes_dict(attributes=yaml.safe_load(text)["attributes"])
