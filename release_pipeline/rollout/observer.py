"""What a tick sees: the ledger, the endpoint, the new rows of the inference table, and the gate's verdict on them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from release_pipeline.clock import Clock
from release_pipeline.gate.decision import decide, decide_first_release
from release_pipeline.gate.evidence import Baseline, Bet, EvidenceState, Observation, bucket_seconds_for
from release_pipeline.gate.verdict import Action, HoldReason, Signals, Verdict
from release_pipeline.rollout import ledger as ledgers
from release_pipeline.rollout.ledger import Entry, Ledger, Phase
from release_pipeline.rollout.state import ReleaseState, current_release
from release_pipeline.spec import ReleaseSpec
from release_pipeline.workspace.endpoint import Endpoint, EndpointState
from release_pipeline.workspace.evidence_table import EvidenceRow, EvidenceTable, digest
from release_pipeline.workspace.inference_table import Delta, Group, InferenceTable, Window

# The traffic rate that sizes the event-time buckets is taken from this time before the release.
RATE_SECONDS = 3600.0
# The lag that people are shown, and that LAGGING goes by, is the longest of this many ingests.
LAG_INGESTS = 5


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
    """

    release: ReleaseState
    endpoint: EndpointState | None
    evidence: EvidenceState
    rows: tuple[EvidenceRow, ...]
    verdict: Verdict
    evidence_digest: str
    thresholds: dict[str, int | None]
    ingests: int
    lag_seconds: float | None


@dataclass(frozen=True)
class Observer:
    """Looks at the releases of one model."""

    spec: ReleaseSpec
    endpoint: Endpoint
    ledger: Ledger
    payload: InferenceTable
    evidence: EvidenceTable
    clock: Clock

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
        rows, latest = self.evidence.read(release), self.payload.latest()
        unmapped, unread = 0, list[Observation]()
        if ingest and latest is not None and state.steps:
            if not rows:
                self.evidence.create()
                self.evidence.append(self._baseline_rows(state, entries))
                rows = self.evidence.read(release)
            unmapped, unread = self._ingest(state, rows, latest)
            rows = self.evidence.read(release)
        # Rows that wait for their mapping are not stored; those of known entities can still roll back.
        evidence = fold_rows(rows, self.spec).add(unread)
        lags = [row.lag_seconds for row in rows if row.kind == "ingest" and row.ingest > 0][-LAG_INGESTS:]
        signals = Signals(
            now=self.clock.now().timestamp(),
            step_started_at=(state.steps[-1].started_at if state.steps else state.started_at).timestamp(),
            ramp_started_at=(state.steps[0].started_at if state.steps else state.started_at).timestamp(),
            configured_share=state.traffic_percent / 100,
            table_missing=latest is None,
            unmapped_rows=unmapped,
            lag_seconds=max(lags) if lags else None,
            update_in_progress=bool(endpoint and endpoint.updating),
        )
        if state.champion_version is None:
            verdict = decide_first_release(evidence, signals, self.spec)
        else:
            verdict = decide(evidence, signals, self.spec, max(state.step, 0))
        verdict = _held_where_moved(verdict, state, endpoint)
        return Observed(
            release=state,
            endpoint=endpoint,
            evidence=evidence,
            rows=tuple(rows),
            verdict=verdict,
            evidence_digest=digest(rows),
            thresholds={row.metric: row.detail.get("threshold_ms") for row in rows if row.kind == "baseline"},
            ingests=sum(row.kind == "ingest" for row in rows) - 1,
            lag_seconds=max(lags) if lags else None,
        )

    def _ingest(
        self, state: ReleaseState, rows: Sequence[EvidenceRow], latest: tuple[int, datetime]
    ) -> tuple[int, list[Observation]]:
        """Read what is new and store it.

        Rows of an entity that no tracer has mapped yet keep the whole read from being stored, because they would be
        lost otherwise: then returns their number, and the observations of the others.
        """
        cursor = max(row.to_version for row in rows)
        if latest[0] <= cursor:
            return 0, []
        delta = self.payload.changes(
            cursor,
            latest,
            first_version=state.baseline_version + 1,
            windows=[Window(step.step, step.started_at, step.ended_at) for step in state.steps],
            bucket_seconds=bucket_seconds(rows),
            metrics=self.spec.gate.metrics,
            thresholds={row.metric: row.detail.get("threshold_ms") for row in rows if row.kind == "baseline"},
        )
        mapping = {**self.evidence.mapping(), **delta.mapping}
        unmapped = sum(group.rows for group in delta.groups if group.served_entity_id not in mapping)
        if unmapped:
            number, watermark = _next_ingest(rows, delta)
            return unmapped, _observations(number, delta, mapping, state, self.spec, watermark)
        self.evidence.append(self._ingest_rows(state, rows, delta, mapping))
        return 0, []

    def _baseline_rows(self, state: ReleaseState, entries: Sequence[Entry]) -> list[EvidenceRow]:
        """The levels that are frozen for the whole release, as ingest 0."""
        since = state.started_at - timedelta(days=self.spec.gate.baseline_days)
        for entry in entries:
            # Before its own promotion the champion did not serve everything.
            if entry.action is ledgers.Action.PROMOTE and entry.phase is Phase.DONE and entry.release != state.release:
                since = max(since, entry.at)
        ids = [entity for entity, version in self.evidence.mapping().items() if version == state.champion_version]
        found = self.payload.level(self.spec.gate.metrics, since, state.started_at, RATE_SECONDS, entities=ids)
        smallest = 1 - max(self.spec.ramp.steps) / 100
        length = bucket_seconds_for(self.spec.gate, found.requests_per_second * smallest)
        common = {"release": state.release, "ingest": 0, "at": self.clock.now(), "to_version": state.baseline_version}
        rows = [
            EvidenceRow(
                **common,  # type: ignore[arg-type]
                kind="baseline",
                metric=name,
                champion=(level.rows - level.bad, level.bad),
                detail={"threshold_ms": level.threshold_ms},
            )
            for name, level in found.levels.items()
        ]
        detail = {"bucket_seconds": length, "requests_per_second": found.requests_per_second}
        return [*rows, EvidenceRow(**common, kind="ingest", detail=detail)]  # type: ignore[arg-type]

    def _ingest_rows(
        self, state: ReleaseState, rows: Sequence[EvidenceRow], delta: Delta, mapping: dict[str, str]
    ) -> list[EvidenceRow]:
        number, watermark = _next_ingest(rows, delta)
        blocks = _observations(number, delta, mapping, state, self.spec, watermark)
        after = fold_rows(rows, self.spec).add(blocks)
        at = self.clock.now()
        written = [
            EvidenceRow(
                release=state.release,
                ingest=number,
                kind="block",
                at=at,
                step=block.step,
                bucket_start=block.bucket_start,
                metric=block.metric,
                champion=block.champion,
                challenger=block.challenger,
                from_version=block.from_version,
                to_version=block.to_version,
                watermark=block.watermark,
                log_capitals=_capitals(after, block),
            )
            for block in blocks
        ]
        written += [
            EvidenceRow(
                release=state.release,
                ingest=number,
                kind="mapping",
                at=at,
                detail={"served_entity_id": entity, "version": version},
            )
            for entity, version in sorted(delta.mapping.items())
        ]
        written.append(
            EvidenceRow(
                release=state.release,
                ingest=number,
                kind="ingest",
                at=at,
                from_version=delta.from_version,
                to_version=delta.to_version,
                watermark=watermark,
                lag_seconds=delta.lag_seconds,
                detail={"outside": delta.outside},
            )
        )
        return written


