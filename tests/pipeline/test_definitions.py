"""What Dagster loads of one model, how light that is, and that Dagster's own checks pass."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from release_pipeline.assets.context import CHAIN
from release_pipeline.build import build_release
from release_pipeline.spec import ReleaseSpec
from tests.pipeline.conftest import MODELS

PROJECT = Path(__file__).parents[2]
JOBS = {"release", "deploy", "canary_step", "promote", "rollback", "retire", "mend", "pause", "approve"}


def load(spec: ReleaseSpec) -> dg.Definitions:
    return build_release(spec, MODELS)


def test_a_rollback_takes_no_status_that_would_be_no_quarantine(make_spec: Callable[..., ReleaseSpec]) -> None:
    job = load(make_spec(name="m")).resolve_job_def("m_rollback")

    def asked(status: str) -> object:
        return dg.validate_run_config(job, {"ops": {"m_roll_back": {"config": {"reason": "worse", "status": status}}}})

    assert asked("rejected")
    assert asked("failed")
    with pytest.raises(dg.DagsterInvalidConfigError, match="status"):
        asked("rejcted")


def test_a_model_is_a_chain_of_seven_assets_partitioned_by_release(make_spec: Callable[..., ReleaseSpec]) -> None:
    spec = make_spec(name="m")
    graph = load(spec).get_repository_def().asset_graph
    keys = [dg.AssetKey(["m", name]) for name in CHAIN]
    assert set(graph.get_all_asset_keys()) == set(keys)
    for before, after in zip([None, *keys], keys, strict=False):
        node = graph.get(after)
        assert node.parent_keys == ({before} if before else set())
        assert isinstance(node.partitions_def, dg.DynamicPartitionsDefinition)
        assert node.partitions_def.name == "m_releases"
        assert node.group_name == "m"
        assert node.description


def test_the_owners_of_the_yaml_own_every_asset(make_spec: Callable[..., ReleaseSpec]) -> None:
    owners = ("on.call@example.com", "team:search")
    graph = load(make_spec(name="m", owners=list(owners))).get_repository_def().asset_graph
    assert {tuple(graph.get(key).owners) for key in graph.get_all_asset_keys()} == {owners}


def test_every_asset_says_what_it_is_made_with_and_whose_group_it_is(make_spec: Callable[..., ReleaseSpec]) -> None:
    graph = load(make_spec(name="m")).get_repository_def().asset_graph
    kinds = {key.path[-1]: set(graph.get(key).kinds) for key in graph.get_all_asset_keys()}
    assert kinds["logged_model"] == {"mlflow", "python"}
    assert kinds["promoted_alias"] == {"databricks", "mlflow"}
    assert all(kinds.values()), kinds
    assert {graph.get(key).group_name for key in graph.get_all_asset_keys()} == {"m"}


def test_only_the_checks_before_registration_block(make_spec: Callable[..., ReleaseSpec]) -> None:
    graph = load(make_spec(name="m")).get_repository_def().asset_graph
    blocking = {(key.asset_key.path[1], key.name): graph.get_check_spec(key).blocking for key in graph.asset_check_keys}
    assert blocking == {
        ("evaluation", "evaluation"): True,
        ("predeploy_predict", "predeploy_predict"): True,
        ("canary_traffic", "gate"): False,
        ("promoted_alias", "drift"): False,
    }


def test_jobs_select_what_their_names_say_and_the_acting_ones_are_serialised(
    make_spec: Callable[..., ReleaseSpec],
) -> None:
    spec = make_spec(name="m")
    defs = load(spec)
    jobs = {job.name: job for job in defs.resolve_all_job_defs() if not job.name.startswith("__")}
    assert set(jobs) == {f"m_{job}" for job in JOBS}
    selected = {
        name: {key.path[1] for key in job.asset_layer.selected_asset_keys}
        for name, job in jobs.items()
        if job.asset_layer.selected_asset_keys
    }
    assert selected == {
        "m_release": set(CHAIN[:-1]),
        "m_deploy": {"deployed_endpoint", "canary_traffic"},
        "m_canary_step": {"canary_traffic"},
        "m_promote": {"promoted_alias"},
    }
    serialised = {name for name, job in jobs.items() if job.tags.get("release_pipeline/endpoint") == spec.endpoint_name}
    assert serialised == {"m_canary_step", "m_promote", "m_retire", "m_mend"}, "a rollback queues behind nothing"


@pytest.mark.parametrize(
    ("switch", "sensor", "schedule"),
    [
        ({}, dg.DefaultSensorStatus.STOPPED, dg.DefaultScheduleStatus.STOPPED),
        ({"gate_sensor": "on"}, dg.DefaultSensorStatus.RUNNING, dg.DefaultScheduleStatus.STOPPED),
        ({"promotion_schedule": True}, dg.DefaultSensorStatus.STOPPED, dg.DefaultScheduleStatus.RUNNING),
    ],
)
def test_nothing_runs_by_itself_unless_the_yaml_says_so(
    switch: dict[str, object],
    sensor: dg.DefaultSensorStatus,
    schedule: dg.DefaultScheduleStatus,
    make_spec: Callable[..., ReleaseSpec],
) -> None:
    spec = make_spec(
        name="m",
        automation={"tick_seconds": 7, **switch},
        promotion={"schedule": "0 9 * * 1-5", "timezone": "Europe/Berlin"},
    )
    repository = load(spec).get_repository_def()
    (gate,) = [each for each in repository.sensor_defs if each.name == "m_gate"]
    (promotion,) = repository.schedule_defs
    assert (gate.name, gate.default_status, gate.minimum_interval_seconds) == ("m_gate", sensor, 7)
    assert (promotion.name, promotion.default_status) == ("m_promotion", schedule)
    assert (promotion.cron_schedule, promotion.execution_timezone) == ("0 9 * * 1-5", "Europe/Berlin")
    assert promotion.job_name == "m_promote"


def test_without_a_cron_time_there_is_no_schedule(make_spec: Callable[..., ReleaseSpec]) -> None:
    assert load(make_spec(name="m")).get_repository_def().schedule_defs == []


def test_loading_the_definitions_imports_nothing_heavy() -> None:
    code = (
        "import sys; from release_pipeline.definitions import defs; "
        "loaded = defs(); assert loaded.get_repository_def().sensor_defs; "
        "print([m for m in ('mlflow', 'databricks.sdk', 'duckdb', 'pandas', 'sqlglot') if m in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False, cwd=PROJECT
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "command",
    [
        ["dagster", "definitions", "validate", "-w", "workspace.yaml"],
        pytest.param(["dg", "check", "yaml"], marks=pytest.mark.slow),
        pytest.param(["dg", "check", "defs"], marks=pytest.mark.slow),
    ],
    ids=lambda command: " ".join(command[:3]),
)
def test_dagsters_own_checks_pass(command: list[str], tmp_path: Path) -> None:
    tools = Path(sys.prefix) / "bin"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DATABRICKS_")}
    environment |= {"DAGSTER_HOME": str(tmp_path), "PATH": f"{tools}{os.pathsep}{environment['PATH']}"}
    environment |= {"DG_CLI_CONFIG": str(tmp_path / "none.toml"), "DO_NOT_TRACK": "1"}
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    ended = subprocess.run(
        [str(tools / command[0]), *command[1:]],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
