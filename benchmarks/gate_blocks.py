"""The block rule of `release_pipeline.gate.evidence` over many releases at once, and rows that are logged late.

Here a slice of an ingest holds one array per arm with a row per release, where `EvidenceState` holds one release.
tests/gate/test_calibration.py shows that both give the same capitals.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from benchmarks.gate_rules import LIMIT
from benchmarks.gate_traffic import Bools, Floats, Rule
from release_pipeline.gate.betting import LAMBDAS, log_e_value
from release_pipeline.gate.evidence import GIVE_UP_AFTER_BUCKETS
from release_pipeline.gate.observations import slice_seconds

#: Ramp step and start of a slice or bucket of event time, seconds.
Key = tuple[int, float]
#: Counts of both arms, shape (2, releases, bins): the champion first.
Arms = Floats

SLOT_SECONDS: Final = 30


@dataclass
class _Open:
    arms: Arms
    opened: Floats
    """Watermark at which a release put its first row in; infinite where it has none."""


class Blocks:
    """Open slices and log-capitals of one bet in many releases."""

    def __init__(
        self,
        releases: int,
        bet: Callable[[Floats, Floats], Floats],
        bucket: float,
        least: int,
        *,
        whole: bool = False,
        eager: bool = False,
        by_champion: bool = False,
    ) -> None:
        """A block closes at `least` rows of both arms: those of complete slices, or of a `whole` bucket that is over.

        `eager` is a wrong rule: it closes blocks as rows come, complete or not, and late ones make blocks of their own.
        `by_champion` is another: it closes by the champion's rows alone.
        """
        self._releases, self._bet, self._bucket, self._least = releases, bet, bucket, least
        self._whole, self._eager, self._part = whole, eager, slice_seconds(bucket)
        self._patience = (1 + GIVE_UP_AFTER_BUCKETS) * bucket
        self._counted = slice(0, 1) if by_champion else slice(0, 2)
        self._open: dict[Key, _Open] = {}
        self._closed: dict[Key, Floats] = {}
        self._capitals: dict[int, Floats] = {}
        self._before = -np.inf

    def ingest(self, fresh: dict[Key, Arms], watermark: float) -> None:
        """What `EvidenceState.add` does with the observations of one metric."""
        for key, arms in fresh.items():
            bucket = self._bucket_of(key)
            block = self._open.setdefault(key, _Open(np.zeros_like(arms), np.full(self._releases, np.inf)))
            until = self._closed.setdefault(bucket, np.full(self._releases, -np.inf))
            in_time = (bucket[1] > self._before - self._patience) & (key[1] >= until)
            taken = np.where((in_time | np.isfinite(block.opened) | self._eager)[None, :, None], arms, 0)
            block.opened[np.isinf(block.opened) & (taken.sum(axis=(0, 2)) > 0)] = watermark
            block.arms += taken
        complete: dict[Key, list[Key]] = {}
        for key in self._open:
            bucket = self._bucket_of(key)
            end = bucket[1] + self._bucket if self._whole else key[1] + self._part
            if self._eager or watermark >= end:
                complete.setdefault(bucket, []).append(key)
        for bucket in sorted(complete):
            self._close(bucket, [self._open[key] for key in complete[bucket]], watermark)
        self._open = {key: block for key, block in self._open.items() if np.isfinite(block.opened).any()}
        self._closed = {key: until for key, until in self._closed.items() if key[1] > watermark - self._patience}
        self._before = watermark

    def _close(self, bucket: Key, blocks: list[_Open], watermark: float) -> None:
        step, start = bucket
        arms = np.sum([block.arms for block in blocks], axis=0)
        opened = np.min([block.opened for block in blocks], axis=0)
        closes = arms[self._counted].sum(axis=(0, 2)) >= self._least
        if closes.any():
            capital = self._capitals.setdefault(step, np.zeros((self._releases, len(LAMBDAS))))
            capital[closes] += self._bet(arms[0, closes], arms[1, closes])
        over = closes | (watermark >= np.maximum(start, opened - self._bucket) + self._patience)
        for block in blocks:
            block.arms[:, over], block.opened[over] = 0, np.inf
        if bucket in self._closed:
            self._closed[bucket][over] = min(start + self._bucket, watermark // self._part * self._part)

    def _bucket_of(self, key: Key) -> Key:
        return key[0], key[1] // self._bucket * self._bucket

    def carried(self) -> Floats:
        """Log-capitals over all steps, shape (releases, 16)."""
        total = np.zeros((self._releases, len(LAMBDAS)))
        for step in sorted(self._capitals):
            total += self._capitals[step]
        return total


@dataclass(frozen=True)
class Lateness:
    """Releases whose rows reach the table some time after their request, which depends on the outcome."""

    champion: float
    """Share of bad rows."""
    challenger: float
    weights: tuple[float, ...]
    """True share of the challenger per step, before the swing."""
    step_slots: int
    """Length of a step, in slots of 30 s."""
    delays: tuple[tuple[int, int], tuple[int, int]]
    """Slots until a good and a bad row are logged, of the champion and of the challenger."""
    swing_slots: int = 0
    """The weight swings from 0.6 to 1.6 times itself and back in this many slots; 0 leaves it alone."""
    rows: float = 300.0
    ingest_slots: int = 1
    """Slots from one ingest to the next, as where a table is written every few minutes."""
    known_slots: int = 0
    """The longest lag that is known when the release begins, in slots."""

    def weight(self, slot: int) -> float:
        """The challenger's true share of a slot."""
        weight = self.weights[slot // self.step_slots]
        if not self.swing_slots:
            return weight
        middle, reach = 0.5 * np.log(0.6 * 1.6), 0.5 * np.log(1.6 / 0.6)
        return float(min(0.95, weight * np.exp(middle + reach * np.sin(2 * np.pi * slot / self.swing_slots))))

    def ingests(self, releases: int, bucket: float, seed: int) -> Iterator[tuple[dict[Key, Arms], float, float]]:
        """Ingest by ingest: the fresh counts by slice, the time of the ingest, and its watermark, in seconds.

        The watermark trails by the longest time from a request to its ingest so far, as it does live.
        """
        rng = np.random.default_rng(seed)
        slots = self.step_slots * len(self.weights)
        weight = np.array([self.weight(slot) for slot in range(slots)])
        sent = []
        for share, bad, delays in (
            (1 - weight, self.champion, self.delays[0]),
            (weight, self.challenger, self.delays[1]),
        ):
            good_rows = rng.poisson(self.rows * share * (1 - bad), (releases, slots))
            bad_rows = rng.poisson(self.rows * share * bad, (releases, slots))
            sent.append(((good_rows, delays[0]), (bad_rows, delays[1])))
        fresh: dict[Key, Arms] = {}
        part, oldest, longest, watermark = slice_seconds(bucket), slots, self.known_slots, -np.inf
        for ingest in range(slots + max(map(max, self.delays)) + self.ingest_slots):
            for arm, kinds in enumerate(sent):
                for value, (rows, delay) in enumerate(kinds):
                    slot = ingest - delay
                    if 0 <= slot < slots and rows[:, slot].any():
                        key = (slot // self.step_slots, slot * SLOT_SECONDS // part * part)
                        fresh.setdefault(key, np.zeros((2, releases, 2)))[arm, :, value] += rows[:, slot]
                        oldest = min(oldest, slot)
            if (ingest + 1) % self.ingest_slots == 0:
                if fresh:
                    longest = max(longest, ingest + 1 - oldest)
                    watermark = max(watermark, float(ingest + 1 - longest) * SLOT_SECONDS)
                yield fresh, (ingest + 1) * SLOT_SECONDS, watermark
                fresh, oldest = {}, slots


class Watcher(Protocol):
    """Something that decides on what an ingest brings."""

    def ingest(self, fresh: dict[Key, Arms], watermark: float) -> Bools:
        """Releases in which it decides now."""
        ...


class BlockBet:
    """This project's rule: `Blocks` and a limit."""

    def __init__(self, blocks: Blocks, *, by_ingest: bool = False) -> None:
        """`by_ingest` is the wrong key: one block for all of an ingest."""
        self._blocks, self._by_ingest = blocks, by_ingest

    def ingest(self, fresh: dict[Key, Arms], watermark: float) -> Bools:
        """See `Watcher`."""
        if self._by_ingest and fresh:
            fresh = {(0, 0.0): np.sum(list(fresh.values()), axis=0)}
        self._blocks.ingest(fresh, watermark)
        decided: Bools = log_e_value(self._blocks.carried()) >= LIMIT
        return decided


class Pooled:
    """A rule that knows no blocks and sees the rows as they come."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule

    def ingest(self, fresh: dict[Key, Arms], watermark: float) -> Bools:
        """See `Watcher`."""
        if not fresh:
            return np.zeros(1, dtype=bool)
        rows = np.sum(list(fresh.values()), axis=0).astype(np.int64)[:, :, None]
        return self._rule.hits(rows[0], rows[1])[:, 0]


def ever_decided(
    lateness: Lateness, watchers: Mapping[str, Watcher], releases: int, bucket: float, seed: int
) -> dict[str, Bools]:
    """Releases in which each watcher decided at some ingest, all on the same rows."""
    decided = {name: np.zeros(releases, dtype=bool) for name in watchers}
    for fresh, _, watermark in lateness.ingests(releases, bucket, seed):
        for name, watcher in watchers.items():
            decided[name] |= watcher.ingest(fresh, watermark)
    return decided
