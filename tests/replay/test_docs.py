"""The worked example of docs/replay.md gives what the page says, and the page knows every option and field."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from release_pipeline.cli import main
from release_pipeline.replay_log.command import replay as command
from tests.docs.test_docs import blocks
from tests.replay.conftest import Replay, make_log, spec_of

PROJECT = Path(__file__).parents[2]
PAGE = (PROJECT / "docs" / "replay.md").read_text(encoding="utf-8")


def test_the_example_ends_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks(PAGE, "python")[0], "docs/replay.md", "exec"), {})
    arguments = shlex.split(blocks(PAGE, "bash")[0])[1:]
    arguments[arguments.index("--spec") + 1] = str(PROJECT / arguments[arguments.index("--spec") + 1])
    ended = CliRunner().invoke(main, arguments)
    assert ended.exit_code == 0, ended.stderr
    shown = [line.rstrip() for line in ended.stdout.strip().splitlines()]
    assert [line.strip() for line in shown] == [line.strip() for line in blocks(PAGE, "text")[0].strip().splitlines()]


def test_the_page_has_every_option_and_every_field(replay: Replay) -> None:
    options = {name for option in command.params for name in option.opts if name.startswith("--")}
    assert {name for name in options if name not in PAGE} == set()
    (found,) = replay(make_log(rows=600, before=200, share=0.4), spec_of(ramp={"steps": [40]})).releases
    told = set(re.findall(r"`(\w+)`", PAGE))
    assert set(found) - told == set()
    assert set(found["rows"]) - told == set()
    assert set(found["metrics"][0]["path"]) - told == set()
