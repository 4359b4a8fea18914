"""What a deployment gives its entity and its endpoint, and what the clean environment takes from pip's settings."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from databricks.sdk import WorkspaceClient

from release_pipeline.package_index import uv_variables
from tests.pipeline.conftest import Model

PROJECT = Path(__file__).parents[2]


def test_a_deployment_is_set_up_as_the_services_own_would_be(
    client: WorkspaceClient, make_model: Callable[..., Model]
) -> None:
    model = make_model(endpoint={"scale_to_zero": True, "tracing": True})
    model.deploy(model.release(), version := model.register("first"))
    found = client.serving_endpoints.get(model.spec.endpoint_name)
    (served,) = found.config.served_entities
    assert served.name == f"{model.spec.model.registered_name.replace('.', '-')}_{version}"
    assert len(served.name) <= 63
    assert served.scale_to_zero_enabled is True
    assert served.environment_vars == {
        "ENABLE_LANGCHAIN_STREAMING": "true",
        "ENABLE_MLFLOW_TRACING": "true",
        "MLFLOW_EXPERIMENT_ID": model.logged("first").experiment_id,
        "RETURN_REQUEST_ID_IN_RESPONSE": "true",
    }
    experiment = {"key": "MONITOR_EXPERIMENT_ID", "value": model.logged("first").experiment_id}
    assert experiment in [tag.as_dict() for tag in found.tags]
    table = found.ai_gateway.inference_table_config
    assert table.enabled
    assert f"{table.catalog_name}.{table.schema_name}.{table.table_name_prefix}_payload" == model.spec.payload_table
    # What agents.deploy leaves to its caller: the deployment returns once everything is ready.
    assert (found.state.ready.value, served.state.deployment.value) == ("READY", "DEPLOYMENT_READY")


def test_the_clean_environment_is_filled_from_the_index_that_pip_would_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_", "SSL_CERT"))]:
        monkeypatch.delenv(name)
    settings = tmp_path / "pip.conf"
    settings.write_text(
        "[global]\nindex-url = https://index.example/packages\n"
        "extra-index-url =\n    https://one.example/packages\n    https://two.example/packages\n"
        f"find-links = {tmp_path}/wheels\ncert = {tmp_path}/ca.pem\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(settings))
    assert uv_variables() == {
        "UV_DEFAULT_INDEX": "https://index.example/packages",
        "UV_INDEX": "https://one.example/packages https://two.example/packages",
        "UV_FIND_LINKS": f"{tmp_path}/wheels",
        "SSL_CERT_FILE": f"{tmp_path}/ca.pem",
    }
    # What was set for uv itself comes first.
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://other.example/packages")
    assert "UV_DEFAULT_INDEX" not in uv_variables()


@pytest.mark.parametrize("file", ["pyproject.toml", "requirements.lock"])
def test_the_services_own_deployment_package_is_no_dependency(file: str) -> None:
    # Its licence allows use only with the service, under an agreement with its owner.
    assert not re.search(r"databricks[-_]agents", (PROJECT / file).read_text())
