"""The rows of a release laid out by the ticks of the gate: what each tick reads, and which ticks can change anything.

At low traffic nearly every row is a tick of its own, and at nearly all of them nothing can change: a block of evidence
closes only when the watermark passes the end of a bucket, or of a slice that brings enough rows. Ticks between two such
ones may be read as one, because rows only add up in open slices. :func:`closing` finds the ticks that may not be
skipped. Which they are depends on counts and times alone.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from release_pipeline.gate.betting import Floats
from release_pipeline.gate.evidence import Place
from release_pipeline.gate.observations import slice_seconds
from release_pipeline.replay_log.log_table import Flags, ReleaseRows

Whole = NDArray[np.int64]

#: The lag that LAGGING goes by is the longest of this many reads.
LAG_READS: Final = 5


class SeriesCounts(NamedTuple):
    """Counts of one series in the order of reads: ``rows[i]`` at read ``at[i]``, of slice ``keys[key[i]]``.

    ``slot`` is 0 for the champion's unjudged rows and 1 + bin for its others; the challenger's begin at ``bins + 1``.
    """

    at: list[int]
    key: list[int]
    slot: list[int]
    rows: list[int]
    keys: list[Place]
    ends: list[float]
    """End of each slice."""
    bucket: list[int]
    """Number of each slice's bucket."""
    begins: list[int]
    """First slice of each bucket, and the number of slices; places are in order."""
    bins: int


