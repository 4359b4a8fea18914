"""The asset check ``drift`` of the live version, and the job that mends what it finds."""

from typing import Any, Final

import dagster as dg

from release_pipeline.assets.context import ModelContext, failure
from release_pipeline.automation.jobs import ENDPOINT_TAG, SLOT, job_name, tell_live_version
from release_pipeline.errors import ReleasePipelineError
from release_pipeline.rollout.drift import Finding
from release_pipeline.rollout.mending import DriftLook, look_for_drift, mend

CHECK: Final = "drift"


def build_drift_check(model: ModelContext) -> dg.AssetChecksDefinition:
    """The check: it runs with the promotion, by hand in the UI, and its sensor reports it in between."""
    spec = model.spec

    @dg.asset_check(
        asset=model.key("promoted_alias"),
        name=CHECK,
        blocking=False,
        description="Endpoint and alias are what the ledger says; else, what has drifted and which side is right.",
    )
    def drift(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        try:
            seen = look_for_drift(model.parts(context.op_execution_context), spec)
        except ReleasePipelineError as error:
            # Not knowing is no failure of the run, which may be a promotion, and is not told as a pass either.
            seen = DriftLook(not_looked=str(error))
        return dg.AssetCheckResult(check_name=CHECK, **drift_fields(seen))

    return drift


def drift_fields(seen: DriftLook) -> dict[str, Any]:
    """Outcome of the check: passed where a look was possible and found nothing."""
    sentences = [finding.sentence for finding in seen.findings]
    description = "\n".join(sentences) or "Endpoint and alias are what the ledger says."
    metadata: dict[str, Any] = {"findings": len(seen.findings)}
    if seen.not_looked:
        description = f"Nobody could look: {seen.not_looked.rstrip('.')}."
    if seen.findings:
        metadata["drift"] = dg.MetadataValue.table([_record(finding) for finding in seen.findings])
    return {
        "passed": not seen.findings and not seen.not_looked,
        "severity": dg.AssetCheckSeverity.ERROR if seen.findings else dg.AssetCheckSeverity.WARN,
        "description": description,
        "metadata": metadata,
    }


def _record(finding: Finding) -> dg.TableRecord:
    return dg.TableRecord(
        {
            "kind": finding.kind.value,
            "what is": finding.found,
            "what should be": finding.should_be,
            "right": finding.right,
            "why": finding.why,
            "remedy": finding.remedy,
        }
    )


def build_mend_job(model: ModelContext) -> dg.JobDefinition:
    """The job that brings endpoint and alias back to the ledger's side; its partition is the newest release."""
    spec = model.spec

    @dg.op(name=f"{spec.name}_mend_drift", pool=f"endpoint_{spec.endpoint_name}")
    def mend_drift(context: dg.OpExecutionContext) -> None:
        try:
            parts = model.parts(context)
            before, after = mend(parts, spec, context.partition_key)
        except ReleasePipelineError as error:
            raise failure(error) from error
        for finding in before.findings:
            context.log.info(finding.sentence)
        evaluation = dg.AssetCheckEvaluation(
            asset_key=model.key("promoted_alias"), check_name=CHECK, **drift_fields(after)
        )
        # (log_event takes the evaluation of a check, although its annotation does not say so.)
        context.log_event(evaluation)  # type: ignore[arg-type]
        tell_live_version(model, parts, context.partition_key, context)

    @dg.job(
        name=job_name(spec.name, "mend"),
        partitions_def=model.partitions,
        executor_def=dg.in_process_executor,
        tags={ENDPOINT_TAG: spec.endpoint_name, **SLOT},
        description="Endpoint and alias are brought back to what the ledger says; choose the newest release.",
    )
    def mend_job() -> None:
        mend_drift()

    return mend_job
