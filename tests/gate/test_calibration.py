"""Error rates and speed of the rule on simulated traffic: the promises that nothing smaller than a simulation can hold.

The simulations are those of `benchmarks.gate`, which runs many more releases. Seeds are fixed, so a figure changes only
when the rule does. Unless a test says otherwise, a rate is accepted when it is *shown* to be at most alpha: if it were
alpha, so few events would have a probability below 5 % (:func:`chance_of_at_most`).
"""

import json
import math
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gate_blocks import BlockBet, Blocks, Lateness, ever_decided
from benchmarks.gate_late_cells import late_blocks
from benchmarks.gate_results import median_interval, wald_floor, wilson
from benchmarks.gate_rules import ALPHA, LIMIT, bet, naive_z
from benchmarks.gate_traffic import Traffic, always, bad, in_turn, scores, there_and_back, watch
from release_pipeline.gate.betting import (
    TYPICAL_OVERHEAD,
    harm_increment,
    noninferiority_increment,
    requests_left,
)
from release_pipeline.gate.evidence import Bet, EvidenceState
from release_pipeline.gate.observations import Baseline
from release_pipeline.spec_gate import GatePart, Metric

FIVE_PERCENT = always(0.05)


def chance_of_at_most(events: int, trials: int, rate: float) -> float:
    """Binomial probability of at most ``events`` in ``trials``; a small one shows that the rate is below ``rate``."""
    logs = [
        math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
        + k * math.log(rate) + (trials - k) * math.log1p(-rate)
        for k in range(events + 1)
    ]  # fmt: skip
    return math.fsum(map(math.exp, logs))


def decided(traffic, rule, releases, seed=1):
    return watch(traffic, {"": rule}, releases, seed)[""]


def identical(looks: int) -> Traffic:
    """1 to 10 to 1 % of errors, and 8/25/50 % where 5/25/50 % was configured; the rule never learns which."""
    rates = there_and_back(0.01, 0.10, looks)
    return Traffic(looks, rates, rates, in_turn([0.08, 0.25, 0.50], looks))


def test_identical_versions_are_rarely_rolled_back_while_rates_and_weights_drift():
    rolled_back = decided(identical(2_880), bet(harm_increment, 0.01), 800).decided
    assert chance_of_at_most(rolled_back, 800, ALPHA) < 0.05


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_week_of_looks_does_not_exceed_alpha():
    """The goal itself: after so many looks the rate is so near its limit that only many more releases could show it."""
    assert decided(identical(20_160), bet(harm_increment, 0.01), 400).decided <= ALPHA * 400


def test_the_simulation_can_tell_a_rule_that_is_wrong():
    assert decided(identical(1_000), naive_z(), 200).decided > 100


@pytest.mark.parametrize(
    ("champion", "margin"), [(0.01, 0.01), (0.002, 0.005)], ids=["one percent", "rare errors"]
)  # fmt: skip
def test_a_challenger_exactly_at_the_margin_rarely_advances(champion, margin):
    """So near alpha that it takes many releases to show that it is below; nothing is wasted."""
    traffic, releases = Traffic(300, bad(champion), bad(champion + margin), FIVE_PERCENT), 4_000
    advanced = decided(traffic, bet(noninferiority_increment, champion, margin), releases).decided
    assert chance_of_at_most(advanced, releases, ALPHA) < 0.05
    assert advanced > 0.01 * releases  # a rule that never advances would be safe, and useless


def test_exactly_at_the_tolerance_is_rarely_rolled_back():
    traffic = Traffic(600, bad(0.02), bad(0.03), always(0.1))
    rolled_back = decided(traffic, bet(harm_increment, 0.02, 0.01), 800).decided
    assert chance_of_at_most(rolled_back, 800, ALPHA) < 0.05


@pytest.mark.parametrize("level", [0.0005, 0.001, 0.1, 0.5])
def test_a_level_that_is_far_off_makes_the_rule_slow_and_never_wrong(level):
    harmless = Traffic(400, bad(0.01), bad(0.01), always(0.2))
    rolled_back = decided(harmless, bet(harm_increment, level), 500).decided
    assert chance_of_at_most(rolled_back, 500, ALPHA) < 0.05
    at_the_margin = Traffic(400, bad(0.01), bad(0.02), always(0.2))
    advanced = decided(at_the_margin, bet(noninferiority_increment, level, 0.01), 500).decided
    assert chance_of_at_most(advanced, 500, ALPHA) < 0.05


