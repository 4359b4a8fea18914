"""A classical model: a table in, a table out."""

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel


class DoublingModel(PythonModel):
    def predict(
        self, context: object, model_input: pd.DataFrame, params: dict[str, object] | None = None
    ) -> list[float]:
        return [2.0 * value for value in model_input["x"]]


mlflow.models.set_model(DoublingModel())
