"""The endpoint's counters against its inference table: failures that were never logged, and tables that nobody writes.

Counters are read beside the ingests and kept with them. A reading can be compared with the table only when the table is
complete up to it, so readings wait until the watermark has passed them. A counter counts an answer when it is done, so
the table's rows are compared by the time at which they were done, too: requests that hang together, and fail together
much later, are on the same side of a reading in both. Pure: no I/O.

Failures are those with a status of 500 and above. Refusals, 400 to 499, are compared as well, only to be told:
platforms log no 401, 403 or 429, so that what is missing of them proves no fault.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self

#: Readings that may wait for the watermark; beyond it they are thinned to half.
_MOST_READINGS: Final = 64
#: With a sampled table, only a deficit beyond this many standard deviations counts as unlogged.
_DEVIATIONS: Final = 4.0
#: Requests under way at a reading may be in the table and not yet in the counters, but no more than these are owed:
#: counters that lost failures with a replica must not make up for failures that the table lacks.
_LEAST_UNLOGGED: Final = -3.0


@dataclass(frozen=True)
class Reading:
    """The endpoint's counters at one time."""

    at: float
    """Unix seconds."""
    requests: int
    """Requests of all served entities."""
    errors: int
    """Failures of the challenger's served entity."""
    since: float | None = None
    """Where the endpoint counts by the minute: the beginning of the minute that ends at ``at``, unix seconds. None
    where it counts from its start."""
    refused: int | None = None
    """Refusals of the challenger's served entity; None where an earlier version of this package did not count them."""


_NOTHING: Final = Reading(-math.inf, 0, 0, None, 0)


@dataclass(frozen=True)
class Reconciliation:
    """What the counters say so far.

    Attributes:
        reconciled: The reading up to which table and counters were compared; None before the first reading.
        waiting: Later readings, oldest first.
        unlogged: Failures that were counted and not logged, up to ``reconciled``. Requests under way at a reading can
            make it a little too high or too low until the next one.
        refused: The same of refusals.
    """

    reconciled: Reading | None = None
    waiting: tuple[Reading, ...] = ()
    unlogged: float = 0.0
    refused: float = 0.0

    @property
    def last(self) -> Reading | None:
        """The newest reading."""
        return self.waiting[-1] if self.waiting else self.reconciled

    def read(self, reading: Reading) -> Self:
        """With one more reading. After a restart of the counters everything before is unknown and left out."""
        last = self.last
        if reading.since is not None:
            known = last is not None and last.at >= reading.at
            return self if known else replace(self, waiting=_thinned((*self.waiting, reading)))
        if last is None or any(now < before for now, before in zip(_counts(reading), _counts(last), strict=False)):
            return replace(self, reconciled=reading, waiting=())
        return replace(self, waiting=_thinned((*self.waiting, reading)))

    def has_missed(self, reading: Reading | None) -> bool:
        """Whether this is a minute that is not kept yet; it is gone with the next."""
        last = self.last
        return reading is not None and reading.since is not None and (last is None or reading.at > last.at)

    def due(self, watermark: float) -> Reading | None:
        """A reading that the table is complete up to: the newest of a counter, the oldest of single minutes."""
        complete = [reading for reading in self.waiting if reading.at <= watermark]
        if not complete:
            return None
        return complete[-1] if complete[-1].since is None else complete[0]

    def window(self, reading: Reading) -> tuple[float, float]:
        """The time in which answers were done that a waiting reading is compared over, half open, unix seconds."""
        since = reading.since if self.reconciled is None or reading.since is not None else self.reconciled.at
        assert since is not None, "a reading of a counter waits only behind another"
        return since, reading.at

    def compare(self, reading: Reading, logged: int, sampling_fraction: float = 1.0, *, refused: int = 0) -> Self:
        """Compare the table with the counters over :meth:`window`.

        Args:
            reading: A waiting reading, such as :meth:`due` gives.
            logged: Failures of the challenger in the table in that time.
            sampling_fraction: Share of the requests that the table logs.
            refused: Refusals of the challenger in the table in that time.
        """
        before = self.reconciled if self.reconciled and reading.since is None else _NOTHING
        missing, unknown = _missing(reading.errors - before.errors, logged, sampling_fraction), 0.0
        if reading.refused is not None and before.refused is not None:
            unknown = _missing(reading.refused - before.refused, refused, sampling_fraction)
        return replace(
            self,
            reconciled=reading,
            waiting=tuple(each for each in self.waiting if each.at > reading.at),
            unlogged=max(_LEAST_UNLOGGED, self.unlogged + missing),
            refused=max(_LEAST_UNLOGGED, self.refused + unknown),
        )

    def unlogged_errors(self) -> int:
        """Failures that are known to be missing in the table."""
        return max(0, round(self.unlogged))

    def unlogged_refusals(self) -> int:
        """Refusals that are known to be missing in the table."""
        return max(0, round(self.refused))

    def requests_between(self, after: float, before: float) -> int:
        """Requests that were surely answered between two times, as far as readings show."""
        minutes = [each for each in self.waiting if each.since is not None]
        if minutes:
            return sum(each.requests for each in minutes if after <= (each.since or 0.0) and each.at <= before)
        readings = [each for each in (self.reconciled, *self.waiting) if each and after <= each.at <= before]
        return readings[-1].requests - readings[0].requests if readings else 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON: see :meth:`from_dict`."""
        return {
            "reconciled": _values(self.reconciled) if self.reconciled else None,
            "waiting": [_values(reading) for reading in self.waiting],
            "unlogged": self.unlogged,
            "refused": self.refused,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """What :meth:`to_dict` wrote; nothing where it is empty."""
        reconciled: Sequence[Any] | None = data.get("reconciled")
        waiting: Iterable[Sequence[Any]] = data.get("waiting", ())
        return cls(
            Reading(*reconciled) if reconciled else None,
            tuple(Reading(*values) for values in waiting),
            data.get("unlogged", 0.0),
            data.get("refused", 0.0),
        )


def _thinned(waiting: tuple[Reading, ...]) -> tuple[Reading, ...]:
    """Half as many where they are too many: a counter holds what came before it, minutes are added to their next."""
    if len(waiting) <= _MOST_READINGS:
        return waiting
    if waiting[-1].since is None:
        return waiting[1::2]
    added: list[Reading] = []
    for index, reading in enumerate(waiting):
        if index % 2 and added[-1].at == reading.since:
            before = added.pop()
            refused = None
            if before.refused is not None and reading.refused is not None:
                refused = before.refused + reading.refused
            reading = Reading(
                reading.at, before.requests + reading.requests, before.errors + reading.errors, before.since, refused
            )
        added.append(reading)
    return tuple(added[-_MOST_READINGS:])


def _missing(counted: int, logged: int, sampling_fraction: float) -> float:
    """What the table lacks, beyond what a sample leaves out by chance."""
    missing = counted - logged / sampling_fraction
    if sampling_fraction == 1:
        return missing
    chance = _DEVIATIONS * math.sqrt(max(0, counted) * (1 - sampling_fraction) / sampling_fraction)
    return max(0.0, missing - chance)


def _counts(reading: Reading) -> tuple[int, ...]:
    """What it counts; refusals come last, and only where they are known."""
    known = () if reading.refused is None else (reading.refused,)
    return reading.requests, reading.errors, *known


def _values(reading: Reading) -> list[float | int | None]:
    return [reading.at, reading.requests, reading.errors, reading.since, reading.refused]
