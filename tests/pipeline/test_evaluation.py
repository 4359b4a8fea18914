"""Scores of the offline evaluation: what counts as one, and what happens where there is none."""

from collections.abc import Callable
from pathlib import Path

import pytest

from release_pipeline.errors import SpecError
from release_pipeline.evaluation.comparison import score_model, stored_scores
from release_pipeline.evaluation.dataset import Example
from release_pipeline.workspace import tracking
from release_pipeline.workspace.client import connect

# mlflow's evaluation uses what pydantic and pandas have renamed; it is theirs to change.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow.*", "ignore::FutureWarning:mlflow.*")

SCORERS = """
def raises(outputs):
    raise KeyError("polite")

def silent(outputs):
    return None

def half(inputs):
    return float("hello" in str(inputs))
"""


@pytest.fixture
def examples() -> list[Example]:
    return [Example({"input": [{"role": "user", "content": text}]}, {}) for text in ("hello", "a question")]


@pytest.mark.parametrize("function", ["raises", "silent"])
def test_a_scorer_without_a_value_is_named_and_is_no_score_of_zero(
    function: str, examples: list[Example], logged: Callable[[str], tracking.ReleaseRun], tmp_path: Path
) -> None:
    (tmp_path / "scorers.py").write_text(SCORERS)
    run, scorers = logged("first"), ["answered", f"scorers.py:{function}"]
    with pytest.raises(SpecError) as raised:
        score_model(run.model_uri, examples, scorers, tmp_path, run_id=run.run_id)
    assert f"scorer scorers.py:{function} gave no value on any row: " in str(raised.value)
    assert run.run_id in str(raised.value)
    assert stored_scores(run.run_id, examples, scorers, tmp_path) is None
    # The release's run is still found: after the scorer is mended the release goes on.
    assert connect().mlflow.get_run(run.run_id).info.status == "FINISHED"


def test_a_scorer_of_ones_own_is_averaged_and_its_scores_are_found_again(
    examples: list[Example], logged: Callable[[str], tracking.ReleaseRun], tmp_path: Path
) -> None:
    (tmp_path / "scorers.py").write_text(SCORERS)
    run, scorers = logged("first"), ["answered", "scorers.py:half"]
    scores = score_model(run.model_uri, examples, scorers, tmp_path, run_id=run.run_id)
    assert scores == {"answered": 1.0, "scorers.py:half": 0.5}
    assert stored_scores(run.run_id, examples, scorers, tmp_path) == scores
    (tmp_path / "scorers.py").write_text(SCORERS + "# other code\n")
    assert stored_scores(run.run_id, examples, scorers, tmp_path) is None
