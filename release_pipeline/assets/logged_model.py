"""The first link: the model's code, configuration and requirements, logged in one MLflow run."""

from pathlib import Path

import dagster as dg
from pydantic import Field

from release_pipeline.assets.context import ModelContext, failure
from release_pipeline.errors import Quarantined, ReleasePipelineError, SpecError
from release_pipeline.workspace.registry import REJECTED, TAG_DIGEST, TAG_REASON, TAG_STATUS, Registry


class LoggedModelConfig(dg.Config):
    """Run configuration: what this release takes other than the YAML says."""

    # Descriptions and not docstrings: the launchpad shows them.
    source: str = Field(default="", description="Another Python file beside the YAML; empty: the YAML's.")
    config: str = Field(default="", description="Another configuration file beside the YAML; empty: the YAML's.")
    force: bool = Field(default=False, description="Release although the same content was rejected before.")


def build(model: ModelContext) -> dg.AssetsDefinition:
    """The asset ``logged_model`` of one model."""
    spec = model.spec

    @dg.asset(
        key=model.key("logged_model"),
        partitions_def=model.partitions,
        group_name=spec.name,
        kinds={"mlflow", "python"},
        description=f"{spec.model.source}, logged from its code in one MLflow run of {spec.experiment}.",
    )
    def logged_model(context: dg.AssetExecutionContext, config: LoggedModelConfig) -> dg.MaterializeResult:
        from release_pipeline.workspace.tracking import find_run, log_model

        try:
            parts = model.parts(context)
            run = find_run(parts.workspace, spec, context.partition_key)
            if run is None:
                source = _beside(model.folder, config.source or spec.model.source, "source")
                chosen = config.config or spec.model.config
                run = log_model(
                    parts.workspace,
                    spec,
                    context.partition_key,
                    source=source,
                    config=_beside(model.folder, chosen, "config") if chosen else None,
                    folder=model.folder,
                )
            if not config.force:
                _refuse_quarantined(parts.registry, run.digest)
        except ReleasePipelineError as error:
            raise failure(error) from error
        host = parts.workspace.host
        return dg.MaterializeResult(
            metadata={
                "model_uri": run.model_uri,
                "digest": run.digest,
                "config": config.config or spec.model.config or "none",
                "mlflow_run": dg.MetadataValue.url(f"{host}/ml/experiments/{run.experiment_id}/runs/{run.run_id}"),
            },
            data_version=dg.DataVersion(run.digest),
        )

    return logged_model


def _beside(folder: Path, name: str, field: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise SpecError(f"run configuration: `{field}` names {name}, which is not a file in {folder}.")
    return path


def _refuse_quarantined(registry: Registry, digest: str) -> None:
    for version in registry.versions():
        if version.tags.get(TAG_DIGEST) == digest and version.tags.get(TAG_STATUS) == REJECTED:
            raise Quarantined(
                f"the same code, configuration and requirements (digest {digest}) were rejected as version "
                f"{version.version}: {version.tags.get(TAG_REASON, 'no reason recorded')} "
                "Change the model, or set `force: true` in the run configuration of logged_model."
            )
