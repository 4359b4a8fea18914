"""What holds for every command: help that teaches, exit codes in one place, Tab, news of waits, a quick start."""

import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import click
import pytest
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete
from click.testing import CliRunner

import release_pipeline
from release_pipeline import waits
from release_pipeline.cli import SECTIONS, main
from release_pipeline.operate.completion import complete_model
from release_pipeline.operate.spec_files import MODULE, spec_files
from tests.pipeline.conftest import write_folder

PROJECT = Path(__file__).parents[2]
COMMAND = Path(sys.prefix) / "bin" / "release-pipeline"
HEAVY = ("dagster", "databricks", "duckdb", "mlflow", "numpy", "pandas", "pydantic", "rich", "sqlglot", "yaml")
BY_NAME = sorted(main.commands)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two models, beside a file that is broken and one whose name is a template."""
    monkeypatch.chdir(tmp_path)
    for name in ("first_agent", "second_agent"):
        write_folder(tmp_path / name, name)
    for name, text in (("broken", "a: ["), ("template", "attributes: {name: '{{ env.MODEL }}'}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "defs.yaml").write_text(f"# ReleasePipelineComponent\n{text}\n")
    return tmp_path


def help_of(*words: str) -> str:
    shown = CliRunner().invoke(main, [*words, "--help"])
    assert shown.exit_code == 0
    return shown.stdout


@pytest.mark.parametrize("command", BY_NAME)
def test_help_has_an_example_and_the_exit_codes(command: str) -> None:
    lines = help_of(command).splitlines()
    # Six columns: lines that are not wrapped and run into no others.
    examples = [line for line in lines if line.startswith(f"      release-pipeline {command}")]
    assert examples
    assert not any("\\b" in line or "\b" in line for line in lines)
    assert re.search(r"Exit codes: 0 .*; 2 ", " ".join(" ".join(lines).split()))


@pytest.mark.parametrize("command", BY_NAME)
def test_every_command_can_answer_in_json(command: str) -> None:
    assert "--json" in {option for each in main.commands[command].params for option in each.opts}


@pytest.mark.parametrize("command", BY_NAME)
def test_examples_have_options_that_there_are(command: str) -> None:
    known = {option for each in main.commands[command].params for option in each.opts}
    for line in help_of(command).splitlines():
        if line.startswith(f"      release-pipeline {command}"):
            assert set(re.findall(r"--[a-z-]+", line)) <= known, line


def test_the_help_of_all_names_each_command_once_under_a_heading() -> None:
    assert sorted(name for names in SECTIONS.values() for name in names) == BY_NAME
    text = help_of()
    for title in SECTIONS:
        assert f"\n{title}:\n" in text
    for name in BY_NAME:
        assert len(re.findall(rf"^  {name} +\w", text, re.MULTILINE)) == 1


def test_the_page_for_operators_has_the_exit_codes_of_every_command() -> None:
    page = (PROJECT / "docs" / "operating.md").read_text()
    table = page.split("## Exit codes")[1].split("\n## ")[0]
    rows = [row for row in table.splitlines() if row.startswith("|")]
    for name in BY_NAME:
        row = next((row for row in rows if f"`{name}`" in row.split("|")[1]), "")
        assert len(row.split("|")) == 6, f"{name} has no row with what 0, 1 and 2 mean"


@pytest.mark.parametrize("shell", [BashComplete, ZshComplete, FishComplete])
def test_tab_offers_commands_models_options_and_choices(shell: type[ShellComplete], project: Path) -> None:
    def offered(*words: str) -> list[str]:
        completion = shell(main, {}, "release-pipeline", "_RELEASE_PIPELINE_COMPLETE")
        return [each.value for each in completion.get_completions(list(words[:-1]), words[-1])]

    assert offered("pr") == ["preflight", "promote"]
    assert offered("rollback", "") == ["first_agent", "second_agent"]
    assert offered("status", "first_agent", "") == ["second_agent"]
    assert offered("status", "s") == ["second_agent"]
    assert offered("promote", "first_agent", "--o") == ["--override"]
    assert "app.yaml" in offered("app-snippet", "first_agent", "--only", "")


@pytest.mark.parametrize("command", BY_NAME)
def test_every_model_is_completed(command: str) -> None:
    for each in main.commands[command].params:
        if each.human_readable_name in ("MODEL", "[MODEL]..."):
            assert each._custom_shell_complete is complete_model  # click has no other way to ask


def test_the_releases_of_an_installed_project_are_found_by_its_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not names_to_complete()
    monkeypatch.setenv(MODULE, "release_pipeline.definitions")
    assert names_to_complete() == ["python_docs_agent"]
    monkeypatch.setenv(MODULE, "no_such_project.definitions")
    assert not names_to_complete()


@pytest.mark.parametrize("layout", ["", "src"])
def test_models_are_those_where_dagster_finds_definitions_and_no_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    monkeypatch.delenv(MODULE, raising=False)
    monkeypatch.chdir(tmp_path)
    shipped = Path(release_pipeline.__file__).parent / "defs" / "python_docs_agent"
    inside = tmp_path / layout / "shop" / "defs"
    for place in (inside / "agent", tmp_path / "examples" / "agent"):
        shutil.copytree(shipped, place)
    (tmp_path / "pyproject.toml").write_text('[tool.dg.project]\nroot_module = "shop"\n')
    assert [file.parent for file in spec_files()] == [(inside / "agent").resolve()]
    (tmp_path / "pyproject.toml").write_text('[tool.dg.project]\nroot_module = "elsewhere"\n')
    assert len(spec_files()) == 2, "a project whose definitions are not here"
    (tmp_path / "pyproject.toml").write_text("[tool.dg\n")
    assert len(spec_files()) == 2
    monkeypatch.chdir(tmp_path / "examples")
    assert len(spec_files()) == 1


def names_to_complete() -> list[str]:
    """What Tab offers for the model of `status`."""
    command = main.commands["status"]
    context = click.Context(command)
    return [each.value for each in complete_model(context, command.params[0], "")]


def test_tab_in_a_real_shell_asks_no_workspace_and_loads_nothing_heavy(project: Path) -> None:
    environment = {
        **os.environ,
        "DATABRICKS_HOST": "http://127.0.0.1:9",
        "_RELEASE_PIPELINE_COMPLETE": "bash_complete",
        "COMP_WORDS": "release-pipeline status f",
        "COMP_CWORD": "2",
        "PYTHONPROFILEIMPORTTIME": "1",
    }
    ended = subprocess.run(
        [COMMAND], env=environment, cwd=project, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.stdout == "plain,first_agent\n"
    assert set(HEAVY) & imported(ended.stderr) <= {"yaml"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(shell: str) -> None:
    script = CliRunner().invoke(
        main, [], prog_name="release-pipeline", env={"_RELEASE_PIPELINE_COMPLETE": f"{shell}_source"}
    )
    assert script.exit_code == 0
    assert f"_RELEASE_PIPELINE_COMPLETE={shell}_complete" in script.stdout
    assert f"_RELEASE_PIPELINE_COMPLETE={shell}_source release-pipeline" in (PROJECT / "docs/operating.md").read_text()


def test_help_starts_without_anything_heavy() -> None:
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "release_pipeline.cli", "--help"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    loaded = imported(ended.stderr)
    assert "click" in loaded
    assert not set(HEAVY) & loaded


def imported(importtime: str) -> set[str]:
    """The top-level packages that Python says it has imported."""
    return {line.rsplit("|", 1)[1].strip().split(".")[0] for line in importtime.splitlines() if line.count("|") == 2}


def test_a_long_wait_says_what_is_done_and_a_short_one_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with waits.waiting("asking"):
        pass
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(waits, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(waits, "AGAIN_SECONDS", 0.0)
    said, give_up = "", time.monotonic() + 30
    with waits.waiting("asking"):
        while len(re.findall(r"… asking \(\d+ s\)\n", said)) < 2 and time.monotonic() < give_up:
            time.sleep(0.001)
            out, err = capsys.readouterr()
            said += err
            assert out == ""
    assert len(re.findall(r"… asking \(\d+ s\)\n", said)) >= 2


def test_news_of_many_parts_say_at_which_of_them_the_work_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waits, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(waits, "AGAIN_SECONDS", 0.0)
    said, give_up = "", time.monotonic() + 30
    with waits.waiting("connecting") as wait:
        for model in wait.each(("a", "b"), "asking"):
            number = "ab".index(model) + 1
            while f"… asking, {number} of 2 (" not in said and time.monotonic() < give_up:
                time.sleep(0.001)
                said += capsys.readouterr().err
    assert "… asking, 2 of 2 (" in said


AT_A_TERMINAL = """
import sys, time
import click
import rich.progress
from release_pipeline import waits

