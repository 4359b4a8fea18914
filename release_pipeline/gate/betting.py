"""Bets against a null hypothesis: what one block of counts adds to the log-capital of each bet.

A bet starts with capital 1 and, while its null hypothesis holds, its capital is expected not to grow. So a large
capital is evidence against the hypothesis, whenever one looks (Ville's inequality: the probability that the capital
*ever* reaches ``1 / alpha`` is at most ``alpha``). Every bet is placed with a grid of stakes, and the *e-value* is the
mean of their capitals.

A stake is :data:`LAMBDAS` times the bet's *unit*, ``effect / variance``: about the best stake against the difference
that the bet looks for, as far as that is known before the rows. Stakes lie densely around it and reach far to both
sides. They depend on frozen figures and on the block's counts, never on its outcomes, so no choice of them can make a
bet unfair; a good one makes it quicker.

Sources: testing by betting (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", 2024)
and e-processes with Ville's inequality (Ramdas et al., "Game-theoretic statistics and safe anytime-valid inference",
2023). The paired payoff per block, which removes the unknown base rate, is this project's own; its argument is in
:func:`harm_increment`.

Values are *badness* in ``[0, 1]``: bin ``i`` of ``k`` stands for ``i / (k - 1)``, so two bins are good and bad.
Counts have shape ``(..., bins)`` and increments ``(..., 16)``; leading axes are independent blocks. One block by
itself takes a quicker way, whose last digits may differ from those of the same block in a stack.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

#: Stakes of every bet, in its units: 16 quantiles of a hyperbolic secant distribution of log(stake), 0.16 to 6.1.
LAMBDAS: Final[Floats] = np.tan(np.pi * (np.arange(16) + 0.5) / 32) ** 0.6
LAMBDAS.setflags(write=False)

#: The harm that is looked for first, in standard deviations of one row. At a base rate of 1 % that is 1.8 points.
TYPICAL_HARM: Final = 0.18

#: At most this share of the capital can be lost on one row.
MOST_LOST: Final = 0.9

#: A score varies less than a yes or no of the same mean; a quarter of the variance is assumed.
_SCORE_VARIANCE: Final = 0.25
#: Means nearer to 0 or 1 than this are not believed when a variance is worked out from them.
_EDGE: Final = 0.001

#: Median requests over the best stake's expected number: 0.9 to 1.3 in simulations (tests/gate/test_calibration.py).
TYPICAL_OVERHEAD: Final = 1.1

#: Estimates of requests beyond this are not worth a number.
_MOST_REQUESTS: Final = 100_000_000

#: Keeps a stake finite where nothing can be lost.
_LEAST_LOST: Final = 1e-12
_LARGEST: Final = 700.0
_LOG_STAKES: Final = math.log(len(LAMBDAS))
_COLUMN: Final[Floats] = LAMBDAS[:, None]
_LARGEST_STAKE: Final = float(LAMBDAS[-1])


class _Odds(NamedTuple):
    """What a two-armed bet fixes before it sees a row."""

    old: Floats
    """Payoff of each of the champion's value bins, before its factor rho."""
    new: Floats
    """Payoff of each of the challenger's."""
    both: Floats
    """Both of them, the champion's first."""
    worst_old: float
    """What a stake of 1 loses on the worst champion row, before the factor rho."""
    worst_new: float
    """What it loses on the worst challenger row."""
    effect: float
    """The difference that is looked for."""
    variance_old: float
    """Of a champion row at its frozen level."""
    variance_new: float
    """Of a challenger row at the edge of the null hypothesis."""


@cache
def bin_values(bins: int) -> Floats:
    """Badness of each of ``bins`` value bins, evenly from 0 to 1.

    Raises:
        ValueError: There are fewer than two bins.
    """
    if bins < 2:
        raise ValueError(f"counts have {bins} value bins; a metric needs at least 2 (good and bad)")
    values = np.linspace(0.0, 1.0, bins)
    values.setflags(write=False)
    return values


def harm_increment(champion: ArrayLike, challenger: ArrayLike, level: float, tolerance: float = 0.0) -> Floats:
    """What a block adds to the log-capital of "the challenger is worse by more than ``tolerance``".

    With ``n1`` challenger and ``n0`` champion rows, ``rho = n1 / n0`` as realised, ``c = level``, ``d = tolerance``::

        sum over challenger rows of log(1 + lambda (v - c - d)) + sum over champion rows of log(1 - lambda (v - c) rho)

    Valid because, if the challenger's mean is at most the champion's mean ``mu0`` plus ``d``, then with ``x = mu0 - c``
    and given the counts the expected capital is multiplied by at most
    ``(1 + lambda x)^n1 (1 - lambda rho x)^n0 <= exp(lambda x n1 - lambda rho x n0) = 1``: for any base rate in any
    block, any ``c``, any traffic weight, and any ``lambda`` that outcomes of this block play no part in. It needs rows
    that are independent given the counts, and both arms under the same conditions within the block.

    The unit of the stakes looks for a harm of :data:`TYPICAL_HARM` standard deviations. Each stake is clipped to
    :data:`MOST_LOST` over the most negative payoff that the block's counts make possible.

    Args:
        champion: Rows per value bin of the champion, shape ``(..., bins)``; need not be whole numbers.
        challenger: The same of the challenger.
        level: The champion's frozen mean badness, in (0, 1); it changes the speed only, never the validity.
        tolerance: Harm that is not counted as harm, a share in [0, 1).

    Returns:
        Log-capital increments, shape ``(..., 16)``; 0 where an arm has no rows, which says nothing.
    """
    return _paired(champion, challenger, level, tolerance, 1.0)


