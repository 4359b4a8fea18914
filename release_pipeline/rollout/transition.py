"""The writes of a release, each verified: intent, act, read back, outcome.

Every action first brings the ledger an intent, then makes the endpoint and the registry equal to what the intent
says, skipping what already is, reads both back, and records the outcome. So a run that was killed at any call is
finished by running the same action again from its open intent.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from release_pipeline.clock import Clock
from release_pipeline.errors import EndpointError, NotAllowed, Superseded, UpdateInProgress
from release_pipeline.rollout.alias import refuse_moved_alias
from release_pipeline.rollout.beginning import make_way
from release_pipeline.rollout.deployment import planned, planned_promotion
from release_pipeline.rollout.ledger import EVENTS, Action, Entry, Ledger, Phase
from release_pipeline.rollout.open_move import BY_HAND, nothing_done
from release_pipeline.rollout.quarantine import refuse_rejected
from release_pipeline.rollout.rolling_back import begin_roll_back, behind_another
from release_pipeline.rollout.state import ReleaseState, Stage, current_release
from release_pipeline.rollout.verified_write import VerifiedWrite
from release_pipeline.spec import ReleaseSpec
from release_pipeline.workspace.endpoint import Endpoint, Progress, ServedEntity
from release_pipeline.workspace.registry import REJECTED, Registry

#: A release that meets another one as it begins looks again so often.
_BEGINNINGS: Final = 3


@dataclass(frozen=True)
class Rollout:
    """The transitions of one model's releases.

    Attributes:
        actor: Who acts, as the ledger records it: ``run:<id>`` or a user's name.
        progress: Called with one line of news during a wait.
        shown_harm: What the gate's guards show against a release, as a sentence; empty where nothing is shown.
    """

    spec: ReleaseSpec
    endpoint: Endpoint
    registry: Registry
    ledger: Ledger
    clock: Clock
    actor: str
    progress: Progress
    shown_harm: Callable[[str], str]

    @property
    def _write(self) -> VerifiedWrite:
        return VerifiedWrite(self.spec, self.endpoint, self.registry, self.ledger, self.clock, self.progress)

    def state(self, release: str | None = None) -> ReleaseState | None:
        """Where ``release`` stands, or the newest release."""
        return current_release(self.ledger.read(release), release)

    def deploy(self, release: str, version: str, entity: ServedEntity, *, table_version: int) -> ReleaseState:
        """Add ``entity`` beside the champion at 0 %, or create the endpoint with it at 100 % where there is none.

        Where another release is under way, ``ramp.second_release`` says what happens; one in its bake is retired first,
        unless this one is to queue. A deployment that fails leaves the endpoint as it was.

        Raises:
            Queued: It waits for the end of another release.
            NotAllowed: Another release is under way, or the endpoint does not serve the champion.
            UpdateFailed: The new configuration did not become ready; the champion still serves.
        """
        self.ledger.create()
        entries = self.ledger.read(release)
        mine = current_release(entries, release)
        opened = mine.open_intent if mine is not None else None
        if mine is not None and opened is None and mine.stage is not Stage.FAILED:
            return mine  # deployed already, by this run's predecessor
        if mine is not None and opened is not None and opened.action not in (Action.DEPLOY, Action.ROLL_BACK):
            return mine  # what moves it on is finished by whoever asks the gate whether it still should be
        if opened is None:
            entries = self._begun(release, version, entity, table_version)
        return self._finish(release, entries)

    def _begun(self, release: str, version: str, entity: ServedEntity, table_version: int) -> list[Entry]:
        """The ledger with the intent to deploy as its newest row; where another release came first, that counts."""
        for attempt in range(_BEGINNINGS):
            try:
                entries = make_way(self, release, version, entity)
                return [*entries, self._deploy_intent(entries, release, version, entity, table_version)]
            except Superseded:
                if attempt == _BEGINNINGS - 1:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def set_traffic(
        self, release: str, *, step: int, expected_config: int, evidence_digest: str, reason: str
    ) -> ReleaseState:
        """Give the challenger the traffic of ramp step ``step``.

        Raises:
            Superseded: The endpoint's configuration is no longer ``expected_config``.
            NotAllowed: The release is not at the step before.
        """
        entries, state = self.known(release)
        if state.open_intent is None:
            _refuse_held(state)
            if state.stage not in (Stage.DEPLOYED, Stage.RAMPING) or state.champion_version is None:
                raise NotAllowed(f"release {release} is {state.stage}; only a release in its ramp can take a step.")
            if step != state.step + 1 or step >= len(self.spec.ramp.steps):
                raise NotAllowed(f"release {release} is at step {state.step}; step {step} is not the next one.")
            percent = self.spec.ramp.steps[step]
            names = state.entities
            entries.append(
                self._intent(
                    entries,
                    release,
                    Action.SET_TRAFFIC,
                    before={"traffic_percent": state.traffic_percent},
                    after={
                        "step": step,
                        "traffic_percent": percent,
                        "routes": {names["champion"]: 100 - percent, names["challenger"]: percent},
                    },
                    expected_config=expected_config,
                    evidence_digest=evidence_digest,
                    reason=reason,
                )
            )
        return self._finish(release, entries, only=Action.SET_TRAFFIC)

    def promote(
        self,
        release: str,
        *,
        expected_config: int,
        evidence_digest: str,
        reason: str,
        approved_by: str = "",
        by_hand: bool = False,
    ) -> ReleaseState:
        """Give the challenger all traffic, verify it, then move the alias and verify that.

        A pause or a freeze, which may have come after the decision, holds it, unless a person promotes ``by_hand``.

        Raises:
            Superseded: The endpoint's configuration is no longer ``expected_config``.
            NotAllowed: The release is not in its ramp, or another tool has moved the alias.
        """
        entries, state = self.known(release)
        if state.open_intent is None:
            if state.stage is Stage.PROMOTED:
                return state
            if not by_hand:
                _refuse_held(state)
            if state.stage is not Stage.RAMPING:
                raise NotAllowed(f"release {release} is {state.stage}; only a release in its ramp can be promoted.")
            refuse_moved_alias(self.registry, self.spec, state)
            before, after = planned_promotion(self.spec, state, approved_by)
            after |= {BY_HAND: True} if by_hand else {}
            entries.append(
                self._intent(
                    entries,
                    release,
                    Action.PROMOTE,
                    before=before,
                    after=after,
                    expected_config=expected_config,
                    evidence_digest=evidence_digest,
                    reason=reason,
                )
            )
        return self._finish(release, entries, only=Action.PROMOTE)

    def retire(self, release: str, *, reason: str = "the bake is over", by_hand: bool = False) -> ReleaseState:
        """End the bake: remove the old champion's entity, which has no traffic any more.

        A pause or a freeze, which may have come after the decision, holds it, unless a person asks ``by_hand``.

        Raises:
            NotAllowed: The release is not in its bake, or somebody has changed the endpoint's traffic.
        """
        entries, state = self.known(release)
        if state.open_intent is None:
            if state.stage is not Stage.PROMOTED:
                raise NotAllowed(f"release {release} is {state.stage}; only a promoted release can end its bake.")
            if not by_hand:
                _refuse_held(state)
            challenger = state.entities["challenger"]
            now = self.endpoint.read()
            if now is not None and {name for name, share in now.routes.items() if share} != {challenger}:
                raise NotAllowed(
                    f"endpoint {self.endpoint.name} routes {dict(now.routes)}, not 100 % to {challenger}; somebody "
                    "changed it during the bake: the old champion stays until that is settled."
                )
            entries.append(
                self._intent(
                    entries,
                    release,
                    Action.RETIRE,
                    before={"entities": dict(state.entities)},
                    after={"routes": {challenger: 100}, "remove": [state.entities.get("champion", "")]},
                    reason=reason,
                )
            )
        return self._finish(release, entries, only=Action.RETIRE)

    def roll_back(
        self, release: str, *, reason: str, evidence_digest: str = "", status: str = REJECTED
    ) -> ReleaseState:
        """Give the champion all traffic again, put the alias back, tag the version, remove its entity.

        It begins as :meth:`begin_roll_back`, outranks every other intent and waits out an update in progress. Asked
        twice it happens once.

        Args:
            release: The release's key.
            reason: One sentence; it is tagged on the version.
            evidence_digest: Digest of the evidence that shows harm, if any does.
            status: What the version is tagged: rejected, which keeps its like from being released again, or superseded.
        """
        state = self.begin_roll_back(release, reason=reason, evidence_digest=evidence_digest, status=status)
        if state.open_intent is None:
            return state
        return self._finish(release, self.known(release)[0], only=Action.ROLL_BACK)

    def begin_roll_back(
        self, release: str, *, reason: str, evidence_digest: str = "", status: str = REJECTED
    ) -> ReleaseState:
        """Write down that a release is to be rolled back, and nothing else: from here on it will be, whoever dies.

        One that was rolled back is so again where its version is back on the endpoint, as after another tool's write.
        """
        return begin_roll_back(self, release, reason=reason, evidence_digest=evidence_digest, status=status)

    def give_up(self, release: str, *, reason: str) -> ReleaseState:
        """Close an open end of a bake, an open mend, or a move of which nothing was done: what serves stays as it is.

        Raises:
            NotAllowed: None of them is open.
        """
        entries, state = self.known(release)
        ends = state.open_intent is not None and state.open_intent.action in (Action.RETIRE, Action.MEND)
        if state.open_intent is None or not (ends or nothing_done(self, state)):
            raise NotAllowed(f"release {release} has nothing open that could be given up.")
        given_up = current_release(self._outcome(entries, state.open_intent, Phase.FAILED, reason=reason), release)
        assert given_up is not None
        return given_up

    def mend(
        self, seen: ReleaseState, before: Mapping[str, Any], after: Mapping[str, Any], *, config: int, reason: str
    ) -> ReleaseState:
        """Bring endpoint and alias back to ``after``, what the ledger says; where the release stands does not change.

        Raises:
            Superseded: The release, or the endpoint's configuration ``config``, is no longer what was looked at.
        """
        entries, state = self.known(seen.release)
        if state.last_sequence != seen.last_sequence or state.open_intent is not None:
            raise Superseded(f"release {seen.release} moved since it was looked at; nothing was mended, look again.")
        act = (entries, seen.release, Action.MEND)
        entries.append(self._intent(*act, before=before, after=after, expected_config=config, reason=reason))
        return self._finish(seen.release, entries, only=Action.MEND)

    def resume(self, release: str) -> ReleaseState:
        """Finish the open intent of ``release``, whatever it is; nothing happens where none is open."""
        entries, state = self.known(release)
        return state if state.open_intent is None else self._finish(release, entries)

    def known(self, release: str) -> tuple[list[Entry], ReleaseState]:
        """The ledger's rows, oldest first, and where ``release`` stands.

        Raises:
            NotAllowed: The ledger does not know it.
        """
        entries = self.ledger.read(release)
        state = current_release(entries, release)
        if state is None:
            raise NotAllowed(f"release {release} of {self.spec.name} is not in {self.ledger.table}; deploy it first.")
        return entries, state

    def _deploy_intent(
        self, entries: list[Entry], release: str, version: str, entity: ServedEntity, table_version: int
    ) -> Entry:
        refuse_rejected(self.registry, release, version)
        now = self.endpoint.read()
        champion = self.registry.version_of_alias(self.spec.promotion.alias)
        before, after = planned(self.spec, now, champion, version, entity)
        return self._intent(
            entries,
            release,
            Action.DEPLOY,
            before=before,
            after={**after, "endpoint": self.endpoint.name, "table_version": table_version},
            expected_config=now.config_version if now else 0,
            reason="release started",
        )

    def _intent(
        self,
        entries: list[Entry],
        release: str,
        action: Action,
        *,
        before: Mapping[str, Any],
        after: Mapping[str, Any],
        reason: str,
        expected_config: int | None = None,
        evidence_digest: str = "",
    ) -> Entry:
        now = self.endpoint.read()
        config = now.config_version if now else 0
        if expected_config is not None and config != expected_config:
            raise Superseded(
                f"endpoint {self.endpoint.name} has configuration {config}, but the decision was made on "
                f"{expected_config}; nothing was changed, the next tick looks again."
            )
        return self.ledger.append(
            entries,
            release=release,
            actor=self.actor,
            action=action,
            phase=Phase.INTENT,
            before=before,
            after=after,
            config_version=config,
            evidence_digest=evidence_digest,
            reason=reason,
        )

    def _outcome(
        self, entries: list[Entry], intent: Entry, phase: Phase, *, reason: str, extra: Mapping[str, Any] | None = None
    ) -> list[Entry]:
        """The ledger with the outcome of ``intent``, behind events that were said meanwhile.

        Where another run has finished the same, and said so first, the outcome is its own.

        Raises:
            Superseded: An act came after the intent.
        """
        now = self.endpoint.read()
        while True:
            try:
                outcome = self.ledger.append(
                    entries,
                    release=intent.release,
                    actor=self.actor,
                    action=intent.action,
                    phase=phase,
                    before=intent.before,
                    after={**intent.after, **(extra or {})},
                    config_version=now.config_version if now else 0,
                    evidence_digest=intent.evidence_digest,
                    reason=reason,
                )
            except Superseded:
                later = self.ledger.read()
                come = [entry for entry in later if entry.sequence > entries[-1].sequence]
                act = (intent.release, intent.action, phase)
                if any((entry.release, entry.action, entry.phase) == act for entry in come):
                    return later
                if not come or any(entry.action not in EVENTS for entry in come):
                    raise
                entries = later
            else:
                return [*entries, outcome]

    def _finish(self, release: str, entries: list[Entry], only: Action | None = None) -> ReleaseState:
        """Bring about what the open intent says, and record the outcome."""
        state = current_release(entries, release)
        intent = state.open_intent if state else None
        if intent is None:
            raise NotAllowed(f"release {release} has no open intent to finish.")
        if only is not None and intent.action is not only:
            raise NotAllowed(f"release {release} is in the middle of {intent.action}; that is finished first.")
        try:
            extra = self._write.carry_out(intent)
        except Superseded as error:
            return behind_another(self, intent, error)
        except UpdateInProgress:
            raise  # it may still come true: the intent stays open and the next tick looks again
        except EndpointError as error:
            if intent.action is Action.ROLL_BACK:
                raise  # stays open: it is tried again until it is done
            self._write.undo(intent, error)
            self._outcome(entries, intent, Phase.FAILED, reason=str(error))
            raise
        finished = current_release(
            self._outcome(entries, intent, Phase.DONE, reason=intent.reason, extra=extra), release
        )
        assert finished is not None
        return finished


def _refuse_held(state: ReleaseState) -> None:
    """What a person said, or a freeze, after the decision was made counts."""
    held = state.paused or state.frozen
    if held is not None:
        raise Superseded(
            f"release {state.release}: {held.action} by {held.actor} came in between; nothing was changed."
        )
