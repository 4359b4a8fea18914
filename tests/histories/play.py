"""One history: what is done step by step, what must hold after each, and how it is brought to rest."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from release_pipeline.errors import ReleasePipelineError
from release_pipeline.rollout.ledger import Entry
from release_pipeline.rollout.mending import look_for_drift
from release_pipeline.rollout.state import Stage, current_release, paused, queued
from release_pipeline.workspace.registry import TAG_STATUS
from tests.faults.observer import Sight, violations
from tests.histories.ground import CHALLENGERS, CHAMPION, CONFIGS, STRANGER, Ground
from tests.histories.rules import Rules, rejected
from tests.histories.runs import Runs
from tests.histories.wire import Wire
from tests.pipeline.conftest import together
from tests.pipeline.killer import Killer, Kills

Hand = Literal["weights", "remove", "add", "touch", "alias", "no alias"]
HANDS: tuple[Hand, ...] = ("weights", "remove", "add", "touch", "alias", "no alias")
Deed = Literal["tick", "start", "rollback", "approve", "pause", "unpause", "mend", "override"]
DEEDS: tuple[Deed, ...] = ("tick", "start", "rollback", "approve", "pause", "mend", "override")
#: Ticks, and what people do between them, until a history is at rest.
MOST_ROUNDS = 30


class Wrong(AssertionError):
    """Something that must not be."""


@dataclass
class Play:
    """One history on a ground.

    Attributes:
        told: What was done, and what came of it.
        entries: The ledger's rows after the last run.
        over: Something was wrong, so that it need not be brought to rest.
    """

    ground: Ground
    wire: Wire
    killer: Killer
    runs: Runs
    rules: Rules = field(default_factory=Rules)
    told: list[str] = field(default_factory=list)
    entries: tuple[Entry, ...] = ()
    over: bool = False

    @classmethod
    def begin(cls, ground: Ground, wire: Wire, killer: Killer, *, served: bool, **rules: Any) -> "Play":
        """A history under the YAML's ``rules`` of ramp and promotion, with or without a champion that is served."""
        ramp: dict[str, Any] = {key: rules.pop(key) for key in ("second_release", "on_harm", "steps") if key in rules}
        with wire.by_hand():
            clock = ground.reset(served=served)
        wire.begin()
        play = cls(ground, wire, killer, Runs(ground.spec(ramp, rules), clock))
        play.told.append(f"begin: served={served} {ramp} {rules}")
        return play

    def do(self, deed: Deed, kill: tuple[int, Kills] | None = None) -> str:
        """One run, or what one person does; it may be killed at one of its calls."""
        act, held = self._act(deed), deed == "tick" and paused(self.entries) is not None
        said = self._tell(deed if kill is None else f"{deed}, killed {kill[1]} {kill[0]}", lambda: self._run(act, kill))
        sight = self._judge(at_once=False, paused=held)
        if deed == "tick" and kill is None:
            self._complain(self.rules.ticked(sight))
        return said

    def at_once(self, *deeds: Deed) -> None:
        """Several of them at the same moment."""
        acts = [self._act(deed) for deed in deeds]
        self._tell(" and ".join(deeds), lambda: str(together(*(lambda act=act: self._run(act, None) for act in acts))))
        self._judge(at_once=True)

    def again(self) -> None:
        """The last release is materialised again."""
        if self.runs.versions:
            release = list(self.runs.versions)[-1]
            self._tell(f"again {release}", lambda: self._run(lambda: self.runs.release(release), None))
            self._judge(at_once=False)

    def ask(self, text: str, count: int) -> None:
        """Users ask."""
        with self.wire.by_hand():
            statuses = self.ground.users_ask(text, count)
        self.told.append(f"users: {text} {statuses}")
        if text == "hello" and set(statuses) - {200}:
            self._complain([f"users got {statuses}"])

    def jump(self, by: timedelta) -> None:
        """The clock jumps."""
        self.told.append(f"clock: {by}")
        self.runs.clock.advance(by.total_seconds())

    def change(self, hand: Hand, share: int) -> None:
        """Somebody changes endpoint or alias by hand."""
        with self.wire.by_hand():
            self._tell(f"by hand: {hand} {share}", lambda: self._run(lambda: self._changed(hand, share), None))

    def rest(self, *, onward: bool) -> None:
        """Let ticks, and people where the pipeline calls for them, bring all releases to an end; look at what is left.

        Args:
            onward: Releases go on as far as they come; else a person ends what is still under way.
        """
        self.told.append("rest:")
        if not onward:
            for release in queued(self.entries):
                self._withdraw(release)
            self._back()
        for _ in range(MOST_ROUNDS):
            entries, state = self.entries, current_release(self.entries)
            if not _active(entries) and not queued(entries):
                break
            now = self.runs.clock.now()
            noon = now.replace(hour=12, minute=0) + timedelta(days=1 if now.hour >= 10 else 0)
            self.jump(noon - now)
            if state is not None and state.stage is Stage.RAMPING:
                self.ask("hello", 2)
            said = self.do("tick")
            if said.startswith(("ran", "from the queue")):
                continue
            self._people(said)
        else:
            self._complain(["the history does not come to rest"])
        self._at_rest()

    def _withdraw(self, release: str) -> None:
        """A person takes a release out of the queue."""
        self._tell(f"withdraw {release}", lambda: self._run(lambda: self.runs.withdraw(release), None))
        self._judge(at_once=False)

    def _people(self, said: str) -> None:
        """What a person does about a tick that did nothing."""
        if "paus" in said.lower():
            self.do("unpause")
        elif "AWAITING_APPROVAL" in said:
            self.do("approve")
        elif queued(self.entries) and not _active(self.entries):
            self._withdraw(queued(self.entries)[0])  # it was refused, and would be for ever
        elif "changed" in said or "routes" in said:
            if "NotAllowed" in self.do("mend"):
                self._back()
        else:
            self._back()

    def _back(self) -> None:
        """A rollback by a person, who serves the champion again by hand where it is gone."""
        if ":" not in (said := self.do("rollback")) or not said.startswith(("EndpointError", "UpdateFailed")):
            return
        self._restore()

    def _restore(self) -> None:
        """Somebody sets endpoint and alias by hand to what the ledger says, or to where an open rollback is going."""
        state = self._see().state
        if state is None or state.champion_version is None:
            return
        over = state.stage in (Stage.PROMOTED, Stage.FINISHED) and state.open_intent is None
        share, live = state.traffic_percent, state.challenger_version if over else state.champion_version
        shares = {state.champion_version: 100}
        if state.open_intent is None:
            shares = {each: of for each, of in ((state.challenger_version, share), (live, 100 - share)) if of}
        with self.wire.by_hand():
            self.ground.settle()
            self.ground.set_endpoint(
                [self.ground.entity(version) for version in shares],
                {self.ground.entity(version).name: of for version, of in shares.items()},
            )
            self.ground.hand.registry.set_alias("champion", live)
            self.told.append(f"by hand: {shares} serve again")
            now = self.ground.read()
            self.rules.by_hand(now.config_version if now else None)

    def _at_rest(self) -> None:
        """At the end everything is as the ledger says, once what was changed by hand is mended."""
        parts, spec = self.runs.parts(), self.runs.spec
        left = look_for_drift(parts, spec).findings
        if any(finding.mends for finding in left):
            if not any(each.startswith("by hand") for each in self.told):
                self._complain([f"nobody touched it, and it drifted: {left}"])
            self.do("mend")
        if self._see().endpoint is None and self.rules.changed_by_hand:
            # Where the ledger's last word is that there is no endpoint, what the alias names is a person's to settle.
            with self.wire.by_hand():
                self.ground.hand.registry.delete_alias("champion")
        if self.rules.changed_by_hand and violations(self._see()):
            self._restore()  # what the ledger cannot tell how to mend
        if left or self.rules.changed_by_hand:
            left = look_for_drift(parts, spec).findings
        self._complain([f"after the mend: {finding.sentence}" for finding in left])
        self.rules.changed_by_hand = False
        sight = self._judge(at_once=False)
        state = sight.state
        if state is not None and sight.endpoint is not None:
            self.ask("hello", 1)
        if state is None:
            return
        meant = {Stage.ROLLED_BACK: {"rejected", "superseded"}, Stage.FINISHED: {"promoted"}, Stage.FAILED: {"failed"}}
        version = parts.registry.get(state.challenger_version)
        status = version.tags.get(TAG_STATUS) if version else None
        if state.stage not in meant or status not in meant[state.stage]:
            self._complain([f"release {state.release} is {state.stage}, its version is tagged {status}"])
        if state.stage is Stage.FINISHED and sight.versions != {state.challenger_version}:
            self._complain([f"after the bake the endpoint has {sight.versions}"])

    def _act(self, deed: Deed) -> Callable[[], str]:
        runs = self.runs
        if deed == "start":
            version = self._next_version()
            if version is None:
                return lambda: "no version is left"
            release = self.ground.new_release()
            runs.versions[release] = version
            return lambda: f"{release} of version {version}: {runs.release(release)}"
        return {
            "tick": runs.tick,
            "rollback": runs.ask_rollback,
            "approve": runs.approve,
            "pause": runs.pause,
            "unpause": runs.unpause,
            "mend": runs.mend_newest,
            "override": runs.override,
        }[deed]

    def _next_version(self) -> str | None:
        """A version for a new release: none that was rejected, or serves, or was meant for a release before."""
        if not self.runs.versions:
            return CHALLENGERS[0]
        sight = self._see()
        busy = {CHAMPION, STRANGER, *rejected(sight.entries), *sight.versions, *self.runs.versions.values()}
        free = [version for version in CONFIGS if version not in busy]
        if free:
            return free[0]
        if _active(sight.entries) or queued(sight.entries):
            return None
        old = [each for each in CONFIGS if each not in {STRANGER, *rejected(sight.entries), *sight.versions}]
        return old[0] if old else None

    def _changed(self, hand: Hand, share: int) -> str:
        registry, now = self.ground.hand.registry, self.ground.read()
        if hand == "alias":
            registry.set_alias("champion", STRANGER if share < 50 else "2")
            self.rules.by_hand(None)
            return "done"
        if hand == "no alias":
            registry.delete_alias("champion")
            self.rules.by_hand(None)
            return "done"
        if now is None:
            return "there is no endpoint"
        entities, routes = list(now.entities), {each.name: now.routes.get(each.name, 0) for each in now.entities}
        if hand == "add":
            if STRANGER in {each.version for each in entities}:
                return "it is there"
            entities.append(self.ground.entity(STRANGER))
            largest = max(routes, key=lambda name: routes[name])
            given = min(share, routes[largest])
            routes[largest] -= given
            routes[entities[-1].name] = given
        elif hand == "touch":
            pass
        elif len(entities) < 2:
            return "there is one entity only"
        elif hand == "remove":
            gone = entities.pop(0 if share < 50 else -1)
            routes = {name: 0 for name in routes if name != gone.name} | {entities[0].name: 100}
        else:
            routes = dict.fromkeys(routes, 0) | {entities[0].name: share, entities[-1].name: 100 - share}
        self.ground.set_endpoint(entities, routes)
        after = self.ground.read()
        self.rules.by_hand(after.config_version if after else None)
        return f"{routes}"

    def _run(self, act: Callable[[], str], kill: tuple[int, Kills] | None) -> str:
        """What a run said, or the error that it ended with, which must be one that is raised on purpose."""
        said = list[str]()
        try:
            if kill is None:
                said.append(act())
            elif self.killer.kills(lambda: said.append(act()), at=kill[0], kills=kill[1]):
                return "killed"
        except ReleasePipelineError as error:
            return f"{type(error).__name__}: {error}"
        return said[0]

    def _tell(self, what: str, act: Callable[[], str]) -> str:
        began = time.perf_counter()
        try:
            said = act()
        except Exception as error:
            self.told.append(f"{what}: broke: {error!r}")
            self.over = True
            raise Wrong("\n".join([f"{what} broke", *self.told])) from error
        self.told.append(f"{what} ({time.perf_counter() - began:.2f} s): {said}")
        return said

    def _see(self) -> Sight:
        parts = self.ground.hand
        with self.wire.by_hand():
            alias = parts.registry.version_of_alias("champion")
            return Sight(parts.endpoint.read(), alias, tuple(parts.ledger.read()))

    def _judge(self, *, at_once: bool, paused: bool = False) -> Sight:
        asked = list(self.wire.asked)
        self.wire.asked.clear()
        sight = self._see()
        self.entries = sight.entries
        self._complain(self.rules.judge(sight, asked, at_once=at_once, paused=paused))
        return sight

    def _complain(self, found: list[str]) -> None:
        if found:
            self.over = True
            raise Wrong("\n".join([*found, *self.told, *(f"  {_row(row)}" for row in self._see().entries[-12:])]))


def _active(entries: Sequence[Entry]) -> bool:
    state = current_release(entries)
    return state is not None and state.active


def _row(row: Entry) -> str:
    where = f"{row.sequence} {row.release} {row.action} {row.phase}"
    return f"{where}, configuration {row.config_version}, {row.actor}: {row.reason}"
