"""What people say of releases, and what is noted of them: rows of the ledger that change nothing on the endpoint.

Unlike an act, an event does not depend on what came before it: where somebody else wrote at the same time, it is
written behind that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from release_pipeline.errors import NotAllowed, Superseded
from release_pipeline.rollout.ledger import Action, Entry, Ledger, Phase
from release_pipeline.rollout.state import Stage, current_release, paused, queued

_ATTEMPTS: Final = 10


@dataclass(frozen=True)
class Events:
    """The events of one model.

    Attributes:
        actor: Who says it, as the ledger records it: ``run:<id>``, ``sensor:<name>`` or a user's name.
    """

    ledger: Ledger
    actor: str

    def pause(self, reason: str) -> Entry:
        """Stop everything of the model that moves by itself, except rollbacks; once is enough."""
        return self._say(Action.PAUSE, reason, lambda entries: paused(entries))

    def unpause(self, reason: str) -> Entry | None:
        """Let releases move by themselves again; None where nothing was paused."""
        if paused(self.ledger.read()) is None:
            return None
        return self._say(Action.UNPAUSE, reason, lambda entries: None if paused(entries) else entries[-1])

    def approve(self, release: str, reason: str) -> Entry:
        """Approve the promotion of a release; once is enough.

        Raises:
            NotAllowed: The release is not on its way to a promotion.
        """

        def approved(entries: Sequence[Entry]) -> Entry | None:
            state = current_release(entries, release)
            if state is None or state.stage not in (Stage.DEPLOYED, Stage.RAMPING):
                raise NotAllowed(
                    f"release {release} is {state.stage if state else 'not in the ledger'}; only one on its ramp can "
                    "be approved."
                )
            return state.approved

        return self._say(Action.APPROVE, reason, approved, release)

    def freeze(self, release: str, reason: str, evidence_digest: str) -> Entry:
        """Note that a guard showed harm, and that the traffic stays as it is; once is enough."""

        def frozen(entries: Sequence[Entry]) -> Entry | None:
            state = current_release(entries, release)
            return state.frozen if state else None

        return self._say(Action.FREEZE, reason, frozen, release, evidence_digest=evidence_digest)

    def queue(self, release: str, reason: str) -> Entry:
        """Note that a release waits for the end of another; once is enough."""

        def waiting(entries: Sequence[Entry]) -> Entry | None:
            said = [entry for entry in entries if entry.action is Action.QUEUE and entry.release == release]
            return said[-1] if release in queued(entries) else None

        return self._say(Action.QUEUE, reason, waiting, release)

    def withdraw(self, release: str, reason: str) -> Entry | None:
        """Take a release out of the queue; None where it does not wait."""
        if release not in queued(self.ledger.read()):
            return None

        def gone(entries: Sequence[Entry]) -> Entry | None:
            return None if release in queued(entries) else entries[-1]

        return self._say(Action.QUEUE, reason, gone, release, phase=Phase.FAILED)

    def _say(
        self,
        action: Action,
        reason: str,
        said: Callable[[Sequence[Entry]], Entry | None],
        release: str = "",
        *,
        phase: Phase = Phase.DONE,
        evidence_digest: str = "",
    ) -> Entry:
        """Append an event, unless ``said`` finds that the ledger holds it already."""
        self.ledger.create()
        for attempt in range(_ATTEMPTS):
            entries = self.ledger.read()
            if (before := said(entries)) is not None:
                return before
            try:
                return self.ledger.append(
                    entries,
                    release=release,
                    actor=self.actor,
                    action=action,
                    phase=phase,
                    evidence_digest=evidence_digest,
                    reason=reason,
                )
            except Superseded:
                if attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError("the last attempt returns or raises")
