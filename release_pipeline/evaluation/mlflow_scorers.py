"""Scorers of MLflow, its LLM judges among them: by class name, or as objects in a file beside the YAML."""

import importlib.util
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from release_pipeline.errors import SpecError

if TYPE_CHECKING:
    from mlflow.genai.scorers import Scorer


def built_in(name: str, whose: str, example: str) -> "Scorer | None":
    """The scorer of MLflow with this class name; None where it has no such class.

    Args:
        name: As it stands in the YAML.
        whose: The beginning of what is said of a mistake: the YAML's field, the name, and what it is for.
        example: What a scorer with parameters could be called in a file beside the YAML.

    Raises:
        SpecError: It cannot be made without parameters.
    """
    import mlflow.genai.scorers as scorers

    found = getattr(scorers, name, None) if name.isidentifier() else None
    if not (inspect.isclass(found) and issubclass(found, scorers.Scorer)):
        return None
    try:
        return cast("Callable[[], Scorer]", found)()
    except Exception as error:  # a scorer whose parameters have no defaults
        raise SpecError(
            f"{whose} cannot be made without parameters ({type(error).__name__}); make it in a file beside the YAML, "
            f"scorers.py with `{example} = {name}(...)`, and write scorers.py:{example}."
        ) from None


def check_model(scorer: "Scorer", whose: str) -> None:
    """Point ``endpoints:/`` at this workspace, and refuse a model that cannot be asked with what is installed.

    MLflow would say so for each request, after it has waited for retries. A scorer that asks no model passes.

    Args:
        scorer: The scorer.
        whose: As for :func:`built_in`.

    Raises:
        SpecError: A package is missing.
    """
    if "model" not in type(scorer).model_fields and not hasattr(scorer, "template_variables"):
        return
    from mlflow.deployments import get_deployments_target, set_deployments_target
    from mlflow.exceptions import MlflowException
    from mlflow.genai.judges.utils import get_default_model

    try:
        get_deployments_target()
    except MlflowException:  # nobody has said where else
        set_deployments_target("databricks")
    model = getattr(scorer, "model", None) or get_default_model()
    if model == "databricks" and not _installed("databricks.agents"):
        raise SpecError(
            f"{whose} asks Databricks' own judge, which needs the package databricks-agents; install it, or name an "
            "endpoint: MLFLOW_GENAI_JUDGE_DEFAULT_MODEL=databricks:/<endpoint>, or model= in a file beside the YAML."
        )
    if model.startswith("endpoints:/") and hasattr(scorer, "template_variables") and not _installed("litellm"):
        raise SpecError(
            f"{whose} cannot ask {model} without the package litellm; write databricks:/{model[len('endpoints:/') :]}."
        )


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # not even the package around it
        return False
