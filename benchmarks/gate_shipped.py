"""Releases row by row, or minute by minute, through the gate's own `EvidenceState`: slices, buckets, watermark and all.

Slower than the arrays of the other cells, and nothing stands between these figures and the code that is shipped.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.gate_traffic import Counts, Floats
from release_pipeline.gate.betting import e_value
from release_pipeline.gate.evidence import Bet, EvidenceState
from release_pipeline.gate.observations import Baseline, Observation, bucket_seconds_for, slice_seconds
from release_pipeline.spec_gate import GatePart, Metric

Whole = NDArray[np.int64]

#: By start of a slice, seconds: the champion's good and bad rows, and the challenger's.
Cells = Mapping[float, Sequence[int]]

_LEVEL_ROWS: Final = 10_000


class Ingest(NamedTuple):
    """What one read of the table brings."""

    at: float
    """Seconds since the release began."""
    cells: Cells
    watermark: float


@dataclass(frozen=True)
class Endpoint:
    """An endpoint with two versions, and the table that it logs to.

    Good answers take a time with an exponential distribution, bad ones always the same; the row is written when the
    answer is done, and comes with the next commit after `lag_seconds`.
    """

    champion: float
    """Share of bad answers."""
    challenger: float
    weight: float
    """The challenger's share of the traffic."""
    hours: float
    good_seconds: tuple[float, float] = (1.0, 1.0)
    """Mean time of good answers: the champion's and the challenger's."""
    bad_seconds: float = 1.0
    lag_seconds: float = 0.0
    commit_seconds: float = 30.0
    per_second: float = 10.0
    max_lag_minutes: float = 120.0

    @property
    def gate(self) -> GatePart:
        """The gate that watches it."""
        metric = Metric(name="errors", kind="errors", margin=0.02)
        return GatePart(metrics=(metric,), max_lag_minutes=self.max_lag_minutes)

    @property
    def bucket(self) -> int:
        """Length of its buckets, as the gate takes it by itself."""
        return bucket_seconds_for(self.gate, self.per_second * (1 - self.weight))

    def start(self) -> EvidenceState:
        """The evidence before the release."""
        (metric,) = self.gate.metrics
        baseline = Baseline.freeze(metric, _LEVEL_ROWS, _LEVEL_ROWS * self.champion)
        return EvidenceState.start([baseline], self.gate, buckets={metric.name: self.bucket})

    def release(self, rng: np.random.Generator) -> tuple[list[Ingest], Floats]:
        """The ingests of one release, and when its challenger's requests were sent, in order."""
        rows = rng.poisson(self.per_second * self.hours * 3600)
        sent = np.sort(rng.uniform(0, self.hours * 3600, rows))
        new = rng.random(rows) < self.weight
        bad = rng.random(rows) < np.where(new, self.challenger, self.champion)
        good_seconds = rng.exponential(np.where(new, self.good_seconds[1], self.good_seconds[0]))
        logged = sent + np.where(bad, self.bad_seconds, good_seconds) + self.lag_seconds
        commit = np.ceil(logged / self.commit_seconds).astype(np.int64)
        part = slice_seconds(self.bucket)
        slices, kinds = (sent // part).astype(np.int64), 2 * new + bad
        width, commits = int(slices.max()) + 1, int(commit.max()) + 1
        counted = np.bincount((commit * width + slices) * 4 + kinds, minlength=commits * width * 4)
        oldest = np.full(commits, np.inf)
        np.minimum.at(oldest, commit, sent)
        ingests = list(self._ingests(counted.reshape(commits, width, 4), oldest, part))
        return ingests, sent[new]

    def _ingests(self, counted: Whole, oldest: Floats, part: float) -> Iterator[Ingest]:
        """The watermark trails by the longest time from a request to its commit so far, as it does live."""
        longest, watermark = 0.0, -np.inf
        for commit in np.flatnonzero(np.isfinite(oldest)).tolist():
            at = commit * self.commit_seconds
            longest = min(max(longest, at - oldest[commit]), 60 * self.max_lag_minutes)
            watermark = max(watermark, at - longest)
            places = np.flatnonzero(counted[commit].any(axis=1))
            yield Ingest(
                at, dict(zip((places * part).tolist(), counted[commit][places].tolist(), strict=True)), watermark
            )


def decided_at(start: EvidenceState, ingests: Sequence[Ingest], bet: Bet, limit: float) -> float:
    """When a bet reaches its limit, in seconds since the release began; infinite where it never does."""
    state, capitals = start, None
    for number, (at, cells, watermark) in enumerate(ingests):
        state = state.add(_observation(number, begin, counts, watermark) for begin, counts in cells.items())
        account = state.metric("errors").account(bet)
        if account.capitals is not capitals:
            capitals = account.capitals
            if e_value(account.carried()) >= limit:
                return at
    return np.inf


def by_commit(ingests: Sequence[Ingest], commits: int, commit_seconds: float) -> Counts:
    """Rows by commit, for rules that see them as they come: shape (2, commits, 2), the champion's first."""
    rows = np.zeros((2, commits, 2), dtype=np.int64)
    for at, cells, _ in ingests:
        index = round(at / commit_seconds) - 1
        if index < commits:
            rows[:, index] += np.sum(list(cells.values()), axis=0).reshape(2, 2)
    return rows


def _observation(number: int, begin: float, counts: Sequence[int], watermark: float) -> Observation:
    return Observation(
        ingest=number,
        step=0,
        bucket_start=begin,
        metric="errors",
        champion=(counts[0], counts[1]),
        challenger=(counts[2], counts[3]),
        from_version=number,
        to_version=number,
        watermark=watermark,
    )
