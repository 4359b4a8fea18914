"""The evidence of a release so far, read off its rows: state, cursors, lags, digest and path.

The rows of ingest 0 freeze what must not change during a release: gate, levels, thresholds, segments, bucket lengths.
Every later ingest is folded on top. A snapshot, which an ingest carries now and then, stands for everything before it,
so that a tick reads and folds a few ingests however long the release is.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Final, Self

from release_pipeline.gate.betting import log_e_value
from release_pipeline.gate.evidence import Bet, EvidenceState
from release_pipeline.gate.observations import OTHER, Baseline, Observation, Series, slice_seconds
from release_pipeline.gate.state_json import state_from_dict, state_to_dict
from release_pipeline.rollout.reconciliation import Reconciliation
from release_pipeline.spec_gate import GatePart
from release_pipeline.workspace.counts import Cell, Counted, MetricPlan
from release_pipeline.workspace.evidence_table import EvidenceRow

#: The lag that people are shown, and that LAGGING goes by, is the longest of this many reads that brought rows.
LAG_INGESTS: Final = 5
#: A path of e-values that grows longer is thinned to half.
_LONGEST_PATH: Final = 160


@dataclass(frozen=True)
class Point:
    """The e-values of one series after one ingest, as natural logarithms."""

    ingest: int
    step: int
    values: Mapping[str, float]
    """By bet: harm over all steps, the others of the step."""


@dataclass(frozen=True)
class EvidenceSoFar:
    """Everything that the rows of a release say.

    Attributes:
        state: The gate's state.
        baselines: The champion's levels from before the release.
        unfrozen: By metric why its level could not be read so far; nothing is counted for it before that.
        thresholds: Frozen thresholds of `slow` metrics, milliseconds.
        counts_from: By metric whose level was frozen after ingest 0 the event time from which on its rows count, unix
            seconds: of those before some had been read already.
        requests_per_second: The traffic before the release, as ingest 0 has it.
        cursors: Version up to which each table was read.
        lags: Longest lag of each of the latest reads that brought rows, seconds.
        longest_lag: Longest lag of the release, seconds; the watermark trails by it, within gate.max_lag_minutes.
        watermark: Event time up to which the inference table was believed complete at the last ingest, unix seconds.
        at: Time of the last ingest, unix seconds.
        newest: Time of the newest commit that brought rows of the inference table, unix seconds; before the first one
            the time of ingest 0.
        sampling_fraction: Smallest share of logged requests that was seen.
        late: Rows that came after the watermark of a table without a change feed; counted, never bet.
        late_arms: The champion's and the challenger's of them, by step.
        duplicates: Rows that were delivered again.
        others: Rows that were answered by neither arm, by version; it is empty where nothing tells which it was.
        forged: Rows that called themselves tracers' and were sent by others; they count as users' rows.
        reconciliation: Counters against table.
        digest: Digest of all rows that the state rests on.
        counted: Rows that are known of an inference table without a change feed, to find those that come too late.
        path: E-values by series.
        ingest: Number of the last ingest.
    """

    state: EvidenceState
    baselines: tuple[Baseline, ...]
    thresholds: Mapping[str, int | None]
    unfrozen: Mapping[str, str] = field(default_factory=dict)
    counts_from: Mapping[str, float] = field(default_factory=dict)
    requests_per_second: float = 0.0
    cursors: Mapping[str, int] = field(default_factory=dict)
    lags: tuple[float, ...] = ()
    longest_lag: float = 0.0
    watermark: float = float("-inf")
    at: float = float("-inf")
    newest: float = float("-inf")
    sampling_fraction: float = 1.0
    late: int = 0
    late_arms: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    duplicates: int = 0
    others: Mapping[str, int] = field(default_factory=dict)
    forged: int = 0
    reconciliation: Reconciliation = field(default_factory=Reconciliation)
    digest: str = ""
    counted: Counted | None = None
    path: Mapping[Series, tuple[Point, ...]] = field(default_factory=dict)
    ingest: int = 0

    @property
    def gate(self) -> GatePart:
        """The gate as frozen with the release."""
        return self.state.gate

    def plans(self, names: Iterable[str]) -> list[MetricPlan]:
        """How the rows of the named metrics are counted."""
        wanted = set(names) - self.unfrozen.keys()
        return [
            MetricPlan(
                metric,
                int(slice_seconds(self.state.buckets[metric.name])),
                self.thresholds.get(metric.name),
                tuple(label for label in self.state.segments(metric.name) if label not in ("", OTHER)),
            )
            for metric in self.gate.metrics
            if metric.name in wanted
        ]

    def add(self, rows: Sequence[EvidenceRow]) -> Self:
        """With the rows of one more ingest."""
        (last,) = [row for row in rows if row.kind == "ingest"]
        blocks = [row for row in rows if row.kind == "block"]
        before = self._freeze([row for row in rows if row.kind == "baseline"])
        state = before.state.add(observation(row) for row in blocks)
        detail = last.detail
        lags = (*self.lags, last.lag_seconds)[-LAG_INGESTS:] if detail.get("measured") else self.lags
        return replace(
            before,
            state=state,
            cursors={**self.cursors, **_cursors(last)},
            lags=lags,
            longest_lag=max(self.longest_lag, last.lag_seconds),
            watermark=max(self.watermark, last.watermark),
            at=last.at.timestamp(),
            newest=max(self.newest, detail.get("newest", float("-inf"))),
            sampling_fraction=min(self.sampling_fraction, detail.get("sampling_fraction") or 1.0),
            late=self.late + detail.get("late", 0),
            late_arms=_more_late(self.late_arms, detail.get("late_arms", ())),
            duplicates=self.duplicates + detail.get("duplicates", 0),
            others=dict(Counter(self.others) + Counter(detail.get("others", {}))),
            forged=self.forged + detail.get("forged", 0),
            reconciliation=Reconciliation.from_dict(detail.get("counters", {})),
            digest=_digest(self.digest, rows),
            counted=_more_counted(self.counted, last),
            path=_longer(self.path, state, blocks, last.ingest),
            ingest=last.ingest,
        )

    def _freeze(self, rows: Sequence[EvidenceRow]) -> Self:
        """With levels that could not be read for ingest 0."""
        if not rows:
            return self
        levels, thresholds, buckets = _levels(rows, self.gate, 3600.0)
        return replace(
            self,
            state=self.state.freeze(levels, buckets=buckets),
            baselines=(*self.baselines, *levels),
            thresholds={**self.thresholds, **thresholds},
            counts_from={
                **self.counts_from,
                **{row.metric: row.detail["counts_from"] for row in rows if "counts_from" in row.detail},
            },
            unfrozen={name: why for name, why in self.unfrozen.items() if name not in thresholds},
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON, for a snapshot; the gate stays with ingest 0."""
        return {
            "state": state_to_dict(self.state),
            "baselines": [
                [level.metric, level.n, level.bad, level.threshold_ms, level.level, level.segment]
                for level in self.baselines
            ],
            "thresholds": dict(self.thresholds),
            "unfrozen": dict(self.unfrozen),
            "counts_from": dict(self.counts_from),
            "cursors": dict(self.cursors),
            "lags": list(self.lags),
            "longest_lag": self.longest_lag,
            "watermark": self.watermark,
            "at": self.at,
            "newest": self.newest,
            "sampling_fraction": self.sampling_fraction,
            "late": self.late,
            "late_arms": [[step, *arms] for step, arms in self.late_arms.items()],
            "duplicates": self.duplicates,
            "others": dict(self.others),
            "forged": self.forged,
            "counters": self.reconciliation.to_dict(),
            "digest": self.digest,
            "counted": [self.counted.since, self.counted.cells] if self.counted else None,
            "path": [
                [*series, [[point.ingest, point.step, dict(point.values)] for point in points]]
                for series, points in self.path.items()
            ],
            "ingest": self.ingest,
        }

    def restored(self, data: Mapping[str, Any]) -> Self:
        """What :meth:`to_dict` wrote, on top of the same ingest 0."""
        # An earlier version of this package kept "reads", of which nothing tells late rows by version.
        apart = ("state", "baselines", "lags", "counters", "reads", "counted", "late_arms", "path")
        since, cells = data.get("counted") or (None, ())
        kept = {key: value for key, value in data.items() if key not in apart}
        if "baselines" in data:  # a snapshot of an earlier version of this package has them in ingest 0 alone
            kept["baselines"] = tuple(Baseline(*level) for level in data["baselines"])
        return replace(
            self,
            **kept,
            state=state_from_dict(data["state"], self.gate),
            lags=tuple(data["lags"]),
            reconciliation=Reconciliation.from_dict(data["counters"]),
            late_arms=_more_late({}, data.get("late_arms", ())),
            counted=None if since is None else Counted(since, tuple(Cell(*cell) for cell in cells)),
            path={
                Series(name, segment): tuple(Point(*point) for point in points)
                for name, segment, points in data["path"]
            },
        )


