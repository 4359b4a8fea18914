"""Is a lump malignant? A logistic regression on what a pathologist measured under the microscope.

The data is the Wisconsin Diagnostic Breast Cancer set, 569 examinations of 30 measurements each, which scikit-learn
ships. Every second examination is for training (`TRAINED_ON`); the others are for the evaluation set and for
`labels.py`. Training takes a few milliseconds and always gives the same, so the model is trained where it is loaded and
no file of weights has to be kept: this file and a YAML of parameters are the whole release.
"""

import mlflow
import pandas as pd
from mlflow.models import ModelConfig
from mlflow.pyfunc import PythonModel
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

CONFIG = ModelConfig(development_config={"columns": None, "malignant_from": 0.5})
TRAINED_ON = slice(0, None, 2)


class BreastCancer(PythonModel):
    """One row for each examination: `malignant`, and the `probability` that it stands on.

    Its configuration: `columns`, the measurements that are looked at (null: all), and `malignant_from`, the probability
    from which a lump is called malignant.
    """

    def load_context(self, context: object) -> None:
        """Train; MLflow calls this once, before the first request."""
        data = load_breast_cancer(as_frame=True)
        self.columns = CONFIG.get("columns") or list(data.data.columns)
        self.model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        self.model.fit(data.data[self.columns][TRAINED_ON], data.target[TRAINED_ON] == 0)

    def predict(self, context: object, model_input: pd.DataFrame, params: dict | None = None) -> pd.DataFrame:
        """Examinations in, verdicts out, in the same order."""
        probability = self.model.predict_proba(model_input[self.columns])[:, 1]
        return pd.DataFrame({"malignant": probability >= CONFIG.get("malignant_from"), "probability": probability})


mlflow.models.set_model(BreastCancer())
