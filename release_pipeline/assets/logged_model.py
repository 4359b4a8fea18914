"""The first link: the model's code, configuration and requirements, logged in one MLflow run."""

import json
from pathlib import Path

import dagster as dg
from pydantic import Field

from release_pipeline.assets.context import ModelContext, failure, refused
from release_pipeline.errors import ReleaseError, ReleasePipelineError, SpecError
from release_pipeline.rollout.parts import Parts
from release_pipeline.rollout.preflight import UPDATE, Outcome, preflight
from release_pipeline.rollout.quarantine import refuse_content, rejected_like
from release_pipeline.spec import ReleaseSpec
from release_pipeline.workspace.links import run_page
from release_pipeline.workspace.registry import TAG_FORCED
from release_pipeline.workspace.tracking import ReleaseRun, find_run, log_model, need_run, tag_run


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
        owners=list(spec.owners),
        kinds={"mlflow", "python"},
        description=f"{spec.model.source}, logged from its code in one MLflow run of {spec.experiment}.",
    )
    def logged_model(context: dg.AssetExecutionContext, config: LoggedModelConfig) -> dg.MaterializeResult:
        try:
            parts = model.parts(context)
            run = find_run(parts.workspace, spec, context.partition_key)
            if run is None:
                refuse_what_cannot_be_released(parts, spec, context.partition_key)
                source = _beside(model.folder, config.source or spec.model.source, "source")
                chosen = config.config or spec.model.config or None
                run = log_model(
                    parts.workspace,
                    spec,
                    context.partition_key,
                    source=source,
                    config=_beside(model.folder, chosen, "config") if isinstance(chosen, str) else chosen,
                    folder=model.folder,
                )
            if config.force:
                _force(parts, spec, context.partition_key, run)
            else:
                remedy = "set `force: true` in the run configuration of logged_model"
                refuse_content(parts.registry, run.digest, forced=run.forced, remedy=remedy)
        except ReleasePipelineError as error:
            raise failure(error) from error
        written = spec.model.config
        return dg.MaterializeResult(
            metadata={
                "model_uri": run.model_uri,
                "digest": run.digest,
                "config": config.config or (json.dumps(written) if isinstance(written, dict) else written or "none"),
                "mlflow_run": dg.MetadataValue.url(run_page(parts.workspace, run.experiment_id, run.run_id)),
            },
            data_version=dg.DataVersion(run.digest),
        )

    return logged_model


def refuse_what_cannot_be_released(parts: Parts, spec: ReleaseSpec, release: str) -> None:
    """Ask preflight before anything is made; the deployment, by when things may have changed, asks again.

    Another's update of the endpoint will be over by then, or is waited for.

    Raises:
        dagster.Failure: A check failed; the table of all of them is with it.
        WorkspaceError: The endpoint or the ledger cannot be read.
    """
    checked = preflight(parts, spec, release)
    if checked is not None and any(check.name != UPDATE for check in checked.of(Outcome.FAILED)):
        raise refused(checked)


def _beside(folder: Path, name: str, field: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise SpecError(f"run configuration: `{field}` names {name}, which is not a file in {folder}.")
    return path


def _force(parts: Parts, spec: ReleaseSpec, release: str, run: ReleaseRun) -> None:
    """Note which rejected versions of the same content a person knew of; the deployment asks again.

    Raises:
        ReleaseError: MLflow or the registry does not say what it was told.
    """
    known = ",".join(version.version for version in rejected_like(parts.registry, run.digest))
    if not known:
        return
    tag_run(parts.workspace, run.run_id, TAG_FORCED, known)
    noted = [need_run(parts.workspace, spec, release).forced]
    if run.version is not None:  # registered already, as one that waits in the queue is
        parts.registry.tag(run.version, {TAG_FORCED: known})
        found = parts.registry.get(run.version)
        noted.append(found.tags.get(TAG_FORCED, "") if found else "")
    if any(said != known for said in noted):
        raise ReleaseError(
            f"release {release} was to be forced past version {known}, and that was not stored; "
            "materialise logged_model again with `force: true` in its run configuration."
        )
