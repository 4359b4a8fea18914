"""One block: the formulas against row-by-row arithmetic, and fairness by counting every outcome there is."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from release_pipeline.gate.betting import (
    LAMBDAS,
    above_increment,
    below_increment,
    bin_values,
    harm_increment,
    log_e_value,
    noninferiority_increment,
    requests_left,
)

pairs = st.integers(2, 6).flatmap(
    lambda bins: st.tuples(*[st.lists(st.integers(0, 40), min_size=bins, max_size=bins)] * 2)
)
levels = st.floats(0.001, 0.999)
shares = st.floats(0.0, 0.5)

unhurried = settings(deadline=None, max_examples=60)


def by_rows(champion, challenger, level, shift, sign):
    """The sum over rows, one logarithm at a time, with stakes worked out anew."""
    n_old, n_new, bins = sum(champion), sum(challenger), len(champion)
    rho = n_new / n_old
    values = [i / (bins - 1) for i in range(bins)]
    new = [sign * (v - level - shift) for v in values]
    old = [-sign * (v - level) * rho for v in values]
    variances = []
    for mean in (level, min(level + shift, 0.999)):
        variances.append(mean * (1 - mean) / (1 if bins == 2 else 4))
    effect = shift if sign < 0 and shift > 0 else 0.18 * math.sqrt(variances[0])
    sums = []
    for stake in LAMBDAS:
        used = min(stake * effect / (variances[1] + rho * variances[0]), 0.9 / -min(*new, *old))
        rows = [p for p, n in zip(new, challenger, strict=True) for _ in range(n)]
        rows += [p for p, n in zip(old, champion, strict=True) for _ in range(n)]
        sums.append(math.fsum(math.log(1 + used * payoff) for payoff in rows))
    return sums


@unhurried
@given(pairs, levels, shares)
def test_increments_are_the_sum_over_rows(both, level, shift):
    champion, challenger = both
    if not sum(champion) or not sum(challenger):
        assert not harm_increment(champion, challenger, level, shift).any()
        assert not noninferiority_increment(champion, challenger, level, shift).any()
        return
    assert harm_increment(champion, challenger, level, shift) == pytest.approx(
        by_rows(champion, challenger, level, shift, 1), abs=1e-9
    )
    assert noninferiority_increment(champion, challenger, level, shift) == pytest.approx(
        by_rows(champion, challenger, level, shift, -1), abs=1e-9
    )


def binomial(k: int, n: int, p: float) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


def expected_factor(increment, n_old, n_new, p_old, p_new):
    """Exact expectation of the capital's factor in a block, stake by stake, over all outcomes."""
    total = np.zeros(len(LAMBDAS))
    for bad_old, bad_new in product(range(n_old + 1), range(n_new + 1)):
        weight = binomial(bad_old, n_old, p_old) * binomial(bad_new, n_new, p_new)
        total += weight * np.exp(increment((n_old - bad_old, bad_old), (n_new - bad_new, bad_new)))
    return total


@unhurried
@given(st.integers(1, 8), st.integers(1, 8), levels, st.floats(0, 1), st.floats(0, 0.3))
def test_no_stake_is_expected_to_gain_while_the_null_hypothesis_holds(n_old, n_new, level, p_old, shift):
    worst_still_equal = min(1.0, p_old + shift)
    harm = expected_factor(
        lambda old, new: harm_increment(old, new, level, shift), n_old, n_new, p_old, worst_still_equal
    )
    assert (harm <= 1 + 1e-9).all()
    if p_old + shift <= 1:
        good = expected_factor(
            lambda old, new: noninferiority_increment(old, new, level, shift), n_old, n_new, p_old, p_old + shift
        )
        assert (good <= 1 + 1e-9).all()


def test_some_stake_is_expected_to_gain_when_it_does_not_hold():
    harm = expected_factor(lambda old, new: harm_increment(old, new, 0.1), 12, 6, 0.1, 0.5)
    good = expected_factor(lambda old, new: noninferiority_increment(old, new, 0.1, 0.2), 12, 6, 0.1, 0.1)
    assert harm.max() > 1.5
    assert good.max() > 1.1


@unhurried
@given(st.integers(1, 12), st.floats(0.01, 0.99), st.floats(0, 1))
def test_bets_on_a_bound_are_fair_at_the_bound_and_beyond(n, bound, beyond):
    def expected(increment, p):
        return sum(binomial(bad, n, p) * np.exp(increment((n - bad, bad), bound)) for bad in range(n + 1))

    assert (expected(above_increment, bound * (1 - beyond)) <= 1 + 1e-9).all()
    assert (expected(below_increment, bound + (1 - bound) * beyond) <= 1 + 1e-9).all()
    assert expected(above_increment, min(1.0, bound + 0.3)).max() > 1
    assert expected(below_increment, max(0.0, bound - 0.3)).max() > 1


