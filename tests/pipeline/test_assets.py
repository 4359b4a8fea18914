"""The chain through its jobs, in process, on a real model and real traffic."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from release_pipeline.assets.context import CHAIN
from release_pipeline.build import build_release
from release_pipeline.gate.verdict import Action as GateAction
from release_pipeline.rollout.rollback_time import seconds_to_zero_traffic
from release_pipeline.rollout.state import Stage
from release_pipeline.spec import parse_spec
from release_pipeline.workspace.registry import TAG_REASON, TAG_RELEASE, TAG_STATUS
from release_pipeline.workspace.tracking import find_run
from tests.conftest import RunningWorkspace
from tests.pipeline.checkpoint import World
from tests.pipeline.conftest import Model, write_folder

# mlflow's evaluation uses what pydantic and pandas have renamed; it is theirs to change.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow.*", "ignore::FutureWarning:mlflow.*")


@dataclass
class Project:
    """One model's folder and a Dagster instance that runs its jobs."""

    file: Path
    model: Model
    instance: dg.DagsterInstance = field(default_factory=dg.DagsterInstance.ephemeral)

    @property
    def name(self) -> str:
        return self.model.spec.name

    def run(
        self, job: str, release: str, *, ops: Mapping[str, Any] | None = None, only: tuple[str, ...] = ()
    ) -> dg.ExecuteInProcessResult:
        """Run a job of a release; assets in ``only`` alone where they are named."""
        self.instance.add_dynamic_partitions(f"{self.name}_releases", [release])
        defs = build_release(self.model.spec, self.file.parent)
        return defs.resolve_job_def(f"{self.name}_{job}").execute_in_process(
            partition_key=release,
            instance=self.instance,
            run_config={"ops": dict(ops or {})},
            asset_selection=[dg.AssetKey([self.name, asset]) for asset in only] or None,
            raise_on_error=False,
        )

    def release(self, release: str, config: str, **options: Any) -> dg.ExecuteInProcessResult:
        """The release job with one configuration of the agent."""
        settings = {"config": {"config": f"{config}.yaml", **options}}
        return self.run("release", release, ops={f"{self.name}__logged_model": settings})

    def until(self, release: str, action: GateAction) -> None:
        """Ask until the gate says ``action``."""
        for _ in range(20):
            before = self.model.counted(self.model.parts())
            self.model.ask(30, "a question")
            self.model.rows(before + 30)
            observed = self.model.parts().observer.look(release)
            assert observed is not None
            if observed.verdict.action is action:
                return
        raise AssertionError(observed.verdict.sentence)

    def metadata(self, asset: str, release: str) -> dict[str, Any]:
        """Metadata of the newest materialisation of one asset in one release."""
        records = self.instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=dg.AssetKey([self.name, asset]), asset_partitions=[release]), limit=1
        )
        event = records.records[0].asset_materialization
        assert event is not None
        return {key: entry.value for key, entry in event.metadata.items()}


def why(result: dg.ExecuteInProcessResult) -> str:
    """The one sentence of a run that failed; no other kind of error is behind it."""
    assert not result.success
    failures = result.get_failed_step_keys()
    (step,) = failures
    (event,) = [event for event in result.all_events if event.is_step_failure and event.step_key == step]
    data = event.step_failure_data
    assert data.error is not None
    assert data.user_failure_data is not None, data.error.to_string()
    return str(data.user_failure_data.description)


