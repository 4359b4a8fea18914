"""Skipping ticks at which nothing can change gives what a look at every tick gives."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from release_pipeline.gate.verdict import Action
from release_pipeline.replay_log.arrivals import Arrivals
from release_pipeline.replay_log.frozen import freeze
from release_pipeline.replay_log.log_table import LogTable
from release_pipeline.replay_log.virtual_clock import ClockOptions, run
from release_pipeline.spec import ReleaseSpec
from tests.replay.conftest import make_log, spec_of
from tests.replay.every_tick import every_tick

BOTH = (
    {"name": "errors", "kind": "errors", "margin": 0.03},
    {"name": "slow", "kind": "slow", "margin": 0.1, "tolerance": 0.01, "threshold_ms": 300},
)


def compare(folder: Path, log: pd.DataFrame, spec: ReleaseSpec, options: ClockOptions) -> Action:
    """Replay both ways, compare everything, and return the verdict."""
    file = folder / "log.parquet"
    log.to_parquet(file, index=False)
    table = LogTable(str(file), spec, {})
    rows = table.rows("")
    frozen = freeze(rows, table, spec, {}, options.tick_seconds)
    quick, slow = run(rows, frozen, spec, options), every_tick(rows, frozen, spec, options)
    assert quick.verdict == slow.verdict
    assert (quick.at, quick.step, quick.requests) == (slow.at, slow.step, slow.requests)
    assert [(advance.step, advance.at) for advance in quick.advances] == slow.advances
    for series, points in slow.path.items():
        path = quick.paths[series]
        got = list(zip(path.at, path.step, path.harm_e, path.noninferiority_e, strict=True))
        assert [each[:2] for each in got] == [each[:2] for each in points]
        np.testing.assert_allclose([each[2:] for each in got], [each[2:] for each in points], rtol=1e-12)
    return quick.verdict.action


@pytest.mark.parametrize(
    ("name", "log", "options", "gate"),
    [
        ("plain", {}, {}, {}),
        ("bad", {"challenger": 0.08}, {}, {}),
        ("little traffic", {"rate": 1 / 30, "rows": 2500, "before": 500, "share": 0.3}, {}, {}),
        ("little traffic, short buckets", {"rate": 1 / 30, "rows": 2500, "before": 500}, {}, {"bucket_seconds": 600}),
        ("long ticks", {"share": 0.3}, {"tick_seconds": 400.0}, {}),
        ("no baseline", {"before": 0, "share": 0.4}, {}, {"bucket_seconds": 60}),
        ("no lag allowed", {"share": 0.4}, {"watermark_lag": 0.0}, {}),
        (
            "some lag allowed",
            {"rate": 0.5, "lag": 300, "share": 0.4},
            {"watermark_lag": 200.0},
            {"bucket_seconds": 120},
        ),
        ("a straggler", {"lag": 90, "share": 0.4}, {}, {"max_lag_minutes": 2, "bucket_seconds": 60}),
        ("all as the second step", {"share": 0.4}, {"step": 1}, {}),
        ("rows that say nothing", {"nothing": 0.2, "share": 0.4}, {}, {}),
        ("blocks of one row", {"rate": 0.2, "share": 0.4, "rows": 3000}, {}, {"min_block_rows": 1}),
    ],
)
def test_a_replay_that_skips_ends_like_a_look_at_every_tick(name, log, options, gate, tmp_path):
    clock = ClockOptions(**{"tick_seconds": 20.0, **options})
    spec = spec_of(*BOTH, ramp={"steps": [10, 50], "min_step_seconds": 300, "deadline_hours": 1}, **gate)
    ends = {compare(tmp_path, make_log(seed=seed, **log), spec, clock) for seed in (1, 2)}
    assert name != "bad" or ends == {Action.ROLL_BACK}
    assert name != "all as the second step" or Action.PROMOTE in ends


def test_one_straggler_does_not_stop_the_watermark(tmp_path):
    log = make_log(rows=6000, share=0.4, duplicates=0, lag=10)
    late = log["request_time"].rank() == 1600
    log.loc[late, "arrived_at"] = log.loc[late, "request_time"] + 300
    file = tmp_path / "log.parquet"
    log.to_parquet(file, index=False)
    rows = LogTable(str(file), spec_of(), {}).rows("")
    for most, trails in ((60.0, 60.0), (3600.0, 300.0)):
        arrivals = Arrivals.of(rows, float(rows.requested.min()), 20.0, fixed_lag=None, most_lag=most)
        assert rows.arrived.max() - arrivals.watermark[-1] == pytest.approx(trails, abs=0.01)


def given_ramp(log: pd.DataFrame) -> pd.DataFrame:
    """The log with a traffic_percent of 0, then 10, then 50, then 100, a quarter of the time each."""
    begin, end = log["request_time"].min(), log["request_time"].max()
    quarter = ((log["request_time"] - begin) / (end - begin) * 4).clip(0, 3.999).astype(int)
    return log.assign(traffic_percent=quarter.map({0: 0, 1: 10, 2: 50, 3: 100}))


@pytest.mark.parametrize("challenger", [0.01, 0.06])
def test_steps_that_the_log_gives(challenger, tmp_path):
    spec = spec_of(*BOTH, ramp={"steps": [10, 50], "min_step_seconds": 60})
    log = given_ramp(make_log(share=0.3, challenger=challenger))
    action = compare(tmp_path, log, spec, ClockOptions(20.0))
    assert action is (Action.ROLL_BACK if challenger == 0.06 else Action.PROMOTE)


@pytest.mark.parametrize("bound", [0.05, None])
def test_a_release_without_a_champion_is_held_against_its_bounds(bound, tmp_path):
    spec = spec_of({"name": "errors", "kind": "errors", "bound": bound}, BOTH[1])
    log = make_log(rows=2000, before=0, share=1.0)
    assert compare(tmp_path, log, spec, ClockOptions(20.0)) is Action.PROMOTE


@pytest.mark.parametrize("required", [True, False])
def test_bounds_alone_and_nothing_required(required, tmp_path):
    metric = {"name": "errors", "kind": "errors", "margin": None, "bound": 0.04, "required": required}
    spec = spec_of(metric, ramp={"steps": [10, 50], "min_step_seconds": 130}, bucket_seconds=60)
    assert compare(tmp_path, make_log(lag=10, share=0.3), spec, ClockOptions(20.0)) is Action.PROMOTE
    assert compare(tmp_path, make_log(challenger=0.15, share=0.3), spec, ClockOptions(20.0)) is Action.ROLL_BACK


def test_segments_and_scores(tmp_path):
    rng = np.random.default_rng(5)
    log = make_log(rows=8000, share=0.4)
    log["helpful"] = np.where(rng.random(len(log)) < 0.3, np.nan, rng.beta(1, 6, len(log)))
    log["segment"] = rng.choice(["fr", "de", "rare", None], len(log), p=[0.5, 0.4, 0.01, 0.09])
    log = log.sort_values("request_id").drop_duplicates("request_id", keep="first")
    spec = spec_of(
        {"name": "errors", "kind": "errors", "margin": 0.05, "segments": "country"},
        {"name": "helpful", "kind": "judge", "scorer": "Helpful", "margin": 0.05},
    )
    compare(tmp_path, log, spec, ClockOptions(20.0))
    file = tmp_path / "log.parquet"
    table = LogTable(str(file), spec, {})
    frozen = freeze(table.rows(""), table, spec, {"helpful": 0.2}, 20.0)
    assert {(each.metric, each.segment) for each in frozen.baselines} == {
        ("errors", "de"), ("errors", "fr"), ("errors", "other"), ("helpful", ""),
    }  # fmt: skip
    assert [each.level for each in frozen.baselines if each.metric == "helpful"] == [0.2]


def test_rows_without_a_label_take_no_place_of_a_segment(tmp_path):
    log = make_log(rows=12_000, before=10_000, duplicates=0)
    labels = [f"l{number}" for number in range(9)]
    log["segment"] = np.random.default_rng(6).choice(["", "other", *labels], len(log), p=[0.14, 0.14, *[0.08] * 9])
    spec = spec_of({"name": "errors", "kind": "errors", "segments": "country"})
    file = tmp_path / "log.parquet"
    log.to_parquet(file, index=False)
    table = LogTable(str(file), spec, {})
    frozen = freeze(table.rows(""), table, spec, {}, 20.0)
    before = log[log["request_time"] < frozen.started_at]["segment"]
    most = before[before.isin(labels)].value_counts()
    assert {each.segment for each in frozen.baselines} == {*most.index[:8], "other"}
