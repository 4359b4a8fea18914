"""The MLflow run of a release: found by its tags, so that nothing about it has to be stored twice."""

import contextlib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from release_pipeline.errors import ModelInvalid, ReleaseError
from release_pipeline.spec import ReleaseSpec, Resource
from release_pipeline.workspace.client import Workspace
from release_pipeline.workspace.registry import TAG_DIGEST, TAG_RELEASE

TAG_MODEL = "release_pipeline.model_uri"
TAG_VERSION = "release_pipeline.version"


@dataclass(frozen=True)
class ReleaseRun:
    """The MLflow run in which a release's model was logged."""

    run_id: str
    experiment_id: str
    model_uri: str
    digest: str
    version: str | None


def experiment_id(workspace: Workspace, spec: ReleaseSpec) -> str:
    """The id of the release's experiment, created where it does not exist."""
    client = workspace.mlflow
    found = client.get_experiment_by_name(spec.experiment)
    return str(found.experiment_id if found else client.create_experiment(spec.experiment))


def find_run(workspace: Workspace, spec: ReleaseSpec, release: str) -> ReleaseRun | None:
    """The finished run of ``release``, or None."""
    runs = workspace.mlflow.search_runs(
        [experiment_id(workspace, spec)],
        filter_string=f"tags.`{TAG_RELEASE}` = '{release}' and attributes.status = 'FINISHED'",
        max_results=1,
    )
    if not runs:
        return None
    run = runs[0]
    tags = run.data.tags
    return ReleaseRun(run.info.run_id, run.info.experiment_id, tags[TAG_MODEL], tags[TAG_DIGEST], tags.get(TAG_VERSION))


def need_run(workspace: Workspace, spec: ReleaseSpec, release: str) -> ReleaseRun:
    """As :func:`find_run`.

    Raises:
        ReleaseError: The release has no logged model yet.
    """
    found = find_run(workspace, spec, release)
    if found is None:
        raise ReleaseError(
            f"release {release} of {spec.name} has no logged model in {spec.experiment}; "
            "materialise logged_model first."
        )
    return found


def pinned(requirements: Iterable[str]) -> list[str]:
    """Requirements in which a bare package name is pinned to the version installed here."""
    result = []
    for requirement in requirements:
        if requirement.replace("-", "").replace("_", "").replace(".", "").isalnum():
            with contextlib.suppress(PackageNotFoundError):
                requirement = f"{requirement}=={version(requirement)}"
        result.append(requirement)
    return result


def content_digest(files: Sequence[Path], requirements: Sequence[str]) -> str:
    """Digest of code, configuration and requirements: 16 hexadecimal digits that tell the same release again."""
    sha = hashlib.sha256()
    for top in files:
        for file in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if file.is_file() and "__pycache__" not in file.parts:
                sha.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    sha.update("\n".join(requirements).encode())
    return sha.hexdigest()[:16]


def log_model(
    workspace: Workspace,
    spec: ReleaseSpec,
    release: str,
    *,
    source: Path,
    config: Path | None,
    folder: Path,
) -> ReleaseRun:
    """Log the model from its code in one run, with its requirements, example and authentication policy.

    Raises:
        ModelInvalid: The file cannot be run, or does not set a model that MLflow takes.
    """
    import mlflow

    workspace.mlflow  # noqa: B018  points mlflow's fluent functions at the workspace
    requirements = pinned(spec.model.requirements)
    code_paths = [folder / path for path in spec.model.code_paths]
    digest = content_digest([source, *([config] if config else []), *code_paths], requirements)
    mlflow.set_experiment(experiment_id=experiment_id(workspace, spec))
    tags = {TAG_RELEASE: release, TAG_DIGEST: digest, "release_pipeline.model": spec.model.registered_name}
    with mlflow.start_run(run_name=release, tags=tags) as run:
        try:
            info = mlflow.pyfunc.log_model(
                name=spec.model.short_name,
                python_model=str(source),
                model_config=str(config) if config else None,
                pip_requirements=requirements,
                input_example=spec.model.input_example,
                code_paths=[str(path) for path in code_paths] or None,
                auth_policy=_auth_policy(spec),
            )
        except Exception as error:  # user code runs here: anything may come out of it
            raise ModelInvalid(
                f"{source.name} of {spec.name} could not be logged as a model: {type(error).__name__}: "
                f"{str(error).splitlines()[0] if str(error) else ''}; run the file by itself to see the whole error."
            ) from error
        mlflow.set_tag(TAG_MODEL, info.model_uri)
    return ReleaseRun(run.info.run_id, run.info.experiment_id, info.model_uri, digest, None)


def _auth_policy(spec: ReleaseSpec) -> Any:
    if not spec.model.resources and not spec.model.user_api_scopes:
        return None
    from mlflow.models.auth_policy import AuthPolicy, SystemAuthPolicy, UserAuthPolicy

    return AuthPolicy(
        system_auth_policy=SystemAuthPolicy(resources=[_resource(resource) for resource in spec.model.resources]),
        user_auth_policy=UserAuthPolicy(api_scopes=list(spec.model.user_api_scopes))
        if spec.model.user_api_scopes
        else None,
    )


def _resource(resource: Resource) -> Any:
    from mlflow.models import resources

    kinds: Mapping[str, Any] = {
        "serving_endpoint": lambda name: resources.DatabricksServingEndpoint(endpoint_name=name),
        "sql_warehouse": lambda name: resources.DatabricksSQLWarehouse(warehouse_id=name),
        "function": lambda name: resources.DatabricksFunction(function_name=name),
        "table": lambda name: resources.DatabricksTable(table_name=name),
        "vector_search_index": lambda name: resources.DatabricksVectorSearchIndex(index_name=name),
        "genie_space": lambda name: resources.DatabricksGenieSpace(genie_space_id=name),
        "uc_connection": lambda name: resources.DatabricksUCConnection(connection_name=name),
    }
    return kinds[resource.type](resource.name)
