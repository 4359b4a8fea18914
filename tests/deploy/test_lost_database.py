"""Dagster's database is lost in the middle of a release: what is under way goes on, by the ledger."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from release_pipeline.automation.jobs import ACTION_TAG
from release_pipeline.build import build_release
from tests.pipeline.conftest import MODELS, Model


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance that remembers nothing, with files, because ticks of one in memory do not look for partitions."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("restart", ["step", "rollback"])
def test_the_next_tick_of_an_empty_dagster_takes_up_the_release(
    deployed: tuple[Model, str], empty: dg.DagsterInstance, restart: str
) -> None:
    model, release = deployed
    if restart == "rollback":
        model.parts().rollout.begin_roll_back(release, reason="by the test")
    assert empty.get_dynamic_partitions(f"{model.spec.name}_releases") == []
    defs = build_release(model.spec, MODELS)
    repository = defs.get_repository_def()
    gate = repository.get_sensor_def(f"{model.spec.name}_gate")
    # As the daemon evaluates it, who refuses a run of a partition that Dagster does not have.
    context = dg.build_sensor_context(instance=empty, instance_ref=empty.get_ref(), repository_def=repository)
    result = gate.evaluate_tick(context)
    assert result.run_requests, result.skip_message
    (wanted,) = result.run_requests
    assert wanted.tags[ACTION_TAG] == ("step_0" if restart == "step" else "finish_roll_back")
    job = defs.resolve_job_def(str(wanted.job_name))
    ended = job.execute_in_process(
        partition_key=release, instance=empty, tags=wanted.tags, run_config=wanted.run_config
    )
    assert ended.success
    state = model.parts().rollout.state(release)
    assert state is not None
    assert state.traffic_percent == (25 if restart == "step" else 0)