@pytest.mark.parametrize(("rate", "looks", "most"), [(0.05, 500, 115), (0.02, 2000, 1080)], ids=["1 to 5", "1 to 2"])
def test_a_regression_is_always_caught_and_soon(rate, looks, most):
    traffic = Traffic(looks, bad(0.01), bad(rate), FIVE_PERCENT)
    requests = decided(traffic, bet(harm_increment, 0.01), 500).requests
    assert np.isfinite(requests).all()
    assert np.median(requests) <= most


def test_a_worse_score_is_caught_soon():
    traffic = Traffic(200, always(scores(0.2, 3)), always(scores(0.35, 3)), FIVE_PERCENT, rows=60)
    requests = decided(traffic, bet(harm_increment, 0.2), 300).requests
    assert np.isfinite(requests).all()
    assert np.median(requests) <= 35


@pytest.mark.parametrize(
    ("margin", "weight", "looks", "most"),
    [(0.02, 0.05, 500, 390), (0.01, 0.05, 1500, 1280), (0.01, 0.25, 600, 1480)],
    ids=["2 pp", "1 pp", "1 pp at 25 %"],
)
def test_an_equal_version_advances_about_when_it_was_estimated(margin, weight, looks, most):
    traffic = Traffic(looks, bad(0.01), bad(0.01), always(weight), rows=100)
    requests = decided(traffic, bet(noninferiority_increment, 0.01, margin), 500).requests
    assert np.mean(np.isfinite(requests)) > 0.98
    assert np.median(requests) <= most
    champions = (1 - weight) / weight
    growth = noninferiority_increment([champions * 0.99, champions * 0.01], [0.99, 0.01], 0.01, margin)
    estimate = requests_left(np.zeros(16), growth, LIMIT)
    assert estimate is not None
    assert estimate / 1.3 < np.median(requests) < estimate * 1.3
    assert 1.0 < TYPICAL_OVERHEAD < 1.5


ERRORS = Metric(name="errors", kind="errors", margin=0.02)
BUCKET = 300
EARLY = ((40, 0), (40, 0))
LATENESS = {
    "errors early across a ramp": Lateness(0.01, 0.01, (0.05, 0.25, 0.5), 60, EARLY),
    "weights swing": Lateness(0.05, 0.05, (0.2, 0.5), 60, EARLY, swing_slots=40),
    "challenger's errors late": Lateness(0.05, 0.1, (0.2,), 120, ((0, 0), (0, 40))),
    "hardly any traffic": Lateness(0.1, 0.1, (0.5,), 400, ((3, 0), (3, 50)), rows=4.5),
}


@pytest.mark.parametrize("trail", [0, 330, 1230], ids=["as live", "too short", "long enough"])
@pytest.mark.parametrize("lateness", LATENESS.values(), ids=LATENESS.keys())
def test_the_simulated_blocks_are_those_of_the_evidence(lateness, trail, observe):
    """Ingest by ingest, the same log-capitals in every step as EvidenceState has; both bets, some releases."""
    releases, level = 3, Baseline.freeze(ERRORS, 100_000, 1_000).level
    gate = GatePart(metrics=(ERRORS,))
    baseline = Baseline.freeze(ERRORS, 100_000, 1_000)
    states = [EvidenceState.start([baseline], gate, buckets={"errors": BUCKET}) for _ in range(releases)]
    simulated = {
        Bet.HARM: Blocks(releases, lambda old, new: harm_increment(old, new, level), BUCKET, gate.min_block_rows),
        Bet.NONINFERIORITY: Blocks(
            releases, lambda old, new: noninferiority_increment(old, new, level, 0.02),
            BUCKET, gate.min_block_rows, whole=True,
        ),
    }  # fmt: skip
    nothing = {(0, 0.0): np.zeros((2, releases, 2))}
    for ingest, (fresh, now, longest) in enumerate(lateness.ingests(releases, BUCKET, seed=5)):
        watermark = now - trail if trail else longest
        for release, state in enumerate(states):
            rows = [
                observe(
                    *((int(arm.sum()), int(arm[1])) for arm in arms[:, release]),
                    ingest=ingest, step=step, bucket=bucket, watermark=watermark,
                )
                for (step, bucket), arms in (fresh or nothing).items()
            ]  # fmt: skip
            states[release] = state.add(rows)
        for bet_on, blocks in simulated.items():
            blocks.ingest(fresh, watermark)
            carried = [state.metric("errors").account(bet_on).carried() for state in states]
            assert blocks.carried() == pytest.approx(np.array(carried), abs=1e-9)
    assert any(any(state.metric("errors").account(Bet.HARM).carried()) for state in states)


