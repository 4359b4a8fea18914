"""Calls of MLflow to a server that answers nothing well: bounded, and a sentence; what a user has set counts."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from release_pipeline.errors import RegistryError, ReleasePipelineError, WorkspaceError
from release_pipeline.spec import ReleaseSpec
from release_pipeline.workspace import tracking
from release_pipeline.workspace.client import MLFLOW_BOUNDS, Workspace, connect
from release_pipeline.workspace.registry import Registry

pytestmark = pytest.mark.slow

RETRY_SECONDS = "MLFLOW_DATABRICKS_ENDPOINT_HTTP_RETRY_TIMEOUT"


@pytest.fixture
def down(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a workspace that answers every call with 503."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = json.dumps({"error_code": "TEMPORARILY_UNAVAILABLE", "message": "down for repair"}).encode()
            self.send_response(404 if self.path.startswith("/.well-known") else 503)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = _answer

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("DATABRICKS_HOST", address := f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("DATABRICKS_TOKEN", "any")
    for variable in MLFLOW_BOUNDS:
        monkeypatch.delenv(variable, raising=False)
    yield address
    server.shutdown()
    thread.join()
    server.server_close()


CALLS: dict[str, tuple[Callable[[Workspace, ReleaseSpec], object], type[ReleasePipelineError]]] = {
    "alias": (lambda at, spec: Registry(at, spec.model.registered_name).version_of_alias("champion"), RegistryError),
    "run": (lambda at, spec: tracking.find_run(at, spec, "20260101-000000"), WorkspaceError),
    "tag": (lambda at, spec: tracking.tag_run(at, "1", "key", "value"), WorkspaceError),
}


@pytest.mark.parametrize(("call", "kind"), CALLS.values(), ids=CALLS.keys())
def test_a_call_is_given_up_with_a_sentence_as_soon_as_the_user_says(
    call: Callable[[Workspace, ReleaseSpec], object],
    kind: type[ReleasePipelineError],
    down: str,
    make_spec: Callable[..., ReleaseSpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(RETRY_SECONDS, "1")
    with pytest.raises(kind, match=r"Timed out after 0:00:01|down for repair") as raised:
        call(connect(), make_spec())
    assert type(raised.value) is kind
    assert os.environ[RETRY_SECONDS] == "1"
    others = {variable: bound for variable, bound in MLFLOW_BOUNDS.items() if variable != RETRY_SECONDS}
    assert {variable: os.environ[variable] for variable in others} == others


def test_without_a_users_own_settings_a_call_ends_within_about_a_minute(down: str) -> None:
    connect().mlflow  # noqa: B018  it sets the bounds
    import mlflow.environment_variables as variables

    names = ("DATABRICKS_ENDPOINT_HTTP_RETRY_TIMEOUT", "HTTP_REQUEST_TIMEOUT", "HTTP_REQUEST_MAX_RETRIES")
    retry, timeout, retries, factor = (
        int(getattr(variables, f"MLFLOW_{name}").get()) for name in (*names, "HTTP_REQUEST_BACKOFF_FACTOR")
    )
    assert retry == timeout == 60
    # MLflow's own retries of what the SDK does not retry: the first at once, the n-th after factor * 2 ** n seconds.
    assert sum(factor * 2**n for n in range(1, retries)) <= 60
