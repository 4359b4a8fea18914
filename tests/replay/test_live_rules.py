"""A replay's rules are those of a live release: the numbers that both know are the same."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from release_pipeline.gate import observations, planner
from release_pipeline.replay_log import arrivals, cells, frozen
from release_pipeline.replay_log.arrivals import Arrivals
from release_pipeline.replay_log.columns import Columns
from release_pipeline.replay_log.log_table import ReleaseRows
from release_pipeline.rollout import evidence_fold, ingest
from release_pipeline.rollout.evidence_fold import so_far
from release_pipeline.spec_gate import GatePart
from release_pipeline.workspace import counts, inference_table, metric_sql, tracer


def test_what_a_replay_knows_of_live_releases_is_what_live_releases_do() -> None:
    assert cells.TRACER == tracer.PREFIX
    assert arrivals.LAG_READS == evidence_fold.LAG_INGESTS
    assert frozen.RATE_SECONDS == ingest.RATE_SECONDS
    assert frozen.SEGMENTS == inference_table.SEGMENTS
    assert frozen.USUAL_SHARE == ingest._USUAL_SHARE


def test_neither_leaves_out_what_a_version_answered_because_of_its_status() -> None:
    columns = Columns(arrived_at="a", request_time="r", request_id="i", arm="arm", entity=None, status_code="status")
    types = dict.fromkeys(("a", "r", "i", "arm", "status"), "DOUBLE")
    assert "status" not in cells.cells(columns, types, GatePart(), {}, (5,)).values["answered"]
    assert "status" not in metric_sql.ANSWERED


def test_what_the_gate_knows_of_the_tables_is_what_is_read_of_them() -> None:
    assert observations.SEGMENT_SHARE == inference_table.SEGMENT_SHARE
    assert observations.OTHER == counts.OTHER


def test_a_ramp_is_planned_with_the_rows_that_its_buckets_are_sized_by() -> None:
    assert planner.USUAL_ROWS == ingest._USUAL_SHARE


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_watermark_of_a_replay_is_that_of_live_reads_of_the_same_rows(seed: int) -> None:
    rng, start, tick = np.random.default_rng(seed), 1_000_000.0, 20.0
    requested = np.sort(start + rng.uniform(-50, 900, 60))
    arrived = requested + rng.exponential(40, 60)
    copied = rng.random(60) < 0.8  # some reads bring copies alone
    again = np.flatnonzero(copied)
    requested, arrived = np.append(requested, requested[again]), np.append(arrived, arrived[again] + 400)
    first, answered = np.arange(len(requested)) < 60, np.ones(len(requested), dtype=bool)
    answered[rng.choice(60, 5)] = False
    answered[60:] = answered[again]
    order = np.argsort(arrived, kind="stable")
    requested, arrived, first, answered = (each[order] for each in (requested, arrived, first, answered))
    new = np.zeros(len(requested), dtype=bool)
    rows = ReleaseRows("", arrived, requested, new, first, answered, {})
    found = Arrivals.of(rows, start, tick, fixed_lag=None, most_lag=3600.0)

    live, unmoved = replace(so_far([], GatePart()), watermark=-np.inf), 0
    for read, number in enumerate(found.ticks):
        here = found.read_of == read
        counted = here & answered & (requested >= start)
        kept = int((counted & first).sum())
        delta = counts.Delta(
            *(read, read, (), {}, {}),
            lag_seconds=float((arrived - requested)[counted & first].max(initial=0.0)),
            committed_at=datetime.fromtimestamp(float(arrived[here].max()), tz=UTC),
            rows=kept + int((here & ~counted).sum()),
        )
        watermark = ingest.watermark_after(live, delta)
        unmoved += not ingest.brought(delta)
        assert found.watermark[read] == pytest.approx(watermark, abs=1e-5), f"tick {number}"
        longest = max(live.longest_lag, delta.lag_seconds)
        live = replace(live, watermark=watermark, longest_lag=longest)
    assert unmoved > 3
