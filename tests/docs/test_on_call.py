"""The page for whoever is paged knows every state and every reason to hold, what each means, and what to type."""

import re
import shlex
from pathlib import Path

import pytest

from release_pipeline.cli import main
from release_pipeline.gate.verdict import HoldReason
from release_pipeline.rollout.state import Stage

PAGE = (Path(__file__).parents[2] / "docs" / "on-call.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("reason", list(HoldReason))
def test_every_reason_to_hold_has_a_line(reason: HoldReason) -> None:
    assert f"`{reason}`" in PAGE


@pytest.mark.parametrize("stage", list(Stage))
def test_every_state_has_a_line(stage: Stage) -> None:
    assert f"| `{stage.replace('_', ' ')}`" in PAGE


ROWS = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| ") and "---" not in line]
TOLD = [row for row in ROWS if len(row) == 4 and row[0] not in ("State", "Reason")]


def test_the_rows_are_those_of_both_tables() -> None:
    assert len(TOLD) >= len(HoldReason) + len(Stage)


@pytest.mark.parametrize("row", TOLD, ids=[row[0][:40] for row in TOLD])
def test_every_row_says_what_it_means_and_what_to_type(row: list[str]) -> None:
    name, meaning, _, remedy = row
    assert len(meaning.split()) >= 3, name
    assert re.search(r"`release-pipeline |the job `<name>_|^Nothing", remedy), name


@pytest.mark.parametrize("words", sorted(set(re.findall(r"`release-pipeline ([^`]+)`", PAGE))))
def test_what_is_to_be_typed_can_be(words: str) -> None:
    name, *arguments = shlex.split(words)
    command = main.commands[name]
    if arguments:
        command.make_context(name, arguments)
