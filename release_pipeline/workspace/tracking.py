"""The MLflow run of a release: found by its tags, so that nothing about it has to be stored twice."""

import contextlib
import hashlib
import json
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from release_pipeline.errors import (
    ModelInvalid,
    ReleaseError,
    ReleasePipelineError,
    WorkspaceError,
    first_sentence,
)
from release_pipeline.spec import ReleaseSpec, Resource
from release_pipeline.workspace.client import Workspace
from release_pipeline.workspace.registry import TAG_DIGEST, TAG_FORCED, TAG_RELEASE

TAG_NAME = "release_pipeline.model"
TAG_MODEL = "release_pipeline.model_uri"
TAG_VERSION = "release_pipeline.version"
# Keys of a request that carry what a classical model takes; an agent takes the request as it is.
_FORMS = ("dataframe_records", "dataframe_split", "inputs", "instances")


@dataclass(frozen=True)
class ReleaseRun:
    """The MLflow run in which a release's model was logged.

    Attributes:
        version: The version that it was registered as, None before.
        forced: Numbers of rejected versions of the same content that a person has forced it past, with commas.
    """

    run_id: str
    experiment_id: str
    model_uri: str
    digest: str
    version: str | None
    forced: str = ""


@contextlib.contextmanager
def asking_mlflow(what: str) -> Iterator[None]:
    """Calls of MLflow that fail with a sentence.

    Raises:
        WorkspaceError: One of them failed, or nobody answered it.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, TimeoutError) as error:
        # MLflow failed to end a run that had failed: what was said of that counts.
        if isinstance(error.__context__, ReleasePipelineError):
            raise error.__context__ from None
        raise WorkspaceError(f"{what}: MLflow did not do it: {first_sentence(error)}.") from None


def experiment_id(workspace: Workspace, spec: ReleaseSpec) -> str:
    """The id of the release's experiment, created where it does not exist.

    Raises:
        WorkspaceError: MLflow did not say.
    """
    client = workspace.mlflow
    with asking_mlflow(f"the experiment {spec.experiment} was to be found, or made"):
        found = client.get_experiment_by_name(spec.experiment)
        return str(found.experiment_id if found else client.create_experiment(spec.experiment))


def find_run(workspace: Workspace, spec: ReleaseSpec, release: str) -> ReleaseRun | None:
    """The run of ``release`` in which its model was logged, or None.

    Whatever became of the run afterwards: an evaluation that was killed leaves it unfinished.

    Raises:
        WorkspaceError: MLflow did not say.
    """
    experiment = experiment_id(workspace, spec)
    with asking_mlflow(f"the run of release {release} in {spec.experiment} was to be found"):
        runs = workspace.mlflow.search_runs(
            [experiment],
            # Models may share an experiment, and their releases a second.
            filter_string=f"tags.`{TAG_RELEASE}` = '{release}' and tags.`{TAG_NAME}` = '{spec.model.registered_name}'",
        )
    # The tag is the last that is set: a run without it died before its model was whole.
    logged = next((run for run in runs if TAG_MODEL in run.data.tags), None)
    if logged is None:
        return None
    info, tags = logged.info, logged.data.tags
    version, forced = tags.get(TAG_VERSION), tags.get(TAG_FORCED, "")
    return ReleaseRun(info.run_id, info.experiment_id, tags[TAG_MODEL], tags[TAG_DIGEST], version, forced)


def tag_run(workspace: Workspace, run_id: str, key: str, value: str) -> None:
    """Set a tag of a release's run.

    Raises:
        WorkspaceError: MLflow did not do it.
    """
    with asking_mlflow(f"tag {key} of run {run_id} was to be set"):
        workspace.mlflow.set_tag(run_id, key, value)


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


def content_digest(
    files: Sequence[Path], requirements: Sequence[str], parameters: Mapping[str, Any] | None = None
) -> str:
    """Digest of code, configuration and requirements: 16 hexadecimal digits that tell the same release again."""
    sha = hashlib.sha256()
    for top in files:
        for file in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if file.is_file() and "__pycache__" not in file.parts:
                sha.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    sha.update("\n".join(requirements).encode())
    if parameters is not None:
        sha.update(json.dumps(parameters, sort_keys=True, default=str).encode())
    return sha.hexdigest()[:16]


def release_digest(spec: ReleaseSpec, *, source: Path, config: Path | Mapping[str, Any] | None, folder: Path) -> str:
    """The digest that a model has when it is logged; arguments as for `log_model`."""
    files = [
        source,
        *([config] if isinstance(config, Path) else []),
        *(folder / path for path in spec.model.code_paths),
    ]
    parameters = dict(config) if isinstance(config, Mapping) else None
    return content_digest(files, pinned(spec.model.requirements), parameters)


def log_model(
    workspace: Workspace,
    spec: ReleaseSpec,
    release: str,
    *,
    source: Path,
    config: Path | Mapping[str, Any] | None,
    folder: Path,
) -> ReleaseRun:
    """Log the model from its code in one run, with its requirements, example and authentication policy.

    ``config`` is what the model finds as its ``ModelConfig``: the file that holds it, or the parameters themselves.

    Raises:
        ModelInvalid: The file cannot be run, or does not set a model that MLflow takes.
        WorkspaceError: MLflow did not log it.
    """
    import mlflow

    workspace.mlflow  # noqa: B018  points mlflow's fluent functions at the workspace
    requirements = pinned(spec.model.requirements)
    code_paths = [folder / path for path in spec.model.code_paths]
    file = config if isinstance(config, Path) else None
    parameters = dict(config) if isinstance(config, Mapping) else None
    digest = release_digest(spec, source=source, config=config, folder=folder)
    experiment = experiment_id(workspace, spec)
    with asking_mlflow(f"the experiment {spec.experiment} was to be chosen"):
        mlflow.set_experiment(experiment_id=experiment)
    tags = {TAG_RELEASE: release, TAG_DIGEST: digest, TAG_NAME: spec.model.registered_name}
    what = f"{source.name} of {spec.name} was to be logged in {spec.experiment}"
    with asking_mlflow(what), mlflow.start_run(run_name=release, tags=tags) as run:
        try:
            info = mlflow.pyfunc.log_model(
                name=spec.model.short_name,
                python_model=str(source),
                model_config=str(file) if file else parameters,
                pip_requirements=requirements,
                input_example=_example(spec.model.input_example),
                code_paths=[str(path) for path in code_paths] or None,
                auth_policy=_auth_policy(spec),
            )
        except Exception as error:  # user code runs here: anything may come out of it
            if _is_of_workspace(error, source, folder):
                raise WorkspaceError(f"{what}: {type(error).__name__}: {first_sentence(error)}; try again.") from error
            raise ModelInvalid(
                f"{source.name} of {spec.name} could not be logged as a model: {type(error).__name__}: "
                f"{str(error).splitlines()[0] if str(error) else ''}; run the file by itself to see the whole error."
            ) from error
        mlflow.set_tag(TAG_MODEL, info.model_uri)
    with asking_mlflow(what):
        noted = workspace.mlflow.get_run(run.info.run_id).data.tags.get(TAG_MODEL)
    if noted != info.model_uri:
        raise WorkspaceError(f"{what}, and MLflow run {run.info.run_id} does not say so; log it again.")
    return ReleaseRun(run.info.run_id, run.info.experiment_id, info.model_uri, digest, None)


def _is_of_workspace(error: BaseException, source: Path, folder: Path) -> bool:
    """Whether a workspace that refused, or did not answer, is the cause, and no line of the model's own code."""
    from databricks.sdk.errors.base import DatabricksError
    from mlflow.exceptions import RestException
    from requests import RequestException

    chain, cause = [error], error
    while (below := cause.__cause__ or cause.__context__) is not None and below not in chain:
        cause = below
        chain.append(cause)
    files = [Path(frame.f_code.co_filename) for each in chain for frame, _ in traceback.walk_tb(each.__traceback__)]
    own = [file for file in files if "site-packages" not in file.parts]  # an environment may lie in the folder
    if any(file.name == source.name or file.is_relative_to(folder) for file in own):
        return False
    return any(isinstance(each, RestException | DatabricksError | RequestException | TimeoutError) for each in chain)


def _example(request: dict[str, Any] | None) -> Any:
    """What the model itself takes of an example request, for its signature: of a classical model's, the table in it.

    Raises:
        MlflowException: The table cannot be read.
    """
    forms = [form for form in _FORMS if form in request] if request else []
    if request is None or not forms:
        return request
    if forms[0].startswith("dataframe_"):
        from mlflow.pyfunc import scoring_server

        data = scoring_server.infer_and_parse_data({form: request[form] for form in forms})
    else:
        data = request[forms[0]]
    # A pair is how mlflow is told of parameters.
    return (data, request["params"]) if "params" in request else data


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
