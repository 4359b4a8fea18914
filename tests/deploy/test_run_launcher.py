"""A run, launched by the run launcher of ``deploy/dagster.yaml``: the job that it asks Kubernetes for.

What answers here is no Kubernetes, but the one call of its API that is needed; the launcher and its client are the real
ones.
"""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.launcher import LaunchRunContext
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.test_utils import create_run_for_test

from tests.deploy.test_settings import read, variables

IMAGE = "registry.example/release-pipeline:0.1.0"


class JobsApi(BaseHTTPRequestHandler):
    """Takes jobs and answers with what it was given."""

    asked: list[tuple[str, dict[str, Any]]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.asked.append((self.path, json.loads(body)))
        self.send_response(201)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing to say."""


@pytest.fixture
def kubernetes(tmp_path: Path) -> Iterator[tuple[Path, list[tuple[str, dict[str, Any]]]]]:
    """The file that tells the client where Kubernetes is, and what was asked of it."""
    asked: list[tuple[str, dict[str, Any]]] = []
    handler = type("Handler", (JobsApi,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        file = tmp_path / "kubeconfig"
        cluster = {"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
        context = {"name": "here", "context": {"cluster": "here", "user": "me"}}
        file.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [cluster],
                    "contexts": [context],
                    "users": [{"name": "me", "user": {}}],
                    "current-context": "here",
                }
            )
        )
        yield file, asked
        server.shutdown()


@pytest.mark.slow
def test_a_run_is_a_job_of_the_image_and_gets_its_secrets_by_name(
    kubernetes: tuple[Path, list[tuple[str, dict[str, Any]]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, asked = kubernetes
    settings = read("deploy/dagster.yaml")
    del settings["storage"]
    launcher = settings["run_launcher"]["config"]
    launcher.update(load_incluster_config=False, kubeconfig_file=str(file))
    for name in variables(read("deploy/dagster.yaml")):
        monkeypatch.setenv(name, f"value-of-{name.lower().replace('_', '-')}")
    monkeypatch.setenv("DATABRICKS_CLIENT_SECRET", "value-of-client-secret")
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(settings))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        repository = RepositoryPythonOrigin(
            executable_path="/venv/bin/python",
            code_pointer=ModuleCodePointer("release_pipeline.definitions", "defs"),
            container_image=IMAGE,
            entry_point=["dagster"],
        )
        run = create_run_for_test(
            instance,
            job_name="python_docs_agent_rollback",
            job_code_origin=JobPythonOrigin("python_docs_agent_rollback", repository),
        )
        instance.run_launcher.launch_run(LaunchRunContext(dagster_run=run, workspace=None))
        tags = instance.get_run_tags(tag_keys=["dagster/image"])
    ((path, job),) = asked
    assert path == "/apis/batch/v1/namespaces/value-of-dagster-k8s-namespace/jobs"
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (container["image"], tags) == (IMAGE, [("dagster/image", {IMAGE})])
    assert container["args"][:3] == ["dagster", "api", "execute_run"]
    assert pod["serviceAccountName"] == "value-of-dagster-k8s-service-account"
    assert job["spec"]["backoffLimit"] == 0, "what was begun is for the sensor to finish"
    assert [each["secretRef"]["name"] for each in container["envFrom"] if "secretRef" in each] == [
        "value-of-release-pipeline-secret"
    ]
    given = {each["name"]: each for each in container["env"]}
    reference = {"name": "value-of-dagster-k8s-pg-password-secret", "key": "postgresql-password"}
    assert given["DAGSTER_PG_PASSWORD"]["valueFrom"]["secretKeyRef"] == reference
    # Everything that the same file, mounted there, refers to.
    assert variables(read("deploy/dagster.yaml")) <= given.keys()
    text = json.dumps(job)
    assert "value-of-dagster-pg-password" not in text
    assert "value-of-client-secret" not in text
