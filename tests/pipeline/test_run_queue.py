"""The run queue as dagster.yaml sets it up: whatever else goes on, a rollback begins."""

import shutil
from collections.abc import Callable
from pathlib import Path

import dagster as dg
from dagster._core.test_utils import create_run_for_test
from dagster._utils.tags import TagConcurrencyLimitsCounter

from release_pipeline.automation.jobs import job_name
from release_pipeline.build import build_release
from release_pipeline.spec import ReleaseSpec
from tests.pipeline.conftest import MODELS

SETTINGS = Path(__file__).parents[2] / "dagster.yaml"


def test_a_rollback_has_room_whatever_the_other_runs_take(
    make_spec: Callable[..., ReleaseSpec], tmp_path: Path
) -> None:
    shutil.copy(SETTINGS, tmp_path / "dagster.yaml")
    models = [make_spec() for _ in range(9)]

    def tags(spec: ReleaseSpec, job: str) -> dict[str, str]:
        repository = build_release(spec, MODELS).get_repository_def()
        return dict(repository.get_job(job_name(spec.name, job)).tags)

    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        queue = instance.get_concurrency_config().run_queue_config
        assert queue is not None
        assert queue.max_concurrent_runs == -1, "a run without a slot is not counted"
        going = [
            create_run_for_test(instance, tags=tags(spec, job), status=dg.DagsterRunStatus.STARTED)
            for spec, job in zip(models, ("release", "deploy", "canary_step", "promote", "retire", "mend", "release"))  # noqa: B905
        ]
        limits = TagConcurrencyLimitsCounter(queue.tag_concurrency_limits, going)

        def waits(spec: ReleaseSpec, job: str) -> bool:
            return limits.is_blocked(create_run_for_test(instance, tags=tags(spec, job)))

        for job in ("release", "deploy", "canary_step", "promote", "retire", "mend"):
            assert waits(models[-1], job), f"{job}: the slots are taken"
        for job in ("rollback", "pause", "approve"):
            assert not waits(models[-1], job)
            assert not waits(models[2], job), "not behind a step on its own endpoint either"
        fewer = TagConcurrencyLimitsCounter(queue.tag_concurrency_limits, going[2:])
        step = tags(models[2], "canary_step")
        assert fewer.is_blocked(create_run_for_test(instance, tags=step)), "one at a time on one endpoint"
        assert not fewer.is_blocked(create_run_for_test(instance, tags=tags(models[-1], "canary_step")))