def so_far(rows: Sequence[EvidenceRow], gate: GatePart) -> EvidenceSoFar:
    """The evidence that rows of one release hold: those of ingest 0, and all others or those since a snapshot.

    Args:
        rows: Complete ingests, as the evidence table reads them.
        gate: The gate of the YAML, for a release that has no rows yet.

    Raises:
        ValueError: The rows begin after ingest 1 and have no snapshot.
    """
    first = [row for row in rows if row.ingest == 0]
    found = _frozen(first, gate)
    ingests = [(number, list(group)) for number, group in groupby(rows, key=lambda row: row.ingest) if number]
    for index, (number, group) in enumerate(ingests):
        if index == 0 and number > 1:
            snapshot = next((row for row in group if row.kind == "snapshot"), None)
            if snapshot is None:
                raise ValueError(f"the evidence begins at ingest {number} without a snapshot; read all of it")
            found = found.restored(snapshot.detail)
        else:
            found = found.add(group)
    return found


def observation(row: EvidenceRow) -> Observation:
    """A block row as the gate takes it."""
    # An earlier version of this package wrote two numbers.
    champion, challenger, *failed = row.detail.get("unjudged", (0, 0))
    return Observation(
        ingest=row.ingest,
        step=row.step,
        bucket_start=row.bucket_start,
        metric=row.metric,
        segment=row.segment,
        champion=row.champion,
        challenger=row.challenger,
        champion_unjudged=champion,
        challenger_unjudged=challenger,
        challenger_failed=failed[0] if failed else 0,
        from_version=row.from_version,
        to_version=row.to_version,
        watermark=row.watermark,
    )