@pytest.fixture(scope="module")
def project(workspace: RunningWorkspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("project")
    file = write_folder(
        folder,
        "chain",
        evaluation={"dataset": "evaluation.jsonl", "scorers": ["answered"], "thresholds": {"answered": 0.9}},
    )
    rows = [{"inputs": {"input": [{"role": "user", "content": text}]}} for text in ("hello", "a question")]
    (folder / "evaluation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = parse_spec(yaml.safe_load(file.read_text())["attributes"], file=file)

    def unused(config: str) -> Any:
        raise AssertionError("the chain logs its models itself")

    found = Project(file, Model(spec, unused))
    yield found
    found.model.parts().endpoint.delete()


@pytest.mark.timeout(300)
def test_the_chain_from_log_to_alias_and_back(project: Project) -> None:
    model, first, second, third = project.model, "20260101-000001", "20260101-000002", "20260101-000003"
    # A model that fails on what the evaluation set asks comes no further than that.
    stopped = project.release("20260101-000000", "raising")
    assert not stopped.success
    assert {event.asset_key.path[1] for event in stopped.get_asset_materialization_events() if event.asset_key} == {
        "logged_model",
        "evaluation",
    }
    (check,) = stopped.get_asset_check_evaluations()
    assert not check.passed
    assert "answered 0.500 over 2 rows, at least 0.900 wanted" in str(check.description)
    assert model.parts().registry.versions() == []
    assert model.parts().endpoint.read() is None

    assert project.release(first, "first").success
    assert World.of(model).shares == {"1": 100}
    assert "the gate has not passed" in why(project.run("promote", first))
    project.until(first, GateAction.PROMOTE)
    assert project.run("promote", first).success
    assert World.of(model).alias == "1"
    assert project.metadata("promoted_alias", first)["live_version"] == "1"
    host, name = model.parts().workspace.host, model.spec.endpoint_name
    links = project.metadata("deployed_endpoint", first)
    assert str(links["review"]).startswith(f"{host}/review/{name}")
    assert links["query_url"] == f"{host}/serving-endpoints/{name}/invocations"

    assert project.release(second, "second").success
    world = World.of(model)
    assert (world.shares, world.alias, world.challenger_alias) == ({"1": 75, "2": 25}, "1", "2")
    frozen = model.parts().observer.evidence.read(second)
    assert [row.ingest for row in frozen if row.kind == "baseline"] == [0], "the run makes the first look itself"
    assert "the gate has not passed" in why(project.run("promote", second))
    assert World.of(model) == world, "a promotion that is refused changes nothing"
    project.until(second, GateAction.ADVANCE)
    assert project.run("canary_step", second).success
    assert World.of(model).shares == {"1": 50, "2": 50}
    assert project.run("canary_step", second).success
    assert World.of(model).shares == {"1": 50, "2": 50}, "a step that the gate holds is not taken"
    assert project.metadata("canary_traffic", second)["traffic_percent"] == 50

    reason = {f"{project.name}_roll_back": {"config": {"reason": "people complain"}}}
    rolled_back = project.run("rollback", second, ops=reason)
    assert rolled_back.success
    (live,) = rolled_back.get_asset_observation_events()
    observation = live.event_specific_data.asset_observation  # type: ignore[union-attr]
    assert observation.asset_key.path[-1] == "promoted_alias"
    assert observation.metadata["live_version"].value == "1"
    world = World.of(model)
    assert (world.shares, world.versions, world.alias, world.challenger_alias) == ({"1": 100}, {"1"}, "1", None)
    version = model.parts().registry.get("2")
    assert version is not None
    assert (version.tags[TAG_STATUS], version.tags[TAG_REASON]) == ("rejected", "people complain")
    assert version.tags[TAG_RELEASE] == second
    metadata = project.metadata("canary_traffic", second)
    assert (metadata["traffic_percent"], metadata["verdict"]) == (0, "ROLL_BACK")
    seconds = seconds_to_zero_traffic(model.parts().ledger.read(), second)
    assert seconds is not None
    assert metadata["seconds_to_zero_traffic"] == pytest.approx(seconds, abs=0.001)

    # The same content again is refused by its digest, unless it is forced by name.
    refused = why(project.release(third, "second"))
    assert "rejected as version 2: people complain" in refused
    assert "force: true" in refused
    settings = {"config": {"config": "second.yaml", "force": True}}
    forced = project.run("release", third, ops={f"{project.name}__logged_model": settings}, only=("logged_model",))
    assert forced.success
    state = model.parts().rollout.state()
    assert state is not None
    assert (state.release, state.stage) == (second, Stage.ROLLED_BACK)


def test_links_of_the_chain_need_the_ones_before(project: Project) -> None:
    release = "20260102-000000"
    for asset in CHAIN[1:5]:
        sentence = why(project.run("release", release, only=(asset,)))
        assert f"release {release} of chain has no logged model" in sentence
        assert "materialise logged_model first" in sentence
    assert "materialise deployed_endpoint first" in why(project.run("release", release, only=("canary_traffic",)))
    assert "materialise deployed_endpoint first" in why(project.run("promote", release))


@pytest.mark.parametrize(("field", "name"), [("config", "none.yaml"), ("source", "../../../etc/passwd")])
def test_run_configuration_names_files_beside_the_yaml_only(field: str, name: str, project: Project) -> None:
    release = f"20260103-{field}"
    ops = {f"{project.name}__logged_model": {"config": {field: name}}}
    sentence = why(project.run("release", release, ops=ops, only=("logged_model",)))
    assert f"`{field}` names {name}, which is not a file in {project.file.parent}" in sentence
    assert find_run(project.model.parts().workspace, project.model.spec, release) is None


def test_a_model_whose_stream_stays_open_is_stopped_before_it_is_registered(project: Project) -> None:
    release = "20260104-000000"
    settings = {f"{project.name}__logged_model": {"config": {"config": "open_stream.yaml"}}}
    before = len(project.model.parts().registry.versions())
    result = project.run(
        "release", release, ops=settings, only=("logged_model", "predeploy_predict", "registered_version")
    )
    assert not result.success
    (check,) = result.get_asset_check_evaluations()
    assert not check.passed
    assert "the stream ended with response.output_text.delta" in str(check.description)
    assert len(project.model.parts().registry.versions()) == before
