"""Example requests answered by the logged model in an environment built anew from its own requirements.

The environment is built by uv, which keeps it cached by requirements: the second release with the same ones starts in
about a second, and all requests and a stream are answered by one process. (``mlflow.models.predict`` with
``env_manager="uv"`` builds a new environment for every single request and cannot stream.)
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from release_pipeline.errors import ModelInvalid
from release_pipeline.evaluation import clean_predict
from release_pipeline.package_index import uv_variables
from release_pipeline.spec import PredeployPart


@dataclass(frozen=True)
class Answered:
    """One request's outcome: milliseconds, events of its stream, and what went wrong, if anything."""

    milliseconds: float | None
    stream_events: int | None
    problem: str | None


def predict_examples(
    model_uri: str, requests: Sequence[dict[str, Any]], part: PredeployPart, *, experiment_id: str
) -> list[Answered]:
    """Answer ``requests`` with the model in a clean environment (``uv``), or in this interpreter's (``local``).

    Raises:
        ModelInvalid: The environment cannot be built, the model does not load in it, or time is over.
    """
    import mlflow

    with tempfile.TemporaryDirectory(prefix="release-pipeline-") as folder:
        try:
            model = mlflow.artifacts.download_artifacts(model_uri, dst_path=folder)
        except Exception as error:  # the stores raise many kinds
            raise ModelInvalid(f"{model_uri} cannot be downloaded: {str(error).splitlines()[0]}") from error
        requests_file, results_file = Path(folder, "requests.json"), Path(folder, "results.json")
        requests_file.write_text(json.dumps(list(requests)))
        python = _uv_python(Path(model)) if part.environment == "uv" else [sys.executable]
        command = [*python, str(Path(clean_predict.__file__)), model, str(requests_file), str(results_file)]
        # Without an experiment, mlflow's tracing in a fresh process would hang for minutes at its end.
        environment = {**uv_variables(), **os.environ, "MLFLOW_EXPERIMENT_ID": experiment_id}
        environment.pop("VIRTUAL_ENV", None)
        try:
            ended = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=part.timeout_seconds, check=False
            )
        except subprocess.TimeoutExpired:
            raise ModelInvalid(
                f"the example requests were not answered within predeploy_predict.timeout_seconds = "
                f"{part.timeout_seconds}; raise it, or make model.requirements quicker to install."
            ) from None
        if ended.returncode or not results_file.exists():
            last = "; ".join(ended.stderr.strip().splitlines()[-3:])
            raise ModelInvalid(f"the clean environment ({part.environment}) failed: {last or 'no output'}")
        answer = json.loads(results_file.read_text())
    if "problem" in answer:
        raise ModelInvalid(f"in the clean environment ({part.environment}) {answer['problem']}")
    return [
        Answered(result.get("milliseconds"), result.get("stream_events"), result.get("problem"))
        for result in answer["results"]
    ]


def _uv_python(model: Path) -> list[str]:
    """The command that runs Python in an environment of the model's own requirements."""
    from uv import find_uv_bin

    wanted = yaml.safe_load((model / "python_env.yaml").read_text())["python"]
    minor = ".".join(str(wanted).split(".")[:2])
    return [
        find_uv_bin(),
        "run",
        "--no-project",
        "--no-config",
        "--quiet",
        "--python",
        minor,
        "--with-requirements",
        str(model / "requirements.txt"),
        "python",
    ]