waits.PATIENCE_SECONDS, waits.AGAIN_SECONDS = 0.0, 0.1

@click.command()
@waits.waiting("connecting")
def command():
    for each in waits.wait_of_command().each(("a", "b", "c"), "asking [/x]"):
        time.sleep(0.5)
        click.echo(f"looked at {each}", err=True)
    waits.wait_of_command().over()
    click.echo("the answer " + 40 * "is long, " + "really")

command()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no terminals of this kind")
@pytest.mark.parametrize("kind", ["xterm", "dumb"])
def test_on_a_terminal_a_bar_says_it_and_leaves_the_answer_as_it_is(kind: str) -> None:
    import pty

    seen, terminal = pty.openpty()
    size = {"COLUMNS": "80", "LINES": "24", "TERM": kind}
    process = subprocess.Popen(
        [sys.executable, "-c", AT_A_TERMINAL], stdout=subprocess.PIPE, stderr=terminal, env={**os.environ, **size}
    )
    os.close(terminal)
    shown = b""
    with suppress(OSError):  # the terminal's end
        while read := os.read(seen, 4096):
            shown += read
    os.close(seen)
    answer, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert answer.decode() == "the answer " + 40 * "is long, " + "really\n"
    assert b"asking [/x], 2 of 3" in shown
    assert ("━".encode() in shown) == (kind == "xterm"), "a bar, and lines where there can be none"
    assert b"looked at b" in shown
    assert b"the answer" not in shown
