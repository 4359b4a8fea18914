"""A classical model: the price of each row of a table, at the rate of its configuration."""

import mlflow
import pandas as pd
from mlflow.models import ModelConfig
from mlflow.pyfunc import PythonModel


class PriceModel(PythonModel):
    def __init__(self) -> None:
        self.rate = float(ModelConfig(development_config={"rate": 0.0}).get("rate"))

    def predict(self, context: object, model_input: pd.DataFrame, params: dict[str, object] | None = None) -> pd.Series:
        return self.rate * model_input["area"]


mlflow.models.set_model(PriceModel())
