"""What the registry's real client refuses by itself, before the workspace is asked."""

import uuid

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel

from tests.conftest import RunningWorkspace


def test_a_search_for_registered_models_takes_no_filter_and_no_order(workspace: RunningWorkspace) -> None:
    client = mlflow.MlflowClient(tracking_uri="databricks", registry_uri="databricks-uc")
    with pytest.raises(MlflowException, match="filter_string"):
        client.search_registered_models(filter_string="name = 'main.default.x'")
    with pytest.raises(MlflowException, match="order_by"):
        client.search_registered_models(order_by=["name ASC"])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_model_without_a_signature_is_not_registered(workspace: RunningWorkspace) -> None:
    class Echo(PythonModel):
        """Answers what it was asked; its input has no type hint, so it gets no signature."""

        def predict(self, context, model_input, params=None):
            return model_input

    name = f"main.default.unsigned_{uuid.uuid4().hex[:8]}"
    mlflow.set_experiment("/Shared/client-traps")
    with mlflow.start_run():
        logged = mlflow.pyfunc.log_model(name="unsigned", python_model=Echo(), pip_requirements=["mlflow"])
    with pytest.raises(MlflowException, match="signature"):
        mlflow.register_model(logged.model_uri, name)
