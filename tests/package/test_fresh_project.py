"""The package in somebody else's project: one that create-dagster has just made, in an environment of its own."""

import json
import shutil
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import free_port
from tests.package.conftest import ROOT, SECONDS, Built, Environment, locked

pytestmark = pytest.mark.timeout(3 * SECONDS)
slow = pytest.mark.slow

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
COMPONENT = "release_pipeline.ReleasePipelineComponent"


@dataclass(frozen=True)
class Project:
    """The fresh project, and how to run something in it."""

    folder: Path
    environment: Environment

    @property
    def defs(self) -> Path:
        """The folder of its definitions."""
        return self.folder / "src" / "fresh" / "defs"

    def run(self, *command: str, fails: bool = False) -> str:
        """What a command in the project's folder prints."""
        return self.environment.run(*command, cwd=self.folder, fails=fails)

    def scaffold(self, model: str) -> Path:
        """The YAML of a new model."""
        self.run("dg", "scaffold", "defs", COMPONENT, model)
        return self.defs / model / "defs.yaml"


@pytest.fixture(scope="module")
def fresh(
    built: Built, make_environment: Callable[..., Environment], tmp_path_factory: pytest.TempPathFactory
) -> Project:
    """A project by create-dagster, with the wheel installed and nothing written yet."""
    dagster = locked("dagster")
    environment = make_environment(
        sys.executable, str(built.wheel), f"dagster-dg-cli=={dagster}", f"create-dagster=={dagster}"
    )
    folder = tmp_path_factory.mktemp("elsewhere") / "fresh"
    environment.run("create-dagster", "project", "fresh", "--no-uv-sync", cwd=folder.parent)
    environment.install("--editable", str(folder))
    return Project(folder, environment)


@pytest.fixture
def project(fresh: Project) -> Iterator[Project]:
    """The fresh project, cleared of its models at the end."""
    yield fresh
    for folder in fresh.defs.iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)


@slow
def test_a_scaffolded_model_is_released_unedited(project: Project) -> None:
    assert f"version {VERSION}" in project.run("release-pipeline", "--version")
    assert COMPONENT in project.run("dg", "list", "components", "--json")
    assert "Releases of one model or agent" in project.run("dg", "utils", "inspect-component", COMPONENT)

    project.scaffold("my_agent")
    assert "validated successfully" in project.run("dg", "check", "yaml")
    assert "loaded successfully" in project.run("dg", "check", "defs")

    home = project.folder / "home"
    home.mkdir()
    host, ui = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    with project.environment.running(
        "release-pipeline",
        *("workspace", "--port", host.rpartition(":")[2]),
        cwd=project.folder,
        answers_at=f"{host}/.well-known/databricks-config",
    ):
        project.environment.variables.update(
            DATABRICKS_HOST=host,
            DATABRICKS_TOKEN=(project.folder / ".data" / "token").read_text().strip(),
            DAGSTER_HOME=str(home),
        )
        with project.environment.running(
            "dg",
            *("dev", "--host", "127.0.0.1", "--port", ui.rpartition(":")[2]),
            cwd=project.folder,
            answers_at=f"{ui}/server_info",
        ):
            told = project.run("release-pipeline", "start", "my_agent", "--dagster", ui, "--json")
            started, _ = json.JSONDecoder().raw_decode(told)
            assert started["url"] == f"{ui}/runs/{started['run']}"
            live = _live_version(project)
    assert live["version"] == "1"
    assert live["traffic_percent"] == 100


def _live_version(project: Project) -> dict[str, object]:
    """The version of the alias, once it has it."""
    give_up = time.monotonic() + SECONDS
    while time.monotonic() < give_up:
        # News of a wait comes behind it.
        status, _ = json.JSONDecoder().raw_decode(project.run("release-pipeline", "status", "--json"))
        assert [each["model"] for each in status] == ["my_agent"]  # and no model of the package's own
        for deployed in status[0]["deployed"]:
            if "champion" in deployed["aliases"]:
                return dict(deployed)
        time.sleep(1)
    logs = "\n".join(log.read_text() for log in project.folder.glob("*.log"))
    raise AssertionError(f"not promoted: {status}\n{logs}")


