"""The runs of a release: its jobs and its sensor's ticks, as Dagster loads them, executed in this process."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from release_pipeline.automation.jobs import ACTION_TAG, job_name
from release_pipeline.build import build_release
from release_pipeline.rollout.parts import connect_parts
from release_pipeline.spec import ReleaseSpec

#: Jobs by the name of a run, and of the release job the asset that is materialised.
JOBS: Mapping[str, tuple[str, str | None]] = {
    "log": ("release", "logged_model"),
    "force": ("release", "logged_model"),
    "evaluate": ("release", "evaluation"),
    "predict": ("release", "predeploy_predict"),
    "register": ("release", "registered_version"),
    "deploy": ("deploy", "deployed_endpoint"),
    "canary_step": ("canary_step", None),
    "promote": ("promote", None),
    "retire": ("retire", None),
    "rollback": ("rollback", None),
    "mend": ("mend", None),
    "approve": ("approve", None),
}
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class RunFailed(Exception):
    """A run that ended with a sentence that the pipeline says on purpose."""


class Runs:
    """Runs of one model in a process that may be forked: what they share is made before.

    Args:
        spec: The release's YAML.
        folder: Where the YAML and the model's files lie.
        scratch: Where Dagster may write.
    """

    def __init__(self, spec: ReleaseSpec, folder: Path, scratch: Path) -> None:
        self._spec = spec
        self._repository = build_release(spec, folder).get_repository_def()
        # In memory, so every fork has one of its own: runs before it do not make a run wait.
        self._instance = dg.DagsterInstance.ephemeral(tempdir=str(scratch))
        self._instance.get_runs(limit=1)
        self._instance.get_dynamic_partitions(f"{spec.name}_releases")

    def prime(self) -> None:
        """Read through both clients, for what they import at their first use."""
        parts = connect_parts(self._spec, actor="run:0", progress=lambda line: None)
        parts.registry.version_of_alias(self._spec.promotion.alias)
        parts.registry.get("1")
        parts.payload.latest()
        parts.endpoint.read()
        parts.endpoint.counters()

    def job(self, run: str, release: str) -> None:
        """One run of ``JOBS``.

        Raises:
            RunFailed: It failed, and says why.
        """
        job, asset = JOBS[run]
        configured = {
            "force": (f"{self._spec.name}__logged_model", {"force": True}),
            "approve": (f"{self._spec.name}_record_approval", {"approver": "the test"}),
        }
        op, config = configured.get(run, ("", {}))
        # The sensor's tag: with it the end of the bake asks the gate once more.
        self._execute(
            job_name(self._spec.name, job),
            release,
            config={"ops": {op: {"config": config}}} if op else None,
            tags={ACTION_TAG: run},
            asset=asset,
        )

    def pause(self) -> None:
        """A person pauses the model by its job.

        Raises:
            RunFailed: It failed, and says why.
        """
        config = {"ops": {f"{self._spec.name}_set_pause": {"config": {"reason": "asked for by the test"}}}}
        self._execute(job_name(self._spec.name, "pause"), None, config=config)

    def tick(self) -> str:
        """One tick of the sensor, and the run that it asks for; what was done, or why nothing was.

        Raises:
            RunFailed: The run failed, and says why.
        """
        gate = self._repository.get_sensor_def(f"{self._spec.name}_gate")
        result = gate(dg.build_sensor_context(instance=self._instance, repository_def=self._repository))
        assert isinstance(result, dg.SensorResult)
        for request in result.run_requests or []:
            assert request.job_name is not None
            self._execute(request.job_name, request.partition_key, config=request.run_config, tags=request.tags)
            return f"ran: {request.tags[ACTION_TAG]}"
        reason = result.skip_reason
        said = reason if isinstance(reason, str) else reason.skip_message if reason else ""
        return f"{'ran' if str(said).startswith('closed the open') else 'holds'}: {said}"

    def _execute(
        self,
        job: str,
        release: str | None,
        *,
        config: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        asset: str | None = None,
    ) -> None:
        if release is not None:
            self._instance.add_dynamic_partitions(f"{self._spec.name}_releases", [release])
        result = self._repository.get_job(job).execute_in_process(
            partition_key=release,
            instance=self._instance,
            run_config={**_QUIET, **(config or {})},
            tags=dict(tags or {}),
            asset_selection=[dg.AssetKey([self._spec.name, asset])] if asset else None,
            raise_on_error=False,
        )
        for event in result.all_events:
            if event.is_step_failure:
                failed = event.step_failure_data
                if failed.user_failure_data is None:
                    assert failed.error is not None
                    raise AssertionError(failed.error.to_string())
                raise RunFailed(str(failed.user_failure_data.description))
        assert result.success
