"""Challenger and champion scored on the same rows, results on the release's MLflow run."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from release_pipeline.errors import ModelInvalid, SpecError
from release_pipeline.evaluation.clean_predict import ask
from release_pipeline.evaluation.dataset import Example
from release_pipeline.evaluation.mlflow_scorers import built_in, check_model
from release_pipeline.evaluation.scorers import BUILT_IN, FAILED, load_scorer
from release_pipeline.spec import EvaluationPart
from release_pipeline.workspace.tracking import asking_mlflow

if TYPE_CHECKING:
    from mlflow.genai.scorers import Scorer

TAG_EVALUATION = "release_pipeline.evaluation"


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
    model_uri: str, examples: Sequence[Example], scorers: Sequence[str], folder: Path, *, run_id: str
) -> dict[str, float]:
    """The mean of every scorer over the examples, logged on the MLflow run ``run_id`` with the digest of the rows.

    Raises:
        ModelInvalid: The model cannot be loaded.
        SpecError: There is no such scorer, or it gave no value on any row.
    """
    import mlflow

    named = [_scorer(name, folder) for name in scorers]
    try:
        model = mlflow.pyfunc.load_model(model_uri)
    except Exception as error:  # user code runs here
        raise ModelInvalid(
            f"{model_uri} does not load: {type(error).__name__}: {str(error)[:300]}; "
            "try mlflow.pyfunc.load_model on it."
        ) from error

    def predict(**inputs: Any) -> Any:
        try:
            answer = ask(model, inputs)
        except Exception as error:  # one failing row is a score of 0, not the end of the evaluation
            return {FAILED: type(error).__name__}
        return _plain(answer)

    rows = [{"inputs": example.inputs, "expectations": example.expectations} for example in examples]
    with asking_mlflow(f"{model_uri} was to be evaluated on MLflow run {run_id}"):
        # Another experiment may be the active one of this process, in which MLflow would not take up the run.
        mlflow.set_experiment(experiment_id=mlflow.get_run(run_id).info.experiment_id)
    with asking_mlflow(f"{model_uri} was to be evaluated on MLflow run {run_id}"), mlflow.start_run(run_id=run_id):
        result = mlflow.genai.evaluate(data=rows, predict_fn=predict, scorers=named)
        silent = [name for name in scorers if _mean(name) not in result.metrics]
        if not silent:
            mlflow.set_tag(TAG_EVALUATION, evaluation_digest(examples, scorers, folder))
    # Raised only here: within the block it would end the release's run as failed.
    if silent:
        # As a mean of 0 it would count for challenger and champion alike, and pass.
        raise SpecError(
            f"scorer {silent[0]} gave no value on any row: it raised, or returned neither a number nor a boolean; "
            f"see its errors in the traces of MLflow run {run_id}, then mend it or take it out of evaluation.scorers."
        )
    return {name: float(result.metrics[_mean(name)]) for name in scorers}


def stored_scores(
    run_id: str, examples: Sequence[Example], scorers: Sequence[str], folder: Path
) -> dict[str, float] | None:
    """What :func:`score_model` logged on ``run_id`` for exactly these rows and scorers, None where it did not.

    So a champion is not scored anew with every challenger.

    Raises:
        WorkspaceError: MLflow did not say.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    with asking_mlflow(f"the scores on MLflow run {run_id} were to be read"):
        try:
            run = mlflow.MlflowClient().get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
    metrics = run.data.metrics
    same = run.data.tags.get(TAG_EVALUATION) == evaluation_digest(examples, scorers, folder)
    if not same or any(_mean(name) not in metrics for name in scorers):
        return None
    return {name: float(metrics[_mean(name)]) for name in scorers}


def evaluation_digest(examples: Sequence[Example], scorers: Sequence[str], folder: Path) -> str:
    """Digest of the rows and the scorers, their code included: 16 hexadecimal digits."""
    sha = hashlib.sha256(json.dumps([[row.inputs, row.expectations] for row in examples], sort_keys=True).encode())
    for name in scorers:
        file = folder / name.partition(":")[0]
        sha.update(name.encode() + (file.read_bytes() if file.is_file() else b""))
    return sha.hexdigest()[:16]


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


def _plain(answer: Any) -> Any:
    """An answer as an endpoint gives it: a table, or a column, as a list of records, an array as a list."""
    if hasattr(answer, "model_dump"):
        return answer.model_dump()
    if hasattr(answer, "to_frame"):
        answer = answer.to_frame()
    if hasattr(answer, "columns"):
        return answer.to_dict("records")
    return answer.tolist() if hasattr(answer, "tolist") else answer


def _scorer(name: str, folder: Path) -> "Scorer":
    """A scorer under the name of its metric: the YAML's name without the file."""
    from mlflow.genai.scorers import Scorer, scorer

    found: Any = None if name in BUILT_IN else built_in(name, f"evaluation.scorers: {name}", name.lower())
    found = found or load_scorer(name, folder)
    if isinstance(found, Scorer):
        check_model(found, f"evaluation.scorers: {name}")
        named: Scorer = found.model_copy(update={"name": _metric_name(name)})
    else:
        named = scorer(found, name=_metric_name(name))
    return named


def _mean(scorer_name: str) -> str:
    return f"{_metric_name(scorer_name)}/mean"


def _metric_name(scorer_name: str) -> str:
    return scorer_name.rpartition(":")[2]
