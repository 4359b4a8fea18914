"""What the assets of one model share: its YAML, its folder, its partitions, and how a run reaches the workspace."""

from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from release_pipeline.errors import NotAllowed, Superseded
from release_pipeline.report.preflight_table import preflight_metadata
from release_pipeline.rollout.parts import Parts, connect_parts
from release_pipeline.rollout.preflight import Preflight
from release_pipeline.spec import ReleaseSpec

#: On a run that the gate, or the ledger, did not allow to act.
REFUSED_TAG = "release_pipeline/refused"
CHAIN = (
    "logged_model",
    "evaluation",
    "predeploy_predict",
    "registered_version",
    "deployed_endpoint",
    "canary_traffic",
    "promoted_alias",
)


@dataclass(frozen=True)
class ModelContext:
    """One model's YAML and where it lies."""

    spec: ReleaseSpec
    folder: Path

    @property
    def partitions(self) -> dg.DynamicPartitionsDefinition:
        """The releases of this model; a key is the time of its start, ``20261121-140301``, UTC."""
        return dg.DynamicPartitionsDefinition(name=f"{self.spec.name}_releases")

    def key(self, asset: str) -> dg.AssetKey:
        """The asset key of one link of the chain."""
        return dg.AssetKey([self.spec.name, asset])

    def parts(self, context: dg.AssetExecutionContext | dg.OpExecutionContext) -> Parts:
        """The workspace as this run sees it; the ledger records the run as the actor."""
        return connect_parts(self.spec, actor=f"run:{context.run.run_id}", progress=context.log.info)


def failed_run(context: dg.AssetExecutionContext, error: Exception) -> dg.Failure:
    """The same as :func:`failure`; a run that was refused is tagged, because it has not failed at anything."""
    if isinstance(error, NotAllowed | Superseded):
        context.instance.add_run_tags(context.run.run_id, {REFUSED_TAG: "true"})
    return failure(error)


def refused(checked: Preflight) -> dg.Failure:
    """What preflight found wrong, as Dagster's failure, with the table of its checks."""
    return dg.Failure(description=str(checked), metadata=preflight_metadata(checked), allow_retries=False)


def failure(error: Exception) -> dg.Failure:
    """An error of ours as Dagster's, without retries: trying the same again would give the same."""
    return dg.Failure(description=str(error), allow_retries=False)
