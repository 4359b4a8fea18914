"""An observer beside the releases of one model: looks straight at the workspace and writes down what must not be."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from release_pipeline.rollout.ledger import Action, Entry
from release_pipeline.rollout.parts import Parts
from release_pipeline.rollout.state import ReleaseState, Stage, current_release
from release_pipeline.workspace.endpoint import EndpointState

PAUSE_SECONDS = 0.2
_UNDER_WAY = (Stage.STARTING, Stage.DEPLOYED, Stage.RAMPING)


@dataclass(frozen=True)
class Sight:
    """What the workspace holds at one time."""

    endpoint: EndpointState | None
    alias: str | None
    entries: tuple[Entry, ...]

    @property
    def state(self) -> ReleaseState | None:
        """The newest release."""
        return current_release(self.entries)

    def state_of(self, release: str) -> ReleaseState | None:
        """Where a release stands."""
        return current_release(self.entries, release)

    @property
    def shares(self) -> dict[str, int]:
        """Traffic by version, of the versions that have any."""
        if self.endpoint is None:
            return {}
        version = {entity.name: entity.version for entity in self.endpoint.entities}
        return {version[name]: share for name, share in self.endpoint.routes.items() if share}

    @property
    def versions(self) -> set[str]:
        """Versions on the endpoint."""
        return {entity.version for entity in self.endpoint.entities} if self.endpoint else set()


class Rejected:
    """Versions that were rolled back, of every release that the ledger knows: none gets traffic again."""

    def __init__(self) -> None:
        self._zero: dict[str, int] = {}

    def traffic(self, sight: Sight) -> list[str]:
        """What of them has traffic that it no longer had."""
        found = []
        config = sight.endpoint.config_version if sight.endpoint else 0
        for release in {entry.release for entry in sight.entries} - {""}:
            state = sight.state_of(release)
            if state is None:
                continue
            version = state.challenger_version
            back = state.stage is Stage.ROLLED_BACK or (
                state.open_intent is not None and state.open_intent.action is Action.ROLL_BACK
            )
            share = sight.shares.get(version, 0)
            if back and not share:
                self._zero.setdefault(release, config)
            # Two threads look: what was seen before may be judged after. The configuration's number tells.
            elif share and config > self._zero.get(release, config):
                found.append(f"version {version} got traffic again after its rollback")
        return found


class Observer:
    """Looks when it is asked to, which is after every write, and when the endpoint has changed in between.

    Alias and ledger change by writes alone. A configuration becomes active some time after it was asked for: so a
    thread of its own reads the endpoint again and again.

    Attributes:
        violations: What it saw that must not be, each once.
        looks: How often it looked.
    """

    def __init__(self, parts: Parts, polling: Parts) -> None:
        self.violations: list[str] = []
        self.looks = 0
        self._parts, self._polling = parts, polling
        self._lock = threading.Lock()
        self._away = threading.Lock()
        self._rejected = Rejected()
        self._seen: EndpointState | None = None
        self._by_hand = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()

    @contextmanager
    def looking_away(self) -> Iterator[None]:
        """While a test sets its scene by hand."""
        with self._away:
            yield

    def changed_by_hand(self) -> None:
        """From now on nobody can say that endpoint and alias are what the ledger says, until they are again."""
        self._by_hand = True

    def look(self) -> Sight:
        """Look now, while nobody writes."""
        sight = _see(self._parts)
        self._judge(sight)
        return sight

    def _watch(self) -> None:
        while not self._over.wait(PAUSE_SECONDS):
            with self._away:
                if self._polling.endpoint.read() == self._seen:
                    continue
                # The alias before the endpoint: it moves last, so what it names must serve already.
                before = self._polling.ledger.read()
                sight = _see(self._polling)
                if [entry.entry_id for entry in before] == [entry.entry_id for entry in sight.entries]:
                    self._judge(sight)

    def _judge(self, sight: Sight) -> None:
        with self._lock:
            self.looks += 1
            self._seen = sight.endpoint
            self._by_hand = self._by_hand and bool(violations(sight))
            for found in violations(sight, by_hand=self._by_hand):
                self._write_down(found, sight)
            for found in self._rejected.traffic(sight):
                self._write_down(found, sight)

    def _write_down(self, what: str, sight: Sight) -> None:
        last = sight.entries[-1] if sight.entries else None
        where = f"{what}; after {last.action} {last.phase} of {last.release}" if last else what
        if where not in self.violations:
            self.violations.append(f"{where} ({time.strftime('%H:%M:%S')}: {sight.shares}, alias {sight.alias})")


def _see(parts: Parts) -> Sight:
    alias = parts.registry.version_of_alias("champion")
    endpoint = parts.endpoint.read()
    return Sight(endpoint, alias, tuple(parts.ledger.read()))


def violations(sight: Sight, *, by_hand: bool = False) -> list[str]:
    """What must not be, at any time, in what the workspace holds.

    After a change ``by_hand`` nobody can say that endpoint and alias are what the ledger says.
    """
    found, state, shares, endpoint = list[str](), sight.state, sight.shares, sight.endpoint
    if endpoint is not None and endpoint.entities and sum(endpoint.routes.values()) != 100:
        found.append(f"routes sum to {sum(endpoint.routes.values())}")
    if state is None:
        return found
    champion, challenger = state.champion_version, state.challenger_version
    opened = state.open_intent.action if state.open_intent else None
    if champion is not None:
        needed = state.stage in _UNDER_WAY or (state.stage is Stage.PROMOTED and opened is not Action.RETIRE)
        if needed and champion not in sight.versions:
            found.append(f"version {champion} left the endpoint while it was the way back")
        if champion not in sight.versions and opened is not Action.ROLL_BACK and shares != {challenger: 100}:
            found.append(f"version {champion} left before version {challenger} had all traffic")
        ramp = (
            not by_hand
            and state.stage in (Stage.DEPLOYED, Stage.RAMPING)
            and opened not in (Action.PROMOTE, Action.ROLL_BACK)
        )
        if ramp and sight.alias != champion:
            found.append(f"the alias names {sight.alias} on the ramp of {challenger} against {champion}")
        if opened is Action.PROMOTE and sight.alias != champion and shares != {challenger: 100}:
            found.append(f"the alias moved to {sight.alias} before the traffic")
    if opened is None and not by_hand:
        found += _at_rest(sight, state)
    return found


def _at_rest(sight: Sight, state: ReleaseState) -> list[str]:
    """With no intent open the endpoint serves what the ledger says, and the alias names who serves everybody."""
    champion, share = state.champion_version, state.traffic_percent
    expected = {state.challenger_version: share, champion: 100 - share}
    meant = {version: percent for version, percent in expected.items() if version is not None and percent}
    if sight.shares != meant:
        return [f"the endpoint routes {sight.shares}, the ledger says {meant}"]
    named = state.challenger_version if state.stage in (Stage.PROMOTED, Stage.FINISHED) else champion
    return [] if sight.alias == named else [f"the alias names {sight.alias}, not {named}, and nothing is under way"]
