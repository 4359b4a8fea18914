"""A replay's rules are those of a live release: the numbers that both know are the same."""

from release_pipeline.replay_log import arrivals, cells, frozen
from release_pipeline.rollout import evidence_fold, ingest
from release_pipeline.workspace import inference_table, metric_sql, tracer


def test_what_a_replay_knows_of_live_releases_is_what_live_releases_do() -> None:
    assert cells.NOT_SERVED == metric_sql.NOT_SERVED
    assert cells.TRACER == tracer.PREFIX
    assert arrivals.LAG_READS == evidence_fold.LAG_INGESTS
    assert frozen.RATE_SECONDS == ingest.RATE_SECONDS
    assert frozen.SEGMENT_SHARE == inference_table.SEGMENT_SHARE
    assert frozen.SEGMENTS == inference_table.SEGMENTS
