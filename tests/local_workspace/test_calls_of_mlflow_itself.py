"""Routes that mlflow uses by itself: the lineage of versions, and the requests of its own pages."""

import logging
from pathlib import Path

import mlflow
import pytest
import requests
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


def test_the_requests_of_mlflows_pages_need_a_token(workspace: RunningWorkspace) -> None:
    built = Path(mlflow.__file__).parent / "server" / "js" / "build"
    script = next(iter(sorted(built.glob("static/js/*.js"))))
    urls = [
        f"{workspace.url}/ajax-api/2.0/mlflow/experiments/search?max_results=1",
        f"{workspace.url}/static-files/{script.relative_to(built)}",
    ]
    headers = {"Authorization": f"Bearer {workspace.token}"}
    experiments, text = [requests.get(url, headers=headers, timeout=60) for url in urls]
    assert len(experiments.json()["experiments"]) == 1
    assert text.content == script.read_bytes()
    assert [requests.get(url, timeout=60).status_code for url in urls] == [401, 401]
