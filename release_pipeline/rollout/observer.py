"""What a tick sees: the ledger, the endpoint, the new rows of its tables, and the gate's verdict on them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

from release_pipeline.clock import Clock
from release_pipeline.errors import TableUnreadable
from release_pipeline.gate.decision import decide, decide_first_release
from release_pipeline.gate.evidence import EvidenceState
from release_pipeline.gate.observations import Series
from release_pipeline.gate.verdict import Action, Frozen, HoldReason, Signals, Verdict
from release_pipeline.rollout import ledger as ledgers
from release_pipeline.rollout.evidence_fold import EvidenceSoFar, Point, so_far
from release_pipeline.rollout.ingest import (
    RATE_SECONDS,
    TableRead,
    baseline_rows,
    baseline_since,
    ingest_rows,
    observations,
    watermark_after,
)
from release_pipeline.rollout.ledger import Entry, Ledger, Phase
from release_pipeline.rollout.reconciliation import Reading, Reconciliation
from release_pipeline.rollout.state import ReleaseState, current_release
from release_pipeline.spec import ReleaseSpec
from release_pipeline.spec_gate import Metric
from release_pipeline.workspace.counts import Cursor, Delta, Level, MetricPlan, Window
from release_pipeline.workspace.endpoint import Endpoint, EndpointState
from release_pipeline.workspace.endpoint_counters import Counters
from release_pipeline.workspace.evidence_table import EvidenceRow, EvidenceTable
from release_pipeline.workspace.inference_table import InferenceTable

#: Kinds that are counted in the inference table itself.
PAYLOAD_KINDS = ("errors", "slow", "expression")
#: Without new rows, an ingest is stored this often within gate.max_lag_minutes, to keep a reading of the counters.
_READINGS_PER_LAG = 8
_MINUTE = 60.0


class Source(Protocol):
    """A table beside the inference table whose rows judge requests: scores of judges and people, labels."""

    name: str
    metrics: tuple[Metric, ...]

    def collect(self, since: datetime) -> None:
        """Bring what the table is made of up to date, where that is this pipeline's work."""

    def latest(self) -> Cursor | None:
        """How far the table reaches; None where it does not exist."""

    def version_before(self, moment: datetime) -> int:
        """The last version that can hold nothing of a request from ``moment`` on."""

    def level(
        self, since: datetime, until: datetime, *, rate_seconds: float, entities: Sequence[str] = ()
    ) -> list[Level]:
        """The level of its metrics before the release."""

    def changes(
        self,
        after_version: int,
        latest: Cursor,
        *,
        first_version: int,
        windows: Sequence[Window],
        plans: Sequence[MetricPlan],
    ) -> Delta:
        """What is new in it."""


@dataclass(frozen=True)
class Observed:
    """One look at a release.

    Attributes:
        evidence: The gate's state after everything that was read.
        verdict: What the gate says.
        evidence_digest: Digest of the rows that the verdict rests on.
        thresholds: Frozen thresholds of `slow` metrics, milliseconds.
        ingests: How many reads of new rows the evidence holds.
        lag_seconds: Longest lag among the latest reads, None before the first.
        path: E-values by series, ingest by ingest.
        signals: The health that the verdict rests on.
        late: Rows that came too late for a table without a change feed.
        duplicates: Rows that were delivered again.
        sampling_fraction: Smallest share of logged requests.
    """

    release: ReleaseState
    endpoint: EndpointState | None
    evidence: EvidenceState
    verdict: Verdict
    evidence_digest: str
    thresholds: Mapping[str, int | None]
    ingests: int
    lag_seconds: float | None
    signals: Signals
    path: Mapping[Series, tuple[Point, ...]] = field(default_factory=dict)
    late: int = 0
    duplicates: int = 0
    sampling_fraction: float = 1.0


@dataclass
class _Look:
    """What one look found out besides evidence."""

    missing: list[str] = field(default_factory=list)
    unreadable: str = ""
    unmapped: int = 0


