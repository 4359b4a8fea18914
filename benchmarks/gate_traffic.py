"""Simulated releases: counts per look of both arms, and when a rule first decides something on them.

Traffic is Poisson. Splitting it by arm and by value gives independent Poisson counts, so a look is one draw per arm and
value bin. All rules of a cell see the same counts.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Bools = NDArray[np.bool_]

#: A rate, a row of bin probabilities or a traffic weight at each of the given looks.
Course = Callable[[Counts], Floats]

#: Rows that reach both arms between two looks: 10 requests a second, a look every 30 seconds.
ROWS_PER_LOOK = 300.0

#: Small enough that what belongs to a batch stays in the processor's cache.
_BATCH, _CHUNK = 250, 32


class Rule(Protocol):
    """A rule that watches a batch of releases."""

    def hits(self, champion: Counts, challenger: Counts) -> Bools:
        """Where the rule decides, shape (releases, looks), given the next looks' counts (releases, looks, bins)."""
        ...


@dataclass(frozen=True)
class Traffic:
    """What both arms send: bin probabilities of shape (looks, bins), the challenger's weight, rows per look."""

    looks: int
    champion: Course
    challenger: Course
    weight: Course
    rows: float = ROWS_PER_LOOK

    def chunks(self, releases: int, rng: np.random.Generator) -> Iterator[tuple[Counts, Counts]]:
        """Counts of both arms, each of shape (releases, some looks, bins), until the last look."""
        for start in range(0, self.looks, _CHUNK):
            look = np.arange(start, min(start + _CHUNK, self.looks))
            weight = self.weight(look)[:, None]
            old = self.rows * (1 - weight) * self.champion(look)
            new = self.rows * weight * self.challenger(look)
            yield rng.poisson(old, (releases, *old.shape)), rng.poisson(new, (releases, *new.shape))


@dataclass(frozen=True)
class Firsts:
    """When a rule first decided, per release; infinite where it never did."""

    look: Floats
    """Number of the look, from 1."""
    requests: Floats
    """Challenger requests up to and with that look."""

    @property
    def decided(self) -> int:
        """Releases in which it did."""
        return int(np.isfinite(self.look).sum())

    def decided_by(self, look: int) -> int:
        """Releases in which it did at this look or before."""
        return int((self.look <= look).sum())


def watch(traffic: Traffic, rules: Mapping[str, Callable[[int], Rule]], releases: int, seed: int) -> dict[str, Firsts]:
    """Every rule on the same simulated releases.

    Args:
        traffic: What is simulated.
        rules: By name, what makes the rule for a number of releases.
        releases: How many are simulated.
        seed: Of the random numbers; each batch of releases has its own stream.
    """
    parts: dict[str, list[tuple[Floats, Floats]]] = {name: [] for name in rules}
    for batch, start in enumerate(range(0, releases, _BATCH)):
        size = min(_BATCH, releases - start)
        rng = np.random.default_rng([seed, batch])
        watchers = {name: make(size) for name, make in rules.items()}
        firsts = {name: (np.full(size, np.inf), np.full(size, np.inf)) for name in rules}
        looked, sent = 0, np.zeros((size, 1))
        for champion, challenger in traffic.chunks(size, rng):
            requests = sent + challenger.sum(axis=-1).cumsum(axis=1)
            for name, rule in watchers.items():
                if np.isfinite(firsts[name][0]).all():
                    continue
                _note(rule.hits(champion, challenger), looked, requests, *firsts[name])
            looked, sent = looked + champion.shape[1], requests[:, -1:]
            if all(np.isfinite(look).all() for look, _ in firsts.values()):
                break
        for name, pair in firsts.items():
            parts[name].append(pair)
    return {
        name: Firsts(np.concatenate([look for look, _ in pairs]), np.concatenate([sent for _, sent in pairs]))
        for name, pairs in parts.items()
    }


def _note(hits: Bools, looked: int, requests: Floats, look: Floats, sent: Floats) -> None:
    """Write the first hit of each release that had none before."""
    new = hits.any(axis=1) & np.isinf(look)
    at = hits.argmax(axis=1)[new]
    look[new], sent[new] = looked + at + 1, requests[new, at]


def bad(share: float) -> Course:
    """Good and bad rows, the same share of bad ones at every look."""
    return always([1 - share, share])


def always(values: ArrayLike) -> Course:
    """The same at every look."""
    fixed = np.asarray(values, dtype=np.float64)
    return lambda look: np.broadcast_to(fixed, (len(look), *fixed.shape))


def in_turn(values: ArrayLike, looks: int) -> Course:
    """One value after the other, each for the same part of the looks."""
    each = np.asarray(values, dtype=np.float64)
    return lambda look: each[np.minimum(look * len(each) // looks, len(each) - 1)]


def there_and_back(low: float, high: float, looks: int) -> Course:
    """Good and bad, the bad rising from low to high and falling back."""

    def course(look: Counts) -> Floats:
        bad = low + (high - low) * np.sin(np.pi * look / looks)
        return np.stack([1 - bad, bad], axis=-1)

    return course


def scores(mean: float, concentration: float, bins: int = 21) -> Floats:
    """Probabilities of the bins of a badness with a beta distribution, from a fine grid of it."""
    a, b = mean * concentration, (1 - mean) * concentration
    x = (np.arange(200_000) + 0.5) / 200_000
    density = x ** (a - 1) * (1 - x) ** (b - 1)
    share = np.bincount(np.rint(x * (bins - 1)).astype(int), weights=density, minlength=bins)
    probabilities: Floats = share / share.sum()
    return probabilities
