"""Every mistake in a YAML is one sentence: file, line, release, field, value, bound, and what to do.

The cases, and the whole sentences, are in ``yaml_mistakes.yaml``.
"""

from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from dagster.components.testing import DefsFolderSandbox, create_defs_folder_sandbox

from release_pipeline.errors import SpecError
from release_pipeline.evaluation.scorers import BUILT_IN
from release_pipeline.spec import BUILT_IN_SCORERS
from release_pipeline.spec_file import read_spec
from release_pipeline.spec_lines import lines_in

_TABLE: Final[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("yaml_mistakes.yaml").read_text())
RIGHT: Final[str] = _TABLE["right"]
MISTAKES: Final[list[dict[str, str]]] = _TABLE["mistakes"]


def said_of(text: str, folder: Path) -> str:
    """What is said of a release's YAML beside its model."""
    (folder / "agent.py").touch()
    (folder / "defs.yaml").write_text(text)
    with pytest.raises(SpecError) as raised:
        read_spec(folder / "defs.yaml")
    return str(raised.value)


def changed(mistake: dict[str, str]) -> str:
    assert RIGHT.count(mistake["instead_of"]) == 1
    return RIGHT.replace(mistake["instead_of"], mistake["is_written"])


@pytest.mark.parametrize("mistake", MISTAKES, ids=[each["is_written"].strip() for each in MISTAKES])
def test_a_mistake_is_one_sentence(mistake: dict[str, str], tmp_path: Path) -> None:
    said = said_of(changed(mistake), tmp_path)
    assert said.replace(str(tmp_path), "FOLDER") == f"FOLDER/{mistake['says']}"


def test_the_release_of_the_table_is_right(tmp_path: Path) -> None:
    assert len(MISTAKES) >= 40
    (tmp_path / "agent.py").touch()
    (tmp_path / "defs.yaml").write_text(RIGHT)
    assert read_spec(tmp_path / "defs.yaml").name == "answers"
    assert tuple(BUILT_IN) == BUILT_IN_SCORERS, "the sentences name all that is built in"


def test_two_mistakes_are_two_sentences_each_with_its_line(tmp_path: Path) -> None:
    said = said_of(RIGHT.replace("alpha: 0.05", "alpha: 2").replace("tick_seconds: 30", "tick_seconds: 0"), tmp_path)
    lines = [line.removeprefix(f"{tmp_path}/defs.yaml:").partition(":")[0] for line in said.splitlines()]
    assert lines == ["27", "41"]


def test_two_parts_that_do_not_go_together_are_told_with_all_others_of_the_kind(tmp_path: Path) -> None:
    text = RIGHT.replace("margin: [0.05, 0.02]", "margin: [0.05, 0.02, 0.01]")
    said = said_of(text.replace("gate_sensor: on", "promotion_schedule: on"), tmp_path)
    assert [line.split("field `")[1].split("`")[0] for line in said.splitlines()] == [
        "gate.metrics.1.margin",
        "automation.promotion_schedule",
    ]


@pytest.mark.filterwarnings("ignore:.parse_obj_as. is deprecated")  # Dagster's own
def test_dagster_says_the_same_sentences(tmp_path: Path) -> None:
    """All of them, and also where the release is the second document of its file."""
    first = "type: dagster.DefinitionsComponent\nattributes: {path: other.py}\n---\n"
    with create_defs_folder_sandbox(project_name="elsewhere") as sandbox:
        folder = sandbox.defs_folder_path / "answers"
        folder.mkdir()
        (folder / "agent.py").touch()
        (folder / "other.py").write_text("")
        for mistake in MISTAKES:
            said = said_of(changed(mistake), tmp_path).replace(str(tmp_path), str(folder))
            found = _said_by_dagster(sandbox, changed(mistake))
            if "is not YAML" in said:  # before any component is asked
                place, line = said.split(": is not YAML")[0].rsplit(":", 1)
                assert f'in "{place}", line {line}' in found
            elif "releases of type" in said:
                assert "Module `release_pipeline` has no attribute `Component`" in found
            else:
                assert said in found, mistake
        text = first + RIGHT.replace("alpha: 0.05", "alpha: 2")
        line = text.splitlines().index("    alpha: 2") + 1
        sentence = (
            f"{folder / 'defs.yaml'}:{line}: release answers: field `gate.alpha` (value: 2): must be less than 0.5"
        )
        assert sentence in _said_by_dagster(sandbox, text)


def _said_by_dagster(sandbox: DefsFolderSandbox, text: str) -> str:
    (sandbox.defs_folder_path / "answers" / "defs.yaml").write_text(text)
    with pytest.raises(Exception, match=r".") as raised, sandbox.build_all_defs():
        pass
    return _causes(raised.value)


def _causes(error: BaseException | None) -> str:
    return f"{error}\n{_causes(error.__cause__ or error.__context__)}" if error else ""


def test_a_place_that_is_not_written_is_where_the_part_above_it_is() -> None:
    lines = lines_in("name: a\nmodel:\n  source: b\n---\nattributes: {name: c, ramp: {steps: [1,\n  2]}}\n", 1)
    assert [lines(place) for place in ((), ("name",), ("ramp", "steps", 1), ("ramp", "on_harm"), ("gate",))] == [
        *(5, 5, 6, 5, 5)
    ]
    assert lines_in("a: 1\n", 3)(("a",)) is None
