"""What the endpoint's tables say of its traffic, as a plan of a ramp needs it: rate, levels, segments, lag."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, Protocol

from release_pipeline.errors import ReleaseError, StatementFailed
from release_pipeline.gate.observations import OTHER, Baseline
from release_pipeline.gate.planner import USUAL_LAG_SECONDS, usual_rows
from release_pipeline.gate.power_plan import PlannedSeries, Traffic
from release_pipeline.spec import ReleaseSpec
from release_pipeline.spec_gate import Metric
from release_pipeline.workspace.counts import Level
from release_pipeline.workspace.inference_table import HOLD_BACK_SECONDS, KINDS, InferenceTable

#: Every request that was served has a row of this one, whatever the gate watches.
_REQUESTS: Final = Metric(name="requests", kind="errors")


class HasLevels(Protocol):
    """A table beside the inference table."""

    metrics: tuple[Metric, ...]

    def level(
        self, since: datetime, until: datetime, *, rate_seconds: float, entities: Sequence[str] = ()
    ) -> list[Level]:
        """The level of its metrics between two event times."""


def measured_traffic(
    spec: ReleaseSpec, payload: InferenceTable, sources: Sequence[HasLevels], now: datetime, days: float
) -> Traffic:
    """The endpoint's traffic of the last days.

    Args:
        spec: The release's spec.
        payload: The inference table.
        sources: The tables beside it.
        now: The end of the days.
        days: How many; the rate is their mean, or since the first row if that is later.

    Raises:
        ReleaseError: There is no row in that time, or no table.
        WorkspaceError: The workspace cannot be asked.
    """
    since, seconds = now - timedelta(days=days), days * 86_400
    newest = payload.newest()
    if newest is None or newest < since:
        raise ReleaseError(
            f"{payload.name} has no row of the last {days:g} days to tell the traffic; give --rate instead."
        )
    requests = payload.level([_REQUESTS], since, now, rate_seconds=seconds)[0]
    if requests.rows_per_second <= 0:
        raise ReleaseError(f"{payload.name} has no served request of the last {days:g} days; give --rate instead.")
    levels = payload.level(
        [metric for metric in spec.gate.metrics if metric.kind in KINDS], since, now, rate_seconds=seconds
    )
    unknown = []
    for source in sources:
        try:
            levels += source.level(since, now, rate_seconds=seconds)
        except StatementFailed:
            unknown += [metric.name for metric in source.metrics]
    series = tuple(
        each
        for metric in spec.gate.metrics
        if not metric.muted
        for each in _series(
            metric, [level for level in levels if level.metric == metric.name], requests.rows_per_second
        )
    )
    unknown += [
        each.metric.name
        for each in series
        if not any(level.rows for level in levels if level.metric == each.metric.name)
    ]
    notes = [f"Rate, levels and segments are those of {requests.rows:,} requests of the last {days:g} days."]
    if unknown:
        notes.append(f"Of {' and '.join(dict.fromkeys(unknown))} there was no row; usual figures were taken.")
    return Traffic(requests.rows_per_second, _lag(payload, newest), series, tuple(notes))


def _series(metric: Metric, levels: Sequence[Level], requests_per_second: float) -> list[PlannedSeries]:
    """One series per level. Rare labels make up one that is not waited for."""
    levels = [level for level in levels if level.rows_per_second > 0]
    if not levels:
        level = Baseline.freeze(metric, 0, 0).level
        return [PlannedSeries(metric, "", level, usual_rows(metric), required=metric.requires)]
    labels = len({level.segment for level in levels} | {OTHER}) if metric.segments else 1
    return [
        PlannedSeries(
            metric=metric,
            segment=level.segment,
            level=Baseline.freeze(metric, level.rows, level.bad).level,
            rows=min(1.0, level.rows_per_second / requests_per_second),
            labels=labels,
            required=metric.requires and (level.segment != OTHER or labels == 1),
        )
        for level in levels
    ]


def _lag(payload: InferenceTable, newest: datetime) -> float:
    """How late the newest row came; a table without a change feed is read so much later."""
    if not payload.has_change_feed():
        return HOLD_BACK_SECONDS
    latest = payload.latest()
    if latest is None:
        return USUAL_LAG_SECONDS
    # A commit may be maintenance, long after the rows.
    return min(max(0.0, (latest.at - newest).total_seconds()), HOLD_BACK_SECONDS)
