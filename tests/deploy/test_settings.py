"""``deploy/dagster.yaml`` and ``deploy/values.yaml``: Dagster takes both, and they say the same."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import DagsterInvalidConfigError
from dagster._config import process_config, resolve_to_config_type
from dagster._core.instance.ref import InstanceRef

from release_pipeline.operate import doctor
from release_pipeline.rollout.preflight import Outcome
from tests.deploy.chart import instance, problems

PROJECT = Path(__file__).parents[2]
#: Of the instance's variables, those that are not made by the chart or by Kubernetes.
SECRET_WORDS = ("password", "secret", "token")


def read(name: str) -> dict[str, Any]:
    loaded = yaml.safe_load((PROJECT / name).read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def loaded(found: dict[str, Any], folder: Path) -> InstanceRef:
    """What Dagster makes of an instance's YAML; raises where it would refuse it."""
    (folder / "dagster.yaml").write_text(yaml.safe_dump(found))
    return InstanceRef.from_dir(str(folder))


def variables(found: Any) -> set[str]:
    """The variables of the environment that a YAML refers to."""
    if isinstance(found, dict):
        if found.keys() == {"env"}:
            return {str(found["env"])}
        return set().union(*(variables(each) for each in found.values()))
    return set().union(*(variables(each) for each in found)) if isinstance(found, list) else set()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Sets every variable that a YAML refers to."""

    def give(found: Any) -> None:
        for name in variables(found):
            monkeypatch.setenv(name, "5432" if name.endswith("PORT") else f"value-of-{name}")

    return give


def of_class(data: Any) -> type[Any]:
    module = __import__(data.module_name, fromlist=[data.class_name])
    return getattr(module, data.class_name)  # type: ignore[no-any-return]


def validated(data: Any) -> Any:
    """The configuration of a class that an instance names, checked by that class, resolved from the environment."""
    checked = process_config(resolve_to_config_type(of_class(data).config_type()), data.config_dict)
    assert checked.success, checked.errors
    return checked.value


def test_dagster_loads_the_instance_and_its_classes_take_their_parts(
    tmp_path: Path, environment: Callable[[Any], None]
) -> None:
    found = read("deploy/dagster.yaml")
    environment(found)
    ref = loaded(found, tmp_path)
    assert [of_class(data).__name__ for data in (ref.run_launcher_data, ref.storage_data)] == [
        "K8sRunLauncher",
        "DagsterPostgresStorage",
    ]
    storage, launcher = validated(ref.storage_data), validated(ref.run_launcher_data)
    assert storage["postgres_db"]["password"] == "value-of-DAGSTER_PG_PASSWORD"
    assert storage["postgres_db"]["port"] == 5432
    assert launcher["env_secrets"] == ["value-of-RELEASE_PIPELINE_SECRET"]
    # A run's container reads the same file: it needs each of its variables, the password from its own secret.
    given = {*launcher["env_vars"], "DAGSTER_PG_PASSWORD", "DAGSTER_HOME"}
    assert variables(found) == given
    wrong = copy.deepcopy(found)
    wrong["run_monitoring"]["start_timeout_second"] = 1
    with pytest.raises(DagsterInvalidConfigError, match="start_timeout_second"):
        loaded(wrong, tmp_path)


def test_the_instance_says_of_runs_what_the_projects_own_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own, production = read("dagster.yaml"), read("deploy/dagster.yaml")
    for key in own.keys() - {"run_monitoring", "retention"}:
        assert production[key] == own[key], key
    for key in ("start_timeout_seconds", "max_runtime_seconds", "free_slots_after_run_end_seconds"):
        assert production["run_monitoring"][key] >= own["run_monitoring"][key]
    for kind in ("sensor", "schedule"):
        days = own["retention"][kind]["purge_after_days"]
        assert production["retention"][kind]["purge_after_days"] == {**days, "started": -1}
    for found in (production, instance(read("deploy/values.yaml"))):
        (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(found))
        monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
        (check,) = doctor.dagster_instance()
        assert check.outcome is Outcome.PASSED, check.sentence


def test_the_chart_takes_the_values_and_makes_the_same_instance_of_them(
    tmp_path: Path, environment: Callable[[Any], None]
) -> None:
    values = read("deploy/values.yaml")
    assert list(problems(values)) == []
    made = instance(values)
    environment(made)
    ref, written = loaded(made, tmp_path), read("deploy/dagster.yaml")
    for data in (ref.run_storage_data, ref.event_storage_data, ref.schedule_storage_data, ref.run_launcher_data):
        validated(data)
    assert validated(ref.run_coordinator_data) == {
        **validated(ref.run_coordinator_data),
        "dequeue_interval_seconds": written["run_queue"]["dequeue_interval_seconds"],
    }
    assert made["run_retries"] == {"enabled": True}
    for key in ("concurrency", "run_monitoring", "sensors", "retention", "telemetry", "nux"):
        assert made[key] == written[key], key
    postgres = written["storage"]["postgres"]["postgres_db"]
    assert made["run_storage"]["config"]["postgres_db"].keys() == postgres.keys()
    for key in ("params", "scheme"):
        assert made["run_storage"]["config"]["postgres_db"][key] == postgres[key]


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("dagsterDaemon", "runMonitor"), {}, "values.dagsterDaemon.runMonitor is not known"),
        (("postgresql", "service", "port"), "5432", "values.postgresql.service.port is '5432', not int"),
        (("runLauncher", "type"), "K8s", "values.runLauncher.type is 'K8s'"),
        (("dagster-user-deployments", "deployments"), {}, "is no list"),
    ],
)
def test_a_mistake_in_the_values_is_found(path: tuple[str, ...], value: object, words: str) -> None:
    values = part = read("deploy/values.yaml")
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    assert any(words in each for each in problems(values))


def test_no_secret_is_written_into_the_settings() -> None:
    def literals(found: Any, key: str = "") -> list[tuple[str, object]]:
        if isinstance(found, dict):
            return [each for name, part in found.items() for each in literals(part, str(name))]
        if isinstance(found, list):
            return [each for part in found for each in literals(part, key)]
        return [(key, found)]

    for name in ("deploy/dagster.yaml", "deploy/values.yaml"):
        secretive = [
            (key, value)
            for key, value in literals(read(name))
            if any(word in key.lower() for word in SECRET_WORDS) and not isinstance(value, bool)
        ]
        # The name of a secret is none.
        assert [each for each in secretive if each[0] != "postgresqlSecretName"] == [], name
