"""Routes that mlflow uses by itself, and those of its server that the service has not."""

import http.client
import json
import logging
from contextlib import closing

import pytest
from mlflow.protos.databricks_uc_registry_messages_pb2 import Entity, Job, ModelVersionLineageDirection
from mlflow.utils._unity_catalog_utils import emit_model_version_lineage
from mlflow.utils.databricks_utils import get_databricks_host_creds

from tests.conftest import RunningWorkspace
from tests.local_workspace.conftest import AGENT


def test_the_lineage_of_a_version_is_taken(models: None, caplog: pytest.LogCaptureFixture) -> None:
    # mlflow sends it when a job or a notebook on the service loads a version; refusals are warnings to it.
    def warnings_of(version: str) -> list[str]:
        caplog.clear()
        logger = logging.getLogger("mlflow.utils._unity_catalog_utils")
        logger.addHandler(caplog.handler)
        try:
            used_by = [Entity(job=Job(id="1"))]
            direction = ModelVersionLineageDirection.DOWNSTREAM
            credentials = get_databricks_host_creds()  # type: ignore[no-untyped-call]
            emit_model_version_lineage(credentials, AGENT, version, used_by, direction)  # type: ignore[no-untyped-call]
        finally:
            logger.removeHandler(caplog.handler)
        return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]

    assert warnings_of("1") == []
    assert any("RESOURCE_DOES_NOT_EXIST" in text for text in warnings_of("99"))


@pytest.mark.parametrize(
    "path",
    [
        "/ajax-api/2.0/mlflow/experiments/search",
        "/ajax-api/2.0/mlflow/get-artifact?run_id=1&path=../../secret",
        "/static-files/index.html",
        "/api/2.0/mlflow/gateway/secrets/list",
        "/api/3.0/mlflow/gateway/secrets/list",
        "/api/2.0/mlflow/workspaces",
        "/api/2.0/mlflow/gateway-proxy",
        "/api/2.0/mlflow/registered-models/search",
        # Paths that would be others once somebody has resolved their dots, or taken out what is empty.
        "/api/2.0/mlflow/runs/../gateway/secrets/list",
        "/api/2.0/mlflow/runs/%2e%2e/gateway/secrets/list",
        "/api/2.0/mlflow/runs/../../../../ajax-api/2.0/mlflow/get-artifact?path=secret",
        "/api/2.0/mlflow/experiments/./search",
        "/api/2.0/mlflow/experiments//search",
    ],
)
def test_what_mlflows_server_has_and_the_service_has_not_is_not_there(workspace: RunningWorkspace, path: str) -> None:
    # requests would resolve the dots itself.
    with closing(http.client.HTTPConnection("127.0.0.1", workspace.port, timeout=60)) as connection:
        connection.request("GET", path, headers={"Authorization": f"Bearer {workspace.token}"})
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["error_code"]) == (404, "ENDPOINT_NOT_FOUND")
