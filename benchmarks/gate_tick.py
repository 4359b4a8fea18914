"""What a tick costs in Python once the warehouse has counted (goal G6)."""

import time
from typing import Final

from benchmarks.gate_results import Cell, Measured
from release_pipeline.gate.betting import harm_increment, noninferiority_increment
from release_pipeline.gate.decision import _kept_e_value, decide
from release_pipeline.gate.evidence import EvidenceState
from release_pipeline.gate.observations import Baseline, Observation
from release_pipeline.gate.verdict import Signals
from release_pipeline.spec import ModelPart, ReleaseSpec
from release_pipeline.spec_gate import GatePart, Metric
from release_pipeline.spec_rollout import RampPart

_METRICS: Final = 4
_TICKS: Final = 200
_REPETITIONS: Final = 15
_BUCKET: Final = 300
_GOAL_MICROSECONDS: Final = 100.0


def tick(releases: int, seed: int) -> Cell:
    """Microseconds of `EvidenceState.add` and `decide` per metric, of each tick the quickest of some repetitions.

    Other work on the machine only makes a tick slower, so the quickest is nearest to its cost. Nothing is random here;
    the arguments are those of every cell.
    """
    metrics = tuple(Metric(name=f"errors_{i}", kind="errors") for i in range(_METRICS))
    spec = ReleaseSpec(
        name="questions",
        model=ModelPart(registered_name="ml.agents.questions", source="agent.py"),
        ramp=RampPart(),
        gate=GatePart(metrics=metrics),
    )
    start = EvidenceState.start(
        [Baseline.freeze(metric, 10_000, 100) for metric in metrics],
        spec.gate,
        buckets={metric.name: _BUCKET for metric in metrics},
    )
    ingests = [
        [_observation(metric, number, index) for index, metric in enumerate(metrics)] for number in range(_TICKS)
    ]
    adding, deciding, harm, good = [], [], [], []
    for _ in range(_REPETITIONS):
        _kept_e_value.cache_clear()  # what one release keeps must not be another's
        state, added, decided = start, list[float](), list[float]()
        for number, rows in enumerate(ingests):
            signals = Signals(
                configured_share=0.05, now=30.0 * number + 5_000, step_started_at=0.0, ramp_started_at=0.0
            )
            begin = time.perf_counter()
            state = state.add(rows)
            middle = time.perf_counter()
            decide(state, signals, spec, 0)
            decided.append(time.perf_counter() - middle)
            added.append(middle - begin)
        adding.append(added)
        deciding.append(decided)
        begin = time.perf_counter()
        for _ in range(_TICKS):
            harm_increment((282, 3), (14, 1), 0.01)
        middle = time.perf_counter()
        for _ in range(_TICKS):
            noninferiority_increment((282, 3), (14, 1), 0.01, 0.02)
        harm.append(middle - begin)
        good.append(time.perf_counter() - middle)
    cell = Cell()
    per_metric = 1e6 / (_TICKS * _METRICS)
    add, decision = (per_metric * sum(min(times) for times in zip(*runs, strict=True)) for runs in (adding, deciding))
    for what, value, goal in (
        (f"a tick per metric, {_METRICS} metrics", add + decision, _GOAL_MICROSECONDS),
        ("of it EvidenceState.add", add, None),
        ("of it decide", decision, None),
        ("harm_increment, one block", min(harm) * 1e6 / _TICKS, None),
        ("noninferiority_increment, one block", min(good) * 1e6 / _TICKS, None),
    ):
        cell.measured.append(Measured("G6", "tick", what, "us", value, None, None, _REPETITIONS, goal))
    return cell


def _observation(metric: Metric, number: int, index: int) -> Observation:
    """One of a bucket per ten ticks, complete at the bucket's end; no two metrics have the same rows."""
    at = 30.0 * number
    return Observation(
        ingest=number,
        step=0,
        bucket_start=at // _BUCKET * _BUCKET,
        metric=metric.name,
        champion=(282 - index, 3 + index),
        challenger=(15, int((number + index) % 7 == 0)),
        from_version=number,
        to_version=number,
        watermark=at,
    )
