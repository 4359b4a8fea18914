"""What is done again by hand or after a death: registering twice, registering what has ended, calls without answer."""

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.core import Config

from release_pipeline.build import build_release
from release_pipeline.errors import (
    ModelInvalid,
    NoAnswer,
    NotAsked,
    NotConfigured,
    ReleasePipelineError,
    StatementFailed,
    WorkspaceError,
)
from release_pipeline.rollout.ledger import Action, Phase
from release_pipeline.workspace import tracking
from release_pipeline.workspace.client import Workspace, connect
from release_pipeline.workspace.endpoint import Endpoint, InferenceTableName, ServedEntity
from release_pipeline.workspace.registry import CHALLENGER_ALIAS, TAG_RELEASE, TAG_STATUS
from release_pipeline.workspace.sql.warehouse import Warehouse, choose_warehouse
from release_pipeline.workspace.tracking import TAG_VERSION
from tests.conftest import free_port
from tests.pipeline.conftest import MODELS, Model
from tests.pipeline.test_assets import why


def log(model: Model, release: str) -> tracking.ReleaseRun:
    """What the asset logged_model does."""
    source, config = MODELS / "agent.py", MODELS / "first.yaml"
    return tracking.log_model(connect(), model.spec, release, source=source, config=config, folder=MODELS)


def materialise(model: Model, release: str) -> dg.ExecuteInProcessResult:
    """The asset registered_version alone, as a person materialises it by hand."""
    name = model.spec.name
    job = build_release(model.spec, MODELS).resolve_job_def(f"{name}_release")
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(f"{name}_releases", [release])
        return job.execute_in_process(
            partition_key=release,
            instance=instance,
            asset_selection=[dg.AssetKey([name, "registered_version"])],
            raise_on_error=False,
        )


def test_a_version_that_a_dead_run_registered_is_taken_and_not_made_again(model: Model) -> None:
    import mlflow

    run = log(model, release := model.release())
    # Here the run died: the version is ready, and the MLflow run does not know it.
    made = str(mlflow.register_model(run.model_uri, model.spec.model.registered_name).version)
    assert materialise(model, release).success
    registry = model.parts().registry
    (version,) = registry.versions()
    assert (version.version, version.tags[TAG_RELEASE], version.tags[TAG_STATUS]) == (made, release, "challenger")
    assert registry.version_of_alias(CHALLENGER_ALIAS) == made
    found = tracking.find_run(connect(), model.spec, release)
    assert found is not None
    assert found.version == made
    assert materialise(model, release).success
    assert [version.version for version in registry.versions()] == [made]


def test_a_release_goes_on_whatever_became_of_the_run_in_which_its_model_was_logged(model: Model) -> None:
    client, spec, release = connect().mlflow, model.spec, model.release()
    tags = {TAG_RELEASE: release, tracking.TAG_NAME: spec.model.registered_name}
    client.create_run(tracking.experiment_id(connect(), spec), tags=tags)
    assert tracking.find_run(connect(), spec, release) is None, "it died before its model was whole"
    run = log(model, release)
    # One that another run of the same release has begun meanwhile is newer.
    client.create_run(tracking.experiment_id(connect(), spec), tags=tags)
    # An evaluation goes on with the run, and whoever kills it leaves it so.
    for status in ("RUNNING", "FAILED", "KILLED"):
        client.update_run(run.run_id, status=status)
        assert tracking.find_run(connect(), spec, release) == run
    assert materialise(model, release).success


