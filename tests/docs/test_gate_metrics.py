"""The page of metrics shows every kind, in YAML that is valid."""

from pathlib import Path
from typing import get_args

import yaml

from release_pipeline.evaluation.judge_run import MOST_ROWS
from release_pipeline.spec_gate import GatePart, Kind, Metric
from release_pipeline.workspace.payload_shape import CANONICAL
from tests.docs.test_docs import blocks

PAGE = (Path(__file__).parents[2] / "docs" / "gate-metrics.md").read_text(encoding="utf-8")


def shown() -> list[Metric]:
    """Every metric in the page's YAML, validated."""
    parts = [GatePart.model_validate(yaml.safe_load(text)["gate"]) for text in blocks(PAGE, "yaml")]
    return [metric for part in parts for metric in part.metrics]


def test_every_kind_is_shown_under_its_own_heading_and_is_valid() -> None:
    assert {metric.kind for metric in shown()} == set(get_args(Kind))
    for kind in get_args(Kind):
        section = PAGE.split(f"\n## {kind}\n")[1].split("\n## ")[0]
        assert f"kind: {kind}\n" in section


def test_every_option_is_shown() -> None:
    written = {field for metric in shown() for field in metric.model_fields_set}
    assert written == set(Metric.model_fields)


def test_columns_and_bounds_are_those_of_the_code() -> None:
    assert all(f"`{column}`" in PAGE for column in CANONICAL)
    assert f"A run scores {MOST_ROWS} requests at most" in PAGE