def capitals_after(state: EvidenceState, block: Observation) -> dict[str, list[float]]:
    """The running log-capitals of a block's series: harm over all steps, the others of the block's step."""
    evidence = state.metric(block.metric, block.segment)
    return {
        bet.value: list(account.carried() if bet in (Bet.HARM, Bet.ABOVE) else account.at(block.step))
        for bet, account in sorted(evidence.accounts.items())
    }


def _frozen(rows: Sequence[EvidenceRow], gate: GatePart) -> EvidenceSoFar:
    """What ingest 0 says; a release without one has the gate of the YAML and buckets of an hour."""
    last = next((row for row in rows if row.kind == "ingest"), None)
    if last is not None:
        gate = _gate_of(last, gate)
    common = last.detail.get("bucket_seconds", 3600.0) if last else 3600.0
    baselines, thresholds, buckets = _levels(rows, gate, common)
    buckets = {**{metric.name: 3600.0 for metric in gate.metrics}, **buckets}
    return EvidenceSoFar(
        EvidenceState.start(baselines, gate, buckets=buckets),
        baselines,
        thresholds,
        unfrozen=last.detail.get("unfrozen", {}) if last else {},
        requests_per_second=last.detail.get("requests_per_second", 0.0) if last else 0.0,
        cursors=_cursors(last) if last else {},
        watermark=last.watermark if last else float("-inf"),
        at=last.at.timestamp() if last else float("-inf"),
        newest=last.at.timestamp() if last else float("-inf"),
        reconciliation=Reconciliation.from_dict(last.detail.get("counters", {})) if last else Reconciliation(),
        digest=_digest("", rows),
    )


