"""What ``release-pipeline doctor`` finds: on this machine, in Dagster's instance, in the workspace, of each model."""

import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from release_pipeline.cli import main
from release_pipeline.operate import doctor
from release_pipeline.rollout.preflight import Outcome
from release_pipeline.workspace.client import connect
from tests.operate.conftest import Operated
from tests.pipeline.conftest import eventually


def asked(*words: str) -> tuple[int, dict[str, Any]]:
    """Exit code, and what was found by check."""
    result = CliRunner().invoke(main, ["doctor", *words, "--json"])
    return result.exit_code, {row["check"]: row for row in json.loads(result.stdout)}


def test_the_packages_that_are_installed_are_those_that_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    (check,) = doctor.packages()
    assert check.outcome is Outcome.PASSED
    assert f"dagster {metadata.version('dagster')}" in check.sentence
    real = metadata.version

    def other(name: str) -> str:
        if name == "uv":
            raise metadata.PackageNotFoundError(name)
        return "2.9.0" if name == "mlflow" else real(name)

    monkeypatch.setattr(metadata, "version", other)
    (check,) = doctor.packages()
    assert check.outcome is Outcome.FAILED
    assert "mlflow is 2.9.0, needed is mlflow<4,>=3.17" in check.sentence
    assert "uv>=0.8 is not installed" in check.sentence
    assert "make setup" in check.sentence


@pytest.mark.parametrize(
    ("text", "outcome", "words"),
    [
        (doctor.SETTINGS.read_text(), Outcome.PASSED, "dagster.yaml"),
        ("telemetry: {enabled: false}", Outcome.WARNING, "release_pipeline/endpoint is not limited"),
        (
            "run_coordinator: {config: {tag_concurrency_limits: [{key: release_pipeline/endpoint, limit: 1}]}}",
            Outcome.WARNING,
            "release_pipeline/slot is not limited",
        ),
        ("concurrency: [", Outcome.FAILED, "cannot be read"),
        ("just words", Outcome.WARNING, "is not limited"),
        (None, Outcome.WARNING, "where Dagster's daemon runs there must be one"),
    ],
)
def test_dagsters_instance_has_to_limit_what_must_be_limited(
    text: str | None, outcome: Outcome, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        (tmp_path / "dagster.yaml").write_text(text)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (check,) = doctor.dagster_instance()
    assert check.outcome is outcome
    assert words in check.sentence


def test_without_a_workspace_it_says_so_and_looks_no_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABRICKS_HOST", "http://127.0.0.1:9")
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    (tmp_path / "defs.yaml").write_text("type: release_pipeline.ReleasePipelineComponent\nattributes: {name: x}\n")
    code, found = asked()
    assert code == 1
    assert "nothing answers at http://127.0.0.1:9" in found["credentials"]["sentence"]
    assert str(tmp_path / "defs.yaml") in found["YAML"]["sentence"]
    assert (found["Dagster's instance"]["outcome"], found["packages"]["outcome"]) == ("warning", "passed")
    assert len(found) == 4


def test_a_type_that_is_mistyped_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABRICKS_HOST", "http://127.0.0.1:9")
    (tmp_path / "defs.yaml").write_text("type: release_pipeline.ReleasePipelineComponnt\nattributes: {name: x}\n")
    code, found = asked()
    assert code == 1
    assert found["YAML"]["sentence"].startswith(f"{tmp_path}/defs.yaml: has 0 releases of type release_pipeline.Rel")


def test_two_models_that_would_undo_each_others_releases_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABRICKS_HOST", "http://127.0.0.1:9")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "defs.yaml").write_text(
            "type: release_pipeline.ReleasePipelineComponent\n"
            f"attributes: {{name: {name}, model: {{registered_name: main.support.{name}, source: a.py}}, "
            "endpoint: {name: shared}}\n"
        )
    code, found = asked()
    assert code == 1
    assert found["models"]["sentence"] == (
        "one, two have the endpoint shared in common, and would undo each other's releases; give each its own."
    )
    assert "models" not in asked("one")[1]


@pytest.mark.slow
def test_a_model_that_is_ready_and_one_whose_inference_table_is_not_there(
    operate: Callable[..., Operated], monkeypatch: pytest.MonkeyPatch
) -> None:
    operated = operate()
    name = operated.name
    code, found = asked(name)
    assert code == 0, found
    assert found["credentials"]["sentence"] == f"developer@localhost at {connect().host}"
    assert " answers in " in found["SQL warehouse"]["sentence"]
    assert found[f"{name}: rows"]["outcome"] == "warning"
    assert "is not there yet" in found[f"{name}: rows"]["sentence"]

    operated.model.champion()
    assert eventually(lambda: operated.model.parts().payload.newest())
    code, found = asked(name)
    assert code == 0, found
    assert found[f"{name}: rows"]["outcome"] == "passed"
    assert "its newest row 0 min old" in found[f"{name}: rows"]["sentence"]
    assert {row["outcome"] for check, row in found.items() if check.startswith(f"{name}: ")} == {"passed"}

    monkeypatch.setenv("DATABRICKS_TOKEN", "not-a-token")
    code, found = asked(name)
    assert code == 1
    assert found["credentials"]["outcome"] == "failed"
    assert "not-a-token" not in json.dumps(found)
    assert not [check for check in found if check.startswith(f"{name}: ")]
