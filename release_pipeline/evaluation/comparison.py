"""Challenger and champion scored on the same rows, results on the release's MLflow run."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from release_pipeline.errors import ModelInvalid
from release_pipeline.evaluation.dataset import Example
from release_pipeline.evaluation.scorers import FAILED, load_scorer
from release_pipeline.spec import EvaluationPart


@dataclass(frozen=True)
class ScorerResult:
    """Mean of one scorer over the rows, in [0, 1], against its bounds; None where there is no such bound."""

    scorer: str
    rows: int
    challenger: float
    champion: float | None
    threshold: float | None
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the mean reaches its threshold and is not lower than the champion's by more than the tolerance."""
        above = self.threshold is None or self.challenger >= self.threshold
        return above and (self.champion is None or self.challenger >= self.champion - self.tolerance)

    @property
    def sentence(self) -> str:
        """Value and bounds for people."""
        text = f"{self.scorer} {self.challenger:.3f} over {self.rows} rows"
        if self.threshold is not None:
            text += f", at least {self.threshold:.3f} wanted"
        if self.champion is not None:
            text += f", champion {self.champion:.3f} (tolerance {self.tolerance:.3f})"
        return text


def score_model(
    model_uri: str,
    examples: Sequence[Example],
    scorers: Sequence[str],
    folder: Path,
    *,
    run_id: str,
    nested_as: str | None = None,
) -> dict[str, float]:
    """The mean of every scorer over the examples, logged on the MLflow run ``run_id``.

    Args:
        model_uri: The model to score.
        examples: The rows.
        scorers: Names, as in the YAML.
        folder: Where the user's own scorers lie.
        run_id: The release's run.
        nested_as: Log on a run of this name within it instead.

    Raises:
        ModelInvalid: The model cannot be loaded.
    """
    import mlflow
    from mlflow.genai.scorers import scorer

    try:
        model = mlflow.pyfunc.load_model(model_uri)
    except Exception as error:  # user code runs here
        raise ModelInvalid(
            f"{model_uri} does not load: {type(error).__name__}: {str(error)[:300]}; "
            "try mlflow.pyfunc.load_model on it."
        ) from error

    def predict(**inputs: Any) -> Any:
        try:
            answer = model.predict(inputs)
        except Exception as error:  # one failing row is a score of 0, not the end of the evaluation
            return {FAILED: type(error).__name__}
        return answer.model_dump() if hasattr(answer, "model_dump") else answer

    named = []
    for name in scorers:
        function = load_scorer(name, folder)
        named.append(scorer(function, name=_metric_name(name)))
    rows = [{"inputs": example.inputs, "expectations": example.expectations} for example in examples]
    with contextlib.ExitStack() as stack:
        stack.enter_context(mlflow.start_run(run_id=run_id))
        if nested_as is not None:
            stack.enter_context(mlflow.start_run(run_name=nested_as, nested=True))
        result = mlflow.genai.evaluate(data=rows, predict_fn=predict, scorers=named)
    return {name: float(result.metrics.get(f"{_metric_name(name)}/mean", 0.0)) for name in scorers}


def compare(
    part: EvaluationPart, rows: int, challenger: Mapping[str, float], champion: Mapping[str, float] | None
) -> list[ScorerResult]:
    """Every scorer of the YAML against its bounds."""
    return [
        ScorerResult(
            scorer=name,
            rows=rows,
            challenger=challenger[name],
            champion=champion.get(name) if champion is not None else None,
            threshold=part.thresholds.get(name),
            tolerance=part.tolerance,
        )
        for name in part.scorers
    ]


def _metric_name(scorer_name: str) -> str:
    return scorer_name.rpartition(":")[2]
