"""Models in environments of their own, built by uv from what they were logged with; from a folder, without an index.

The folder has wheels made here: one requirement that is nowhere else, and, in place of the large ones that every model
has, stand-ins that lead to what is installed.
"""

import asyncio
import site
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from databricks.sdk import WorkspaceClient
from mlflow.models import infer_signature

from release_pipeline.local_workspace.serving.model_environments import OWN_REQUIREMENTS, Interpreter, ModelEnvironments
from release_pipeline.local_workspace.settings import Settings
from tests.conftest import RunningWorkspace
from tests.local_workspace.conftest import MODELS, create, entity, register, scoring_processes, settled

MODEL = "main.default.packaged"


def make_wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> None:
    """Write a wheel of pure Python by hand."""
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    written = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*written, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in (written | {f"{info}/RECORD": record}).items():
            wheel.writestr(path, text)


@pytest.fixture
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningWorkspace]:
    """A workspace that builds environments, at most one process each, and finds packages in a folder alone."""
    import mlflow

    wheels = tmp_path / "wheels"
    wheels.mkdir()
    make_wheel(wheels, "tiny-requirement", "1.0", {"tiny_requirement.py": "WORD = 'from its own environment'\n"})
    installed = "".join(f"{folder}\n" for folder in site.getsitepackages())
    make_wheel(wheels, "mlflow", mlflow.__version__, {"installed.pth": installed})
    for name in OWN_REQUIREMENTS:
        make_wheel(wheels, name, "1.0", {})
    monkeypatch.setenv("UV_FIND_LINKS", str(wheels))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    # The model is logged here, where its requirement is not installed.
    (tmp_path / "logging").mkdir()
    (tmp_path / "logging" / "tiny_requirement.py").write_text("WORD = 'from the one who logged it'\n")
    monkeypatch.syspath_prepend(str(tmp_path / "logging"))
    running = RunningWorkspace(tmp_path, "--logged-environments", "--processes-per-entity", "1")
    monkeypatch.setenv("DATABRICKS_HOST", running.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", running.token)
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "no-databrickscfg"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "databricks-uc")
    yield running
    running.stop()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_model_runs_with_what_it_was_logged_with(isolated: RunningWorkspace) -> None:
    signature = infer_signature(pd.DataFrame({"x": ["a"]}), ["a"])
    for requirement in ("tiny-requirement==1.0", "tiny-requirement==9.9"):
        register("packaged_model.py", MODEL, signature=signature, pip_requirements=[requirement])
    client = WorkspaceClient()
    medium = entity("good", MODEL)
    medium.workload_size = "Medium"
    ready = create(client, "packaged", medium)
    assert ready.state.ready.value == "READY", ready.as_dict()
    assert len(scoring_processes(isolated)) == 1, "the size is capped"
    path = "/serving-endpoints/packaged/invocations"
    answer: Any = client.api_client.do("POST", path, body={"dataframe_records": [{"x": "a"}]})
    word, prefix = answer["predictions"]
    assert word == "from its own environment"
    assert Path(prefix).parent == isolated.data_dir / "serving" / "environments"
    log = str(client.serving_endpoints.build_logs("packaged", "good").logs)
    assert "Building environment" in log
    assert "tiny-requirement==1.0" in log
    # What cannot be installed is told by name, and what serves goes on.
    client.serving_endpoints.update_config("packaged", served_entities=[entity("bad", MODEL, "2")])
    failed = settled(client, "packaged")
    assert (failed.state.ready.value, failed.state.config_update.value) == ("READY", "UPDATE_FAILED")
    (bad,) = failed.pending_config.served_entities
    assert bad.state.deployment.value == "DEPLOYMENT_FAILED"
    assert "tiny-requirement==9.9" in bad.state.deployment_state_message
    assert "tiny-requirement==9.9" in str(client.serving_endpoints.build_logs("packaged", "bad").logs)
    assert client.api_client.do("POST", path, body={"dataframe_records": [{"x": "a"}]}) == answer


def test_a_process_of_its_own_environment_gets_none_of_the_servers_packages(tmp_path: Path) -> None:
    python = Interpreter(str(tmp_path / "bin" / "python"), tmp_path / "package")
    inherited = {"PATH": "/usr/bin", "PYTHONPATH": "/server", "VIRTUAL_ENV": "/server/.venv", "DATABRICKS_HOST": "h"}
    assert python.variables(inherited) == {
        "PATH": f"{tmp_path}/bin:/usr/bin",
        "PYTHONPATH": f"{tmp_path}/package",
        "DATABRICKS_HOST": "h",
    }
    assert Interpreter(sys.executable).variables(inherited) is inherited


def test_usually_a_model_runs_with_the_workspaces_own_packages(tmp_path: Path) -> None:
    environments = ModelEnvironments(Settings(data_dir=tmp_path, token="t"))
    assert asyncio.run(environments.python(MODELS, print)) == Interpreter(sys.executable)
