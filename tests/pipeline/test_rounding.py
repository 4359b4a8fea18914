"""A badness between two bins goes to either by a hash of its request's id: right on average, everywhere the same."""

import hashlib
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from release_pipeline.replay_log.frozen import _bins, freeze
from release_pipeline.replay_log.log_table import LogTable
from release_pipeline.spec_gate import Metric
from release_pipeline.workspace.counts import MetricPlan, Window
from release_pipeline.workspace.inference_table import InferenceTable
from release_pipeline.workspace.score_source import ScoreSource
from release_pipeline.workspace.score_table import ScoreTable, source_of
from tests.conftest import RunningWorkspace
from tests.pipeline.payload_tables import create, moment, warehouse
from tests.pipeline.test_feedback import counted
from tests.replay.conftest import spec_of

ROWS = 4000
# A step of 0.03 that lies within one bin: nearest bins would show no difference at all.
CHAMPION, CHALLENGER = 0.53, 0.56
LEVEL = Metric(
    name="level", kind="expression", badness=f"CASE WHEN duration_ms = 1 THEN {CHAMPION} ELSE {CHALLENGER} END"
)
NATURAL = Metric(name="natural", kind="expression", badness="duration_ms = 2")
HELPFUL = Metric(name="helpful", kind="feedback", assessment="helpful")
CHANCES = st.integers(0, 2**32 - 1).map(lambda number: (number + 0.5) / 2**32)


def by_hand(metric: str, request_id: str, badness: float) -> int:
    """The bin of a request, written a second time."""
    number = int(hashlib.md5(f"{metric}/{request_id}".encode(), usedforsecurity=False).hexdigest()[:8], 16)
    return math.floor(badness * 20 + (number + 0.5) / 2**32)


def expected(metric: str, champion: bool) -> tuple[int, ...]:
    bins = [0] * 21
    for number in range(1, ROWS + 1):
        if (number % 2 == 0) is champion:
            bins[by_hand(metric, f"id-é-{number}", CHAMPION if champion else CHALLENGER)] += 1
    return tuple(bins)


def mean(counts: tuple[int, ...]) -> float:
    return sum(bin * count for bin, count in enumerate(counts)) / 20 / sum(counts)


@pytest.fixture
def payload(workspace: RunningWorkspace) -> str:
    """Requests that are answered in turn by two versions, all of them twice in the table."""
    name = create(warehouse(), "gateway")
    for _ in range(2):
        warehouse().execute(
            f"INSERT INTO {name} (databricks_request_id, request_time, status_code, execution_duration_ms, "
            "served_entity_id) SELECT concat('id-é-', n), timestamp_millis(:start + n), 200, 1 + n % 2, "
            f"concat('m/', 1 + n % 2) FROM (SELECT explode(sequence(1, {ROWS})) AS n) AS numbers",
            {"start": int(moment(0).timestamp() * 1000)},
        )
    return name


def test_the_mean_of_the_bins_is_the_mean_of_the_badness(payload: str) -> None:
    table = InferenceTable(warehouse(), payload)
    latest = table.latest()
    assert latest is not None
    plans = [MetricPlan(metric, 3600) for metric in (LEVEL, NATURAL)]
    delta = table.changes(0, latest, first_version=1, windows=[Window(0, moment(0), None)], plans=plans)
    found = {(group.metric, group.served_entity_id): group.counts for group in delta.groups}
    champion, challenger = found["level", "m/1"], found["level", "m/2"]
    assert (champion, challenger) == (expected("level", champion=True), expected("level", champion=False))
    assert {bin for bin, count in enumerate(champion) if count} == {10, 11}
    # The standard error is 0.0005.
    assert mean(champion) == pytest.approx(CHAMPION, abs=0.002)
    assert mean(challenger) == pytest.approx(CHALLENGER, abs=0.002)
    assert (found["natural", "m/1"][0], found["natural", "m/2"][20]) == (ROWS // 2, ROWS // 2)
    # The frozen level is a mean of the same bins, over all copies.
    level, natural = table.level([LEVEL, NATURAL], moment(0), moment(60), rate_seconds=60)
    assert level.bad / level.rows == pytest.approx((CHAMPION + CHALLENGER) / 2, abs=0.002)
    assert natural.bad / natural.rows == 0.5


def test_a_score_is_rounded_by_its_request_and_its_metric(payload: str) -> None:
    table = InferenceTable(warehouse(), payload)
    scores = ScoreTable(warehouse(), f"{payload}_scores", table)
    scores.create()
    other = HELPFUL.model_copy(update={"name": "other"})
    for metric in (HELPFUL, other):
        warehouse().execute(
            f"INSERT INTO {scores.name} (metric, source, request_id, request_time, served_entity_id, badness) SELECT "
            ":metric, :source, request_id, :at, concat('m/', duration), CASE WHEN duration = 1 THEN 0.53 ELSE 0.56 END "
            "FROM (SELECT DISTINCT databricks_request_id AS request_id, execution_duration_ms AS duration "
            f"FROM {payload}) AS requests",
            {"metric": metric.name, "source": source_of(metric), "at": moment(1)},
        )
    source = ScoreSource("scores", (HELPFUL, other), scores)
    found = {}
    for metric in source.metrics:
        for group in counted(source, MetricPlan(metric, 3600), Window(0, moment(0), None)):
            found[group.metric, group.served_entity_id] = group.counts
    for name in ("helpful", "other"):
        assert found[name, "m/1"] == expected(name, champion=True)
        assert found[name, "m/2"] == expected(name, champion=False)
    assert found["helpful", "m/1"] != found["other", "m/1"], "metrics of one request are rounded apart"
    for level in source.level(moment(0), moment(60), rate_seconds=60):
        assert level.bad / level.rows == pytest.approx((CHAMPION + CHALLENGER) / 2, abs=0.002)


def test_replay_rounds_as_the_warehouse_does(tmp_path: Path) -> None:
    numbers = np.arange(1, ROWS + 1)
    log = pd.DataFrame(
        {
            "arrived_at": 1e9 + numbers,
            "request_time": 1e9 + numbers,
            "request_id": [f"id-é-{number}" for number in numbers],
            "arm": np.where(numbers % 2 == 0, "champion", "challenger"),
            "helpful": np.where(numbers % 2 == 0, CHAMPION, CHALLENGER),
        }
    )
    log.to_parquet(tmp_path / "log.parquet")
    spec = spec_of({"name": "helpful", "kind": "judge", "scorer": "Helpful"})
    table = LogTable(str(tmp_path / "log.parquet"), spec, {})
    rows = table.rows("")
    (bins,) = freeze(rows, table, spec, {}, 20.0).bins.values()
    for champion in (True, False):
        found = np.bincount(bins[rows.challenger != champion], minlength=21)
        assert tuple(found) == expected("helpful", champion)


@given(st.integers(0, 20), CHANCES)
def test_a_badness_that_is_a_bins_own_stays_there(number: int, chance: float) -> None:
    # As scores come: as they are, turned over, and from a scale of 1 to 5; none is off by more than the last digits.
    values = [number / 20, 1 - (1 - number / 20), (5 - (5 - 4 * number / 20)) / 4]
    assert _bins(np.array(values), 21, chance).tolist() == [number] * 3


@given(st.floats(0, 1), CHANCES)
def test_any_other_goes_to_a_neighbour(badness: float, chance: float) -> None:
    (found,) = _bins(np.array([badness]), 21, chance)
    assert 0 <= found <= 20
    assert abs(found - badness * 20) < 1
