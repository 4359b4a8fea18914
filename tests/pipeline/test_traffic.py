"""What the endpoint's own tables say of a ramp, as `power --days` and the asset `deployed_endpoint` show it."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from release_pipeline.assets.deployed_endpoint import power_metadata
from release_pipeline.cli import main
from release_pipeline.errors import ReleaseError
from release_pipeline.rollout.traffic import measured_traffic
from tests.pipeline.conftest import Model, write_folder

pytestmark = pytest.mark.slow

SLOW = {"name": "slow", "kind": "slow", "margin": 0.1, "threshold_ms": 60_000}
HELLO = {
    "name": "hello",
    "kind": "expression",
    "badness": "IF(request LIKE '%hello%', 0, 1)",
    "segments": "status_code",
}
ERRORS = {"name": "errors", "kind": "errors", "margin": 0.3, "bound": 0.3}


def test_a_plan_is_made_of_the_endpoints_own_rows(make_model: Callable[..., Model], tmp_path: Path) -> None:
    model = make_model(gate={"metrics": [ERRORS, SLOW, HELLO]})
    model.champion()
    assert set(model.ask(30)) | set(model.ask(10, text="other")) == {200}
    model.rows(40)
    parts = model.parts()

    traffic = measured_traffic(model.spec, parts.payload, (), datetime.now(UTC), 1.0)
    assert traffic.notes == ("Rate, levels and segments are those of 40 requests of the last 1 days.",)
    assert 0 <= traffic.lag_seconds < 60
    series = {(each.metric.name, each.segment): each for each in traffic.series}
    assert set(series) == {("errors", ""), ("slow", ""), ("hello", "200")}
    assert series["errors", ""].level == pytest.approx(0.5 / 41)
    assert series["hello", "200"].level == pytest.approx(10.5 / 41)
    assert series["hello", "200"].labels == 2
    assert [each.rows for each in traffic.series] == pytest.approx([1, 1, 1])

    file = write_folder(tmp_path, model.spec.name, gate={"metrics": [ERRORS, SLOW, HELLO]})
    ended = CliRunner().invoke(main, ["power", str(file), "--days", "1", "--level", "slow=0.02", "--json"])
    assert ended.exit_code == 0, ended.output
    plan = json.loads(ended.stdout)
    # The same requests, over a longer time by now.
    assert 0 < plan["traffic"]["requests_per_second"] <= 1.01 * traffic.requests_per_second
    assert {each["metric"]: each["level"] for each in plan["series"]} == {
        "errors": pytest.approx(0.0122, abs=1e-4),
        "slow": 0.02,
        "hello": pytest.approx(0.2561, abs=1e-4),
    }

    release, version = model.release(), model.register("second")
    state = model.deploy(release, version)
    metadata = power_metadata(model.parts(), model.spec, state)
    assert metadata["power_sentence"] in metadata["power_report"].value
    assert "](data:image/svg+xml," in metadata["power_report"].value
    assert "| hello (200) | 25 % |" in metadata["power_report"].value.replace("\\", "")
    assert len(metadata["power"].value) < 1000, "Dagster shows it without being asked"
    assert "hello (200)" in {record.data["metric"] for record in metadata["power_metrics"].records}


def test_an_endpoint_without_rows_is_no_obstacle(model: Model) -> None:
    model.champion()
    state = model.deploy(model.release(), model.register("second"))
    parts = model.parts()
    assert list(power_metadata(parts, model.spec, state)) == ["power_sentence"]
    assert "give --rate instead" in power_metadata(parts, model.spec, state)["power_sentence"]
    with pytest.raises(ReleaseError, match="of the last 2 days"):
        measured_traffic(model.spec, parts.payload, (), datetime.now(UTC), 2.0)


def test_a_first_release_has_no_ramp_to_be_planned(model: Model) -> None:
    state = model.deploy(model.release(), model.register("first"))
    assert power_metadata(model.parts(), model.spec, state) == {}
