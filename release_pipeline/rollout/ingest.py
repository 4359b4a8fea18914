"""One read of what is new: from the tables to the rows of one ingest of evidence."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from release_pipeline.gate.evidence import EvidenceState
from release_pipeline.gate.observations import Observation, bucket_seconds_for
from release_pipeline.rollout.evidence_fold import EvidenceSoFar, capitals_after
from release_pipeline.rollout.reconciliation import Reconciliation
from release_pipeline.rollout.state import ReleaseState
from release_pipeline.spec import ReleaseSpec
from release_pipeline.spec_gate import GatePart, Metric
from release_pipeline.workspace.counts import Cursor, Delta, Group, Level
from release_pipeline.workspace.evidence_table import SNAPSHOT_EVERY, EvidenceRow

#: The traffic rate that sizes the event-time buckets is taken from this time before the release.
RATE_SECONDS = 3600.0
#: What is tried again, or stored though nothing came, is so this often within gate.max_lag_minutes.
_TRIES_PER_LAG = 8
#: Requests that give a row of a metric of which nothing is known from before the release.
_USUAL_SHARE = {"feedback": 0.05}


def wait_seconds(gate: GatePart) -> float:
    """Seconds after which what failed is tried again, and an ingest is stored though nothing came."""
    return 60 * gate.max_lag_minutes / _TRIES_PER_LAG


@dataclass(frozen=True)
class TableRead:
    """What was read of one table: the metrics that it serves, and what arrived."""

    table: str
    metrics: tuple[Metric, ...]
    delta: Delta


def baseline_rows(
    state: ReleaseState,
    spec: ReleaseSpec,
    levels: Sequence[Level],
    *,
    requests_per_second: float,
    cursors: Mapping[str, int],
    counters: Reconciliation,
    at: datetime,
) -> list[EvidenceRow]:
    """Ingest 0: everything that is frozen for the whole release, except levels that could not be read."""
    unfrozen = {level.metric: level.failed for level in levels if level.failed}
    metrics = [metric for metric in spec.gate.metrics if metric.name not in unfrozen]
    detail = {
        "gate": spec.gate.model_dump_json(exclude_unset=True),
        "cursors": dict(cursors),
        "requests_per_second": requests_per_second,
        "counters": counters.to_dict(),
        **({"unfrozen": unfrozen} if unfrozen else {}),
    }
    return [
        *level_rows(state, spec, metrics, levels, requests_per_second=requests_per_second, ingest=0, at=at),
        EvidenceRow(state.release, 0, "ingest", at, to_version=state.baseline_version, detail=detail),
    ]


def level_rows(
    state: ReleaseState,
    spec: ReleaseSpec,
    metrics: Iterable[Metric],
    levels: Sequence[Level],
    *,
    requests_per_second: float,
    ingest: int,
    at: datetime,
) -> list[EvidenceRow]:
    """What an ingest freezes of each metric: levels, threshold, and the length of its buckets."""
    smallest = 1 - max(spec.ramp.steps) / 100
    rows = []
    for metric in metrics:
        found = [level for level in levels if level.metric == metric.name]
        rate = sum(level.rows_per_second for level in found)
        if not rate:
            share = metric.sample if metric.kind == "judge" else _USUAL_SHARE.get(metric.kind, 1.0)
            rate = requests_per_second * share
        length = bucket_seconds_for(spec.gate, rate * smallest)
        for level in found or [Level(metric.name, "", 0, 0.0, None, 0.0)]:
            frozen = {
                "rows": level.rows,
                "bad": level.bad,
                "threshold_ms": level.threshold_ms,
                "bucket_seconds": length,
            }
            rows.append(
                EvidenceRow(
                    state.release, ingest, "baseline", at, metric=metric.name, segment=level.segment, detail=frozen
                )
            )
    return rows


def ingest_rows(
    state: ReleaseState,
    so_far: EvidenceSoFar,
    reads: Sequence[TableRead],
    mapping: Mapping[str, str],
    *,
    payload: Delta,
    counters: Reconciliation,
    at: datetime,
    levels: Sequence[EvidenceRow] = (),
) -> list[EvidenceRow]:
    """The rows of the next ingest.

    Args:
        state: The release.
        so_far: Its evidence.
        reads: What was read of each table.
        mapping: Version by served entity id.
        payload: What was read of the inference table; its lag moves the watermark.
        counters: Counters against table, with this ingest's reading.
        at: Now.
        levels: Levels that could be read only now, from :func:`level_rows`.
    """
    number = so_far.ingest + 1
    watermark = watermark_after(so_far, payload)
    blocks = observations(state, so_far.state, number, reads, mapping, watermark, now=at.timestamp())
    after = so_far.state.add(blocks)
    written = [
        EvidenceRow(
            release=state.release,
            ingest=number,
            kind="block",
            at=at,
            step=block.step,
            bucket_start=block.bucket_start,
            metric=block.metric,
            segment=block.segment,
            champion=block.champion,
            challenger=block.challenger,
            from_version=block.from_version,
            to_version=block.to_version,
            watermark=block.watermark,
            log_capitals=capitals_after(after, block),
            detail={"unjudged": [block.champion_unjudged, block.challenger_unjudged, block.challenger_failed]}
            if block.champion_unjudged or block.challenger_unjudged
            else {},
        )
        for block in blocks
    ]
    written += levels
    written += [
        EvidenceRow(state.release, number, "mapping", at, detail={"served_entity_id": entity, "version": version})
        for entity, version in sorted(payload.mapping.items())
    ]
    # Tables beside it say of the same requests what it says.
    others = _others(state, payload, mapping)
    detail = {
        "cursors": {read.table: read.delta.to_version for read in reads},
        "rows": payload.rows,
        "measured": brought(payload) and payload.lag_measured,
        **({"newest": payload.committed_at.timestamp()} if brought(payload) else {}),
        "outside": payload.outside + sum(others.values()),
        "others": others,
        "forged": payload.forged,
        "duplicates": sum(read.delta.duplicates for read in reads),
        **_hours(state, payload, mapping),
        "sampling_fraction": payload.sampling_fraction,
        "counters": counters.to_dict(),
    }
    last = EvidenceRow(
        release=state.release,
        ingest=number,
        kind="ingest",
        at=at,
        from_version=payload.from_version,
        to_version=payload.to_version,
        watermark=watermark,
        lag_seconds=payload.lag_seconds,
        detail=detail,
    )
    written.append(last)
    if number % SNAPSHOT_EVERY == 0:
        whole = so_far.add(written)
        written.insert(-1, EvidenceRow(state.release, number, "snapshot", at, detail=whole.to_dict()))
    return written


def observations(
    state: ReleaseState,
    evidence: EvidenceState,
    number: int,
    reads: Iterable[TableRead],
    mapping: Mapping[str, str],
    watermark: float,
    *,
    now: float,
) -> list[Observation]:
    """Both arms side by side; where nothing arrived, one empty observation of each series carries the watermark.

    A metric's own watermark stays behind that of the rows until the metric's values have settled, too.

    Where a metric's own SQL failed, nothing is known of the challenger's rows, in whichever segment they are: all count
    as unjudged, and none of the champion's, so that nothing explains them away.
    """
    arm_of = {state.challenger_version: "challenger", state.champion_version: "champion"}
    blocks = []
    for read in reads:
        cells: dict[tuple[str, str, int, float], dict[str, list[Group]]] = {}
        for group in read.delta.groups:
            arm, failed = arm_of.get(mapping.get(group.served_entity_id, "")), group.metric in read.delta.failed
            if arm is None or (failed and arm == "champion"):
                continue
            for segment in evidence.segments(group.metric) if failed else [group.segment]:
                key = (group.metric, segment, group.step, group.bucket_start)
                cells.setdefault(key, {}).setdefault(arm, []).append(group)
        seen = {(name, segment) for name, segment, *_ in cells}
        for metric in read.metrics:
            for segment in evidence.segments(metric.name):
                if (metric.name, segment) not in seen:
                    cells[(metric.name, segment, max(state.step, 0), watermark)] = {}
        for (name, segment, step, start), arms in sorted(cells.items()):
            metric = next(metric for metric in read.metrics if metric.name == name)
            bins = metric.bins
            champion, challenger = arms.get("champion", []), arms.get("challenger", [])
            blocks.append(
                Observation(
                    ingest=number,
                    step=step,
                    bucket_start=start,
                    metric=name,
                    segment=segment,
                    champion=_counts(champion, bins),
                    challenger=_counts(challenger, bins),
                    champion_unjudged=sum(group.unjudged for group in champion),
                    challenger_unjudged=sum(group.unjudged for group in challenger),
                    challenger_failed=sum(group.unjudged for group in challenger if name in read.delta.failed),
                    from_version=read.delta.from_version,
                    to_version=read.delta.to_version,
                    watermark=watermark_of(metric, watermark, now),
                )
            )
    return blocks


def watermark_of(metric: Metric, watermark: float, now: float) -> float:
    """Event time up to which a metric's values are believed complete: those of rows that are, and have settled.

    Args:
        metric: The metric.
        watermark: Event time up to which the inference table is believed complete, unix seconds.
        now: When its values were read, unix seconds.
    """
    return min(watermark, now - metric.settle_seconds) if metric.settle_seconds else watermark


def over(blocks: Iterable[Observation], buckets: Mapping[str, float]) -> list[Observation]:
    """Those blocks whose bucket their watermark has passed.

    What waits to be stored is put together anew at each look, as one ingest. Of a bucket that is not over harm would be
    bet on other rows each time, and the best of many tries is no fair bet: at one to three rows a tick simulated false
    rollbacks rose from 1.1 to 2.8 %. Buckets that are over are cut alike at every look, and when they are stored.

    Args:
        blocks: Blocks that are not stored.
        buckets: Length of an event-time bucket per metric, seconds.
    """
    return [
        block
        for block in blocks
        for length in [buckets[block.metric]]
        if block.bucket_start // length * length + length <= block.watermark
    ]


def nothing_new(latest: Cursor) -> Delta:
    """What a read of the inference table gives that brings nothing."""
    return Delta(latest.version + 1, latest.version, (), {}, {}, 0.0, latest.at)


def brought(payload: Delta) -> bool:
    """Whether a read brought rows or tracers; other commits, such as maintenance, tell nothing of time."""
    return bool(payload.rows or payload.mapping)


def watermark_after(so_far: EvidenceSoFar, payload: Delta) -> float:
    """Event time up to which rows are believed complete.

    It trails what was read by the longest lag that the release has seen, but by no more than ``gate.max_lag_minutes``:
    one straggler must not stop it for its own lag; rows that come after it are told as late. It never goes back.
    """
    if not brought(payload):
        return so_far.watermark
    trail = payload.lag_seconds
    if payload.lag_measured:
        trail = min(max(trail, so_far.longest_lag), 60 * so_far.gate.max_lag_minutes)
    return max(so_far.watermark, payload.committed_at.timestamp() - trail)


def whole_milliseconds(moment: datetime) -> datetime:
    """The moment as a table gives it back."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def baseline_since(state: ReleaseState, gate: GatePart, promoted_at: Iterable[datetime]) -> datetime:
    """From when on rows tell the champion's level: before its own promotion it did not serve everything."""
    return max([state.started_at - timedelta(days=gate.baseline_days), *promoted_at])