def bucket_seconds(rows: Sequence[EvidenceRow]) -> int:
    """The length of the event-time buckets, as frozen with the baseline."""
    return next((int(row.detail["bucket_seconds"]) for row in rows if "bucket_seconds" in row.detail), 300)


def fold_rows(rows: Sequence[EvidenceRow], spec: ReleaseSpec) -> EvidenceState:
    """The gate's state from rows of the evidence table: the same rows give the same state, bit for bit."""
    by_name = {metric.name: metric for metric in spec.gate.metrics}
    baselines = [
        Baseline.freeze(by_name[row.metric], sum(row.champion), row.champion[1], row.detail.get("threshold_ms"))
        for row in rows
        if row.kind == "baseline" and row.metric in by_name
    ]
    state = EvidenceState.start(baselines, spec.gate, bucket_seconds=bucket_seconds(rows))
    for number in sorted({row.ingest for row in rows if row.kind == "block"}):
        state = state.add(
            Observation(
                ingest=row.ingest,
                step=row.step,
                bucket_start=row.bucket_start,
                metric=row.metric,
                champion=row.champion,
                challenger=row.challenger,
                from_version=row.from_version,
                to_version=row.to_version,
                watermark=row.watermark,
            )
            for row in rows
            if row.kind == "block" and row.ingest == number
        )
    return state


def _observations(
    number: int, delta: Delta, mapping: dict[str, str], state: ReleaseState, spec: ReleaseSpec, watermark: float
) -> list[Observation]:
    """Both arms side by side; where nothing arrived, one empty observation carries the watermark."""
    arms: dict[tuple[int, float], dict[str, list[Group]]] = {}
    for group in delta.groups:
        version = mapping.get(group.served_entity_id, "")
        arm = {state.challenger_version: "challenger", state.champion_version: "champion"}.get(version)
        if arm is not None:
            arms.setdefault((group.step, group.bucket_start), {}).setdefault(arm, []).append(group)
    if not arms:
        arms[(max(state.step, 0), datetime.fromtimestamp(watermark, tz=UTC).timestamp())] = {}
    return [
        Observation(
            ingest=number,
            step=step,
            bucket_start=start,
            metric=metric.name,
            champion=_counts(by_arm.get("champion", []), metric.name),
            challenger=_counts(by_arm.get("challenger", []), metric.name),
            from_version=delta.from_version,
            to_version=delta.to_version,
            watermark=watermark,
        )
        for (step, start), by_arm in sorted(arms.items())
        for metric in spec.gate.metrics
    ]


def _next_ingest(rows: Sequence[EvidenceRow], delta: Delta) -> tuple[int, float]:
    """The number of the next ingest, and its watermark: it trails by the longest lag that the release has seen."""
    longest = max([delta.lag_seconds, *(row.lag_seconds for row in rows if row.kind == "ingest")])
    return 1 + max(row.ingest for row in rows), delta.committed_at.timestamp() - longest


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


def _counts(groups: Sequence[Group], metric: str) -> tuple[int, int]:
    judged = sum(group.counts[metric][0] for group in groups)
    bad = sum(group.counts[metric][1] for group in groups)
    return judged - bad, bad


def _capitals(state: EvidenceState, block: Observation) -> dict[str, list[float]]:
    """The running log-capitals of a block's metric: harm over all steps, the others of the block's step."""
    evidence = state.metric(block.metric)
    return {
        bet.value: list(evidence.account(bet).carried() if bet is Bet.HARM else evidence.account(bet).at(block.step))
        for bet in sorted(evidence.accounts)
    }
