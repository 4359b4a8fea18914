"""Levels from before a release on a warehouse that is too slow for all of the time that they should be taken from."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest

from release_pipeline.errors import OutOfTime
from release_pipeline.rollout.champion_levels import TRIES, ChampionLevels
from release_pipeline.rollout.evidence_fold import so_far
from release_pipeline.rollout.reconciliation import Reconciliation
from release_pipeline.rollout.state import ReleaseState, Stage
from release_pipeline.rollout.table_reads import Findings
from release_pipeline.spec import ReleaseSpec
from release_pipeline.workspace.evidence_table import EvidenceRow
from release_pipeline.workspace.inference_table import InferenceTable
from release_pipeline.workspace.sql.warehouse import Row, Value, Warehouse
from tests.conftest import RunningWorkspace
from tests.pipeline.payload_tables import START, Logged, create, insert, warehouse

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


def frozen(levels: ChampionLevels, spec: ReleaseSpec) -> tuple[list[EvidenceRow], Findings]:
    seen = Findings()
    return levels.first(spec, (), Reconciliation(), START, seen), seen


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


def test_without_any_time_usual_levels_let_the_guards_see(payload: str, spec: ReleaseSpec) -> None:
    slow = levels(payload, timedelta(0))
    written, seen = frozen(slow, spec)
    found = so_far(written, spec.gate)
    assert [(level.metric, level.n, level.threshold_ms) for level in found.baselines] == [
        ("errors", 0, None),
        ("late", 0, 500),
    ]
    assert set(found.unfrozen) == {"slow", "by_group"}, "rows must tell their threshold, and their labels"
    assert "is tried again" in found.unfrozen["slow"]
    assert "the usual ones are taken" in seen.notes[0]
    # A look that finds the warehouse quicker freezes them.
    quick = levels(payload, timedelta(days=7)).rest(spec, found, START)
    assert {(row.metric, row.detail["rows"], row.detail["threshold_ms"]) for row in quick if row.metric == "slow"} == {
        ("slow", 3, 10)
    }
    assert slow.rest(spec, found, START) == []


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