def _counts(groups: Sequence[Group], bins: int) -> tuple[int, ...]:
    return tuple(sum(group.counts[index] for group in groups) for index in range(bins))


def _hours(state: ReleaseState, payload: Delta, mapping: Mapping[str, str]) -> dict[str, object]:
    """What a read of a table without a change feed says of rows by hour, and whose those are that came too late."""
    if payload.lag_measured:
        return {}
    arms: dict[int, list[int]] = {}
    for cell in payload.late_cells:
        rows = arms.setdefault(cell.step, [0, 0])
        version = mapping.get(cell.entity)
        if version in (state.champion_version, state.challenger_version):
            rows[version == state.challenger_version] += cell.rows
    return {
        "cells": payload.cells,
        "late_cells": payload.late_cells,
        "late": payload.late,
        "late_arms": [[step, *rows] for step, rows in sorted(arms.items())],
    }


def _others(state: ReleaseState, payload: Delta, mapping: Mapping[str, str]) -> dict[str, int]:
    """Rows of entities that belong to neither arm, by version; it is empty where nothing tells which it is."""
    found = Counter[str]()
    for entity, rows in payload.entities.items():
        version = mapping.get(entity, "")
        if not version or version not in (state.champion_version, state.challenger_version):
            found[version] += rows
    return dict(sorted(found.items()))
