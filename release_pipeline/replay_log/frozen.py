"""What a release fixes at its start: when the ramp begins, thresholds, segments, the champion's levels and buckets.

The rules are those of a live release (rollout/ingest.py and workspace/inference_table.py), over the rows of a log.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from release_pipeline.errors import LogError
from release_pipeline.gate.betting import Floats
from release_pipeline.gate.observations import OTHER, SEGMENT_SHARE, Baseline, Series, bucket_seconds_for
from release_pipeline.replay_log.columns import decides
from release_pipeline.replay_log.log_table import Flags, LogTable, ReleaseRows
from release_pipeline.spec import ReleaseSpec
from release_pipeline.spec_gate import Metric

#: Fewer champion rows than this before the first challenger row are taken as the ramp's own: its first draws.
BASELINE_ROWS: Final = 100
#: The traffic rate that sizes the event-time buckets is taken from this much time.
RATE_SECONDS: Final = 3600.0
#: At most so many labels, the most frequent ones, become segments of their own.
SEGMENTS: Final = 8

_DAY: Final = 86_400.0
#: Requests that give a row of a metric of which nothing is known from before the ramp.
USUAL_SHARE: Final = {"feedback": 0.05}


@dataclass(frozen=True)
class Frozen:
    """A release's fixed part.

    Attributes:
        started_at: When the ramp began, unix seconds.
        first_release: Whether there is no champion.
        before: Champion rows that its levels come from.
        baselines: The levels.
        buckets: Length of an event-time bucket per metric, seconds.
        bins: Per series the value bin of every row: -1 where it is unjudged, -2 where the row is not of the series.
    """

    started_at: float
    first_release: bool
    before: int
    baselines: tuple[Baseline, ...]
    buckets: Mapping[str, float]
    bins: Mapping[Series, "np.ndarray[tuple[int], np.dtype[np.int16]]"]

    def baseline(self, series: Series) -> Baseline:
        """The level of one series."""
        return next(each for each in self.baselines if (each.metric, each.segment) == series)


def freeze(
    rows: ReleaseRows, table: LogTable, spec: ReleaseSpec, champion_levels: Mapping[str, float], tick_seconds: float
) -> Frozen:
    """What is fixed from the rows before the ramp, or without them from defaults.

    Args:
        rows: The release.
        table: Where they come from.
        spec: The release's spec.
        champion_levels: Levels by metric that are given instead.
        tick_seconds: Rows that arrive up to the first tick are known at the start.

    Raises:
        LogError: A `slow` metric has neither a threshold nor rows to take one from.
    """
    counted = rows.answered & rows.first
    first_release = bool(rows.challenger[counted].any()) and bool(rows.challenger[counted].all())
    started_at = ramp_start(rows, counted)
    before = counted & ~rows.challenger & (rows.requested < started_at)
    before &= (rows.requested >= started_at - spec.gate.baseline_days * _DAY) & (
        rows.arrived <= started_at + tick_seconds
    )
    levelled, recent, span = before, before & (rows.requested >= started_at - RATE_SECONDS), RATE_SECONDS
    if before.any():
        span = min(RATE_SECONDS, started_at - float(rows.requested[before].min()))
    else:
        # Nothing is known from before: the ramp's first hour tells the traffic.
        recent = counted & (rows.requested >= started_at) & (rows.requested < started_at + RATE_SECONDS)
        if recent.any():
            span = min(RATE_SECONDS, float(rows.requested[recent].max()) - started_at)
    span = max(1.0, span)
    smallest = 1 - max(spec.ramp.steps) / 100
    requests_per_second = float(recent.sum()) / span
    baselines, buckets, bins = [], dict[str, float](), {}
    for metric in spec.gate.metrics:
        badness, threshold = rows.values[metric.name], None
        if metric.kind == "slow" and not table.own_column(metric.name):
            threshold = _threshold(metric, rows, badness[before])
            badness = _slow(badness, threshold)
        binned = _bins(badness, metric.bins, rows.chances.get(metric.name, 0.5))
        rate = float((binned[recent] >= 0).sum()) / span
        if not rate:
            share = metric.sample if metric.kind == "judge" else USUAL_SHARE.get(metric.kind, 1.0)
            rate = requests_per_second * share
        buckets[metric.name] = bucket_seconds_for(spec.gate, rate * smallest)
        for label, of_label in _segments(metric, rows, levelled).items():
            values = binned if of_label is None else np.where(of_label, binned, np.int16(-2))
            judged = values[before & (values >= 0)]
            bad = float(judged.sum()) / (metric.bins - 1)
            baseline = Baseline.freeze(metric, len(judged), min(bad, len(judged)), threshold, label)
            given = champion_levels.get(metric.name)
            if given is not None:
                baseline = Baseline(metric.name, len(judged), bad, threshold, given, label)
            baselines.append(baseline)
            bins[Series(metric.name, label)] = values
    return Frozen(started_at, first_release, int(before.sum()), tuple(baselines), buckets, bins)


def ramp_start(rows: ReleaseRows, counted: Flags) -> float:
    """When the ramp began: with the first request that was configured to it, or the first one of the challenger.

    Few champion rows before that first one are no baseline but the ramp's own, which then began with the first row.
    """
    if not counted.any():
        return float(rows.requested.min())
    if rows.percent is not None:
        ramped = counted & (rows.percent > 0)
        return float(rows.requested[ramped if ramped.any() else counted].min())
    new = rows.requested[counted & rows.challenger]
    first = float(rows.requested[counted].min())
    if not len(new):
        return first
    started = float(new.min())
    return started if (rows.requested[counted] < started).sum() >= BASELINE_ROWS else first


def _threshold(metric: Metric, rows: ReleaseRows, durations: Floats) -> int | None:
    if metric.threshold_ms is not None:
        return metric.threshold_ms
    known = durations[~np.isnan(durations)]
    if len(known):
        return round(float(np.percentile(known, 95)))
    if decides(metric):
        where = f" of release {rows.name}" if rows.name else ""
        raise LogError(
            f"metric {metric.name} has no threshold_ms, and the log has no rows{where} from before the ramp to take "
            "the champion's p95 from; set threshold_ms in the spec."
        )
    return None


def _slow(durations: Floats, threshold: int | None) -> Floats:
    if threshold is None:
        return np.full(len(durations), math.nan)
    return np.where(np.isnan(durations), math.nan, (durations > threshold).astype(np.float64))


def _bins(badness: Floats, bins: int, chance: Floats | float) -> "np.ndarray[tuple[int], np.dtype[np.int16]]":
    unjudged = np.isnan(badness)
    found = np.floor(np.where(unjudged, 0.0, badness) * (bins - 1) + chance).astype(np.int16)
    found[unjudged] = -1
    return found


def _segments(metric: Metric, rows: ReleaseRows, before: Flags) -> dict[str, Flags | None]:
    """Per label whose rows it has; None stands for all rows."""
    if metric.segments is None:
        return {"": None}
    labels = rows.segments.get(metric.name)
    if labels is None:
        return {OTHER: None}
    names, counts = np.unique(labels[before].astype(str), return_counts=True)
    named = [(-int(n), str(name)) for n, name in zip(counts, names, strict=True) if name not in ("", OTHER)]
    least = SEGMENT_SHARE * counts.sum()
    frozen = sorted(name for negative, name in sorted(named)[:SEGMENTS] if -negative >= least)
    found: dict[str, Flags | None] = {label: labels == label for label in frozen}
    rest = np.ones(len(labels), dtype=np.bool_)
    for mask in found.values():
        rest &= ~mask if mask is not None else rest
    return {**found, OTHER: rest}
