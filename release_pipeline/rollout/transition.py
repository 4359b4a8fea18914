"""The writes of a release, each verified: intent, act, read back, outcome.

Every action first brings the ledger an intent, then makes the endpoint and the registry equal to what the intent
says, skipping what already is, reads both back, and records the outcome. So a run that was killed at any call is
finished by running the same action again from its open intent.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from release_pipeline.clock import Clock
from release_pipeline.errors import EndpointError, NotAllowed, Superseded, UpdateInProgress
from release_pipeline.rollout.ledger import Action, Entry, Ledger, Phase
from release_pipeline.rollout.state import ReleaseState, Stage, current_release
from release_pipeline.rollout.verified_write import VerifiedWrite
from release_pipeline.spec import ReleaseSpec
from release_pipeline.workspace.endpoint import Endpoint, Progress, ServedEntity
from release_pipeline.workspace.registry import Registry


@dataclass(frozen=True)
class Rollout:
    """The transitions of one model's releases.

    Attributes:
        actor: Who acts, as the ledger records it: ``run:<id>`` or a user's name.
        progress: Called with one line of news during a wait.
    """

    spec: ReleaseSpec
    endpoint: Endpoint
    registry: Registry
    ledger: Ledger
    clock: Clock
    actor: str
    progress: Progress

    @property
    def _write(self) -> VerifiedWrite:
        return VerifiedWrite(self.spec, self.endpoint, self.registry, self.ledger, self.clock, self.progress)

    def state(self, release: str | None = None) -> ReleaseState | None:
        """Where ``release`` stands, or the newest release."""
        return current_release(self.ledger.read(), release)

    def deploy(self, release: str, version: str, entity: ServedEntity, *, table_version: int) -> ReleaseState:
        """Add ``entity`` beside the champion at 0 %, or create the endpoint with it at 100 % where there is none.

        A promotion that is still in its bake is retired first. A deployment that fails leaves the endpoint as it was.

        Raises:
            NotAllowed: Another release is under way, or the endpoint does not serve the champion.
            UpdateFailed: The new configuration did not become ready; the champion still serves.
        """
        self.ledger.create()
        entries = self.ledger.read()
        mine = current_release(entries, release)
        if mine is not None and mine.open_intent is None and mine.stage is not Stage.FAILED:
            return mine  # deployed already, by this run's predecessor
        if mine is None or mine.open_intent is None:
            newest = current_release(entries)
            if newest is not None and newest.release != release and newest.active:
                if newest.stage is not Stage.PROMOTED or newest.open_intent is not None:
                    raise NotAllowed(
                        f"release {newest.release} of {self.spec.name} is still under way ({newest.stage}); "
                        "wait for its end or roll it back, then materialise again."
                    )
                self.retire(newest.release, reason=f"release {release} ends the bake of the one before")
                entries = self.ledger.read()
            entries = [*entries, self._deploy_intent(entries, release, version, entity, table_version)]
        return self._finish(release, entries)

    def set_traffic(
        self, release: str, *, step: int, expected_config: int, evidence_digest: str, reason: str
    ) -> ReleaseState:
        """Give the challenger the traffic of ramp step ``step``.

        Raises:
            Superseded: The endpoint's configuration is no longer ``expected_config``.
            NotAllowed: The release is not at the step before.
        """
        entries, state = self._read(release)
        if state.open_intent is None:
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

    def promote(self, release: str, *, expected_config: int, evidence_digest: str, reason: str) -> ReleaseState:
        """Give the challenger all traffic, verify it, then move the alias and verify that.

        Raises:
            Superseded: The endpoint's configuration is no longer ``expected_config``.
            NotAllowed: The release is not in its ramp.
        """
        entries, state = self._read(release)
        if state.open_intent is None:
            if state.stage is Stage.PROMOTED:
                return state
            if state.stage is not Stage.RAMPING:
                raise NotAllowed(f"release {release} is {state.stage}; only a release in its ramp can be promoted.")
            names = state.entities
            routes = {names["challenger"]: 100}
            if state.champion_version is not None:
                routes[names["champion"]] = 0
            entries.append(
                self._intent(
                    entries,
                    release,
                    Action.PROMOTE,
                    before={
                        "traffic_percent": state.traffic_percent,
                        "alias": {self.spec.promotion.alias: state.champion_version},
                    },
                    after={
                        "routes": routes,
                        "traffic_percent": 100,
                        "alias": {self.spec.promotion.alias: state.challenger_version},
                    },
                    expected_config=expected_config,
                    evidence_digest=evidence_digest,
                    reason=reason,
                )
            )
        return self._finish(release, entries, only=Action.PROMOTE)

    def retire(self, release: str, *, reason: str = "the bake is over") -> ReleaseState:
        """End the bake: remove the old champion's entity, which has no traffic any more."""
        entries, state = self._read(release)
        if state.open_intent is None:
            if state.stage is not Stage.PROMOTED:
                raise NotAllowed(f"release {release} is {state.stage}; only a promoted release can end its bake.")
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

    def roll_back(self, release: str, *, reason: str, evidence_digest: str = "") -> ReleaseState:
        """Give the champion all traffic again, put the alias back, tag the version rejected, remove its entity.

        It outranks every other intent and waits out an update in progress. Asked twice it happens once.
        """
        entries, state = self._read(release)
        if state.stage in (Stage.ROLLED_BACK, Stage.FAILED) and state.open_intent is None:
            return state
        if state.stage is Stage.FINISHED:
            raise NotAllowed(f"release {release} has ended its bake; start a release of the older version instead.")
        opened = state.open_intent
        if opened is None or opened.action is not Action.ROLL_BACK:
            # One row takes the place of an open intent: between two rows a kill would leave neither.
            names = state.entities
            first = state.champion_version is None
            after: dict[str, Any] = {
                "traffic_percent": 0,
                "routes": {} if first else {names["champion"]: 100, names["challenger"]: 0},
                "alias": {self.spec.promotion.alias: state.champion_version},
                "remove": [names["challenger"]],
                "rejected": state.challenger_version,
            }
            entries.append(
                self._intent(
                    entries,
                    release,
                    Action.ROLL_BACK,
                    before={"traffic_percent": state.traffic_percent, "gave_up": opened.action.value if opened else ""},
                    after=after,
                    evidence_digest=evidence_digest,
                    reason=reason,
                )
            )
        return self._finish(release, entries, only=Action.ROLL_BACK)

    def resume(self, release: str) -> ReleaseState:
        """Finish the open intent of ``release``, whatever it is; nothing happens where none is open."""
        entries, state = self._read(release)
        return state if state.open_intent is None else self._finish(release, entries)

    def _read(self, release: str) -> tuple[list[Entry], ReleaseState]:
        entries = self.ledger.read()
        state = current_release(entries, release)
        if state is None:
            raise NotAllowed(f"release {release} of {self.spec.name} is not in {self.ledger.table}; deploy it first.")
        return entries, state

    def _deploy_intent(
        self, entries: list[Entry], release: str, version: str, entity: ServedEntity, table_version: int
    ) -> Entry:
        """What a deployment is to bring about, from what the endpoint and the alias say now."""
        now = self.endpoint.read()
        alias = self.spec.promotion.alias
        champion = self.registry.version_of_alias(alias)
        names = {"challenger": entity.name}
        if now is None or not now.entities:
            if now is not None:
                raise NotAllowed(
                    f"endpoint {self.endpoint.name} exists but serves nothing; delete it, then materialise again."
                )
            if champion is not None:
                raise NotAllowed(
                    f"alias {alias} of {self.registry.name} names version {champion}, but endpoint "
                    f"{self.endpoint.name} does not exist; serve that version there again, or delete the alias to "
                    "begin anew without a champion."
                )
        else:
            serving = [served for served in now.entities if now.routes.get(served.name, 0) == 100]
            if not serving or (champion is not None and serving[0].version != champion):
                raise NotAllowed(
                    f"alias {alias} of {self.registry.name} names version {champion or 'nothing'}, but endpoint "
                    f"{self.endpoint.name} routes {dict(now.routes)}; make the champion serve 100 % before a release."
                )
            champion, names["champion"] = serving[0].version, serving[0].name
            if champion == version:
                raise NotAllowed(f"version {version} of {self.registry.name} is the champion already.")
        return self._intent(
            entries,
            release,
            Action.DEPLOY,
            before={"champion_version": champion},
            after={
                "challenger_version": version,
                "champion_version": champion,
                "entities": names,
                "routes": {names["champion"]: 100, entity.name: 0} if champion else {entity.name: 100},
                "add": {
                    "name": entity.name,
                    "model": entity.model,
                    "version": entity.version,
                    "settings": dict(entity.settings),
                },
                "table_version": table_version,
            },
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
    ) -> Entry:
        now = self.endpoint.read()
        return self.ledger.append(
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
        except UpdateInProgress:
            raise  # it may still come true: the intent stays open and the next tick looks again
        except EndpointError as error:
            if intent.action is Action.ROLL_BACK:
                raise  # stays open: it is tried again until it is done
            self._write.undo(intent, error)
            self._outcome(entries, intent, Phase.FAILED, reason=str(error))
            raise
        entries.append(self._outcome(entries, intent, Phase.DONE, reason=intent.reason, extra=extra))
        finished = current_release(entries, release)
        assert finished is not None
        return finished
