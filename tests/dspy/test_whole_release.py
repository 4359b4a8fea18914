"""A release of an agent of DSPy, whose packages are installed apart."""

import importlib.util
from collections.abc import Callable

import pytest

from tests.pipeline.test_assets import Project
from tests.pipeline.test_whole_releases import goes_from_log_to_alias, make_project

__all__ = ["make_project"]

pytestmark = [
    pytest.mark.slow,
    # mlflow's evaluation uses what pydantic and pandas have renamed; it is theirs to change.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow.*", "ignore::FutureWarning:mlflow.*"),
]


@pytest.mark.timeout(300)
def test_a_release_of_a_dspy_agent_from_log_to_alias(make_project: Callable[[str], Project]) -> None:
    if importlib.util.find_spec("dspy") is None:
        pytest.fail("dspy is installed apart: run `make test-all`, or PYTHONPATH=.venv/dspy pytest tests/dspy")
    goes_from_log_to_alias("dspy_agent", make_project)
