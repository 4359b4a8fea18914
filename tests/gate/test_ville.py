"""The bets beside ville's, a library of e-processes that shares no code with this project.

A stake of ours is a bet of ville's whose cap has been set to it: then both must have won the same. Where the libraries
bet differently, they must agree on what evidence there is.
"""

import math

import numpy as np
import pytest
import ville

from release_pipeline.gate.betting import (
    above_increment,
    below_increment,
    harm_increment,
    log_e_value,
    noninferiority_increment,
)

#: So strict that ville's own stakes are always beyond their cap in a stream of some tens of rows.
STRICT = 1e-300
GOOD, BAD = (1, 0), (0, 1)


@pytest.mark.parametrize("bound", [0.02, 0.1, 0.4])
@pytest.mark.parametrize(
    ("increment", "alternative"), [(above_increment, "greater"), (below_increment, "less")], ids=["above", "below"]
)
def test_every_stake_on_a_bound_wins_what_the_same_bet_wins_there(increment, alternative, bound):
    """The stake is read off what a single row wins."""
    rows = (np.random.default_rng(8).random(40) < bound).astype(int)
    ours = np.cumsum([increment((1 - row, row), bound) for row in rows], axis=0)
    won, payoff = (increment(BAD, bound), 1 - bound) if alternative == "greater" else (increment(GOOD, bound), bound)
    stakes = np.expm1(won) / payoff
    largest = bound if alternative == "greater" else 1 - bound
    assert len(stakes) == 16
    for stake, path in zip(stakes, ours.T, strict=True):
        theirs = ville.BettingTest(bound, alternative=alternative, alpha=STRICT, c=stake * largest).fit(rows)
        assert path == pytest.approx(theirs.log_e_values_, abs=1e-9)


def test_a_stake_on_a_score_wins_the_same_too():
    rng, bound, bins = np.random.default_rng(4), 0.3, 21
    rows = rng.integers(0, bins, 30)
    ours = np.cumsum([below_increment(np.eye(bins)[row], bound) for row in rows], axis=0)
    stakes = np.expm1(below_increment(np.eye(bins)[0], bound)) / bound
    for stake, path in zip(stakes, ours.T, strict=True):
        theirs = ville.BettingTest(bound, alternative="less", alpha=STRICT, c=stake * (1 - bound)).fit(rows / 20)
        assert path == pytest.approx(theirs.log_e_values_, abs=1e-9)


def test_the_e_value_is_villes_mean_of_the_capitals():
    capitals = np.random.default_rng(2).normal(0, 3, (50, 16))
    assert np.exp(log_e_value(capitals)) == pytest.approx(ville.evalues.combine(np.exp(capitals), "mean"))


def streams(rate, releases=300, rows=1_000, seed=3):
    return (np.random.default_rng(seed).random((releases, rows)) < rate).astype(int)


def our_stops(increment, bound, rows):
    """Row at which each stream's e-value first reached 20; infinite if it never did."""
    good, bad = increment(GOOD, bound), increment(BAD, bound)
    path = np.cumsum(np.where(rows[..., None] == 1, bad, good), axis=1)
    hits = log_e_value(path) >= math.log(20)
    return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1.0, np.inf)


def their_stops(alternative, bound, rows):
    stops = (ville.BettingTest(bound, alternative=alternative).fit(row).stopping_time() for row in rows)
    return np.array([np.inf if stop is None else float(stop) for stop in stops])


@pytest.mark.parametrize(
    ("increment", "alternative"), [(above_increment, "greater"), (below_increment, "less")], ids=["above", "below"]
)
def test_neither_finds_evidence_at_the_bound(increment, alternative):
    rows = streams(0.05)
    # 24 of 300 would be reached with a probability of 2 % if the rate were alpha.
    assert np.isfinite(our_stops(increment, 0.05, rows)).sum() < 24
    assert np.isfinite(their_stops(alternative, 0.05, rows)).sum() < 24


@pytest.mark.parametrize(
    ("increment", "alternative", "rate"),
    [(above_increment, "greater", 0.12), (below_increment, "less", 0.01)],
    ids=["above", "below"],
)
def test_both_find_evidence_beyond_the_bound_and_ours_is_as_quick(increment, alternative, rate):
    rows = streams(rate)
    ours, theirs = our_stops(increment, 0.05, rows), their_stops(alternative, 0.05, rows)
    assert np.isfinite(ours).mean() > 0.95
    assert np.median(ours) <= np.median(theirs)


def two_armed(champion, challenger, requests, weight, seed):
    """Outcomes and arms of a stream of requests, and its counts in blocks of 300."""
    rng = np.random.default_rng(seed)
    treated = rng.random(requests) < weight
    bad = rng.random(requests) < np.where(treated, challenger, champion)
    blocks = np.zeros((2, requests // 300, 2), dtype=int)
    np.add.at(blocks, (treated.astype(int), np.arange(requests) // 300, bad.astype(int)), 1)
    return bad.astype(float), treated.astype(float), blocks


@pytest.mark.parametrize(("challenger", "worse"), [(0.01, False), (0.06, True)], ids=["equal", "worse"])
def test_two_arms_agree_with_villes_randomised_test(challenger, worse):
    """Its interval of the difference knows the weight; ours does not need to."""
    for seed in range(4):
        bad, treated, (old, new) = two_armed(0.01, challenger, 30_000, 0.25, seed)
        theirs = ville.BettingABTest(propensity=0.25, grid=2_000).fit(bad, treated)
        low, high = theirs.interval()
        harm = log_e_value(harm_increment(old, new, 0.01).cumsum(axis=0))
        good = log_e_value(noninferiority_increment(old, new, 0.01, 0.02).cumsum(axis=0))
        assert (harm.max() >= math.log(20)) == worse
        assert (low > 0) == worse
        assert (good.max() >= math.log(20)) == (not worse)
        assert low <= challenger - 0.01 <= high
