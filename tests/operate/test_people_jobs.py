"""What people do in Dagster's UI: pause one model or all of them, and approve, without waiting for other runs."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.reconstruct import ReconstructableRepository

from release_pipeline.automation.jobs import ENDPOINT_TAG
from release_pipeline.automation.people_jobs import LEDGER_TAG, ApproveConfig, approver_of
from release_pipeline.build import build_release
from release_pipeline.rollout.ledger import Entry
from release_pipeline.rollout.state import paused
from release_pipeline.spec import ReleaseSpec
from tests.operate.conftest import Operated
from tests.pipeline.conftest import MODELS, Model, write_folder

LOCATION = """
from pathlib import Path

import dagster as dg

from release_pipeline.build import build_release
from release_pipeline.spec_file import read_spec

files = sorted(Path(__file__).parent.glob("*/defs.yaml"))
defs = dg.Definitions.merge(*(build_release(read_spec(file), file.parent) for file in files))
"""


def paused_by(model: Model) -> Entry | None:
    return paused(model.parts().ledger.read())


def code_location(folder: Path, *models: Model) -> Path:
    """A code location that holds the models, as a file."""
    for model in models:
        write_folder(folder / model.spec.name, model.spec.name)
    (folder / "location.py").write_text(LOCATION)
    return folder / "location.py"


def config_of(model: Model, op: str, config: dict[str, Any]) -> dict[str, Any]:
    return {"ops": {f"{model.spec.name}_{op}": {"config": config}}}


def paused_in_the_ui(location: Path, model: Model, *, user: str = "", **config: Any) -> bool:
    """Whether a job's run succeeds, in this process, in its code location: in the UI no run is without one."""
    repository = ReconstructableRepository.for_file(str(location), "defs")
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.execute_job(
            repository.get_reconstructable_job(f"{model.spec.name}_pause"),
            instance=instance,
            run_config=config_of(model, "set_pause", config),
            tags={"user": user} if user else None,
            raise_on_error=False,
        )
        return bool(result.success)


def test_one_model_or_every_model_of_the_code_location_is_paused(
    make_model: Callable[..., Model], tmp_path: Path
) -> None:
    one, two, elsewhere = make_model(), make_model(), make_model()
    location = code_location(tmp_path, one, two)
    assert paused_in_the_ui(location, one, reason="only this")
    said = paused_by(one)
    assert said is not None
    assert said.reason == "only this"
    assert said.actor.startswith("run:")
    assert paused_by(two) is None
    every: dict[str, Any] = {"everything": True, "reason": "incident 12"}
    assert paused_in_the_ui(location, two, user="ada@example.com", **every)
    other = paused_by(two)
    assert other is not None
    assert (other.actor, other.reason) == ("user:ada@example.com", "incident 12")
    assert paused_by(one) == said, "it was paused already, and once is enough"
    assert paused_in_the_ui(location, one, pause=False, **every)
    assert [paused_by(model) for model in (one, two, elsewhere)] == [None, None, None]
    assert elsewhere.parts().ledger.read() == []


def test_a_reason_is_asked_for(make_spec: Callable[..., ReleaseSpec]) -> None:
    spec = make_spec(name="m")
    with pytest.raises(dg.DagsterInvalidConfigError, match="reason"):
        build_release(spec, MODELS).resolve_job_def("m_pause").execute_in_process()


@pytest.mark.slow
def test_a_run_in_a_process_of_its_own_finds_the_other_models(make_model: Callable[..., Model], tmp_path: Path) -> None:
    models = [make_model(), make_model()]
    location = code_location(tmp_path, *models)
    config = config_of(models[0], "set_pause", {"everything": True, "reason": "incident 13"})
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    command = [sys.executable, "-m", "dagster", "job", "execute", "-f", str(location)]
    ended = subprocess.run(
        [*command, "-j", f"{models[0].spec.name}_pause", "-c", str(tmp_path / "run.yaml")],
        cwd=tmp_path,
        env={**os.environ, "DAGSTER_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for model in models:
        said = paused_by(model)
        assert said is not None
        assert said.reason == "incident 13"


def test_an_approval_names_who_gave_it_and_refuses_what_has_ended(
    ramping: tuple[Operated, str], instance: dg.DagsterInstance
) -> None:
    operated, release = ramping
    model = operated.model
    instance.add_dynamic_partitions(f"{model.spec.name}_releases", [release, "20990101-000000"])

    def approve(key: str, approver: str = "", **options: Any) -> dg.ExecuteInProcessResult:
        job = build_release(model.spec, MODELS).resolve_job_def(f"{model.spec.name}_approve")
        return job.execute_in_process(
            run_config=config_of(model, "record_approval", {"reason": "looked at it", "approver": approver}),
            partition_key=key,
            instance=instance,
            raise_on_error=False,
            **options,
        )

    nobody = approve(release)
    assert not nobody.success
    (failure,) = [event for event in nobody.all_events if event.is_step_failure]
    assert "approver: <your name>" in str(failure.step_failure_data.user_failure_data)
    assert operated.state(release).approved is None
    run = dg.DagsterRun(f"{model.spec.name}_approve", run_id="1")
    assert approver_of(run, ApproveConfig(approver=" grace@example.com")) == "user:grace@example.com"
    assert approve(release, "grace@example.com", tags={"user": "ada@example.com"}).success
    approved = operated.state(release).approved
    assert approved is not None
    assert (approved.actor, approved.reason) == ("user:ada@example.com", "looked at it")
    version = model.parts().registry.get("2")
    assert version is not None
    assert version.tags["approval_by"] == "user:ada@example.com"
    unknown = approve("20990101-000000", "ada@example.com")
    assert not unknown.success
    (failure,) = [event for event in unknown.all_events if event.is_step_failure]
    assert "not in the ledger" in str(failure.step_failure_data.user_failure_data)


def test_they_never_wait_for_a_run_on_the_endpoint(make_spec: Callable[..., ReleaseSpec]) -> None:
    spec = make_spec(name="m")
    repository = build_release(spec, MODELS).get_repository_def()
    for name in ("m_pause", "m_approve"):
        job = repository.get_job(name)
        assert ENDPOINT_TAG not in job.tags
        assert all(node.definition.pools == set() for node in job.nodes)
    tagged = [job.name for job in repository.get_all_jobs() if LEDGER_TAG in job.tags]
    assert tagged == ["m_pause"]
    assert repository.get_job("m_pause").tags[LEDGER_TAG] == spec.ledger_table
