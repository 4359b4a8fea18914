"""From one model's YAML to everything that Dagster loads of it."""

from pathlib import Path

import dagster as dg

from release_pipeline.assets import (
    canary_traffic,
    deployed_endpoint,
    evaluation,
    logged_model,
    predeploy_predict,
    promoted_alias,
    registered_version,
)
from release_pipeline.assets.context import ModelContext
from release_pipeline.automation.drift_check import build_drift_check, build_mend_job
from release_pipeline.automation.drift_sensor import build_drift_sensor
from release_pipeline.automation.gate_sensor import build_gate_sensor
from release_pipeline.automation.jobs import build_jobs, job_name
from release_pipeline.automation.judge import build_judge_job, build_judge_sensor, has_judges
from release_pipeline.automation.notification_sensor import build_notification_sensor
from release_pipeline.automation.people_jobs import build_people_jobs
from release_pipeline.automation.promotion_schedule import build_promotion_schedule
from release_pipeline.spec import ReleaseSpec


def build_release(spec: ReleaseSpec, folder: Path) -> dg.Definitions:
    """Assets, jobs, sensors and the promotion schedule of one model.

    Args:
        spec: The validated YAML.
        folder: The folder of the YAML, where the files that it names lie.
    """
    model = ModelContext(spec, folder)
    chain = (
        logged_model,
        evaluation,
        predeploy_predict,
        registered_version,
        deployed_endpoint,
        canary_traffic,
        promoted_alias,
    )
    mend_job = build_mend_job(model)
    jobs = [*build_jobs(model), mend_job]
    by_name = {job.name: job for job in jobs}
    # The sensor drives releases and starts none.
    driven = [job for job in jobs if job.name != job_name(spec.name, "release")]
    judges = [build_judge_job(model)] if has_judges(spec) else []
    schedule = build_promotion_schedule(model, by_name[job_name(spec.name, "promote")])
    return dg.Definitions(
        assets=[link.build(model) for link in chain],
        asset_checks=[build_drift_check(model)],
        jobs=[*jobs, *judges, *build_people_jobs(model)],
        sensors=[
            build_gate_sensor(model, driven),
            build_drift_sensor(model, mend_job),
            *(build_judge_sensor(model, job) for job in judges),
            *([build_notification_sensor(model)] if spec.notifications.addresses_variable else []),
        ],
        schedules=[schedule] if schedule else [],
    )
