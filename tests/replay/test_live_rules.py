"""A replay's rules are those of a live release: the numbers that both know are the same."""

from release_pipeline.gate import observations, planner
from release_pipeline.replay_log import arrivals, cells, frozen
from release_pipeline.replay_log.columns import Columns
from release_pipeline.rollout import evidence_fold, ingest
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