def rolled_back_when_late(lateness: Lateness, bucket: float, releases: int, by_ingest: bool = False) -> int:
    blocks = Blocks(releases, lambda old, new: harm_increment(old, new, 0.01), bucket, 40, eager=by_ingest)
    rule = BlockBet(blocks, by_ingest=by_ingest)
    return int(ever_decided(lateness, {"": rule}, releases, bucket, seed=11)[""].sum())


def test_errors_that_are_logged_early_across_a_ramp_do_not_roll_back():
    """Bad rows arrive at once and good ones 20 minutes later; only blocks of like event times survive that."""
    lateness = LATENESS["errors early across a ramp"]
    assert chance_of_at_most(rolled_back_when_late(lateness, BUCKET, 400), 400, ALPHA) < 0.05
    assert rolled_back_when_late(lateness, BUCKET, 100, by_ingest=True) > 25


def test_early_bad_rows_that_about_fill_a_block_do_not_roll_back():
    """Closing blocks by the champion's rows alone rolled half of these back."""
    cell = late_blocks(300, seed=7)
    assert [rate for rate in cell.measured if not rate.met] == []
    (wrong,) = [each for each in cell.compared if "champion" in each.column]
    assert wrong.low > 0.3, "the cell can tell a rule that is wrong"


def test_weights_that_swing_within_a_step_do_not_roll_back_either():
    lateness = Lateness(0.01, 0.01, (0.05, 0.25, 0.5), 240, EARLY, swing_slots=80)
    assert chance_of_at_most(rolled_back_when_late(lateness, BUCKET, 1500), 1500, ALPHA) < 0.05


@pytest.mark.parametrize("waits", [True, False], ids=["with the watermark", "without it"])
def test_a_challenger_whose_errors_are_logged_late_does_not_advance_before_they_are(waits):
    lateness, releases = Lateness(0.01, 0.02, (0.05,), 400, ((0, 0), (0, 40)), known_slots=41), 400
    bet_on = partial(noninferiority_increment, level=0.01, margin=0.01)
    blocks = Blocks(releases, bet_on, BUCKET, 40, whole=waits, eager=not waits)
    advanced = ever_decided(lateness, {"": BlockBet(blocks)}, releases, BUCKET, seed=7)[""].sum()
    if waits:
        assert chance_of_at_most(int(advanced), releases, ALPHA) < 0.05
    else:
        assert advanced > 0.25 * releases


def test_intervals_and_floors_are_those_of_the_textbooks():
    assert wilson(0, 100) == pytest.approx((0.0, 0.0370), abs=1e-4)
    assert wilson(50, 1000) == pytest.approx((0.0381, 0.0653), abs=1e-4)
    assert median_interval(np.arange(1.0, 101.0)) == (41.0, 61.0)
    assert wald_floor([0.95, 0.05], [0.99, 0.01]) == pytest.approx(72.55, abs=0.01)
    assert wald_floor([0.99, 0.01], [0.97, 0.03]) == pytest.approx(324.9, abs=0.1)


def test_the_benchmark_runs_a_cell_and_ends_with_0(tmp_path):
    written = tmp_path / "gate.json"
    command = [sys.executable, "-m", "benchmarks.gate", "--cell", "judge", "--releases", "50", "--json", str(written)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(written.read_text())["figures"]
    assert [figure["met"] for figure in figures] == [True, True]
    assert figures[0]["low"] <= figures[0]["value"] <= figures[0]["high"] <= 35