def _levels(
    rows: Sequence[EvidenceRow], gate: GatePart, common: float
) -> tuple[tuple[Baseline, ...], dict[str, int | None], dict[str, float]]:
    """Levels, and by metric thresholds and bucket lengths; ``common`` where an earlier version wrote no length."""
    by_name = {metric.name: metric for metric in gate.metrics}
    levels = [row for row in rows if row.kind == "baseline" and row.metric in by_name]
    baselines = tuple(
        Baseline.freeze(
            by_name[row.metric],
            row.detail.get("rows", sum(row.champion)),
            row.detail.get("bad", sum(row.champion[1:])),
            row.detail.get("threshold_ms"),
            row.segment,
        )
        for row in levels
    )
    thresholds = {row.metric: row.detail.get("threshold_ms") for row in levels}
    return baselines, thresholds, {row.metric: float(row.detail.get("bucket_seconds", common)) for row in levels}


def _more_late(
    before: Mapping[int, tuple[int, int]], late: Iterable[tuple[int, int, int]]
) -> dict[int, tuple[int, int]]:
    found = dict(before)
    for step, champion, challenger in late:
        known = found.get(step, (0, 0))
        found[step] = (known[0] + champion, known[1] + challenger)
    return found


def _more_counted(before: Counted | None, row: EvidenceRow) -> Counted | None:
    """With the rows of a read of a table without a change feed; late ones are known from then on."""
    if "cells" not in row.detail:
        return before
    cells = [Cell(*cell) for cell in (*row.detail["cells"], *row.detail["late_cells"])]
    return (before or Counted(row.from_version)).add(cells, row.to_version)


def _gate_of(row: EvidenceRow, gate: GatePart) -> GatePart:
    """The gate that ingest 0 froze; the YAML's where an earlier version of this package wrote none, or other fields."""
    try:
        return GatePart.model_validate_json(row.detail.get("gate", ""))
    except ValueError:
        return gate


def _cursors(row: EvidenceRow) -> Mapping[str, int]:
    """Version by table; the table has no name where an earlier version of this package, which read one only, wrote."""
    cursors: Mapping[str, int] = row.detail.get("cursors", {"": row.to_version})
    return cursors


def _longer(
    path: Mapping[Series, tuple[Point, ...]], state: EvidenceState, blocks: Iterable[EvidenceRow], ingest: int
) -> dict[Series, tuple[Point, ...]]:
    longer = dict(path)
    newest = {Series(row.metric, row.segment): row for row in sorted(blocks, key=lambda row: row.step)}
    for series, row in newest.items():
        capitals = capitals_after(state, observation(row))
        point = Point(ingest, row.step, {bet: float(log_e_value(values)) for bet, values in capitals.items()})
        points = (*longer.get(series, ()), point)
        longer[series] = points[::2] if len(points) > _LONGEST_PATH else points
    return longer


def _digest(before: str, rows: Sequence[EvidenceRow]) -> str:
    """The first 16 hexadecimal digits of a SHA-256 over the digest before and one ingest's counts, in any order."""
    counts = [
        [row.ingest, row.kind, row.step, row.bucket_start, row.metric, row.segment, row.champion, row.challenger, more]
        for row in sorted(rows, key=lambda row: (row.metric, row.segment, row.step, row.bucket_start, row.kind))
        if row.kind in ("baseline", "block", "ingest")
        for more in [row.detail if row.kind == "baseline" else row.detail.get("unjudged")]
    ]
    return hashlib.sha256(json.dumps([before, counts]).encode()).hexdigest()[:16] if rows else before