@lru_cache(maxsize=4096)
def kept(increment: Callable[..., Floats], *arguments: tuple[int, ...] | float) -> tuple[float, ...]:
    """An increment of whole-number counts, kept: where what is bad is rare, the same blocks come again and again."""
    return tuple(increment(*arguments).tolist())


def noninferiority_increment(champion: ArrayLike, challenger: ArrayLike, level: float, margin: float) -> Floats:
    """What a block adds to the log-capital of "the challenger is worse by less than ``margin``".

    :func:`harm_increment` with the sign of every payoff flipped and ``d = margin``; the null hypothesis is that the
    challenger's mean is at least the champion's plus the margin. The same argument makes it valid. The unit of the
    stakes looks for an equal challenger, which is ``margin`` away from the null hypothesis.
    """
    return _paired(champion, challenger, level, margin, -1.0)


def above_increment(rows: ArrayLike, bound: float, believed: float | None = None) -> Floats:
    """What one arm's rows add to the log-capital of "the mean is above ``bound``": payoff ``v - bound``.

    Valid because each factor ``1 + lambda (v - bound)`` has expectation at most 1 while the mean is at most the bound.
    The unit of the stakes looks for a mean that is :data:`TYPICAL_HARM` standard deviations above the bound.

    Args:
        rows: Rows per value bin, shape ``(..., bins)``; need not be whole numbers. Increments of a bound add up, so
            those of several blocks are those of all their rows.
        bound: The bound, in (0, 1).
        believed: Mean that the stakes are sized for where the bound is an estimate that may change: with equal stakes
            every increment falls as the bound rises, so an estimate that is too high only makes the bet slower.
    """
    return _one_armed(rows, bound, 1.0, believed)


def below_increment(rows: ArrayLike, bound: float) -> Floats:
    """What one arm's rows add to the log-capital of "the mean is below ``bound``": payoff ``bound - v``.

    The unit of the stakes looks for a mean of half the bound.
    """
    return _one_armed(rows, bound, -1.0)


def log_e_value(capitals: ArrayLike) -> Floats:
    """Natural logarithm of the mean capital over the stakes: ``logsumexp(capitals) - log(16)``, without overflow.

    Args:
        capitals: Log-capitals, shape ``(..., 16)``.

    Returns:
        Shape ``(...)``; 0 for a bet that has seen nothing.
    """
    logs = np.asarray(capitals, dtype=np.float64)
    top = logs.max(axis=-1)
    total: Floats = np.log(np.exp(logs - top[..., None]).sum(axis=-1)) + (top - _LOG_STAKES)
    return total


def e_value(capitals: Sequence[float]) -> float:
    """The mean capital over the stakes of one bet, at most e^700, which a float still holds.

    Args:
        capitals: Log-capitals of its stakes, 16 of them.
    """
    top = max(capitals)
    return math.exp(min(_LARGEST, top - _LOG_STAKES + math.log(sum([math.exp(each - top) for each in capitals]))))


def requests_left(capitals: ArrayLike, per_request: ArrayLike, target: float) -> int | None:
    """About how many more requests bring the log e-value to ``target``, if each adds what is expected of it.

    The best stake's way to the target, times :data:`TYPICAL_OVERHEAD`: about the median, so half of all releases need
    more.

    Args:
        capitals: Log-capitals now, shape ``(16,)``.
        per_request: Expected increment of one challenger request with its share of champion requests, shape ``(16,)``.
        target: Log e-value to reach, such as ``log(1 / alpha)``.

    Returns:
        A number of requests, 0 if the target is reached, or None if it stays out of reach.
    """
    now, growth = np.asarray(capitals, dtype=np.float64), np.asarray(per_request, dtype=np.float64)
    missing = target - float(log_e_value(now))
    if missing <= 0:
        return 0
    gains = growth > 0
    if not gains.any():
        return None
    # A mean that small stakes hold up still needs a stake that has lost to catch up.
    requests = max(missing / float(growth.max()), float(((target - now[gains]) / growth[gains]).min()))
    return None if requests > _MOST_REQUESTS else math.ceil(TYPICAL_OVERHEAD * requests)


