"""What runs and people do to one model's releases, each with parts of its own, at the time that a clock says."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from release_pipeline.assets.canary_traffic import look, renew_tracers, take_step
from release_pipeline.assets.deployed_endpoint import prove_challenger, served_entity
from release_pipeline.assets.promoted_alias import promote as promote_asset
from release_pipeline.automation.next_run import NextRun, next_run, open_run, watched
from release_pipeline.errors import Queued, WorkspaceError
from release_pipeline.gate.verdict import HoldReason
from release_pipeline.operate.release_commands import promote_release, roll_back
from release_pipeline.operate.session import Session
from release_pipeline.rollout.approval import approve
from release_pipeline.rollout.mending import mend
from release_pipeline.rollout.open_move import close, stopped
from release_pipeline.rollout.parts import Parts, connect_parts
from release_pipeline.rollout.rolling_back import came_back
from release_pipeline.rollout.state import current_release, paused, queued
from release_pipeline.spec import ReleaseSpec
from tests.pipeline.conftest import TurnedClock

PERSON = "user:somebody"


@dataclass(frozen=True)
class Runs:
    """The runs of one model.

    Attributes:
        versions: The version of each release, as its own run knows it.
    """

    spec: ReleaseSpec
    clock: TurnedClock
    versions: dict[str, str] = field(default_factory=dict)

    def parts(self, actor: str = "run:0") -> Parts:
        return connect_parts(self.spec, actor=actor, progress=lambda line: None, clock=self.clock)

    def release(self, release: str) -> str:
        """The last part of the release job: the version on the endpoint, and its first step."""
        parts, version = self.parts(), self.versions[release]
        latest = parts.payload.latest()
        entity = served_entity(self.spec, version, "0")
        try:
            state = parts.rollout.deploy(release, version, entity, table_version=latest.version if latest else 0)
        except Queued as waits:
            return str(waits)
        prove_challenger(parts, self.spec, state)
        return self.canary_step(release)

    def canary_step(self, release: str) -> str:
        """The asset canary_traffic."""
        parts = self.parts()
        before = take_step(parts, self.spec, release)
        same = parts.rollout.state(release) == before.release
        after = look(parts, release, ingest=same or not before.release.steps)
        renew_tracers(parts, self.spec, before, after)
        return before.verdict.sentence

    def promote(self, release: str) -> str:
        """The asset promoted_alias."""
        return promote_asset(self.parts(), release).verdict.sentence

    def retire(self, release: str) -> str:
        """The job that ends the bake, as the sensor asks for it."""
        parts = self.parts()
        observed = look(parts, release, ingest=True)
        if observed.release.open_intent is not None and (why := stopped(parts.rollout, observed)):
            return why
        return parts.rollout.retire(release).stage.value

    def rollback(self, release: str, reason: str) -> str:
        """The rollback job."""
        parts = self.parts()
        parts.rollout.begin_roll_back(release, reason=reason)
        with suppress(WorkspaceError):
            look(parts, release)
        return parts.rollout.roll_back(release, reason=reason).stage.value

    def mend(self, release: str) -> str:
        """The mend job."""
        seen, _ = mend(self.parts(), self.spec, release)
        return " ".join(finding.kind.value for finding in seen.findings)

    def tick(self) -> str:
        """One tick of the gate sensor, and the run that it asks for; what was done, or why nothing was."""
        parts = self.parts("sensor")
        entries = parts.ledger.read()
        state = current_release(entries)
        if state is None or not state.active:
            if state is not None and came_back(parts.rollout, state):
                self.rollback(state.release, state.reason)
                return f"ran roll_back again: {state.reason}"
            waiting = queued(entries)
            if not waiting or paused(entries) is not None:
                return f"idle: {'paused' if waiting else 'nothing to do'}"
            return f"from the queue: {self.release(waiting[0])}"
        seen = parts.observer.look(state.release, entries=entries) if watched(state) else None
        verdict = seen.verdict if seen else None
        if seen and seen.verdict.reason == HoldReason.FROZEN and state.frozen is None:
            parts.events.freeze(state.release, seen.judged.sentence, seen.evidence_digest)
        if state.open_intent is not None:
            wanted: NextRun | None = open_run(state, verdict)[0]
        else:
            wanted, sentence = next_run(state, verdict, self.spec, self.clock.now())
        if wanted is None:
            return f"holds: {sentence}"
        if wanted.job == "rollback":
            parts.rollout.begin_roll_back(state.release, reason=wanted.reason)
        if seen and seen.not_finished and close(parts.rollout, state, seen.not_finished):
            return f"ran close: {seen.not_finished}"
        jobs: dict[str, Callable[..., Any]] = {
            "canary_step": self.canary_step,
            "promote": self.promote,
            "retire": self.retire,
            "mend": self.mend,
        }
        if wanted.job == "rollback":
            self.rollback(state.release, wanted.reason)
        else:
            jobs[wanted.job](state.release)
        return f"ran {wanted.action}: {wanted.reason}"

    def ask_rollback(self) -> str:
        """The command ``rollback``."""
        return roll_back(self._session(), None, "asked for by the test").sentence

    def override(self) -> str:
        """The command ``promote --override``."""
        return promote_release(self._session(), None, "the test says so").sentence

    def approve(self) -> str:
        """The job by which a person approves the newest release."""
        parts = self.parts(PERSON)
        state = parts.rollout.state()
        return approve(parts, self.spec, state.release, "looks well").version if state else "nothing to approve"

    def pause(self) -> str:
        """A person pauses the model."""
        return self.parts(PERSON).events.pause("wait").entry_id

    def unpause(self) -> str:
        """A person lets releases move again."""
        self.parts(PERSON).events.unpause("go on")
        return "unpaused"

    def withdraw(self, release: str) -> str:
        """A person takes a release out of the queue."""
        return str(self.parts(PERSON).events.withdraw(release, "not needed"))

    def mend_newest(self) -> str:
        """A person runs the mend job of the newest release."""
        state = self.parts().rollout.state()
        return self.mend(state.release) if state else "nothing to mend"

    def _session(self) -> Session:
        return Session(self.spec, self.parts(PERSON), PERSON)
