"""Replaying stored evidence gives what was decided live."""

import json
import random

import numpy as np
import pytest

from release_pipeline.gate.decision import Action, decide
from release_pipeline.gate.evidence import EvidenceState
from release_pipeline.gate.observations import Baseline
from release_pipeline.gate.replay import replay
from release_pipeline.gate.state_json import state_from_dict, state_to_dict
from release_pipeline.spec_gate import Metric
from tests.gate.conftest import every

ERRORS = Metric(name="errors", kind="errors", margin=(0.04, 0.03), bound=0.1)
BASELINES = (Baseline.freeze(ERRORS, 5000, 50),)
TICK = 60.0


def live(spec, observe, make_signals, challenger_rate):
    """A release as a sensor drives it: stored state in, one ingest, stored state and verdict out."""
    rng = np.random.default_rng(20)
    stored = state_to_dict(EvidenceState.start(BASELINES, spec.gate, buckets=every(spec.gate)))
    step, starts, now, rows, looks, looked_at = 0, [0.0], 0.0, [], [], {}
    for ingest in range(120):
        now += TICK
        share = spec.ramp.steps[step] / 100
        new = int(rng.binomial(600, share))
        old = 600 - new
        bucket = (now - TICK) // 300 * 300
        seen = [
            observe(
                (old, int(rng.binomial(old, 0.01))),
                (new, int(rng.binomial(new, challenger_rate))),
                ingest=ingest, step=step, bucket=bucket, watermark=now - TICK,
            )
        ]  # fmt: skip
        state = state_from_dict(json.loads(json.dumps(stored)), spec.gate).add(seen)
        signals = make_signals(configured_share=share, now=now, step_started_at=starts[step], ramp_started_at=0.0)
        verdict = decide(state, signals, spec, step)
        stored = state_to_dict(state)
        rows += seen
        looks.append((ingest, stored, verdict))
        looked_at[ingest] = now
        if verdict.action in (Action.ROLL_BACK, Action.PROMOTE):
            break
        if verdict.action is Action.ADVANCE:
            step += 1
            starts.append(now + 1)
    return rows, looks, starts, looked_at


@pytest.mark.parametrize(("rate", "end"), [(0.01, Action.PROMOTE), (0.06, Action.ROLL_BACK)])
def test_replay_gives_the_same_states_and_verdicts_bit_for_bit(rate, end, make_spec, observe, make_signals):
    spec = make_spec(ERRORS)
    rows, looks, starts, looked_at = live(spec, observe, make_signals, rate)
    assert looks[-1][2].action is end
    random.Random(3).shuffle(rows)
    again = replay(rows, BASELINES, spec, buckets=every(spec.gate), step_starts=starts, looked_at=looked_at)
    assert [(look.ingest, state_to_dict(look.state), look.verdict) for look in again] == looks


def test_a_first_release_is_replayed_without_steps(make_spec, observe):
    spec = make_spec(ERRORS)
    rows = [
        observe((0, 0), (20, 0), ingest=i, bucket=300.0 * i, watermark=300.0 * (i + 1)) for i in range(6)
    ]  # fmt: skip
    looks = replay(
        rows,
        BASELINES,
        spec,
        buckets=every(spec.gate),
        step_starts=(),
        looked_at={i: 300.0 * (i + 1) for i in range(6)},
    )
    assert looks[0].verdict.action is Action.HOLD
    assert looks[-1].verdict.action is Action.PROMOTE


def test_times_that_are_missing_are_named(make_spec, observe):
    spec = make_spec(ERRORS)
    row = [observe((30, 0), (2, 0), ingest=7)]
    with pytest.raises(ValueError, match="ingest 7 has no time"):
        replay(row, BASELINES, spec, buckets=every(spec.gate), step_starts=(0.0,), looked_at={})
    with pytest.raises(ValueError, match="before the first step"):
        replay(row, BASELINES, spec, buckets=every(spec.gate), step_starts=(10.0,), looked_at={7: 9.0})