@lru_cache(maxsize=1024)
def _odds(bins: int, level: float, shift: float, sign: float) -> _Odds:
    """The odds of a two-armed bet: ``sign`` is 1 for harm and -1 for non-inferiority, ``shift`` what is tolerated."""
    values = bin_values(bins)
    old, new = sign * (level - values), sign * (values - level - shift)
    # Payoffs are linear in the badness, so the worst is at one of its ends.
    worst_old, worst_new = float(-min(old[0], old[-1])), float(-min(new[0], new[-1]))
    variance_old, variance_new = _variance(level, bins), _variance(level + shift, bins)
    # A margin of 0 asks for proof of being better, by as much as harm would be worse.
    equal_is_looked_for = sign < 0 < shift
    effect = shift if equal_is_looked_for else TYPICAL_HARM * math.sqrt(variance_old)
    return _Odds(old, new, np.concatenate((old, new)), worst_old, worst_new, effect, variance_old, variance_new)


def _variance(mean: float, bins: int) -> float:
    """Of one row of this mean badness: known for a yes or no, assumed for a score."""
    believed = min(max(mean, _EDGE), 1 - _EDGE)
    return believed * (1 - believed) * (1.0 if bins == 2 else _SCORE_VARIANCE)


def _paired(champion: ArrayLike, challenger: ArrayLike, level: float, shift: float, sign: float) -> Floats:
    """Both two-armed bets: ``sign`` is 1 for harm and -1 for non-inferiority."""
    if isinstance(champion, tuple) and isinstance(challenger, tuple):
        return _paired_block(champion, challenger, level, shift, sign)
    old, new = np.asarray(champion, dtype=np.float64), np.asarray(challenger, dtype=np.float64)
    if old.ndim == new.ndim == 1:
        return _paired_block(tuple(old.tolist()), tuple(new.tolist()), level, shift, sign)
    odds = _odds(old.shape[-1], level, shift, sign)
    n_old, n_new = old.sum(axis=-1), new.sum(axis=-1)
    rho = n_new / (n_old + (n_old == 0))
    unit = odds.effect / (odds.variance_new + rho * odds.variance_old)
    stakes = _clipped(unit, np.maximum(odds.worst_new, odds.worst_old * rho))
    stakes *= ((n_old > 0) & (n_new > 0))[..., None]
    return _log_gain(old, stakes * rho[..., None], odds.old) + _log_gain(new, stakes, odds.new)


def _paired_block(old: tuple[float, ...], new: tuple[float, ...], level: float, shift: float, sign: float) -> Floats:
    """:func:`_paired` for one block, with a quarter of the calls: a tick of the gate is many of these."""
    n_old, n_new, bins = sum(old), sum(new), len(old)
    if not n_old or not n_new:
        return np.zeros(len(LAMBDAS))
    odds = _odds(bins, level, shift, sign)
    rho = n_new / n_old
    unit = odds.effect / (odds.variance_new + rho * odds.variance_old)
    most = MOST_LOST / max(odds.worst_new, odds.worst_old * rho, _LEAST_LOST)
    payoffs = odds.both.copy()
    payoffs[:bins] *= rho
    stakes = _COLUMN * unit
    if _LARGEST_STAKE * unit > most:
        np.minimum(stakes, most, out=stakes)
    gains = stakes * payoffs
    total: Floats = np.log1p(gains, out=gains).dot(np.array(old + new, dtype=np.float64))
    return total


def _one_armed(rows: ArrayLike, bound: float, sign: float, believed: float | None = None) -> Floats:
    """Both bets on one arm against an absolute bound."""
    counts = np.asarray(rows, dtype=np.float64)
    bins = counts.shape[-1]
    payoffs = sign * (bin_values(bins) - bound)
    variance = _variance(bound if believed is None else believed, bins)
    effect = TYPICAL_HARM * math.sqrt(variance) if sign > 0 else bound / 2
    return _log_gain(counts, _clipped(np.asarray(effect / variance), -np.minimum(payoffs[0], payoffs[-1])), payoffs)


def _clipped(unit: Floats, most_lost: Floats) -> Floats:
    """The stakes, shape ``(..., 16)``, none of which loses more than :data:`MOST_LOST` on the worst possible row."""
    most: Floats = MOST_LOST / np.maximum(most_lost, _LEAST_LOST)
    return np.minimum(LAMBDAS * unit[..., None], most[..., None])


def _log_gain(counts: Floats, stakes: Floats, payoffs: Floats) -> Floats:
    """Sum over value bins of ``count * log(1 + stake * payoff)``, shape ``(..., 16)``."""
    if counts.ndim > 1:
        # A stack is never live evidence, whose last bit must stay; simulated scores fill 2 of 21 bins.
        seen = counts.any(axis=tuple(range(counts.ndim - 1)))
        counts, payoffs = counts[..., seen], payoffs[seen]
    gain: Floats = (np.log1p(stakes[..., None] * payoffs) @ counts[..., None])[..., 0]
    return gain
