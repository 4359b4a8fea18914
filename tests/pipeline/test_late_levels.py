"""Levels of values that come late: one that cannot be read is read again, and its rows wait for it."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest

from release_pipeline.rollout.champion_levels import ChampionLevels
from release_pipeline.rollout.evidence_fold import so_far
from release_pipeline.rollout.reconciliation import Reconciliation
from release_pipeline.rollout.state import ReleaseState, Stage
from release_pipeline.rollout.table_reads import Findings, read_sources
from release_pipeline.spec import ReleaseSpec
from release_pipeline.workspace.inference_table import InferenceTable
from release_pipeline.workspace.label_table import LabelSource
from tests.conftest import RunningWorkspace
from tests.pipeline.payload_tables import START, Logged, create, insert, warehouse
from tests.pipeline.test_feedback import StoppedClock, score_table
from tests.pipeline.test_label import label_table

pytestmark = pytest.mark.slow


def test_a_late_level_that_fails_is_not_frozen_at_the_usual_one_and_is_read_once_it_can_be(
    workspace: RunningWorkspace, make_spec: Callable[..., ReleaseSpec]
) -> None:
    payload = create(warehouse(), "gateway")
    insert(warehouse(), payload, "gateway", [Logged(f"r{number}", -600 - number) for number in range(10)])
    table = label_table(payload, feed=False, columns="churned BOOLEAN")
    churn = {"name": "churn", "kind": "label", "table": table, "badness": "label.churned", "margin": 0.2}
    errors = {"name": "errors", "kind": "errors", "margin": 0.02}
    spec = make_spec(gate={"bucket_seconds": 60, "metrics": [errors, {**churn, "settle_minutes": 1}]})
    late = [metric for metric in spec.gate.metrics if metric.kind == "label"]
    labels = LabelSource(table, tuple(late), score_table(payload), StoppedClock(600))
    state = ReleaseState("r", Stage.RAMPING, "2", "1", {}, None, (), START, None, 3)
    levels = ChampionLevels(InferenceTable(warehouse(), payload), state, [], {})

    seen = Findings()
    written = levels.first(spec, [labels], Reconciliation(), START, seen)
    found = so_far(written, spec.gate)
    assert {level.metric for level in found.baselines} == {"errors"}, "the other metric's level is frozen"
    assert "has no column request_id" in found.unfrozen["churn"]
    assert "has no column request_id" in seen.unreadable[0]
    assert found.cursors[table] == 0
    assert levels.rest(spec, [labels], found, START) == [], "it still cannot be read"
    assert read_sources([labels], state, found, Findings(), START.timestamp()) == [], "its rows wait"

    run = warehouse().execute
    run(f"ALTER TABLE {table} ADD COLUMNS (request_id STRING)")
    truth = ", ".join(f"({number < 3}, 'r{number}')" for number in range(10))
    run(f"INSERT INTO {table} (churned, request_id) VALUES {truth}")
    (row,) = levels.rest(spec, [labels], found, START + timedelta(minutes=5))
    detail: Mapping[str, Any] = row.detail
    assert (row.metric, detail["rows"], detail["bad"]) == ("churn", 10, 3.0)
