"""Values that come late, the good ones before the bad ones: what `settle_minutes` is for."""

import numpy as np
import pytest
from pydantic import ValidationError

from release_pipeline.gate.betting import e_value
from release_pipeline.gate.evidence import Bet, EvidenceState
from release_pipeline.gate.observations import Baseline, Observation, bucket_seconds_for, slice_seconds
from release_pipeline.rollout.ingest import watermark_of
from release_pipeline.spec_gate import GatePart, Metric
from tests.gate.test_calibration import chance_of_at_most

TICK, LAG, HOURS, PER_SECOND, WEIGHT = 1800.0, 1200.0, 16, 0.15, 0.25
GOOD_MINUTES, BAD_MINUTES = 20.0, 300.0


def label(**fields) -> Metric:
    return Metric(name="refunds", kind="label", table="a.b.c", badness="label.x", margin=0.05, **fields)


def is_shown(seed: int, settle_minutes: float, challenger: float) -> bool:
    """Whether a challenger is ever shown to be within 5 points of a champion with 5 %, or below a bound of 10 %.

    Good labels come within 20 minutes of their request, bad ones within five hours.
    """
    rng, metric = np.random.default_rng(seed), label(settle_minutes=settle_minutes, bound=0.1)
    gate = GatePart(metrics=(metric,))
    bucket = bucket_seconds_for(gate, PER_SECOND * (1 - WEIGHT))
    part = slice_seconds(bucket)
    state = EvidenceState.start([Baseline.freeze(metric, 10_000, 500)], gate, buckets={"refunds": bucket})
    rows = rng.poisson(PER_SECOND * HOURS * 3600)
    sent, new = rng.uniform(0, HOURS * 3600, rows), rng.random(rows) < WEIGHT
    bad = rng.random(rows) < np.where(new, challenger, 0.05)
    known = sent + 60 * rng.uniform(0, np.where(bad, BAD_MINUTES, GOOD_MINUTES))
    ingest, place = np.ceil(known / TICK).astype(int), np.floor(sent / part).astype(int)
    for number in range(1, int(HOURS * 3600 / TICK) + 1):
        here = ingest == number
        watermark = watermark_of(metric, number * TICK - LAG, number * TICK)
        codes = np.bincount((place[here] * 2 + new[here]) * 2 + bad[here])
        cells = np.append(codes, [0] * (-len(codes) % 4 or 4)).reshape(-1, 2, 2)
        state = state.add(
            Observation(
                ingest=number, step=0, bucket_start=float(at * part), metric="refunds",
                champion=(old[0], *[0] * 19, old[1]), challenger=(young[0], *[0] * 19, young[1]),
                from_version=number, to_version=number, watermark=watermark,
            )
            for at, (old, young) in enumerate(cells.tolist()) if at == 0 or any(old) or any(young)
        )  # fmt: skip
        evidence = state.metric("refunds")
        if max(e_value(evidence.account(bet).at(0)) for bet in (Bet.NONINFERIORITY, Bet.BELOW)) >= 20:
            return True
    return False


@pytest.mark.slow
def test_a_challenger_at_its_margin_is_rarely_shown_once_its_labels_have_settled():
    shown = sum(is_shown(seed, 240, 0.10) for seed in range(60))
    assert chance_of_at_most(shown, 60, 0.10) < 0.05, "two bets, each with alpha"


def test_good_labels_that_come_soon_show_nothing_before_bad_ones_had_time_to_come():
    assert label(settle_minutes=240).settle_seconds == 300 * 60, "an hour more, in which older values are looked for"
    assert sum(is_shown(seed, 240, 0.15) for seed in range(5)) == 0
    assert is_shown(1, 240, 0.01), "a good version is shown"
    assert sum(is_shown(seed, 0, 0.15) for seed in range(5)) >= 4, "the case can tell a rule that does not wait"


def test_the_time_to_settle_has_safe_defaults_and_a_label_must_say_it():
    with pytest.raises(ValidationError, match=r"needs settle_minutes, the minutes after a request .* such as 1440"):
        label()
    assert label(muted=True).settle_seconds == 0
    assert label(settle_minutes=0).settle_seconds == 0
    assert label(settle_minutes=60).settle_seconds == 3600
    assert Metric(name="errors", kind="errors").settle_seconds == 0
    assert Metric(name="errors", kind="errors", settle_minutes=5).settle_seconds == 300
    assert Metric(name="thumbs", kind="feedback", assessment="thumbs").settle_seconds == 3600
    assert Metric(name="safe", kind="judge", scorer="Safety").settle_seconds == 600


def test_the_watermark_of_a_metric_is_the_earlier_of_rows_and_values():
    late = label(settle_minutes=30)
    assert watermark_of(late, 5000.0, 10_000.0) == 5000.0
    assert watermark_of(late, 9500.0, 10_000.0) == 8200.0
    assert watermark_of(label(settle_minutes=0), 9500.0, 10_000.0) == 9500.0