@slow
def test_the_wheel_alone_is_a_code_location(built: Built, make_environment: Callable[..., Environment]) -> None:
    environment = make_environment(sys.executable, str(built.wheel))
    folder = environment.folder.parent
    printed = environment.run("dagster", "definitions", "validate", "-m", "release_pipeline.definitions", cwd=folder)
    assert "Validation successful" in printed
    assert "Warning: Class" not in printed
    told = "from release_pipeline.operate import doctor; print(doctor.SETTINGS, doctor.SETTINGS.read_text())"
    printed = environment.run("python", "-c", told, cwd=folder)
    assert str(environment.folder) in printed
    assert "tag_concurrency_limits" in printed


@pytest.mark.exhaustive
def test_the_demo_needs_nothing_but_the_wheel(built: Built, make_environment: Callable[..., Environment]) -> None:
    """Also with Dagster's storage in files, as everywhere but in production."""
    environment = make_environment(sys.executable, str(built.wheel))
    ports = ("--ui-port", str(free_port()), "--workspace-port", str(free_port()))
    folder = environment.folder.parent
    # As in a project of somebody's own.
    (folder / "workspace.yaml").write_text("load_from: [{python_module: {module_name: no_such_module}}]")
    (folder / "dagster.yaml").write_text("storage: {no_such: storage}")
    (folder / ".env").write_text("DATABRICKS_HOST=http://127.0.0.1:9\nDATABRICKS_TOKEN=of-production\n")
    told = json.loads(environment.run("release-pipeline", "demo", "--json", *ports, cwd=folder, errors=False))
    assert [each["stage"] for each in told["releases"][1:]] == ["promoted", "rolled_back"]
    assert (told["wrong"], told["releases"][2]["bad_answers"] > 0, told["answers"] > 0) == ([], True, True)


@pytest.mark.exhaustive
def test_one_command_starts_the_workspace_and_the_project(project: Project) -> None:
    project.scaffold("my_agent")
    ui, host = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    ports = ("--ui-port", ui.rpartition(":")[2], "--workspace-port", host.rpartition(":")[2])
    out = project.folder / "where.json"
    with project.environment.running(
        *("release-pipeline", "dev", "--json", *ports),
        cwd=project.folder,
        answers_at=f"{ui}/server_info",
        out=out,
    ):
        give_up = time.monotonic() + SECONDS
        while not (said := out.read_text()):
            assert time.monotonic() < give_up
            time.sleep(0.2)
        where = json.loads(said)  # and nothing else
        assert (where["dagster"], where["host"]) == (ui, host)
        project.environment.variables.update(
            DATABRICKS_HOST=host, DATABRICKS_TOKEN=Path(where["token_file"]).read_text().strip()
        )
        doctor, _ = json.JSONDecoder().raw_decode(project.run("release-pipeline", "doctor", "--json"))
        assert {each["outcome"] for each in doctor} <= {"passed", "warning"}, doctor
        project.run("release-pipeline", "start", "my_agent", "--dagster", ui)
        assert _live_version(project)["version"] == "1"


@slow
def test_a_mistake_is_shown_with_its_file_and_line(project: Project) -> None:
    file = project.scaffold("my_agent")
    right = file.read_text()
    file.write_text(right.replace("min_step_seconds: 5", "min_step_seconds: soon"))
    line = right.splitlines().index("    min_step_seconds: 5") + 1
    printed = project.run("dg", "check", "yaml", fails=True)
    assert f"{file}:{line} - {COMPONENT} attributes.ramp.min_step_seconds 'soon' is not of type 'integer'" in printed

    file.write_text(right.replace("steps: [50]", "steps: [50, 25]"))
    line = right.splitlines().index("    steps: [50]") + 1
    printed = project.run("dg", "check", "defs", fails=True)
    assert f"{file}:{line}: release my_agent: field `ramp.steps` (value: [50, 25]): steps must rise" in printed


@slow
def test_what_cannot_be_scaffolded_leaves_nothing(project: Project) -> None:
    scaffold = ("dg", "scaffold", "defs", COMPONENT, "my-agent")
    assert "a release is written in YAML" in project.run(*scaffold, "--format", "python", fails=True)
    assert "must be catalog.schema.model" in project.run(*scaffold, "--registered-name", "a.b", fails=True)
    assert not (project.defs / "my-agent").exists()
    project.run(*scaffold, "--registered-name", "main.support.answers")
    written = (project.defs / "my-agent" / "defs.yaml").read_text()
    assert "  name: my_agent\n" in written
    assert "registered_name: main.support.answers " in written
