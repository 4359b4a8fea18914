"""What the runs of a release do, as their assets and jobs do it, each with parts of its own."""

from datetime import UTC, datetime
from typing import Any

from release_pipeline.assets.canary_traffic import look, take_step
from release_pipeline.assets.deployed_endpoint import prove_challenger, send_tracers, served_entity
from release_pipeline.assets.promoted_alias import promote as promote_asset
from release_pipeline.automation.next_run import NextRun, next_run, open_run, watched
from release_pipeline.errors import WorkspaceError
from release_pipeline.gate.verdict import HoldReason
from release_pipeline.rollout.open_move import close
from release_pipeline.rollout.parts import Parts, connect_parts
from release_pipeline.rollout.rolling_back import has_traffic
from release_pipeline.rollout.state import Stage, current_release
from release_pipeline.spec import ReleaseSpec


def prime(spec: ReleaseSpec) -> None:
    """Reads through both clients, for what they import at their first use."""
    parts = _parts(spec)
    parts.registry.version_of_alias(spec.promotion.alias)
    parts.registry.get("1")
    parts.payload.latest()
    parts.endpoint.read()
    parts.endpoint.counters()


def _parts(spec: ReleaseSpec, actor: str = "run:0") -> Parts:
    return connect_parts(spec, actor=actor, progress=lambda line: None)


def deploy(spec: ReleaseSpec, release: str, version: str) -> None:
    """The asset deployed_endpoint."""
    parts = _parts(spec)
    latest = parts.payload.latest()
    entity = served_entity(spec, version, "0")
    state = parts.rollout.deploy(release, version, entity, table_version=latest.version if latest else 0)
    prove_challenger(parts, spec, state)


def canary_step(spec: ReleaseSpec, release: str) -> None:
    """The asset canary_traffic."""
    parts = _parts(spec)
    before = take_step(parts, spec, release)
    same = parts.rollout.state(release) == before.release
    after = look(parts, release, ingest=same or not before.release.steps)
    if after.release.stage is Stage.RAMPING and (
        after.release.step != before.release.step or after.verdict.reason == HoldReason.MAPPING_UNKNOWN
    ):
        send_tracers(parts, spec, after.release)


def promote(spec: ReleaseSpec, release: str) -> None:
    """The asset promoted_alias."""
    promote_asset(_parts(spec), release)


def retire(spec: ReleaseSpec, release: str) -> None:
    """The job that ends the bake."""
    _parts(spec).rollout.retire(release)


def rollback(spec: ReleaseSpec, release: str, reason: str = "asked for by the test") -> None:
    """The rollback job."""
    parts = _parts(spec)
    try:
        digest = look(parts, release).evidence_digest
    except WorkspaceError:
        digest = ""
    parts.rollout.roll_back(release, reason=reason, evidence_digest=digest)


_JOBS: dict[str, Any] = {"canary_step": canary_step, "promote": promote, "retire": retire, "rollback": rollback}


def tick(spec: ReleaseSpec) -> str:
    """One tick of the sensor, and the run that it asks for; what was done, or why nothing was."""
    parts = _parts(spec, "sensor")
    entries = parts.ledger.read()
    state = current_release(entries)
    if state is None or not state.active:
        if state is not None and state.stage is Stage.ROLLED_BACK and has_traffic(state, parts.endpoint.read()):
            rollback(spec, state.release, state.reason)
            return "ran: roll_back again"
        return "idle"
    observed = parts.observer.look(state.release, entries=entries) if watched(state) else None
    verdict = observed.verdict if observed else None
    if state.open_intent is not None:
        wanted: NextRun | None = open_run(state, verdict)[0]
    else:
        wanted, sentence = next_run(state, verdict, spec, datetime.now(UTC))
    if wanted is None:
        return f"holds: {sentence}"
    if observed and observed.not_finished and close(parts.rollout, state, observed.not_finished):
        return f"ran: closed what is not to be finished: {observed.not_finished}"
    reason = (wanted.reason,) if wanted.job == "rollback" else ()
    _JOBS[wanted.job](spec, state.release, *reason)
    return f"ran: {wanted.action}"
