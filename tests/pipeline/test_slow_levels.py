"""Levels from before a release on a warehouse that is too slow for all of the time that they should be taken from."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from release_pipeline.errors import OutOfTime
from release_pipeline.rollout.champion_levels import TRIES, ChampionLevels
from release_pipeline.rollout.evidence_fold import so_far
from release_pipeline.rollout.ingest import wait_seconds
from release_pipeline.rollout.reconciliation import Reconciliation
from release_pipeline.rollout.state import ReleaseState, Stage, StepWindow
from release_pipeline.rollout.table_reads import Findings, read_payload
from release_pipeline.spec import ReleaseSpec
from release_pipeline.workspace.evidence_table import EvidenceRow
from release_pipeline.workspace.inference_table import InferenceTable
from release_pipeline.workspace.sql.warehouse import Row, Value, Warehouse
from tests.conftest import RunningWorkspace
from tests.pipeline.payload_tables import START, Logged, create, insert, warehouse

pytestmark = pytest.mark.slow

METRICS = [
    {"name": "errors", "kind": "errors", "margin": 0.02},
    {"name": "slow", "kind": "slow", "margin": 0.05},
    {"name": "late", "kind": "slow", "margin": 0.05, "threshold_ms": 500},
    {"name": "by_group", "kind": "errors", "margin": 0.05, "segments": "get_json_object(request, '$.group')"},
]
HOUR, DAY = 3600.0, 86_400.0


class SlowWarehouse(Warehouse):
    """The local workspace's warehouse, which has no time for rows that are older than this before ``START``."""

    def __init__(self, inner: Warehouse, most: timedelta) -> None:
        super().__init__(inner._client, inner.warehouse_id)
        self.most = most

    def execute(self, statement: str, parameters: Mapping[str, Value] | None = None) -> list[Row]:
        since = (parameters or {}).get("rows_since")
        if isinstance(since, datetime) and since < START - self.most:
            raise OutOfTime("SQL warehouse w did not finish a statement within 10 s; it was cancelled.")
        return super().execute(statement, parameters)


@pytest.fixture
def spec(make_spec: Callable[..., ReleaseSpec]) -> ReleaseSpec:
    return make_spec(gate={"bucket_seconds": 60, "metrics": METRICS, "baseline_days": 7})


@pytest.fixture(scope="module")
def payload(workspace: RunningWorkspace) -> str:
    """A row in each of three times before the release: in its last hour, its last day, and its last week."""
    name = create(warehouse(), "gateway")
    insert(warehouse(), name, "gateway", [Logged(f"r{at}", -at) for at in (600, 3 * HOUR, 3 * DAY)])
    return name


def levels(payload: str, most: timedelta) -> ChampionLevels:
    table = InferenceTable(SlowWarehouse(warehouse(), most), payload)
    state = ReleaseState("r", Stage.RAMPING, "2", "1", {}, None, (), START, None, 3)
    return ChampionLevels(table, state, [], {})


def frozen(levels: ChampionLevels, spec: ReleaseSpec, at: datetime = START) -> tuple[list[EvidenceRow], Findings]:
    seen = Findings()
    return levels.first(spec, (), Reconciliation(), at, seen), seen


@pytest.mark.parametrize(
    ("most", "rows", "since"),
    [(timedelta(days=7), 3, None), (timedelta(days=1), 2, DAY), (timedelta(hours=1), 1, HOUR)],
)
def test_a_shorter_time_has_to_do(
    most: timedelta, rows: int, since: float | None, payload: str, spec: ReleaseSpec
) -> None:
    written, seen = frozen(levels(payload, most), spec)
    assert {row.metric: row.detail["rows"] for row in written if row.metric == "errors"} == {"errors": rows}
    detail: Mapping[str, Any] = written[-1].detail
    if since is None:
        assert (seen.notes, detail.get("levels_since")) == ([], None)
    else:
        began = START - timedelta(seconds=since)
        assert detail["levels_since"] == began.isoformat()
        assert seen.notes == [
            f"the warehouse was too slow to read the levels before the release from {payload} in full: they are taken "
            f"from {began:%Y-%m-%d %H:%M} UTC on"
        ]
    assert so_far(written, spec.gate).unfrozen == {}


def test_without_any_time_nothing_is_frozen_for_some_minutes(payload: str, spec: ReleaseSpec) -> None:
    slow, most = levels(payload, timedelta(0)), timedelta(seconds=wait_seconds(spec.gate))
    assert most == timedelta(minutes=spec.gate.max_lag_minutes) / 8, "no guard sees anything until then"
    for at in (START, START + most - timedelta(seconds=1)):
        written, seen = frozen(slow, spec, at)
        assert written == [], "rows wait: the next look tries again"
        (why,) = seen.unreadable
        assert "too slow to read the champion's levels" in why
        assert f"until {START + most:%Y-%m-%d %H:%M} UTC" in why
    # A look that finds the warehouse quicker freezes them all.
    written, seen = frozen(levels(payload, timedelta(days=7)), spec, START + most / 2)
    assert so_far(written, spec.gate).unfrozen == {}
    assert seen.unreadable == []


