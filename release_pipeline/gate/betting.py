"""Bets against a null hypothesis: what one block of counts adds to the log-capital of each bet.

A bet starts with capital 1 and, while its null hypothesis holds, its capital is expected not to grow. So a large
capital is evidence against the hypothesis, whenever one looks (Ville's inequality: the probability that the capital
*ever* reaches ``1 / alpha`` is at most ``alpha``). Every bet is placed with a grid of stakes, :data:`LAMBDAS`, and the
*e-value* is the mean of their capitals.

Sources: testing by betting (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", 2024)
and e-processes with Ville's inequality (Ramdas et al., "Game-theoretic statistics and safe anytime-valid inference",
2023). The paired payoff per block, which removes the unknown base rate, is this project's own; its argument is in
:func:`harm_increment`.

Values are *badness* in ``[0, 1]``: bin ``i`` of ``k`` stands for ``i / (k - 1)``, so two bins are good and bad.
Counts have shape ``(..., bins)`` and increments ``(..., 16)``; leading axes are independent blocks.
"""

import math
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

#: Stakes of every bet: 16, geometric from 0.05 (small differences) to 12 (rare, large ones).
LAMBDAS: Final[Floats] = np.geomspace(0.05, 12.0, 16)
LAMBDAS.setflags(write=False)

#: At most this share of the capital can be lost on one row.
MOST_LOST: Final = 0.9

_LOG_STAKES: Final = math.log(len(LAMBDAS))
#: Median requests over the best stake's expected number: 1.0 to 1.5 in simulations (tests/gate/test_calibration.py).
TYPICAL_OVERHEAD: Final = 1.25

#: Estimates of requests beyond this are not worth a number.
_MOST_REQUESTS: Final = 100_000_000


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
    block, any ``c``, any traffic weight. It needs rows that are independent given the counts, and both arms under the
    same conditions within the block. Each stake is clipped to :data:`MOST_LOST` over the most negative payoff that the
    block's counts make possible; outcomes play no part in it.

    Args:
        champion: Rows per value bin of the champion, shape ``(..., bins)``; need not be whole numbers.
        challenger: The same of the challenger.
        level: The champion's frozen mean badness, in (0, 1); it changes the speed only, never the validity.
        tolerance: Harm that is not counted as harm, a share in [0, 1).

    Returns:
        Log-capital increments, shape ``(..., 16)``; 0 where an arm has no rows, which says nothing.
    """
    return _paired(champion, challenger, level, tolerance, 1.0)


def noninferiority_increment(champion: ArrayLike, challenger: ArrayLike, level: float, margin: float) -> Floats:
    """What a block adds to the log-capital of "the challenger is worse by less than ``margin``".

    :func:`harm_increment` with the sign of every payoff flipped and ``d = margin``; the null hypothesis is that the
    challenger's mean is at least the champion's plus the margin. The same argument makes it valid.
    """
    return _paired(champion, challenger, level, margin, -1.0)


def above_increment(rows: ArrayLike, bound: float) -> Floats:
    """What one arm's rows add to the log-capital of "the mean is above ``bound``": payoff ``v - bound``.

    Valid because each factor ``1 + lambda (v - bound)`` has expectation at most 1 while the mean is at most the bound.
    """
    return _one_armed(rows, bound, 1.0)


def below_increment(rows: ArrayLike, bound: float) -> Floats:
    """What one arm's rows add to the log-capital of "the mean is below ``bound``": payoff ``bound - v``."""
    return _one_armed(rows, bound, -1.0)


def log_e_value(capitals: ArrayLike) -> Floats:
    """Natural logarithm of the mean capital over the stakes: ``logsumexp(capitals) - log(16)``, without overflow.

    Args:
        capitals: Log-capitals, shape ``(..., 16)``.

    Returns:
        Shape ``(...)``; 0 for a bet that has seen nothing.
    """
    logs = np.asarray(capitals, dtype=np.float64)
    top = logs.max(axis=-1, keepdims=True)
    total: Floats = np.log(np.exp(logs - top).sum(axis=-1)) + top[..., 0] - _LOG_STAKES
    return total


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


def _paired(champion: ArrayLike, challenger: ArrayLike, level: float, shift: float, sign: float) -> Floats:
    """Both two-armed bets: ``sign`` is 1 for harm and -1 for non-inferiority."""
    old, new = np.asarray(champion, dtype=np.float64), np.asarray(challenger, dtype=np.float64)
    values = bin_values(old.shape[-1])
    n_old, n_new = old.sum(axis=-1), new.sum(axis=-1)
    rho = n_new / (n_old + (n_old == 0))
    payoff_new, payoff_old = sign * (values - level - shift), sign * (level - values)
    # Payoffs are linear in the badness, so the worst is at one of its ends.
    stakes = _clipped(np.maximum(-min(payoff_new[0], payoff_new[-1]), -min(payoff_old[0], payoff_old[-1]) * rho))
    stakes *= ((n_old > 0) & (n_new > 0))[..., None]
    payoffs = np.empty((*old.shape[:-1], 2 * len(values)))
    payoffs[..., : len(values)] = rho[..., None] * payoff_old
    payoffs[..., len(values) :] = payoff_new
    return _log_gain(np.concatenate([old, new], axis=-1), stakes, payoffs)


def _one_armed(rows: ArrayLike, bound: float, sign: float) -> Floats:
    """Both bets on one arm against an absolute bound."""
    counts = np.asarray(rows, dtype=np.float64)
    payoffs = sign * (bin_values(counts.shape[-1]) - bound)
    return _log_gain(counts, _clipped(-np.minimum(payoffs[0], payoffs[-1])), payoffs)


def _clipped(most_lost: Floats) -> Floats:
    """The stakes, none of which loses more than :data:`MOST_LOST` on the worst possible row."""
    return np.minimum(LAMBDAS, MOST_LOST / np.maximum(most_lost, 1e-12)[..., None])


def _log_gain(counts: Floats, stakes: Floats, payoffs: Floats) -> Floats:
    """Sum over value bins of ``count * log(1 + stake * payoff)``, shape ``(..., 16)``."""
    gain: Floats = (np.log1p(stakes[..., None] * payoffs[..., None, :]) @ counts[..., None])[..., 0]
    return gain
