"""A model that can be logged and cannot be served: it wants what only the log's process has."""

import os

import mlflow
from mlflow.pyfunc import PythonModel


class UnloadableModel(PythonModel):
    def load_context(self, context: object) -> None:
        if "PYTEST_CURRENT_TEST" not in os.environ:
            raise RuntimeError("first line\nthe weights are missing")

    def predict(self, context: object, model_input: list[str], params: dict[str, object] | None = None) -> list[str]:
        return model_input


mlflow.models.set_model(UnloadableModel())
