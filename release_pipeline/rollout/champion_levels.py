"""The champion's levels from before a release: read at its first look, and read again where they could not be read.

Levels come out of the whole baseline time in a few statements. Where that takes too long, a day or an hour has to do.
Where not even that can be read, nothing is frozen: rows wait, and every look tries again for some minutes, in which no
guard sees anything. Then the usual levels of the metrics' kinds are taken: a rough level makes evidence slower, never
false, and a gate without any is blind.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from release_pipeline.errors import OutOfTime, StatementFailed
from release_pipeline.rollout import ledger as ledgers
from release_pipeline.rollout.evidence_fold import EvidenceSoFar
from release_pipeline.rollout.ingest import (
    RATE_SECONDS,
    baseline_rows,
    baseline_since,
    level_rows,
    wait_seconds,
)
from release_pipeline.rollout.ledger import Entry, Phase
from release_pipeline.rollout.reconciliation import Reconciliation
from release_pipeline.rollout.state import ReleaseState
from release_pipeline.rollout.table_reads import LOOK_SECONDS, PAYLOAD_KINDS, Findings, Source, freeze_sources
from release_pipeline.spec import ReleaseSpec
from release_pipeline.spec_gate import GatePart, Metric
from release_pipeline.workspace.counting import condition
from release_pipeline.workspace.counts import Level
from release_pipeline.workspace.evidence_table import EvidenceRow
from release_pipeline.workspace.inference_table import InferenceTable
from release_pipeline.workspace.sql.warehouse import within

#: Tries, one after the other where the warehouse is too slow: of how long before the release rows are read, the first
#: time all that may be, and for how many seconds. A tick has to do more than this.
TRIES: Final = ((None, 10.0), (timedelta(days=1), 8.0), (timedelta(hours=1), 6.0))


@dataclass(frozen=True)
class ChampionLevels:
    """Levels of one release.

    Attributes:
        payload: The inference table.
        state: The release.
        entries: The ledger's rows.
        entities: Version by served entity id.
    """

    payload: InferenceTable
    state: ReleaseState
    entries: Sequence[Entry]
    entities: dict[str, str]

    def first(
        self, spec: ReleaseSpec, sources: Sequence[Source], counters: Reconciliation, at: datetime, seen: Findings
    ) -> list[EvidenceRow]:
        """Ingest 0; nothing where the inference table's levels cannot be read at all.

        A metric whose own SQL fails keeps nobody else's level from being frozen; its own is read by :meth:`rest`.
        """
        gate = spec.gate
        since, ids = self._before(gate)
        metrics = [metric for metric in gate.metrics if metric.kind in PAYLOAD_KINDS]
        try:
            levels, began = self._read(metrics, since, ids)
        except StatementFailed as error:
            seen.unreadable.append(
                f"The champion's levels before the release cannot be read from {self.payload.name}: "
                f"{condition(error)}; nothing is counted before they are, and every look tries again."
            )
            return []
        until = self._started + timedelta(seconds=wait_seconds(gate))
        if began is None and at < until:
            seen.unreadable.append(
                f"The warehouse is too slow to read the champion's levels before the release from {self.payload.name}; "
                f"nothing is counted before they are, and every look tries again, until {until:%Y-%m-%d %H:%M} UTC: "
                "then the usual levels are taken."
            )
            return []
        late, cursors = freeze_sources(sources, since, self._until, ids, seen)
        rows = baseline_rows(
            self.state,
            spec,
            [*levels, *late],
            requests_per_second=_largest_rate(levels),
            cursors={self.payload.name: self.state.baseline_version, **cursors},
            counters=counters,
            at=at,
        )
        if began is None or began > since:
            seen.notes.append(_shortened(self.payload.name, began))
            rows[-1] = replace(rows[-1], detail={**rows[-1].detail, "levels_since": (began or self._until).isoformat()})
        return rows

    def rest(
        self, spec: ReleaseSpec, sources: Sequence[Source], found: EvidenceSoFar, at: datetime
    ) -> list[EvidenceRow]:
        """Levels that could not be read for ingest 0, as rows of the next ingest; those that can be read by now.

        Rows of the inference table that were read in the meantime are not counted for their metrics. That is fair to
        both versions: whether a level from before the release can be read depends on no outcome of the release. Only
        stragglers are left of their event times, so these times are left out as a whole. Rows of the tables beside it
        have waited.
        """
        since, ids = self._before(found.gate)
        metrics = [metric for metric in found.gate.metrics if metric.name in found.unfrozen]
        own, levels = [metric for metric in metrics if metric.kind in PAYLOAD_KINDS], list[Level]()
        if own:
            with suppress(StatementFailed):
                read, began = self._read(own, since, ids)
                levels += read if began is not None else []
        behind = [source for source in sources if any(metric in metrics for metric in source.metrics)]
        levels += freeze_sources(behind, since, self._until, ids, Findings(), seconds=LOOK_SECONDS)[0]
        known = {level.metric for level in levels}
        metrics = [metric for metric in metrics if metric.name in known]
        if not metrics:
            return []
        failed = {level.metric for level in levels if level.failed}
        rows = level_rows(
            self.state,
            spec,
            [metric for metric in metrics if metric.name not in failed],
            levels,
            requests_per_second=max(found.requests_per_second, _largest_rate(levels)),
            ingest=found.ingest + 1,
            at=at,
        )
        partly_read = {metric.name for metric in own}
        return [
            replace(row, detail={**row.detail, "counts_from": found.newest}) if row.metric in partly_read else row
            for row in rows
        ]

    def _read(
        self, metrics: Sequence[Metric], since: datetime, entities: Sequence[str]
    ) -> tuple[list[Level], datetime | None]:
        """Levels, and the event time from which on rows were read; usual ones and None where nothing could be."""
        for length, seconds in TRIES:
            start = since if length is None else max(since, self._until - length)
            try:
                with within(seconds):
                    levels = self.payload.level(
                        metrics, start, self._until, rate_seconds=RATE_SECONDS, entities=entities
                    )
                return levels, start
            except OutOfTime:
                continue
        return [_usual(metric, self.payload.name) for metric in metrics], None

    @property
    def _started(self) -> datetime:
        """When users were first served, and rows to be judged began to come."""
        return self.state.steps[0].started_at if self.state.steps else self.state.started_at

    @property
    def _until(self) -> datetime:
        return self.state.started_at

    def _before(self, gate: GatePart) -> tuple[datetime, list[str]]:
        """From when on rows tell the champion's level, and the ids of its served entities."""
        promoted = [
            entry.at
            for entry in self.entries
            if entry.action is ledgers.Action.PROMOTE
            and entry.phase is Phase.DONE
            and entry.release != self.state.release
        ]
        ids = [entity for entity, version in self.entities.items() if version == self.state.champion_version]
        return baseline_since(self.state, gate, promoted), ids


def _usual(metric: Metric, table: str) -> Level:
    """The level of a metric of which nothing was read: its kind's own, or none where rows must tell how to count."""
    failed = ""
    if metric.segments is not None or (metric.kind == "slow" and metric.threshold_ms is None):
        failed = f"The warehouse was too slow to read it from {table}; it is tried again."
    return Level(metric.name, "", 0, 0.0, metric.threshold_ms, 0.0, failed)


def _shortened(table: str, began: datetime | None) -> str:
    """What a shorter time than usual means for people."""
    slow = f"the warehouse was too slow to read the levels before the release from {table}"
    if began is None:
        return f"{slow}: the usual ones are taken"
    return f"{slow} in full: they are taken from {began:%Y-%m-%d %H:%M} UTC on"


def _largest_rate(levels: Sequence[Level]) -> float:
    """Rows per second of the metric that has most."""
    rates: dict[str, float] = {}
    for level in levels:
        rates[level.metric] = rates.get(level.metric, 0.0) + level.rows_per_second
    return max(rates.values(), default=0.0)
