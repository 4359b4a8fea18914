"""A model that tells where its requirement came from, and which environment it runs in."""

import sys

import mlflow
import pandas as pd
import tiny_requirement  # type: ignore[import-not-found]  # a wheel that the test makes
from mlflow.pyfunc import PythonModel


class PackagedModel(PythonModel):
    def predict(self, context: object, model_input: pd.DataFrame, params: dict[str, object] | None = None) -> list[str]:
        return [tiny_requirement.WORD, sys.prefix]


mlflow.models.set_model(PackagedModel())