def test_without_any_time_at_last_usual_levels_let_the_guards_see(payload: str, spec: ReleaseSpec) -> None:
    slow = levels(payload, timedelta(0))
    written, seen = frozen(slow, spec, START + timedelta(seconds=wait_seconds(spec.gate)))
    found = so_far(written, spec.gate)
    assert [(level.metric, level.n, level.threshold_ms) for level in found.baselines] == [
        ("errors", 0, None),
        ("late", 0, 500),
    ]
    assert set(found.unfrozen) == {"slow", "by_group"}, "rows must tell their threshold, and their labels"
    assert "is tried again" in found.unfrozen["slow"]
    assert "the usual ones are taken" in seen.notes[0]
    # A look that finds the warehouse quicker freezes them.
    quick = levels(payload, timedelta(days=7)).rest(spec, (), found, START)
    assert {(row.metric, row.detail["rows"], row.detail["threshold_ms"]) for row in quick if row.metric == "slow"} == {
        ("slow", 3, 10)
    }
    assert slow.rest(spec, (), found, START) == []


def test_a_level_that_is_read_again_is_not_frozen_at_the_usual_one_either(payload: str, spec: ReleaseSpec) -> None:
    written, _ = frozen(levels(payload, timedelta(days=7)), spec)
    known = so_far(written, spec.gate)
    waiting = replace(known, unfrozen={"errors": "The warehouse was busy."})
    assert levels(payload, timedelta(0)).rest(spec, (), waiting, START) == []
    (row,) = levels(payload, timedelta(days=7)).rest(spec, (), waiting, START)
    assert (row.metric, row.detail["rows"]) == ("errors", 3)


def test_of_the_time_before_a_level_was_frozen_no_stragglers_count(
    payload: str, spec: ReleaseSpec, workspace: RunningWorkspace
) -> None:
    written, _ = frozen(levels(payload, timedelta(days=7)), spec)
    known = replace(so_far(written, spec.gate), unfrozen={"errors": "The warehouse was busy."}, ingest=4)
    known = replace(known, newest=START.timestamp() + 90, requests_per_second=2.0, cursors={})
    rows = levels(payload, timedelta(days=7)).rest(spec, (), known, START)
    later = known._freeze(rows)
    assert later.counts_from == {"errors": START.timestamp() + 90}
    assert later.restored(json.loads(json.dumps(later.to_dict()))) == later, "as a snapshot keeps it"
    name = create(warehouse(), "gateway")
    insert(warehouse(), name, "gateway", [Logged(f"{at}", at) for at in (10, 70, 130, 190)])
    table, seen = InferenceTable(warehouse(), name), Findings()
    latest, steps = table.latest(), (StepWindow(0, 5, START, None),)
    state = ReleaseState("r", Stage.RAMPING, "2", "1", {}, None, steps, START, None, 3)
    assert latest is not None
    read = read_payload(table, state, replace(later, cursors={name: 0}), latest, seen, {})
    assert read is not None
    starts = {
        each: sorted(group.bucket_start - START.timestamp() for group in read.delta.groups if group.metric == each)
        for each in ("errors", "late")
    }
    assert starts["late"] == sorted(value for value in starts["late"] if value <= 190)
    assert starts["errors"] == [value for value in starts["late"] if value >= 90]
    assert len(starts["errors"]) < len(starts["late"])


def test_the_traffic_before_a_release_sizes_buckets_of_levels_that_are_read_again(
    payload: str, spec: ReleaseSpec
) -> None:
    usual = spec.gate.model_copy(update={"bucket_seconds": None})
    spec = spec.model_copy(update={"gate": usual})
    written, _ = frozen(levels(payload, timedelta(days=7)), spec)
    assert so_far(written, usual).requests_per_second == written[-1].detail["requests_per_second"] > 0
    busy = replace(so_far(written, usual), unfrozen={"errors": "The warehouse was busy."})
    empty = create(warehouse(), "gateway")
    lengths = [
        levels(empty, timedelta(days=7)).rest(spec, (), replace(busy, requests_per_second=rate), START)[0]
        for rate in (0.0, 10.0)
    ]
    assert lengths[0].detail["bucket_seconds"] > lengths[1].detail["bucket_seconds"]


def test_all_tries_together_leave_time_for_the_rest_of_a_tick() -> None:
    assert sum(seconds for _, seconds in TRIES) <= 25


def test_a_probe_without_time_blames_no_metrics_sql(payload: str, spec: ReleaseSpec) -> None:
    class Stuck(Warehouse):
        """Out of time once a statement has failed."""

        failed = False

        def execute(self, statement: str, parameters: Mapping[str, Value] | None = None) -> list[Row]:
            if self.failed:
                raise OutOfTime("SQL warehouse w did not finish a statement within 10 s; it was cancelled.")
            try:
                return super().execute(statement, parameters)
            except Exception:
                self.failed = True
                raise

    inner = warehouse()
    wrong = spec.gate.metrics[0].model_copy(
        update={"name": "wrong", "kind": "expression", "badness": "no_such_column", "tolerance": None}
    )
    with pytest.raises(OutOfTime):
        InferenceTable(Stuck(inner._client, inner.warehouse_id), payload).level(
            [wrong], START - timedelta(hours=1), START, rate_seconds=60
        )
