"""A classical model of texts, with type hints: which of them are long."""

import mlflow
from mlflow.pyfunc import PythonModel


class LengthModel(PythonModel):
    def predict(self, model_input: list[str]) -> list[str]:
        return ["long" if len(text) > 10 else "short" for text in model_input]


mlflow.models.set_model(LengthModel())
