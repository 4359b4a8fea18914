"""The page for whoever is paged knows every state and every reason to hold."""

from pathlib import Path

import pytest

from release_pipeline.gate.verdict import HoldReason
from release_pipeline.rollout.state import Stage

PAGE = (Path(__file__).parents[2] / "docs" / "on-call.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("reason", list(HoldReason))
def test_every_reason_to_hold_has_a_line(reason: HoldReason) -> None:
    assert f"`{reason}`" in PAGE


@pytest.mark.parametrize("stage", list(Stage))
def test_every_state_has_a_line(stage: Stage) -> None:
    assert f"| `{stage.replace('_', ' ')}`" in PAGE
