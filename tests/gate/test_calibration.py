"""Error rates and speed of the rule on simulated traffic: the promises that nothing smaller than a simulation can hold.

Seeds are fixed, so a figure changes only when the rule does. Unless a test says otherwise, a rate is accepted when it
is *shown* to be at most alpha: if it were alpha, so few events would have a probability below 5 %
(:func:`chance_of_at_most`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from release_pipeline.gate.betting import (
    TYPICAL_OVERHEAD,
    harm_increment,
    log_e_value,
    noninferiority_increment,
    requests_left,
)
from release_pipeline.gate.evidence import Baseline, Bet, EvidenceState
from release_pipeline.spec import GatePart, Metric

ALPHA = 0.05
LIMIT = -math.log(ALPHA)
Course = Callable[[np.ndarray], np.ndarray]


def chance_of_at_most(events: int, trials: int, rate: float) -> float:
    """Binomial probability of at most ``events`` in ``trials``; a small one shows that the rate is below ``rate``."""
    logs = [
        math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
        + k * math.log(rate) + (trials - k) * math.log1p(-rate)
        for k in range(events + 1)
    ]  # fmt: skip
    return math.fsum(map(math.exp, logs))


def always(value: float) -> Course:
    return lambda look: np.full(len(look), value)


@dataclass(frozen=True)
class Simulation:
    """Many releases, looked at many times; every look is one block of about ``rows`` rows."""

    releases: int
    looks: int
    champion: Course
    challenger: Course
    weight: Course
    level: float
    rows: int = 300
    seed: int = 1

    def chunks(self):
        """Counts per (release, look, bin) of both arms, some looks at a time."""
        rng = np.random.default_rng(self.seed)
        for start in range(0, self.looks, 32):
            look = np.arange(start, min(start + 32, self.looks))
            total = rng.poisson(self.rows, (self.releases, len(look)))
            new = rng.binomial(total, self.weight(look))
            old = total - new
            bad_old, bad_new = rng.binomial(old, self.champion(look)), rng.binomial(new, self.challenger(look))
            yield np.stack([old - bad_old, bad_old], -1), np.stack([new - bad_new, bad_new], -1)

    def requests_until(self, increment: Callable[..., np.ndarray], shift: float) -> np.ndarray:
        """Challenger requests when the e-value first reached 1 / alpha at a look, per release; inf if never."""
        capital, seen = np.zeros((self.releases, 16)), np.zeros(self.releases)
        reached = np.full(self.releases, np.inf)
        for champion, challenger in self.chunks():
            path = capital[:, None] + increment(champion, challenger, self.level, shift).cumsum(axis=1)
            requests = seen[:, None] + challenger.sum(axis=-1).cumsum(axis=1)
            hit = log_e_value(path) >= LIMIT
            first = np.where(hit.any(axis=1), requests[np.arange(self.releases), hit.argmax(axis=1)], np.inf)
            reached = np.minimum(reached, first)
            capital, seen = path[:, -1], requests[:, -1]
        return reached

    def z_test_rolled_back(self) -> np.ndarray:
        """What a one-sided z-test of pooled counts at every look would have rolled back."""
        old, new = np.zeros((2, self.releases, 1, 2))
        rolled_back = np.zeros(self.releases, dtype=bool)
        for champion, challenger in self.chunks():
            olds, news = old + champion.cumsum(axis=1), new + challenger.cumsum(axis=1)
            n_old, n_new = olds.sum(-1), news.sum(-1)
            pooled = (olds[..., 1] + news[..., 1]) / (n_old + n_new)
            error = np.sqrt(pooled * (1 - pooled) * (1 / n_old + 1 / n_new))
            rolled_back |= ((news[..., 1] / n_new - olds[..., 1] / n_old) > 1.645 * error).any(axis=1)
            old, new = olds[:, -1:], news[:, -1:]
        return rolled_back


def drifting(looks: int) -> Course:
    """1 % to 10 % and back."""
    return lambda look: 0.01 + 0.09 * np.sin(np.pi * look / looks)


def heavier(looks: int) -> Course:
    """8/25/50 %, where 5/25/50 % was configured; the rule never learns which."""
    return lambda look: np.select([look < looks / 3, look < 2 * looks / 3], [0.08, 0.25], 0.5)


def identical(releases: int, looks: int) -> Simulation:
    return Simulation(releases, looks, drifting(looks), drifting(looks), heavier(looks), level=0.01)


def test_identical_versions_are_rarely_rolled_back_while_rates_and_weights_drift():
    runs = identical(800, 2_880)
    rolled_back = int(np.isfinite(runs.requests_until(harm_increment, 0.0)).sum())
    assert chance_of_at_most(rolled_back, runs.releases, ALPHA) < 0.05


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_week_of_looks_does_not_exceed_alpha():
    """The goal itself: after so many looks the rate is so near its limit that only many more releases could show it."""
    runs = identical(800, 20_160)
    assert np.isfinite(runs.requests_until(harm_increment, 0.0)).mean() <= ALPHA


def test_the_simulation_can_tell_a_rule_that_is_wrong():
    assert identical(200, 1_000).z_test_rolled_back().mean() > 0.5


@pytest.mark.parametrize(
    ("champion", "margin"), [(0.01, 0.01), (0.002, 0.005)], ids=["one percent", "rare errors"]
)  # fmt: skip
def test_a_challenger_exactly_at_the_margin_rarely_advances(champion, margin):
    runs = Simulation(1200, 600, always(champion), always(champion + margin), always(0.05), level=champion)
    advanced = int(np.isfinite(runs.requests_until(noninferiority_increment, margin)).sum())
    assert chance_of_at_most(advanced, runs.releases, ALPHA) < 0.05
    assert advanced > 0.01 * runs.releases  # a rule that never advances would be safe, and useless


def test_exactly_at_the_tolerance_is_rarely_rolled_back():
    runs = Simulation(800, 600, always(0.02), always(0.03), always(0.1), level=0.02)
    rolled_back = int(np.isfinite(runs.requests_until(harm_increment, 0.01)).sum())
    assert chance_of_at_most(rolled_back, runs.releases, ALPHA) < 0.05


@pytest.mark.parametrize(("rate", "looks", "most"), [(0.05, 500, 115), (0.02, 2000, 1080)], ids=["1 to 5", "1 to 2"])
def test_a_regression_is_always_caught_and_soon(rate, looks, most):
    runs = Simulation(500, looks, always(0.01), always(rate), always(0.05), level=0.01, rows=100)
    requests = runs.requests_until(harm_increment, 0.0)
    assert np.isfinite(requests).all()
    assert np.median(requests) <= most


@pytest.mark.parametrize(("margin", "looks", "most"), [(0.02, 500, 390), (0.01, 1500, 1280)], ids=["2 pp", "1 pp"])
def test_an_equal_version_advances_about_when_it_was_estimated(margin, looks, most):
    runs = Simulation(500, looks, always(0.01), always(0.01), always(0.05), level=0.01, rows=100)
    requests = runs.requests_until(noninferiority_increment, margin)
    assert np.mean(np.isfinite(requests)) > 0.98
    assert np.median(requests) <= most
    growth = noninferiority_increment([19 * 0.99, 19 * 0.01], [0.99, 0.01], 0.01, margin)
    estimate = requests_left(np.zeros(16), growth, LIMIT)
    assert estimate is not None
    assert estimate / 1.5 < np.median(requests) < estimate * 1.5


def test_more_weight_costs_requests_as_estimated():
    runs = Simulation(400, 600, always(0.01), always(0.01), always(0.25), level=0.01, rows=100)
    requests = runs.requests_until(noninferiority_increment, 0.01)
    estimate = requests_left(
        np.zeros(16), noninferiority_increment([3 * 0.99, 3 * 0.01], [0.99, 0.01], 0.01, 0.01), LIMIT
    )
    assert estimate is not None
    assert estimate / 1.3 < np.median(requests) < estimate * 1.3
    assert 1.0 < TYPICAL_OVERHEAD < 1.5


ERRORS = Metric(name="errors", kind="errors", margin=0.02)
BASELINE = Baseline.freeze(ERRORS, 100_000, 1_000)
MINUTE, BUCKET, DELAY = 60, 600, 20


def late_releases(rng: np.random.Generator, releases: int, weights: tuple[float, ...]):
    """Counts by (event minute, good or bad, arm) of identical versions, 30 minutes at each true weight."""
    minutes = np.arange(30 * len(weights))
    weight = np.array(weights)[minutes // 30]
    bad = rng.poisson(300 * 0.01, (releases, len(minutes)))
    good = rng.poisson(300 * 0.99, (releases, len(minutes)))
    bad_new, good_new = rng.binomial(bad, weight), rng.binomial(good, weight)
    return minutes, bad - bad_new, bad_new, good - good_new, good_new


@pytest.mark.parametrize("one_block_per_ingest", [False, True], ids=["as keyed", "keyed by ingest alone"])
def test_errors_that_are_logged_early_across_a_ramp_do_not_roll_back(one_block_per_ingest, observe):
    """Bad rows arrive at once and good ones 20 minutes later; only blocks of like event times survive that."""
    releases = 120
    minutes, bad_old, bad_new, good_old, good_new = late_releases(
        np.random.default_rng(11), releases, (0.05, 0.25, 0.5)
    )
    rolled_back = 0
    for release in range(releases):
        state = EvidenceState.start([BASELINE], GatePart(metrics=(ERRORS,)), bucket_seconds=BUCKET)
        for minute in range(0, len(minutes) + DELAY, 2):
            counts: dict[tuple[int, float], np.ndarray] = {}
            arrived = [(m, bad_old, bad_new, 1) for m in (minute, minute + 1)]
            arrived += [(m - DELAY, good_old, good_new, 0) for m in (minute, minute + 1)]
            for event, olds, news, bin_ in arrived:
                if 0 <= event < len(minutes):
                    key = (0, 0.0) if one_block_per_ingest else (event // 30, float(event * MINUTE // BUCKET * BUCKET))
                    table = counts.setdefault(key, np.zeros((2, 2), dtype=int))
                    table[0, bin_] += olds[release, event]
                    table[1, bin_] += news[release, event]
            rows = [
                observe(
                    (int(table[0].sum()), int(table[0, 1])), (int(table[1].sum()), int(table[1, 1])),
                    ingest=minute, step=step, bucket=bucket, watermark=(minute - DELAY) * MINUTE,
                )
                for (step, bucket), table in counts.items()
            ]  # fmt: skip
            state = state.add(rows)
            if log_e_value(state.metric("errors").account(Bet.HARM).carried()) >= LIMIT:
                rolled_back += 1
                break
    if one_block_per_ingest:
        assert rolled_back > 0.25 * releases
    else:
        assert chance_of_at_most(rolled_back, releases, ALPHA) < 0.05