@dataclass(frozen=True)
class Arrivals:
    """When rows arrive, in ticks; a *read* is a tick at which something arrived, and reads are numbered from 0.

    Attributes:
        ticks: Number of each read's tick; tick 1 is the first after the ramp's start.
        watermark: Event time up to which rows are believed complete at each read, unix seconds; minus infinity before
            the first one that tells it.
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
        # A read of nothing but copies of evidence tells nothing of time, as live.
        brought = np.zeros(len(ticks), dtype=np.bool_)
        brought[reads[here & (rows.first | ~(rows.answered & in_step))]] = True
        newest = np.full(len(ticks), -np.inf)
        np.maximum.at(newest, reads[here], rows.arrived[here])
        newest[~brought] = -np.inf
        trailing = np.minimum(np.maximum.accumulate(delay), most_lag) if fixed_lag is None else fixed_lag
        watermark = np.maximum.accumulate(newest - trailing)
        return cls(ticks.tolist(), watermark.tolist(), _longest_of_latest(delay, brought), reads, counted, rows)

    def series_counts(
        self, bins_of: NDArray[np.int16], bins: int, steps: Whole, bucket_seconds: float, after: int
    ) -> SeriesCounts:
        """Counts of one series in the reads after ``after``.

        Args:
            bins_of: Value bin of each row, -1 unjudged, -2 not of the series.
            bins: Number of bins.
            steps: Step of each row, -1 for none.
            bucket_seconds: Length of an event-time bucket; counts are by its slices.
            after: The last read that is done with; -1 for none.
        """
        chosen = np.flatnonzero((self.read_of > after) & self.counted & (bins_of > -2) & (steps >= 0))
        if not len(chosen):
            return SeriesCounts([], [], [], [], [], [], [], [0], bins)
        slots = 2 * (bins + 1)
        slot = bins_of[chosen] + 1 + self.rows.challenger[chosen] * (bins + 1)
        part = slice_seconds(bucket_seconds)
        bucket = np.floor(self.rows.requested[chosen] / part).astype(np.int64)
        lowest = int(bucket.min())
        width = int(bucket.max()) - lowest + 1
        block = steps[chosen] * width + (bucket - lowest)
        codes, count = np.unique(
            (self.read_of[chosen] * (width * (int(steps.max()) + 1)) + block) * slots + slot, return_counts=True
        )
        blocks, slot = np.divmod(codes, slots)
        at, block = np.divmod(blocks, width * (int(steps.max()) + 1))
        known, key = np.unique(block, return_inverse=True)
        of_step, starts = (known // width).tolist(), (known % width + lowest) * part
        whole = starts // bucket_seconds * bucket_seconds
        first = np.flatnonzero((np.diff(whole) != 0) | (np.diff(known // width) != 0)) + 1
        return SeriesCounts(
            at.tolist(),
            key.tolist(),
            slot.tolist(),
            count.tolist(),
            keys=list(zip(of_step, starts.tolist(), strict=True)),
            ends=(starts + part).tolist(),
            bucket=np.searchsorted(first, np.arange(len(known)), side="right").tolist(),
            begins=[0, *first.tolist(), len(known)],
            bins=bins,
        )

    def closing(
        self,
        counts: SeriesCounts,
        bucket_seconds: float,
        enough: int,
        *,
        harm: Mapping[Place, int],
        good: Mapping[Place, int],
        paired: bool,
    ) -> set[int]:
        """The reads after which a block may be closed, or that must not be put together with the one before.

        Args:
            counts: Counts of one series.
            bucket_seconds: Length of an event-time bucket.
            enough: Rows of both arms that close a block.
            harm: Rows of the open slices of the bet that may roll back, those of both arms.
            good: The same of the bet that lets a step go.
            paired: Whether the series is held against the champion; else only bounds count, and any slice with a
                challenger's row is enough.
        """
        at, key, slot = (np.asarray(each, dtype=np.int64) for each in (counts.at, counts.key, counts.slot))
        count, keys = np.asarray(counts.rows, dtype=np.int64), counts.keys
        passing = np.searchsorted(self.watermark, counts.ends)
        late = np.zeros(len(keys), dtype=np.bool_)
        late[key[at > passing[key]]] = True
        found = set(np.unique(at[late[key]]).tolist())
        found |= {read - 1 for read in found}
        challenger = slot > counts.bins + 1
        judged = ((slot >= 1) & (slot <= counts.bins)) | challenger
        rows = np.bincount(key[judged], weights=count[judged], minlength=len(keys)).tolist()
        of_challenger = np.bincount(key[challenger], weights=count[challenger], minlength=len(keys)).tolist()
        passed: list[int] = passing.tolist()
        buckets = {
            (keys[begin][0], keys[begin][1] // bucket_seconds * bucket_seconds): slice(begin, end)
            for begin, end in pairwise(counts.begins)
        }
        waiting = {True: _by_bucket(harm, bucket_seconds), False: _by_bucket(good, bucket_seconds)}
        for bucket in {*buckets, *waiting[True], *waiting[False]}:
            mine, over = buckets.get(bucket, slice(0, 0)), self._passed(bucket[1] + bucket_seconds)
            slices = list(zip(passed[mine], rows[mine], strict=True))
            begun = [
                (self._passed(start + slice_seconds(bucket_seconds)), n) for start, n in waiting[True].get(bucket, ())
            ]
            if late[mine].any():
                # What comes late joins a block whose age must be known, so that all of it must have begun on time.
                found |= {read for last, _ in slices for read in (last - 1, last)} | {over - 1, over}
                found |= {read for read, _ in begun}
            elif not paired:
                found |= {read for (read, _), n in zip(slices, of_challenger[mine], strict=True) if n}
                found |= {read for read, _ in begun}
            else:
                found |= _filled(sorted(begun + slices), enough)
                if sum(rows[mine]) + sum(n for _, n in waiting[False].get(bucket, ())) >= enough:
                    found.add(over)
        return {read for read in found if 0 <= read < len(self.ticks)}

    def _passed(self, time: float) -> int:
        """The first read whose watermark has reached an event time."""
        return bisect_left(self.watermark, time)


def _by_bucket(rows: Mapping[Place, int], bucket_seconds: float) -> dict[Place, list[tuple[float, int]]]:
    """Starts and rows of slices by their bucket."""
    found: dict[Place, list[tuple[float, int]]] = {}
    for place, n in rows.items():
        bucket = place[0], place[1] // bucket_seconds * bucket_seconds
        found.setdefault(bucket, []).append((place[1], n))
    return found


def _filled(slices: list[tuple[int, int]], enough: int) -> set[int]:
    """The reads at which the complete slices of a bucket have enough rows, begin anew, have enough again, and so on.

    Args:
        slices: The read at which each is complete, and its rows; in order.
        enough: Rows that close a block.
    """
    found, rows, closed = set[int](), 0, -1
    for read, n in slices:
        if read == closed:
            continue
        rows += n
        if rows >= enough:
            found.add(read)
            rows, closed = 0, read
    return found


def _longest_of_latest(delay: Floats, brought: Flags) -> list[float]:
    """The longest delay of the latest reads that brought more than copies."""
    padded = np.concatenate([np.zeros(LAG_READS), delay[brought]])
    longest = np.lib.stride_tricks.sliding_window_view(padded, LAG_READS).max(axis=1)
    found: list[float] = longest[np.cumsum(brought)].tolist()
    return found
