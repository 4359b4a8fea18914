"""The rows of a release laid out by the ticks of the gate: what each tick reads, and which ticks can change anything.

At low traffic nearly every row is a tick of its own, and at nearly all of them nothing can change: a block of evidence
closes only once it has enough champion rows, or when the watermark passes its bucket's end. Ticks between two such ones
may be read as one, because rows only add up in open blocks. :func:`closing` finds the ticks that may not be skipped.
Which they are depends on counts and times alone.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from release_pipeline.gate.betting import Floats
from release_pipeline.gate.evidence import BlockKey
from release_pipeline.replay_log.log_table import Flags, ReleaseRows

Whole = NDArray[np.int64]

#: The lag that LAGGING goes by is the longest of this many reads.
LAG_READS: Final = 5


class SeriesCounts(NamedTuple):
    """Counts of one series in the order of reads: ``rows[i]`` at read ``at[i]``, of block ``keys[key[i]]``.

    ``slot`` is 0 for the champion's unjudged rows and 1 + bin for its others; the challenger's begin at ``bins + 1``.
    """

    at: list[int]
    key: list[int]
    slot: list[int]
    rows: list[int]
    keys: list[BlockKey]
    bins: int


@dataclass(frozen=True)
class Arrivals:
    """When rows arrive, in ticks; a *read* is a tick at which something arrived, and reads are numbered from 0.

    Attributes:
        ticks: Number of each read's tick; tick 1 is the first after the ramp's start.
        watermark: Event time up to which rows are believed complete at each read, unix seconds.
        lag: Longest delay of the latest reads, seconds.
        read_of: Read of each row, -1 for rows from before the release.
        counted: Rows that can be evidence, if they are of a step.
        rows: The rows.
    """

    ticks: list[int]
    watermark: list[float]
    lag: list[float]
    read_of: Whole
    counted: Flags
    rows: ReleaseRows

    @classmethod
    def of(
        cls,
        rows: ReleaseRows,
        started_at: float,
        tick_seconds: float,
        *,
        fixed_lag: float | None,
        most_lag: float,
    ) -> "Arrivals":
        """Lay out the rows.

        Args:
            rows: The rows of one release, in the order of arrival.
            started_at: When the ramp began, unix seconds.
            tick_seconds: Time between two ticks.
            fixed_lag: How far the watermark trails the newest row; None measures it: by the longest delay so far.
            most_lag: By how much it trails at most where it is measured, so that one straggler does not stop it.
        """
        here = rows.arrived >= started_at
        tick = np.maximum(1, np.ceil((rows.arrived - started_at) / tick_seconds)).astype(np.int64)
        ticks, read_of = np.unique(tick[here], return_inverse=True)
        reads = np.full(len(here), -1, dtype=np.int64)
        reads[here] = read_of
        in_step = rows.requested >= started_at
        if rows.percent is not None:
            in_step = (rows.percent > 0) & (rows.percent < 100)
        counted = here & rows.answered & rows.first & in_step
        delay = np.zeros(len(ticks))
        np.maximum.at(delay, reads[counted], (rows.arrived - rows.requested)[counted])
        newest = np.full(len(ticks), -np.inf)
        np.maximum.at(newest, reads[here], rows.arrived[here])
        trailing = np.minimum(np.maximum.accumulate(delay), most_lag) if fixed_lag is None else fixed_lag
        watermark = np.maximum.accumulate(newest - trailing)
        fresh = np.zeros(len(ticks), dtype=np.bool_)
        fresh[reads[here & rows.first]] = True
        return cls(ticks.tolist(), watermark.tolist(), _longest_of_latest(delay, fresh), reads, counted, rows)

    def series_counts(
        self, bins_of: NDArray[np.int16], bins: int, steps: Whole, bucket_seconds: float, after: int
    ) -> SeriesCounts:
        """Counts of one series in the reads after ``after``.

        Args:
            bins_of: Value bin of each row, -1 unjudged, -2 not of the series.
            bins: Number of bins.
            steps: Step of each row, -1 for none.
            bucket_seconds: Length of an event-time bucket.
            after: The last read that is done with; -1 for none.
        """
        chosen = np.flatnonzero((self.read_of > after) & self.counted & (bins_of > -2) & (steps >= 0))
        if not len(chosen):
            return SeriesCounts([], [], [], [], [], bins)
        slots = 2 * (bins + 1)
        slot = bins_of[chosen] + 1 + self.rows.challenger[chosen] * (bins + 1)
        bucket = np.floor(self.rows.requested[chosen] / bucket_seconds).astype(np.int64)
        lowest = int(bucket.min())
        width = int(bucket.max()) - lowest + 1
        block = steps[chosen] * width + (bucket - lowest)
        codes, count = np.unique(
            (self.read_of[chosen] * (width * (int(steps.max()) + 1)) + block) * slots + slot, return_counts=True
        )
        blocks, slot = np.divmod(codes, slots)
        at, block = np.divmod(blocks, width * (int(steps.max()) + 1))
        known, key = np.unique(block, return_inverse=True)
        keys = [(int(each) // width, (int(each) % width + lowest) * bucket_seconds) for each in known]
        return SeriesCounts(at.tolist(), key.tolist(), slot.tolist(), count.tolist(), keys, bins)

    def closing(
        self,
        counts: SeriesCounts,
        bucket_seconds: float,
        enough: int,
        *,
        harm: Mapping[BlockKey, int],
        waiting: Mapping[BlockKey, int],
        paired: bool,
    ) -> set[int]:
        """The reads after which a block may be closed, or that must not be put together with the one before.

        Args:
            counts: Counts of one series.
            bucket_seconds: Length of an event-time bucket.
            enough: Rows of both arms that close a block.
            harm: Rows of the open blocks that close as soon as they have enough.
            waiting: Rows that count of the open blocks that wait for the watermark: those of both arms, or of
                one-armed bets the challenger's.
            paired: Whether the series is held against the champion; else only bounds count, and any row is enough.
        """
        at, key, slot = (np.asarray(each, dtype=np.int64) for each in (counts.at, counts.key, counts.slot))
        count, keys = np.asarray(counts.rows, dtype=np.int64), counts.keys
        passed = np.asarray([self._passed(start + bucket_seconds) for _, start in keys], dtype=np.int64)
        late = at > passed[key] if len(at) else np.zeros(0, dtype=np.bool_)
        found = {read for each in np.unique(at[late]).tolist() for read in (each - 1, each)}
        # What comes late joins a block whose age must be known, so the block must have begun on time.
        found |= {read for each in np.unique(key[late]).tolist() for read in (int(passed[each]) - 1, int(passed[each]))}
        challenger = slot > counts.bins + 1
        judged = ((slot >= 1) & (slot <= counts.bins)) | challenger
        telling, least = (judged, enough) if paired else (challenger, 1)
        on_time = np.bincount(key[telling & ~late], weights=count[telling & ~late], minlength=len(keys))
        for index, block in enumerate(keys):
            if on_time[index] + waiting.get(block, 0) >= least:
                found.add(int(passed[index]))
        known = set(keys)
        found |= {
            self._passed(block[1] + bucket_seconds)
            for block, rows in waiting.items()
            if block not in known and rows >= least
        }
        if paired:
            found |= _filled(at[judged], key[judged], count[judged], keys, harm, enough)
        return {read for read in found if 0 <= read < len(self.ticks)}

    def _passed(self, time: float) -> int:
        """The first read whose watermark has reached an event time."""
        return bisect_left(self.watermark, time)


def _filled(
    at: Whole, key: Whole, count: Whole, keys: list[BlockKey], started: Mapping[BlockKey, int], enough: int
) -> set[int]:
    """The reads at which a block has enough rows, begins anew, has enough again, and so on."""
    order = np.argsort(key, kind="stable")
    reads, sums = at[order].tolist(), np.cumsum(count[order]).tolist()
    edges = np.searchsorted(key[order], np.arange(len(keys) + 1)).tolist()
    found = set()
    for index, block in enumerate(keys):
        here, end = edges[index], edges[index + 1]
        goal = (sums[here - 1] if here else 0) + enough - started.get(block, 0)
        while (here := bisect_left(sums, goal, here, end)) < end:
            read = reads[here]
            found.add(read)
            while here < end and reads[here] == read:
                here += 1
            goal = sums[here - 1] + enough
    return found


def _longest_of_latest(delay: Floats, fresh: Flags) -> list[float]:
    """The longest delay of the latest reads that brought a row that is no duplicate."""
    padded = np.concatenate([np.zeros(LAG_READS), delay[fresh]])
    longest = np.lib.stride_tricks.sliding_window_view(padded, LAG_READS).max(axis=1)
    found: list[float] = longest[np.cumsum(fresh)].tolist()
    return found
