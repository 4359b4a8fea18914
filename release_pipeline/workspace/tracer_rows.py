"""What rows of tracers say: which version a served entity is, and where they contradict each other."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from release_pipeline.workspace.metric_sql import SENT, TRACER
from release_pipeline.workspace.sql.warehouse import Row, Value
from release_pipeline.workspace.tracer import version_of


class Shown(NamedTuple):
    """Version by served entity id; and of entities that were shown to be several versions, all of them."""

    mapping: dict[str, str]
    contradictions: dict[str, tuple[str, ...]]


NOTHING_SHOWN: Final = Shown({}, {})

# A tracer is asked for soon after it was noted, by a clock that may be somewhat off.
_BEFORE: Final = timedelta(minutes=5)
_AFTER: Final = timedelta(minutes=15)
_MOST_TIMES: Final = 8


def tracer_sql(sent: Sequence[str] | None) -> tuple[str, dict[str, Value]]:
    """SQL over canonical columns of whether a row is a tracer's, and the values that it binds.

    Args:
        sent: Ids of the tracers that were sent; None takes every row for one that calls itself so.
    """
    return (TRACER, {}) if sent is None else (SENT, {"tracers": " ".join(sent)})


def times_around(noted: Iterable[datetime]) -> list[tuple[datetime, datetime]]:
    """Event times in which tracers that were noted then are to be found, half open: of many the newest."""
    times = list[tuple[datetime, datetime]]()
    for at in sorted(set(noted), reverse=True):
        start, end = at - _BEFORE, at + _AFTER
        if times and times[-1][0] <= end:
            times[-1] = start, times[-1][1]
        elif len(times) < _MOST_TIMES:
            times.append((start, end))
    return times


def shown_by(rows: Iterable[Row]) -> Shown:
    """What rows with ``tracer``, a client request id, and ``entity`` show."""
    versions: dict[str, set[str]] = {}
    for row in rows:
        version = version_of(row["tracer"] or "")
        if row["entity"] and version is not None:
            versions.setdefault(row["entity"], set()).add(version)
    return merged(versions)


def with_known(shown: Shown, known: Mapping[str, str]) -> Shown:
    """What tracers show now, together with what others showed before."""
    return together(shown, Shown(dict(known), {}))


def together(*found: Shown) -> Shown:
    """What several reads show, one with the other."""
    versions: dict[str, set[str]] = {}
    for shown in found:
        for entity, version in shown.mapping.items():
            versions.setdefault(entity, set()).add(version)
        for entity, several in shown.contradictions.items():
            versions.setdefault(entity, set()).update(several)
    return merged(versions)


def merged(versions: Mapping[str, set[str]]) -> Shown:
    """Entities of one version, and those of several."""
    return Shown(
        {entity: next(iter(found)) for entity, found in versions.items() if len(found) == 1},
        {entity: tuple(sorted(found)) for entity, found in versions.items() if len(found) > 1},
    )
