"""The fourth link: the logged model as a version in Unity Catalog, ready, tagged, alias `challenger`."""

import dagster as dg

from release_pipeline.assets.context import ModelContext, failure
from release_pipeline.errors import NotAllowed, RegistryError, ReleasePipelineError, first_sentence
from release_pipeline.rollout.parts import Parts
from release_pipeline.rollout.state import Stage
from release_pipeline.spec import ReleaseSpec
from release_pipeline.workspace.links import version_page
from release_pipeline.workspace.registry import (
    CHALLENGER,
    CHALLENGER_ALIAS,
    TAG_DIGEST,
    TAG_FORCED,
    TAG_RELEASE,
    TAG_STATUS,
)
from release_pipeline.workspace.tracking import TAG_VERSION, ReleaseRun

READY_SECONDS = 900
ENDED = (Stage.PROMOTED, Stage.FINISHED, Stage.ROLLED_BACK)


def build(model: ModelContext) -> dg.AssetsDefinition:
    """The asset ``registered_version`` of one model."""
    spec = model.spec

    @dg.asset(
        key=model.key("registered_version"),
        deps=[model.key("predeploy_predict")],
        partitions_def=model.partitions,
        group_name=spec.name,
        owners=list(spec.owners),
        kinds={"databricks", "mlflow"},
        description=f"A version of {spec.model.registered_name}, alias {CHALLENGER_ALIAS}.",
    )
    def registered_version(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        from release_pipeline.workspace.tracking import need_run, tag_run

        release = context.partition_key
        try:
            parts = model.parts(context)
            run = need_run(parts.workspace, spec, release)
            _not_ended(parts, spec, release)
            version = run.version
            if version is None:
                version = _registered(parts, run) or _register(spec, run)
                tag_run(parts.workspace, run.run_id, TAG_VERSION, version)
            parts.registry.tag(
                version,
                {
                    TAG_RELEASE: release,
                    TAG_DIGEST: run.digest,
                    TAG_STATUS: CHALLENGER,
                    "release_pipeline.dagster_run": context.run.run_id,
                    **({TAG_FORCED: run.forced} if run.forced else {}),
                },
            )
            parts.registry.set_alias(CHALLENGER_ALIAS, version)
            _verify(parts, spec, release, version)
        except ReleasePipelineError as error:
            raise failure(error) from error
        return dg.MaterializeResult(
            metadata={
                "version": version,
                "registered_name": spec.model.registered_name,
                "model": dg.MetadataValue.url(version_page(parts.workspace, spec.model.registered_name, version)),
            }
        )

    return registered_version


def _verify(parts: Parts, spec: ReleaseSpec, release: str, version: str) -> None:
    """Read back what was written.

    Raises:
        RegistryError: The registry, or the MLflow run, does not say what it was told.
    """
    from release_pipeline.workspace.tracking import need_run

    made, run = parts.registry.get(version), need_run(parts.workspace, spec, release)
    tagged = made is not None and (made.tags.get(TAG_RELEASE), made.tags.get(TAG_DIGEST)) == (release, run.digest)
    challenges = made is not None and made.tags.get(TAG_STATUS) == CHALLENGER
    forced = made is not None and made.tags.get(TAG_FORCED, "") == run.forced
    if not (tagged and challenges and (forced or not run.forced) and run.version == version):
        raise RegistryError(f"version {version} of {parts.registry.name} does not have the tags that it was given.")
    if parts.registry.version_of_alias(CHALLENGER_ALIAS) != version:
        raise RegistryError(f"the alias {CHALLENGER_ALIAS} of {parts.registry.name} does not name version {version}.")


def _not_ended(parts: Parts, spec: ReleaseSpec, release: str) -> None:
    """Keep the status and the aliases of a release that has come to its end.

    Raises:
        NotAllowed: The ledger says that it was promoted, finished or rolled back.
    """
    state = parts.rollout.state(release)
    if state is not None and state.stage in ENDED:
        raise NotAllowed(
            f"release {release} of {spec.name} is {state.stage} already; version {state.challenger_version} keeps its "
            "status and its aliases; start a new release instead."
        )


def _registered(parts: Parts, run: ReleaseRun) -> str | None:
    """The version that a run which died before it could note it has made; one that never became ready is left."""
    found = parts.registry.versions_of_run(run.run_id)
    return next((version.version for version in found if version.status == "READY"), None)


def _register(spec: ReleaseSpec, run: ReleaseRun) -> str:
    """Register the logged model and wait until the version is ready.

    Raises:
        RegistryError: The registry refused it, or it did not become ready.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    name = spec.model.registered_name
    try:
        version = mlflow.register_model(run.model_uri, name, await_registration_for=READY_SECONDS)
    except (MlflowException, TimeoutError) as error:
        raise RegistryError(
            f"{run.model_uri} could not be registered as {name}: {first_sentence(error)}; check that the catalog "
            "and schema exist and that you may USE them and CREATE MODEL there."
        ) from error
    if str(version.status) != "READY":
        raise RegistryError(f"version {version.version} of {name} is {version.status}, not READY; try again later.")
    return str(version.version)
