"""Bad input is a sentence that says what, where, and what to do; and nothing half-done stays."""

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from release_pipeline.errors import (
    EvaluationSetError,
    ModelInvalid,
    NotAllowed,
    NotConfigured,
    RegistryError,
    ReleasePipelineError,
    SpecError,
    StatementFailed,
    TableMissing,
    UpdateFailed,
    WorkspaceError,
    WorkspaceUnreachable,
)
from release_pipeline.evaluation.dataset import read_dataset
from release_pipeline.evaluation.predeploy import predict_examples
from release_pipeline.evaluation.scorers import load_scorer
from release_pipeline.rollout.ledger import Action, Phase
from release_pipeline.rollout.parts import connect_parts
from release_pipeline.rollout.state import Stage, current_release
from release_pipeline.spec import PredeployPart, ReleaseSpec
from release_pipeline.workspace import tracking
from release_pipeline.workspace.client import connect
from release_pipeline.workspace.registry import TAG_REASON, TAG_STATUS
from tests.conftest import RunningWorkspace
from tests.pipeline.checkpoint import World
from tests.pipeline.conftest import Model, next_tick

QUICKLY = 15.0
"""Seconds in which a sentence must come, far below what the clients' own retries would take."""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"inputs": ', "not JSON"),
        ("[1]", "`inputs` must be an object"),
        ('{"inputs": {}}', "`inputs` must be an object"),
        ('{"inputs": {"a": 1}, "expectations": "yes"}', "`expectations` must be an object"),
        ('{"inputs": {"a": 1}, "expected": {}}', "`expected` is not known"),
    ],
)
def test_a_broken_line_of_the_evaluation_set_is_named_by_its_number(line: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "evaluation.jsonl"
    file.write_text(f'{{"inputs": {{"a": 1}}}}\n\n{line}\n')
    with pytest.raises(EvaluationSetError) as raised:
        read_dataset(file)
    assert f"{file}, line 3" in str(raised.value)
    assert words in str(raised.value)


def test_an_evaluation_set_that_is_empty_or_no_text_is_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "evaluation.jsonl"
    file.write_text("\n")
    with pytest.raises(EvaluationSetError, match="has no lines; give at least one"):
        read_dataset(file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(EvaluationSetError, match="is not UTF-8"):
        read_dataset(file)


def test_an_unknown_scorer_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"evaluation.scorers: cleverness is not known; use answered"):
        load_scorer("cleverness", tmp_path)
    (tmp_path / "own.py").write_text("x = 1\n")
    with pytest.raises(SpecError, match="has no function score"):
        load_scorer("own.py:score", tmp_path)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def broken(:\n", "invalid syntax (agent.py, line 1)"),
        ("import no_such_package_at_all\n", "no_such_package_at_all"),
        ("x = 1\n", "model"),
    ],
    ids=["syntax", "import", "no-model"],
)
def test_a_source_that_is_no_model_is_a_sentence_and_leaves_no_finished_run(
    code: str,
    words: str,
    workspace: RunningWorkspace,
    tmp_path: Path,
    make_spec: Callable[..., ReleaseSpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A release logs in a process of its own; here MLflow would take the model that an earlier test has set.
    monkeypatch.setattr("mlflow.models.model.__mlflow_model__", None)
    source = tmp_path / "agent.py"
    source.write_text(code)
    spec = make_spec()
    with pytest.raises(ModelInvalid) as raised:
        tracking.log_model(connect(), spec, "broken", source=source, config=None, folder=tmp_path)
    assert f"agent.py of {spec.name} could not be logged" in str(raised.value)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert tracking.find_run(connect(), spec, "broken") is None


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("raising", "predict raised ValueError: cannot answer about question"),
        ("unwritten_stream", "predict_stream raised NotImplementedError: the tool did not answer"),
        ("open_stream", "the stream ended with response.output_text.delta, not with response.output_item.done"),
    ],
)
def test_a_model_that_misbehaves_before_it_is_deployed_is_told_apart(
    config: str, words: str, logged: Callable[[str], tracking.ReleaseRun]
) -> None:
    run = logged(config)
    requests = [{"input": [{"role": "user", "content": text}]} for text in ("hello", "a question")]
    first, second = predict_examples(
        run.model_uri, requests, PredeployPart(environment="local"), experiment_id=run.experiment_id
    )
    assert second.problem is not None
    assert words in second.problem
    assert (first.problem is None) == (config == "raising")


