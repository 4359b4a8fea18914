"""What a tick sees: the ledger, the endpoint, the new rows of its tables, and the gate's verdict on them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from release_pipeline.clock import Clock
from release_pipeline.errors import OutOfTime, StatementFailed, TableUnreadable
from release_pipeline.gate.bake import decide_bake
from release_pipeline.gate.decision import decide, decide_first_release
from release_pipeline.gate.evidence import EvidenceState
from release_pipeline.gate.observations import Series
from release_pipeline.gate.verdict import Action, Contradiction, Frozen, HoldReason, Signals, Verdict
from release_pipeline.rollout.champion_levels import ChampionLevels
from release_pipeline.rollout.clearance import Clearance, approval_of, cleared, first_step
from release_pipeline.rollout.evidence_fold import EvidenceSoFar, Point, so_far
from release_pipeline.rollout.ingest import (
    TableRead,
    ingest_rows,
    nothing_new,
    observations,
    over,
    wait_seconds,
    watermark_after,
    whole_milliseconds,
)
from release_pipeline.rollout.ledger import Action as Act
from release_pipeline.rollout.ledger import Entry, Ledger
from release_pipeline.rollout.observed_notes import standing_notes, with_doubt
from release_pipeline.rollout.open_move import watched_further, why_not_finished
from release_pipeline.rollout.reconciliation import Reading, Reconciliation
from release_pipeline.rollout.served_share import held_where_moved
from release_pipeline.rollout.state import ReleaseState, Stage, current_release
from release_pipeline.rollout.table_reads import (
    Findings,
    Source,
    has_new,
    read_payload,
    read_sources,
    settled,
    unknown_rows,
)
from release_pipeline.spec import ReleaseSpec
from release_pipeline.spec_gate import Metric
from release_pipeline.workspace.counting import condition, without_rows
from release_pipeline.workspace.counts import Cursor, Delta
from release_pipeline.workspace.endpoint import Endpoint, EndpointState
from release_pipeline.workspace.endpoint_counters import Counters
from release_pipeline.workspace.evidence_table import EvidenceTable, Known
from release_pipeline.workspace.inference_table import InferenceTable
from release_pipeline.workspace.sql.warehouse import within
from release_pipeline.workspace.tracer_rows import Shown, together, with_known

_MINUTE = 60.0
# Comparing the table with the counters takes no more of a look, seconds, and leaves so many to store what was read.
_COMPARING_SECONDS = 5.0
_STORING_SECONDS = 5.0


@dataclass(frozen=True)
class Observed:
    """One look at a release.

    Attributes:
        evidence: The gate's state after everything that was read.
        verdict: What the gate says, held where a person or a calendar is in the way.
        judged: What the gate alone says.
        evidence_digest: Digest of the rows that the verdict rests on.
        thresholds: Frozen thresholds of `slow` metrics, milliseconds.
        ingests: How many reads of new rows the evidence holds.
        lag_seconds: Longest lag among the latest reads, None before the first.
        path: E-values by series, ingest by ingest.
        signals: The health that the verdict rests on.
        late: Rows that came too late for a table without a change feed.
        duplicates: Rows that were delivered again.
        sampling_fraction: Smallest share of logged requests.
        notes: What could not be read of metrics that are only watched; nothing is held for it.
        approved_by: Who approved the promotion, empty where nobody has, or nobody needs to.
        not_finished: Why the open move, of which the endpoint shows nothing yet, is not to be finished; else empty.
    """

    release: ReleaseState
    endpoint: EndpointState | None
    evidence: EvidenceState
    verdict: Verdict
    judged: Verdict
    evidence_digest: str
    thresholds: Mapping[str, int | None]
    ingests: int
    lag_seconds: float | None
    signals: Signals
    path: Mapping[Series, tuple[Point, ...]] = field(default_factory=dict)
    late: int = 0
    duplicates: int = 0
    sampling_fraction: float = 1.0
    notes: tuple[str, ...] = ()
    approved_by: str = ""
    not_finished: str = ""


@dataclass(frozen=True)
class Observer:
    """Looks at the releases of one model.

    Attributes:
        sources_of: Gives the tables beside the inference table for metrics.
        approval_tag: Gives the value of a version's approval tag, empty where it has none.
    """

    spec: ReleaseSpec
    endpoint: Endpoint
    ledger: Ledger
    payload: InferenceTable
    evidence: EvidenceTable
    clock: Clock
    sources_of: Callable[[Sequence[Metric]], Sequence[Source]] = lambda metrics: ()
    approval_tag: Callable[[str], str] = lambda version: ""

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
        found, seen = so_far(self.evidence.read_newest(release), self.spec.gate), Findings()
        evidence, busy = found.state, ""
        try:
            latest = self.payload.latest()
            if latest is None:
                seen.missing.append(self.payload.name)
            elif ingest and state.steps:
                found, evidence = self._read(watched_further(state, endpoint), entries, found, latest, seen)
        except TableUnreadable as error:
            seen.unreadable.append(str(error))
        except StatementFailed as error:  # what is stored still decides
            busy = str(without_rows(error, "Reading what is new"))
        for metric in found.gate.metrics:
            if metric.name in found.unfrozen:
                why = f"The champion's level of {metric.name} before the release is not known, so nothing is counted."
                seen.add_unreadable(f"{why} {found.unfrozen[metric.name]}", [metric])
        signals = self._signals(state, endpoint, found, seen)
        # The gate was frozen with the release: an edit of the YAML counts from the next one.
        spec = self.spec.model_copy(update={"gate": found.gate})
        verdict = _held_where_busy(_verdict(state, evidence, signals, spec), busy, seen.backlog)
        verdict = with_doubt(held_where_moved(verdict, state, endpoint), found)
        clearance = Clearance(self.clock.now(), self._approval(state, verdict))
        held = cleared(verdict, state, spec, clearance)
        return Observed(
            release=state,
            endpoint=endpoint,
            evidence=evidence,
            verdict=held,
            judged=verdict,
            evidence_digest=found.digest,
            thresholds=found.thresholds,
            ingests=found.ingest,
            lag_seconds=signals.lag_seconds,
            signals=signals,
            path=found.path,
            late=found.late,
            duplicates=found.duplicates,
            sampling_fraction=found.sampling_fraction,
            notes=(*seen.notes, *standing_notes(state, found, self.payload.name)),
            approved_by=approval_of(state, clearance),
            not_finished=why_not_finished(held, state, endpoint, spec, clearance),
        )

    def _approval(self, state: ReleaseState, verdict: Verdict) -> str:
        """The approval tag, read only where it could be all that is missing."""
        opened = state.open_intent
        promotes = verdict.action is Action.PROMOTE or (opened is not None and opened.action is Act.PROMOTE)
        wanted = promotes and self.spec.promotion.approval == "required"
        return self.approval_tag(state.challenger_version) if wanted and state.approved is None else ""

    def _signals(
        self, state: ReleaseState, endpoint: EndpointState | None, found: EvidenceSoFar, seen: Findings
    ) -> Signals:
        now = self.clock.now().timestamp()
        first = state.steps[0].started_at if state.steps else state.started_at
        last = state.steps[-1].started_at if state.steps else state.started_at
        frozen = seen.frozen[0] if seen.frozen else None
        unseen = found.reconciliation.requests_between(found.newest, now - 60 * found.gate.max_lag_minutes)
        # What is there and could not be stored is no silence.
        unstored = seen.backlog or seen.unmapped or seen.contradictions
        if unseen and not seen.missing and not unstored:
            frozen = Frozen(self.payload.name, found.newest, unseen)
        return Signals(
            now=now,
            step_started_at=last.timestamp(),
            ramp_started_at=first.timestamp(),
            configured_share=state.traffic_percent / 100,
            missing_tables=tuple(seen.missing),
            unreadable="; ".join(seen.unreadable),
            frozen=frozen,
            unmapped_rows=seen.unmapped,
            contradictions=seen.contradictions,
            unlogged_errors=found.reconciliation.unlogged_errors(),
            late_rows=found.late_arms.get(max(state.step, 0), (0, 0))[1],
            lag_seconds=max(found.lags) if found.lags else None,
            update_in_progress=bool(endpoint and endpoint.updating),
        )

    def _read(
        self, state: ReleaseState, entries: Sequence[Entry], found: EvidenceSoFar, latest: Cursor, seen: Findings
    ) -> tuple[EvidenceSoFar, EvidenceState]:
        """Read what is new in all tables and store it; returns what is stored, and what may be decided on.

        The inference table's rows are stored before the tables beside it are asked: those may be slow, or fail. Rows
        of an entity that no tracer has mapped yet keep their read from being stored, because they would be lost
        otherwise; those of known entities can still roll back, in buckets that are over: these are cut alike at every
        look.
        """
        now = whole_milliseconds(self.clock.now())
        reading = self._reading(state, now)
        sources = self.sources_of(found.gate.metrics)
        wait = wait_seconds(found.gate)
        if not found.cursors:
            self.evidence.create()
            counters = Reconciliation().read(reading) if reading else Reconciliation()
            first = self._levels(state, entries).first(self.spec, sources, counters, now, seen)
            if not first:
                return found, found.state
            self.evidence.append(first)
            found = self._stored(state)
        elif found.unfrozen and now.timestamp() // wait > found.at // wait:
            spec = self.spec.model_copy(update={"gate": found.gate})
            levels = self._levels(state, entries).rest(spec, sources, found, now)
            if levels:
                of, counters = nothing_new(latest), found.reconciliation
                self.evidence.append(
                    ingest_rows(state, found, [], {}, payload=of, counters=counters, at=now, levels=levels)
                )
                found = self._stored(state)
        before = Known({}, {}, {})
        if sources or has_new(self.payload, found, latest):
            before = self.evidence.known(state.release)
        read = read_payload(self.payload, state, found, latest, seen, before.tracers)
        payload = read.delta if read else nothing_new(latest)
        here = together(Shown(dict(payload.mapping), dict(payload.contradictions)), seen.behind)
        shown = with_known(here, before.of_release)
        mapping = {**before.mapping, **shown.mapping}
        mapping = {entity: version for entity, version in mapping.items() if entity not in shown.contradictions}
        known, certain = frozenset(mapping), settled(state, here.mapping.values()) and not shown.contradictions
        held: list[TableRead] = []
        if read and (shown.contradictions or (not certain and unknown_rows(read, known))):
            held, read = [read], None
        waited = now.timestamp() - found.at >= wait
        owed = found.reconciliation.due(found.watermark) is not None
        if read or waited or owed or found.reconciliation.has_missed(reading):
            of = payload if read else nothing_new(latest)
            counters = self._counters(found, state, of, mapping, reading, now, seen)
            reads = [read] if read else []
            if read or waited or counters != found.reconciliation:
                self.evidence.append(ingest_rows(state, found, reads, mapping, payload=of, counters=counters, at=now))
                found = self._stored(state)
        fresh = read_sources(sources, state, found, seen, now.timestamp())
        beside = [read for read in fresh if certain or not unknown_rows(read, known)]
        held += [read for read in fresh if read not in beside]
        if beside:
            self.evidence.append(
                ingest_rows(
                    *(state, found, beside, mapping),
                    payload=nothing_new(latest),
                    counters=found.reconciliation,
                    at=now,
                )
            )
            found = self._stored(state)
        if not held:
            return found, found.state
        doubled = frozenset(shown.contradictions)
        seen.unmapped = sum(unknown_rows(read, known | doubled) for read in held)
        seen.contradictions = tuple(
            Contradiction(entity, versions, sum(read.delta.entities.get(entity, 0) for read in held))
            for entity, versions in sorted(shown.contradictions.items())
        )
        watermark = watermark_after(found, payload)
        unread = observations(state, found.state, found.ingest + 1, held, mapping, watermark, now=now.timestamp())
        return found, found.state.add(over(unread, found.state.buckets))

    def _levels(self, state: ReleaseState, entries: Sequence[Entry]) -> ChampionLevels:
        return ChampionLevels(self.payload, state, entries, self.evidence.mapping())

    def _stored(self, state: ReleaseState) -> EvidenceSoFar:
        return so_far(self.evidence.read_newest(state.release), self.spec.gate)

    def _reading(self, state: ReleaseState, now: datetime) -> Reading | None:
        page = self.endpoint.counters()
        if page is None or not page.entities:
            return None
        challenger = page.entities.get(state.entities.get("challenger", ""), Counters())
        requests = sum(each.requests for each in page.entities.values())
        if page.minute_end is not None:
            since = page.minute_end - _MINUTE
            return Reading(page.minute_end, requests, challenger.errors, since, challenger.refused)
        return Reading(now.timestamp(), requests, challenger.errors, refused=challenger.refused)

    def _counters(
        self,
        found: EvidenceSoFar,
        state: ReleaseState,
        payload: Delta,
        mapping: Mapping[str, str],
        reading: Reading | None,
        now: datetime,
        seen: Findings,
    ) -> Reconciliation:
        """Counters against table: what can be compared by now, and a new reading."""
        counters, due = found.reconciliation, found.reconciliation.due(watermark_after(found, payload))
        if due is not None:
            since, until = (datetime.fromtimestamp(at, tz=now.tzinfo) for at in counters.window(due))
            try:
                with within(_COMPARING_SECONDS, sparing=_STORING_SECONDS):
                    logged = self.payload.failures_logged(since, until)
                    versions = mapping or self.evidence.mapping()
            except StatementFailed as error:  # the reading waits for another look, and the evidence does not
                why = "the warehouse is too slow" if isinstance(error, OutOfTime) else condition(error)
                seen.add_unreadable(
                    f"{self.payload.name} cannot be compared with the endpoint's own counters: {why}; failures that "
                    "were not logged would not be seen.",
                    [metric for metric in found.gate.metrics if metric.kind == "errors"],
                )
            else:
                ours = [each for entity, each in logged.items() if versions.get(entity) == state.challenger_version]
                failed, refused = sum(each.failed for each in ours), sum(each.refused for each in ours)
                counters = counters.compare(due, failed, found.sampling_fraction, refused=refused)
        last = counters.last
        spacing = min(found.longest_lag / 4, wait_seconds(found.gate))
        # Minutes are read as often as it comes: one that is missed is not counted again.
        if reading and (last is None or reading.since is not None or reading.at - last.at >= spacing):
            counters = counters.read(reading)
        return counters


def _verdict(state: ReleaseState, evidence: EvidenceState, signals: Signals, spec: ReleaseSpec) -> Verdict:
    if state.stage in (Stage.STARTING, Stage.DEPLOYED):
        return first_step(state, spec)
    if state.stage is Stage.PROMOTED:
        first_release = state.champion_version is None
        return decide_bake(evidence, signals, spec, max(state.step, 0), first_release=first_release)
    if state.champion_version is None:
        return decide_first_release(evidence, signals, spec)
    return decide(evidence, signals, spec, max(state.step, 0))


def _held_where_busy(verdict: Verdict, busy: str, backlog: str) -> Verdict:
    """No step forward in a look that could not read all that is new; what is stored still rolls back."""
    if not busy:
        if not backlog or verdict.action is Action.ROLL_BACK:
            return verdict
        if verdict.reason in (HoldReason.MAPPING_UNKNOWN, HoldReason.MAPPING_CONTRADICTED):
            # It keeps the piece from being stored, so that without a remedy no look would get further.
            return replace(verdict, sentence=f"{verdict.sentence} Besides, {backlog}")
        sentence = f"Hold: {backlog} What was read so far does not roll back."
        return replace(verdict, action=Action.HOLD, reason=HoldReason.WAREHOUSE_BUSY, sentence=sentence)
    if verdict.action is Action.ROLL_BACK:
        return replace(verdict, sentence=f"{verdict.sentence} That is stored evidence; nothing newer was read: {busy}")
    sentence = f"Hold: {busy} Nothing newer was read, and the stored evidence does not roll back."
    return replace(verdict, action=Action.HOLD, reason=HoldReason.WAREHOUSE_BUSY, sentence=sentence)
