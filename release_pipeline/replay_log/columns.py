"""Which column of a log tells what: found by name, and asked for in a sentence where it is missing."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Final

from release_pipeline.errors import LogError
from release_pipeline.spec_gate import GatePart, Metric

#: What the columns that every log has are expected to hold.
ALWAYS: Final[Mapping[str, str]] = {
    "arrived_at": "the time at which the row could first be read",
    "request_time": "the time of the request",
    "request_id": "an id by which a row that was delivered twice is known",
}
_OWN_COLUMN: Final[Mapping[str, str]] = {"errors": "status_code", "slow": "execution_duration_ms"}


@dataclass(frozen=True)
class Columns:
    """The columns of a log by what they tell, under the log's own spelling; None where it has none.

    Attributes:
        release: Which release a row belongs to; without one the log is of one release.
        arm: ``champion`` or ``challenger``; or ``entity``, a served entity id.
        response: The answer's body, wanted only where a metric of kind `errors` has no column of its own.
        logging_error_codes: Why a body is missing; wanted where ``response`` is.
        badness: Per metric the column that holds its badness.
        segment: Per metric with segments the column that holds the label.
    """

    arrived_at: str
    request_time: str
    request_id: str
    arm: str | None
    entity: str | None
    release: str | None = None
    status_code: str | None = None
    execution_duration_ms: str | None = None
    response: str | None = None
    logging_error_codes: str | None = None
    traffic_percent: str | None = None
    client_request_id: str | None = None
    badness: Mapping[str, str] = field(default_factory=dict)
    segment: Mapping[str, str] = field(default_factory=dict)

    @property
    def used(self) -> list[str]:
        """All of them, each once, in the order of their names."""
        single = (getattr(self, each.name) for each in fields(self) if each.name not in ("badness", "segment"))
        return sorted({*filter(None, single), *self.badness.values(), *self.segment.values()})


def find_columns(log: str, names: Iterable[str], gate: GatePart) -> Columns:
    """The columns of a log, whatever their case.

    A metric is told by the column of its own name; without one, `errors` by status_code, and response where there is
    one, and `slow` by execution_duration_ms.

    Args:
        log: The log's name, for messages.
        names: Its columns.
        gate: Says which metrics are wanted.

    Raises:
        LogError: A column is missing.
    """
    there = {name.lower(): name for name in names}

    def need(name: str, holds: str) -> str:
        if name not in there:
            raise LogError(f"{log} has no column {name} ({holds}); it has {', '.join(there.values()) or 'none'}.")
        return there[name]

    always = {name: need(name, holds) for name, holds in ALWAYS.items()}
    arm, entity = there.get("arm"), there.get("served_entity_id")
    if arm is None and entity is None:
        need("arm", "champion or challenger; or served_entity_id")
    badness, segment = {}, {}
    for metric in gate.metrics:
        own = there.get(metric.name.lower())
        if own is not None:
            badness[metric.name] = own
        elif decides(metric):
            need(
                _OWN_COLUMN.get(metric.kind, metric.name.lower()),
                f"metric {metric.name} is of kind {metric.kind}"
                + ("" if metric.kind in _OWN_COLUMN else ", and its column holds a badness from 0 to 1"),
            )
        if metric.segments is not None and decides(metric):
            label = there.get(f"{metric.name.lower()}_segment") or there.get("segment")
            segment[metric.name] = label or need(f"{metric.name}_segment", "its metric has segments; or segment")
    by_status = any(_by_status(metric, badness) for metric in gate.metrics)
    return Columns(
        **always,
        arm=arm,
        entity=None if arm else entity,
        release=there.get("release"),
        status_code=there.get("status_code"),
        execution_duration_ms=there.get("execution_duration_ms"),
        response=there.get("response") if by_status else None,
        logging_error_codes=there.get("logging_error_codes") if by_status else None,
        traffic_percent=there.get("traffic_percent"),
        client_request_id=there.get("client_request_id"),
        badness=badness,
        segment=segment,
    )


def _by_status(metric: Metric, badness: Mapping[str, str]) -> bool:
    return metric.kind == "errors" and metric.name not in badness


def decides(metric: Metric) -> bool:
    """Whether a metric has a say; a log may lack the columns of one that has none."""
    return metric.guards or metric.requires