def test_versions_are_read_to_the_last_page(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [model.register("first") for _ in range(3)]
    monkeypatch.setattr("release_pipeline.workspace.registry.PAGE_ROWS", 1)
    registry = model.parts().registry
    assert [version.version for version in registry.versions()] == made[::-1]
    assert [version.version for version in registry.versions_of_run(model.logged("first").run_id)] == made[::-1]


def test_a_model_that_cannot_reach_something_is_not_told_as_a_workspace_that_does_not_answer(
    model: Model, tmp_path: Path
) -> None:
    source = tmp_path / "agent.py"
    source.write_text(f"import requests\n\nrequests.get('http://127.0.0.1:{free_port()}/')\n")
    with pytest.raises(ModelInvalid, match=r"agent\.py of .* could not be logged as a model: .*run the file by itself"):
        tracking.log_model(connect(), model.spec, model.release(), source=source, config=None, folder=tmp_path)


def test_a_version_that_never_became_ready_and_one_of_another_run_are_not_taken(
    model: Model, client: WorkspaceClient
) -> None:
    other = model.register("first")
    run = log(model, release := model.release())
    body = {"name": model.spec.model.registered_name, "source": run.model_uri, "run_id": run.run_id}
    client.api_client.do("POST", "/api/2.0/mlflow/unity-catalog/model-versions/create", body=body)
    assert materialise(model, release).success
    versions = model.parts().registry.versions()
    assert [(version.version, version.status) for version in versions] == [
        ("3", "READY"),
        ("2", "PENDING_REGISTRATION"),
        (other, "READY"),
    ]
    assert model.parts().registry.version_of_alias(CHALLENGER_ALIAS) == "3"


def test_a_release_that_has_ended_keeps_its_status_and_its_aliases(model: Model) -> None:
    run = log(model, release := model.release())
    assert materialise(model, release).success
    parts = model.parts()
    parts.ledger.create()
    entities = {"challenger": "b", "champion": "a"}
    after = {"challenger_version": "1", "champion_version": "0", "entities": entities, "step": 0, "traffic_percent": 5}
    parts.registry.delete_alias(CHALLENGER_ALIAS)
    for action, status in (
        (Action.PROMOTE, "promoted"),
        (Action.RETIRE, "promoted"),
        (Action.ROLL_BACK, "rejected"),
    ):
        for phase in (Phase.INTENT, Phase.DONE):
            parts.ledger.append(
                parts.ledger.read(), release=release, actor="test", action=action, phase=phase, after=after
            )
        parts.registry.tag("1", {TAG_STATUS: status})
        sentence = why(materialise(model, release))
        state = parts.rollout.state(release)
        assert state is not None
        assert f"release {release} of {model.spec.name} is {state.stage} already" in sentence
        assert "start a new release instead" in sentence
        version = parts.registry.get("1")
        assert version is not None
        assert version.tags[TAG_STATUS] == status
        assert parts.registry.version_of_alias(CHALLENGER_ALIAS) is None
    # Nor is it registered anew where the MLflow run has lost the version.
    parts.workspace.mlflow.delete_tag(run.run_id, TAG_VERSION)
    assert "already" in why(materialise(model, release))
    assert len(parts.registry.versions()) == 1


@pytest.fixture(scope="module")
def unanswered() -> Workspace:
    """A workspace that is gone by now; its client gives up after a second instead of twenty."""
    host = f"http://127.0.0.1:{free_port()}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABRICKS_CONFIG_FILE", "none")
        config = Config(host=host, token="any", http_timeout_seconds=1, retry_timeout_seconds=1)
    return Workspace(client=WorkspaceClient(config=config), host=host)


ENTITY = ServedEntity("a", "main.default.m", "1")
CALLS: dict[str, tuple[Callable[[Workspace], object], type[ReleasePipelineError]]] = {
    "read": (lambda gone: Endpoint(gone, "e").read(), WorkspaceError),
    "create": (
        lambda gone: Endpoint(gone, "e").create(
            ENTITY, tags={}, inference_table=InferenceTableName("main", "default", "m")
        ),
        NoAnswer,
    ),
    "update": (lambda gone: Endpoint(gone, "e").update((ENTITY,), {"a": 100}), NoAnswer),
    "delete": (lambda gone: Endpoint(gone, "e").delete(), WorkspaceError),
    "query": (lambda gone: Endpoint(gone, "e").query_entity("a", {}), NotAsked),
    "statement": (lambda gone: Warehouse(gone.client, "w").execute("SELECT 1"), StatementFailed),
    "warehouses": (lambda gone: choose_warehouse(gone.client), NotConfigured),
}


@pytest.mark.parametrize(("call", "kind"), CALLS.values(), ids=CALLS.keys())
def test_a_call_without_an_answer_is_a_sentence(
    call: Callable[[Workspace], object],
    kind: type[ReleasePipelineError],
    unanswered: Workspace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DATABRICKS_WAREHOUSE_ID", raising=False)
    with pytest.raises(ReleasePipelineError) as raised:
        call(unanswered)
    # Exactly this kind: an EndpointError would close an intent as failed whose write may have been taken.
    assert type(raised.value) is kind
    assert "Timed out after 0:00:01" in str(raised.value)
    assert str(raised.value).endswith(".")