def test_a_model_that_does_not_load_in_the_clean_environment_is_a_sentence(
    logged: Callable[[str], tracking.ReleaseRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = logged("unloadable")
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    with pytest.raises(ModelInvalid) as raised:
        predict_examples(run.model_uri, [], PredeployPart(environment="local"), experiment_id=run.experiment_id)
    assert "in the clean environment (local) the model does not load" in str(raised.value)
    assert "the weights need the variable" in str(raised.value)


def test_an_update_that_fails_keeps_the_champion_and_leaves_nothing_half_done(model: Model) -> None:
    champion = model.champion()
    bad, release = model.register("unloadable"), model.release()
    with pytest.raises(UpdateFailed) as raised:
        model.deploy(release, bad)
    assert model.spec.endpoint_name in str(raised.value)
    assert "the weights need the variable" in str(raised.value)
    assert "build logs" in str(raised.value)
    now = World.of(model)
    assert (now.shares, now.versions, now.alias, now.challenger_alias) == ({champion: 100}, {champion}, champion, None)
    assert (now.entries[-1].action, now.entries[-1].phase) == (Action.DEPLOY, Phase.FAILED)
    state = current_release(now.entries, release)
    assert state is not None
    assert (state.stage, state.open_intent, state.active) == (Stage.FAILED, None, False)
    version = model.parts().registry.get(bad)
    assert version is not None
    assert version.tags[TAG_STATUS] == "failed"
    assert "could not activate" in version.tags[TAG_REASON]
    assert set(model.ask(5)) == {200}
    assert not next_tick(model, release)
    # The next release is not in the way of what failed.
    good = model.register("second")
    assert model.deploy(model.release(), good).stage is Stage.DEPLOYED
    assert World.of(model).versions == {champion, good}


def test_a_deployment_that_failed_and_is_started_again_is_a_challenger_like_others(
    model: Model, workspace: RunningWorkspace, set_faults: Callable[..., Any]
) -> None:
    model.champion()
    version, release = model.register("second"), model.release()
    set_faults(updates_to_fail=1)
    with pytest.raises(UpdateFailed):
        model.deploy(release, version)
    assert World.of(model).challenger_alias is None
    assert model.deploy(release, version).stage is Stage.DEPLOYED
    found = model.parts().registry.get(version)
    assert found is not None
    assert (found.tags[TAG_STATUS], found.tags[TAG_REASON]) == ("challenger", "")
    assert World.of(model).challenger_alias == version


def test_a_first_deployment_that_fails_leaves_no_endpoint(model: Model) -> None:
    bad, release = model.register("unloadable"), model.release()
    with pytest.raises(UpdateFailed, match="the weights need the variable"):
        model.deploy(release, bad)
    now = World.of(model)
    assert (now.endpoint, now.alias, now.challenger_alias) == (None, None, None)
    state = current_release(now.entries, release)
    assert state is not None
    assert state.stage is Stage.FAILED
    assert not next_tick(model, release)


def test_a_version_that_does_not_exist_is_refused_before_anything_changes(deployed: tuple[Model, str]) -> None:
    model, release = deployed
    other = model.release()
    with pytest.raises(NotAllowed, match=rf"release {release} .* still under way .*roll it back"):
        model.deploy(other, "99")
    with pytest.raises(NotAllowed, match=rf"release {other} .* deploy it first"):
        model.step(other)


def test_a_step_out_of_turn_and_a_promotion_too_early_are_refused(deployed: tuple[Model, str]) -> None:
    model, release = deployed
    before = World.of(model)
    with pytest.raises(NotAllowed, match="step 1 is not the next one"):
        model.step(release, 1)
    with pytest.raises(NotAllowed, match="only a release in its ramp can be promoted"):
        model.promote(release)
    with pytest.raises(NotAllowed, match="only a promoted release can end its bake"):
        model.parts().rollout.retire(release)
    assert World.of(model) == before


def test_a_champion_that_does_not_serve_everything_is_a_sentence(deployed: tuple[Model, str]) -> None:
    model, release = deployed
    parts = model.parts()
    endpoint = parts.endpoint.read()
    assert endpoint is not None
    parts.registry.set_alias("champion", "2")
    model.parts().ledger.append(
        parts.ledger.read(), release=release, actor="test", action=Action.DEPLOY, phase=Phase.FAILED
    )
    version = model.register("second")  # one that no test before has rejected
    with pytest.raises(NotAllowed, match=r"alias champion of .* names version 2, but endpoint .* routes"):
        model.deploy(model.release(), version)


def test_a_warehouse_that_errors_is_a_sentence(
    workspace: RunningWorkspace, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = model.parts().workspace.warehouse
    with pytest.raises(StatementFailed) as raised:
        warehouse.execute("SELECT no_such_function_at_all(1)")
    assert warehouse.warehouse_id in str(raised.value)
    assert "no_such_function_at_all" in str(raised.value).lower()
    with pytest.raises(TableMissing, match=r"main\.default\.nowhere|nowhere"):
        warehouse.execute("SELECT * FROM main.default.nowhere")


def test_a_warehouse_that_does_not_exist_is_a_sentence(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from release_pipeline.workspace.sql.warehouse import Warehouse

    warehouse = Warehouse(connect().client, "0000000000000000")
    with pytest.raises(StatementFailed, match="SQL warehouse 0000000000000000") as raised:
        warehouse.execute("SELECT 1")
    assert "check that the warehouse exists" in str(raised.value)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_server_that_is_down_is_a_sentence_and_no_wait(
    monkeypatch: pytest.MonkeyPatch, make_spec: Callable[..., ReleaseSpec]
) -> None:
    address = f"http://127.0.0.1:{closed_port()}"
    monkeypatch.setenv("DATABRICKS_HOST", address)
    monkeypatch.setenv("DATABRICKS_TOKEN", "any")
    started = time.process_time()
    with pytest.raises(WorkspaceUnreachable) as raised:
        connect_parts(make_spec(), actor="test", progress=print)
    assert time.process_time() - started < QUICKLY
    assert address in str(raised.value)
    assert "DATABRICKS_HOST" in str(raised.value)


def test_an_address_that_is_none_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_HOST", "https://")
    with pytest.raises(NotConfigured, match="not an address such as"):
        connect()


def test_no_credentials_are_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("DATABRICKS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(NotConfigured, match="set DATABRICKS_HOST and DATABRICKS_TOKEN"):
        connect()


def test_a_wrong_token_is_a_sentence_without_the_token(
    workspace: RunningWorkspace, monkeypatch: pytest.MonkeyPatch, make_spec: Callable[..., ReleaseSpec]
) -> None:
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-wrong-token")
    with pytest.raises(NotConfigured) as raised:
        connect_parts(make_spec(), actor="test", progress=print)
    assert workspace.url in str(raised.value)
    assert "DATABRICKS_TOKEN" in str(raised.value)
    assert "dapi-wrong-token" not in str(raised.value)


def test_every_read_that_is_refused_is_one_of_our_errors(
    workspace: RunningWorkspace, monkeypatch: pytest.MonkeyPatch, make_spec: Callable[..., ReleaseSpec]
) -> None:
    monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-revoked-token")
    monkeypatch.setenv("DATABRICKS_WAREHOUSE_ID", "chosen")
    parts = connect_parts(make_spec(), actor="test", progress=print)
    calls: list[Callable[[], Any]] = [
        parts.endpoint.read,
        parts.endpoint.delete,
        parts.ledger.read,
        parts.ledger.create,
        parts.payload.latest,
        lambda: parts.registry.version_of_alias("champion"),
        lambda: parts.registry.versions(),
    ]
    for call in calls:
        with pytest.raises(WorkspaceError) as raised:
            call()
        assert "dapi-revoked-token" not in str(raised.value)
        assert "Config:" not in str(raised.value)
        assert "\n" not in str(raised.value)


def test_an_unknown_catalog_is_a_sentence(
    workspace: RunningWorkspace,
    make_spec: Callable[..., ReleaseSpec],
    logged: Callable[[str], tracking.ReleaseRun],
) -> None:
    from release_pipeline.assets.registered_version import _register

    spec = make_spec(model={"registered_name": "nowhere.default.m"})
    with pytest.raises(RegistryError) as raised:
        _register(spec, logged("first"))
    assert "nowhere.default.m" in str(raised.value)
    assert "check that the catalog" in str(raised.value)
    parts = connect_parts(spec, actor="test", progress=print)
    with pytest.raises(ReleasePipelineError, match="nowhere"):
        parts.ledger.create()
