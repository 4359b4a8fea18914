"""What ``release-pipeline status`` shows, against the real workspace."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner
from databricks.sdk import WorkspaceClient

from release_pipeline.cli import main
from release_pipeline.spec_gate import Metric
from release_pipeline.workspace.client import Workspace, connect
from release_pipeline.workspace.links import endpoint_links
from tests.conftest import RunningWorkspace
from tests.local_workspace.conftest import create, entity, raw_entity
from tests.operate.conftest import Operated

pytestmark = pytest.mark.slow

Make = Callable[..., Operated]


def test_versions_traffic_aliases_and_the_last_release(
    ramping: tuple[Operated, str], workspace: RunningWorkspace, client: WorkspaceClient
) -> None:
    operated, release = ramping
    elsewhere = f"{operated.name}-elsewhere"
    registered = operated.model.spec.model.registered_name
    try:
        create(client, elsewhere, entity("only", registered))
        (told,) = operated.json("status", operated.name)
        text = operated.run("status", operated.name)
    finally:
        client.serving_endpoints.delete(elsewhere)
    assert (told["model"], told["registered_name"]) == (operated.name, registered)
    assert told["aliases"] == {"champion": "1", "challenger": "2"}
    assert (told["ready"], told["update"], told["creator"]) == (True, "not_updating", "developer@localhost")
    known = ("endpoint", "version", "aliases", "traffic_percent", "state", "creator")
    assert [tuple(each[key] for key in known) for each in told["deployed"]] == [
        (operated.name, "1", ["champion"], 75, "ready", "developer@localhost"),
        (operated.name, "2", ["challenger"], 25, "ready", "developer@localhost"),
        (elsewhere, "1", ["champion"], 100, "ready", "developer@localhost"),
    ]
    assert (told["release"]["release"], told["release"]["stage"]) == (release, "ramping")
    assert told["release"]["traffic_percent"] == 25

    assert text.exit_code == 0
    for words in (
        "75 %",
        "25 %",
        "champion",
        "challenger",
        f"endpoint {operated.name} is ready",
        f"release {release} is",
    ):
        assert words in text.stdout
    for link in ("query", "review", "traces"):
        assert told["links"][link] in text.stdout
    headers = {"Authorization": f"Bearer {workspace.token}"}
    body = {"input": [{"role": "user", "content": "hello"}]}
    assert requests.post(told["links"]["query"], json=body, headers=headers, timeout=60).status_code == 200
    assert requests.get(told["links"]["review"], timeout=60).headers["content-type"].startswith("text/html")
    experiment = told["links"]["traces"].split("/")[-2]
    found = requests.get(
        f"{workspace.url}/api/2.0/mlflow/experiments/get",
        params={"experiment_id": experiment},
        headers=headers,
        timeout=60,
    )
    assert found.json()["experiment"]["name"] == operated.model.spec.experiment


def test_a_model_that_is_deployed_nowhere(operate: Make) -> None:
    operated = operate()
    (told,) = operated.json("status", operated.name)
    assert (told["ready"], told["update"], told["deployed"], told["release"]) == (False, None, [], None)
    assert told["links"]["traces"] is None
    text = operated.run("status", operated.name).stdout
    assert f"endpoint {operated.name} is not there; no release has begun" in text
    assert "no such endpoint" in text


def test_an_update_that_goes_on_is_told(
    operate: Make, client: WorkspaceClient, set_faults: Callable[..., object]
) -> None:
    operated = operate()
    operated.model.register("first")
    registered = operated.model.spec.model.registered_name
    set_faults(update_seconds=20)
    body = {"name": operated.name, "config": {"served_entities": [raw_entity("only", model=registered)]}}
    client.api_client.do("POST", "/api/2.0/serving-endpoints", body=body)
    (told,) = operated.json("status", operated.name)
    text = operated.run("status", operated.name).stdout
    set_faults(update_seconds=0)
    assert (told["ready"], told["update"]) == (False, "in_progress")
    ((version, traffic),) = [(each["version"], each["traffic_percent"]) for each in told["deployed"]]
    assert (version, traffic) == ("1", None)
    assert "is not ready, an update is in progress" in text
    assert "after the update" in text
    # An alias that names what is deployed is no news; the other one is set nowhere.
    assert "deployed nowhere" not in text
    client.serving_endpoints.delete(operated.name)


def test_all_models_are_shown_and_what_cannot_be_read_is_told(operate: Make, tmp_path: Path) -> None:
    operated = operate()
    shown = operated.json("status")
    assert {each["model"] for each in shown} == {operated.name}
    broken = tmp_path / "broken" / "defs.yaml"
    broken.parent.mkdir()
    broken.write_text("type: release_pipeline.ReleasePipelineComponent\nattributes: {nam: x}\n")
    result = operated.run("status", "--json")
    assert result.exit_code == 1
    assert {each["model"] for each in json.loads(result.stdout)} == {operated.name}
    assert str(broken) in result.stderr


@pytest.mark.parametrize("words", [("no_such_model",), ("--spec", "defs.yaml"), ("--spec", "none.yaml", "x")])
def test_a_mistake_in_what_is_asked(workspace: RunningWorkspace, words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, ["status", *words])
    assert result.exit_code == 2
    assert result.stdout == ""


def test_without_a_workspace_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_HOST", "http://127.0.0.1:1")
    monkeypatch.setenv("DATABRICKS_TOKEN", "unused")
    result = CliRunner().invoke(main, ["status", "python_docs_agent"])
    assert result.exit_code == 1
    assert "nothing answers at http://127.0.0.1:1" in result.stderr


def feedback(name: str, worst: float, best: float) -> Metric:
    return Metric(name="a_metric", kind="feedback", assessment=name, worst=worst, best=best)


def test_the_review_link_asks_for_what_the_gate_reads(workspace: RunningWorkspace) -> None:
    def review(*metrics: Metric) -> str:
        return endpoint_links(connect(), "a_b", metrics=metrics).review.removeprefix(workspace.url)

    assert review() == "/review/a_b"
    assert review(feedback("helpful", 0, 1), feedback("rating", 1, 5)) == "/review/a_b"
    assert review(feedback("is it right?", 0, 1)) == "/review/a_b?thumbs=is+it+right%3F"
    assert review(feedback("a", 0, 1), feedback("b", 0, 1), feedback("c", 1, 5)) == "/review/a_b?thumbs=a&rating=c"
    # Thumbs up would be bad on an inverted scale, so the page does not ask for it.
    assert review(feedback("toxic", 1, 0), Metric(name="errors", kind="errors")) == "/review/a_b"


@pytest.fixture
def service() -> Iterator[str]:
    """The address of a workspace that names no review page of its own, as Databricks'; its experiment 8 has an app."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            said: dict[str, object] = {"oidc_endpoint": "x", "workspace_id": "1"}
            if self.path.startswith("/api/2.0/managed-evals/review-apps?filter=experiment_id"):
                asked = self.path.rpartition("%3D")[2]
                said = {"review_apps": [{"review_app_id": "0a1b", "experiment_id": "8"}] if asked in "89" else []}
            body = json.dumps(said).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_elsewhere_the_review_link_leads_to_the_playground(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("DATABRICKS_")]:
        monkeypatch.delenv(name)
    there = Workspace(WorkspaceClient(host=service, token="unused"), service)
    links = endpoint_links(there, "a b", "7", [feedback("right", 0, 1)])
    assert links.review == f"{service}/ml/playground?endpointName=a%20b"
    assert links.traces == f"{service}/ml/experiments/7/traces"
    assert endpoint_links(there, "a b").review == links.review
    assert endpoint_links(there, "a b", "9").review == links.review, "the app of another experiment is not taken"


def test_elsewhere_the_review_link_leads_to_the_experiments_review_app(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("DATABRICKS_")]:
        monkeypatch.delenv(name)
    there = Workspace(WorkspaceClient(host=service, token="unused"), service)
    assert endpoint_links(there, "a b", "8").review == f"{service}/ml/review-v2/0a1b/chat"
