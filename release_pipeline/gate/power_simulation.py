"""How long a bet takes to reach its goal: many releases at once, on simulated traffic, with fixed seeds.

The bets are those of :mod:`release_pipeline.gate.betting`; nothing about the rule is approximated. Traffic is: arrivals
are Poisson, rows are independent, and every value is 0 or 1, which at a given mean varies most, so scores in between
need fewer rows than are said here. The further a release has come, the more blocks are bet as one (5 % of what has
been seen), which keeps a race of a million blocks to a few hundred steps; where in such a step the goal was reached is
interpolated.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from release_pipeline.gate.betting import LAMBDAS, Floats, log_e_value

#: Releases per race: a median is known to about 4 %, a 90th percentile to about 6 %.
RELEASES: Final = 320
_GROWTH: Final = 0.05
_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class Leg:
    """Traffic that stays the same: rows that are bet per block, and how many blocks of it there are."""

    champion_rows: float
    challenger_rows: float
    blocks: float


@dataclass(frozen=True, slots=True)
class Race:
    """One bet, and what is true while it runs."""

    bet: Callable[[Floats, Floats], Floats]
    """Counts of champion and challenger, shape ``(..., bins)``, to increments of the log-capitals."""
    bins: int
    champion: float
    """True mean badness of the champion."""
    challenger: float
    """True mean badness of the challenger."""
    goal: float
    """Log e-value at which the race ends."""
    legs: Sequence[Leg]
    on_grid: bool
    """Blocks are buckets of a fixed grid of time, in the middle of one of which the release begins."""


def blocks_until(race: Race, seed: Sequence[int]) -> Floats:
    """Blocks of time until the e-value reached the goal, per release; ``inf`` where it did not within all legs.

    Args:
        race: The bet and the traffic.
        seed: Equal seeds give equal answers.
    """
    rng = np.random.default_rng(list(seed))
    ended = np.full(RELEASES, np.inf)
    running = np.arange(RELEASES)
    begun = rng.random(RELEASES) if race.on_grid else np.zeros(RELEASES)
    capital, passed = np.zeros((RELEASES, len(LAMBDAS))), 0
    for number, leg in enumerate(race.legs):
        for sizes in _sizes(leg.blocks):
            weights = np.repeat(sizes[None, :].astype(float), len(running), axis=0)
            if number == 0 and passed == 0:
                weights[:, 0] -= begun[running]
            old = _counts(rng, leg.champion_rows * weights, race.champion, race.bins)
            new = _counts(rng, leg.challenger_rows * weights, race.challenger, race.bins)
            path = capital[:, None] + race.bet(old, new).cumsum(axis=1)
            evidence = np.column_stack([log_e_value(capital), log_e_value(path)])
            hit = evidence[:, 1:] >= race.goal
            there = hit.any(axis=1)
            step = hit.argmax(axis=1)[there]
            before, after = evidence[there, step], evidence[there, step + 1]
            part = np.ceil(sizes[step] * (race.goal - before) / (after - before))
            ended[running[there]] = passed + (sizes.cumsum() - sizes)[step] + part - begun[running[there]]
            running, capital = running[~there], path[~there, -1]
            passed += int(sizes.sum())
            if not len(running):
                return ended
    return ended


def quantile(values: Floats, share: float) -> float:
    """A quantile that may be infinite."""
    return float(np.quantile(values, share, method="higher"))


def _sizes(blocks: float) -> Iterator[np.ndarray]:
    """How many blocks are bet as one, some steps at a time, until ``blocks`` are used up."""
    done, most = 0, math.floor(blocks)
    while done < most:
        sizes: list[int] = []
        while len(sizes) < _AT_ONCE and done < most:
            sizes.append(min(max(1, int(_GROWTH * done)), most - done))
            done += sizes[-1]
        yield np.array(sizes)


def _counts(rng: np.random.Generator, rows: Floats, mean: float, bins: int) -> Floats:
    seen = rng.poisson(rows)
    bad = rng.binomial(seen, mean)
    counts = np.zeros((*seen.shape, bins))
    counts[..., 0], counts[..., -1] = seen - bad, bad
    return counts