@dataclass(frozen=True)
class Observer:
    """Looks at the releases of one model; ``sources_of`` gives the tables beside the inference table for metrics."""

    spec: ReleaseSpec
    endpoint: Endpoint
    ledger: Ledger
    payload: InferenceTable
    evidence: EvidenceTable
    clock: Clock
    sources_of: Callable[[Sequence[Metric]], Sequence[Source]] = lambda metrics: ()

    def look(self, release: str, *, entries: Sequence[Entry] | None = None, ingest: bool = True) -> Observed | None:
        """Look at ``release``; None where the ledger does not know it.

        Args:
            release: The release's key.
            entries: The ledger's rows where the caller has read them already.
            ingest: Read new rows and store them as evidence; without it only what is stored counts.

        Raises:
            WorkspaceError: The workspace cannot be asked.
        """
        entries = self.ledger.read() if entries is None else entries
        state = current_release(entries, release)
        if state is None:
            return None
        endpoint = self.endpoint.read()
        found, seen = so_far(self.evidence.read_newest(release), self.spec.gate), _Look()
        evidence = found.state
        try:
            latest = self.payload.latest()
            if latest is None:
                seen.missing.append(self.payload.name)
            elif ingest and state.steps:
                found, evidence = self._read(state, entries, found, latest, seen)
        except TableUnreadable as error:
            seen.unreadable = str(error)
        signals = self._signals(state, endpoint, found, seen)
        # The gate was frozen with the release: an edit of the YAML counts from the next one.
        spec = self.spec.model_copy(update={"gate": found.gate})
        if state.champion_version is None:
            verdict = decide_first_release(evidence, signals, spec)
        else:
            verdict = decide(evidence, signals, spec, max(state.step, 0))
        return Observed(
            release=state,
            endpoint=endpoint,
            evidence=evidence,
            verdict=_held_where_moved(verdict, state, endpoint),
            evidence_digest=found.digest,
            thresholds=found.thresholds,
            ingests=found.ingest,
            lag_seconds=signals.lag_seconds,
            signals=signals,
            path=found.path,
            late=found.late,
            duplicates=found.duplicates,
            sampling_fraction=found.sampling_fraction,
        )

    def _signals(
        self, state: ReleaseState, endpoint: EndpointState | None, found: EvidenceSoFar, seen: _Look
    ) -> Signals:
        now = self.clock.now().timestamp()
        first = state.steps[0].started_at if state.steps else state.started_at
        last = state.steps[-1].started_at if state.steps else state.started_at
        frozen = None
        unseen = found.reconciliation.requests_between(found.newest, now - 60 * found.gate.max_lag_minutes)
        if unseen and not seen.missing:
            frozen = Frozen(self.payload.name, found.newest, unseen)
        return Signals(
            now=now,
            step_started_at=last.timestamp(),
            ramp_started_at=first.timestamp(),
            configured_share=state.traffic_percent / 100,
            missing_tables=tuple(seen.missing),
            unreadable=seen.unreadable,
            frozen=frozen,
            unmapped_rows=seen.unmapped,
            unlogged_errors=found.reconciliation.unlogged_errors(),
            lag_seconds=max(found.lags) if found.lags else None,
            update_in_progress=bool(endpoint and endpoint.updating),
        )

    def _read(
        self, state: ReleaseState, entries: Sequence[Entry], found: EvidenceSoFar, latest: Cursor, seen: _Look
    ) -> tuple[EvidenceSoFar, EvidenceState]:
        """Read what is new in all tables and store it; returns what is stored, and what may be decided on.

        Rows of an entity that no tracer has mapped yet keep the whole read from being stored, because they would be
        lost otherwise; those of known entities can still roll back.
        """
        now = self.clock.now()
        if not found.cursors:
            self.evidence.create()
            self.evidence.append(self._baseline_rows(state, entries, now))
            found = so_far(self.evidence.read_newest(state.release), self.spec.gate)
        reads = self._new(state, found, latest, seen)
        payload = next((read.delta for read in reads if read.table == self.payload.name), None)
        quiet = now.timestamp() - found.at < 60 * found.gate.max_lag_minutes / _READINGS_PER_LAG
        if not reads and quiet:
            return found, found.state
        if payload is None:
            payload = _nothing_new(found, latest)
        mapping = {**self.evidence.mapping(), **payload.mapping}
        seen.unmapped = sum(
            rows for read in reads for entity, rows in read.delta.entities.items() if entity not in mapping
        )
        if seen.unmapped:
            watermark = watermark_after(found, payload)
            unread = observations(state, found.state, found.ingest + 1, reads, mapping, watermark)
            return found, found.state.add(unread)
        counters = self._counters(state, found, payload, mapping, now)
        rows = ingest_rows(state, found, reads, mapping, payload=payload, counters=counters, at=now)
        self.evidence.append(rows)
        stored = so_far(self.evidence.read_newest(state.release), self.spec.gate)
        return stored, stored.state

    def _new(self, state: ReleaseState, found: EvidenceSoFar, latest: Cursor, seen: _Look) -> list[TableRead]:
        """What is new in the inference table and in the tables beside it."""
        windows = [Window(step.step, step.started_at, step.ended_at) for step in state.steps]
        metrics = tuple(metric for metric in found.gate.metrics if metric.kind in PAYLOAD_KINDS)
        reads = []
        after = found.cursors.get(self.payload.name, 0)
        if latest.version > after:
            delta = self.payload.changes(
                after,
                latest,
                first_version=state.baseline_version + 1,
                windows=windows,
                plans=found.plans(metric.name for metric in metrics),
                earlier=found.reads,
            )
            seen.unreadable = "; ".join(delta.failed.values())
            reads.append(TableRead(self.payload.name, metrics, delta))
        for source in self.sources_of(found.gate.metrics):
            after = found.cursors.get(source.name, 0)
            try:
                source.collect(state.steps[0].started_at)
                until = source.latest()
            except TableUnreadable as error:  # the guards must not go blind with it
                seen.unreadable = str(error)
                continue
            if until is None:
                seen.missing.append(source.name)
            elif until.version > after:
                delta = source.changes(
                    after,
                    until,
                    first_version=1,
                    windows=windows,
                    plans=found.plans(metric.name for metric in source.metrics),
                )
                reads.append(TableRead(source.name, source.metrics, delta))
        return reads

    def _baseline_rows(self, state: ReleaseState, entries: Sequence[Entry], now: datetime) -> list[EvidenceRow]:
        promoted = [
            entry.at
            for entry in entries
            if entry.action is ledgers.Action.PROMOTE and entry.phase is Phase.DONE and entry.release != state.release
        ]
        since = baseline_since(state, self.spec.gate, promoted)
        ids = [entity for entity, version in self.evidence.mapping().items() if version == state.champion_version]
        metrics = [metric for metric in self.spec.gate.metrics if metric.kind in PAYLOAD_KINDS]
        levels = self.payload.level(metrics, since, state.started_at, rate_seconds=RATE_SECONDS, entities=ids)
        rates: dict[str, float] = {}
        for level in levels:
            rates[level.metric] = rates.get(level.metric, 0.0) + level.rows_per_second
        cursors = {self.payload.name: state.baseline_version}
        for source in self.sources_of(self.spec.gate.metrics):
            source.collect(since)
            levels += source.level(since, state.started_at, rate_seconds=RATE_SECONDS, entities=ids)
            cursors[source.name] = source.version_before(state.started_at)
        reading = self._reading(state, now)
        return baseline_rows(
            state,
            self.spec,
            levels,
            requests_per_second=max(rates.values(), default=0.0),
            cursors=cursors,
            counters=Reconciliation().read(reading) if reading else Reconciliation(),
            at=now,
        )

    def _reading(self, state: ReleaseState, now: datetime) -> Reading | None:
        page = self.endpoint.counters()
        if page is None or not page.entities:
            return None
        challenger = page.entities.get(state.entities.get("challenger", ""), Counters())
        requests = sum(each.requests for each in page.entities.values())
        if page.minute_end is not None:
            return Reading(page.minute_end, requests, challenger.errors, page.minute_end - _MINUTE)
        return Reading(now.timestamp(), requests, challenger.errors)

    def _counters(
        self, state: ReleaseState, found: EvidenceSoFar, payload: Delta, mapping: Mapping[str, str], now: datetime
    ) -> Reconciliation:
        """Counters against table: what can be compared by now, and a new reading."""
        counters, due = found.reconciliation, found.reconciliation.due(watermark_after(found, payload))
        if due is not None:
            since, until = (datetime.fromtimestamp(at, tz=now.tzinfo) for at in counters.window(due))
            logged = self.payload.errors_logged(since, until)
            ours = sum(rows for entity, rows in logged.items() if mapping.get(entity) == state.challenger_version)
            counters = counters.compare(due, ours, found.sampling_fraction)
        last = counters.last
        spacing = min(found.longest_lag / 4, 60 * found.gate.max_lag_minutes / _READINGS_PER_LAG)
        # Minutes are read as often as it comes: one that is missed is not counted again.
        if last is None or last.since is not None or now.timestamp() - last.at >= spacing:
            reading = self._reading(state, now)
            counters = counters.read(reading) if reading else counters
        return counters


def _nothing_new(found: EvidenceSoFar, latest: Cursor) -> Delta:
    return Delta(latest.version + 1, latest.version, (), {}, {}, 0.0, latest.at)


def _held_where_moved(verdict: Verdict, state: ReleaseState, endpoint: EndpointState | None) -> Verdict:
    """No step forward on an endpoint that does not serve what the ledger says; a rollback is never held."""
    if verdict.action not in (Action.ADVANCE, Action.PROMOTE) or state.open_intent is not None or not state.steps:
        return verdict
    share = state.traffic_percent
    expected = {state.entities["challenger"]: share}
    if state.champion_version is not None:
        expected[state.entities["champion"]] = 100 - share
    routes = {name: percent for name, percent in (endpoint.routes if endpoint else {}).items() if percent}
    if routes == {name: percent for name, percent in expected.items() if percent}:
        return verdict
    sentence = (
        f"Hold: the endpoint routes {routes or 'nothing'}, but the ledger says {expected}; somebody changed it: set "
        "the routes back, or roll the release back."
    )
    return replace(verdict, action=Action.HOLD, reason=HoldReason.SHARE_MISMATCH, sentence=sentence)