@unhurried
@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n))), levels)
def test_with_arms_of_equal_size_relabelling_turns_harm_into_noninferiority(sizes, level):
    n, bad_a, bad_b = sizes
    a, b = (n - bad_a, bad_a), (n - bad_b, bad_b)
    assert harm_increment(a, b, level, 0.0) == pytest.approx(noninferiority_increment(b, a, level, 0.0), abs=1e-9)


@unhurried
@given(pairs, levels)
def test_calling_good_bad_turns_harm_into_noninferiority(both, level):
    champion, challenger = both
    mirrored = noninferiority_increment(champion[::-1], challenger[::-1], 1 - level, 0.0)
    assert harm_increment(champion, challenger, level, 0.0) == pytest.approx(mirrored, abs=1e-6)


@pytest.mark.parametrize("rho_rows", [(1, 500), (500, 1), (20, 20)])
def test_one_row_never_costs_more_than_nine_tenths(rho_rows):
    n_old, n_new = rho_rows
    for increment in (harm_increment, noninferiority_increment):
        for bad_old, bad_new in ((n_old, 0), (0, n_new)):
            lost = increment((n_old - bad_old, bad_old), (n_new - bad_new, bad_new), 0.02, 0.01)
            assert np.isfinite(lost).all()
            assert lost.min() >= (n_old + n_new) * math.log(0.1) - 1e-9


@pytest.mark.parametrize("bins", [2, 5, 21])
def test_a_block_by_itself_is_what_it_is_in_a_stack(bins):
    rng = np.random.default_rng(3)
    old, new = rng.poisson(30, (50, bins)), rng.poisson(2, (50, bins))
    old[0] = new[1] = 0
    for increment in (harm_increment, noninferiority_increment):
        stacked = increment(old, new, 0.07, 0.02)
        for block in range(50):
            as_arrays = increment(old[block], new[block], 0.07, 0.02)
            as_tuples = increment(tuple(old[block].tolist()), tuple(new[block].tolist()), 0.07, 0.02)
            assert as_arrays.tolist() == as_tuples.tolist()  # to the last bit
            assert stacked[block] == pytest.approx(as_tuples, abs=1e-12)


def test_leading_axes_are_independent_blocks():
    champion, challenger = (
        np.array([[[90, 10], [50, 0]], [[7, 1], [0, 0]]]),
        np.array([[[5, 5], [9, 1]], [[1, 0], [4, 4]]]),
    )
    together = harm_increment(champion, challenger, 0.05, 0.01)
    assert together.shape == (2, 2, 16)
    for i, j in product(range(2), range(2)):
        alone = harm_increment(champion[i, j], challenger[i, j], 0.05, 0.01)
        assert together[i, j] == pytest.approx(alone)


@pytest.mark.parametrize("increment", [harm_increment, noninferiority_increment])
def test_a_stack_of_scores_that_fill_few_bins_is_what_its_blocks_are(increment):
    rng = np.random.default_rng(3)
    old, new = np.zeros((50, 21)), np.zeros((50, 21))
    old[:, [0, 7, 20]], new[:, [0, 20]] = rng.poisson(30, (50, 3)), rng.poisson(5, (50, 2))
    stacked = increment(old, new, 0.1, 0.05)
    for block in range(50):
        assert stacked[block] == pytest.approx(increment(old[block], new[block], 0.1, 0.05), abs=1e-12)


def test_the_grid_is_what_is_documented():
    assert len(LAMBDAS) == 16
    assert LAMBDAS[[0, -1]] == pytest.approx([0.164, 6.1], rel=0.005)
    assert pytest.approx(1.0) == LAMBDAS * LAMBDAS[::-1]  # as dense below 1 as above


def test_e_value_is_the_mean_capital_and_does_not_overflow():
    capitals = np.log(np.arange(1, 17))
    assert math.exp(log_e_value(capitals)) == pytest.approx(8.5)
    assert log_e_value(np.zeros(16)) == pytest.approx(0.0, abs=1e-15)
    assert log_e_value(np.full(16, 5000.0)) == pytest.approx(5000.0)
    assert log_e_value(np.full(16, -5000.0)) == pytest.approx(-5000.0)


def test_requests_left_falls_as_evidence_grows_and_knows_its_ends():
    growth = noninferiority_increment([19 * 0.99, 19 * 0.01], [0.99, 0.01], 0.01, 0.02)
    target = math.log(20)
    lefts = [requests_left(n * growth, growth, target) for n in (0, 200, 400, 600)]
    assert all(left is not None for left in lefts)
    assert lefts == sorted(lefts, reverse=True)
    assert 325 < lefts[0] < 450
    assert requests_left(np.full(16, 4.0), growth, target) == 0
    assert requests_left(np.zeros(16), np.full(16, -0.1), target) is None
    assert requests_left(np.zeros(16), np.full(16, 1e-12), target) is None
    behind = np.array([0.0] * 8 + [-50.0] * 8)
    assert requests_left(behind, growth, target) > lefts[0]


def test_a_metric_needs_two_bins():
    assert bin_values(5).tolist() == [0, 0.25, 0.5, 0.75, 1]
    with pytest.raises(ValueError, match="at least 2"):
        bin_values(1)
