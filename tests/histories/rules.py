"""What must not be, at any time of a history, in what the workspace holds and in what the pipeline has asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from release_pipeline.rollout.ledger import Action, Entry
from release_pipeline.rollout.open_move import BY_HAND
from release_pipeline.rollout.state import current_release
from release_pipeline.workspace.registry import REJECTED
from tests.faults.observer import Sight, violations
from tests.histories.wire import Asked

#: Ticks in a row that may find the same intent open.
MOST_TICKS_OPEN = 4
#: What a pause holds.
MOVES = frozenset({Action.SET_TRAFFIC, Action.PROMOTE, Action.RETIRE})


@dataclass
class Rules:
    """The invariants of one history.

    Attributes:
        changed_by_hand: Endpoint or alias were changed by hand, and are not yet what the ledger says again: until then
            nobody can say that they are.
        config_by_hand: The configuration that the last change by hand has left, 0 before the first.
    """

    changed_by_hand: bool = False
    config_by_hand: int = 0
    _open: str = ""
    _ticks_open: int = 0
    _rejected: set[str] = field(default_factory=set)

    def by_hand(self, config: int | None) -> None:
        """Somebody has changed the alias, or the endpoint, which has this configuration now."""
        self.changed_by_hand = True
        self.config_by_hand = max(config or 0, self.config_by_hand)

    def judge(self, sight: Sight, asked: Sequence[Asked], *, at_once: bool, paused: bool = False) -> list[str]:
        """What is wrong after a step.

        Args:
            sight: What the workspace holds.
            asked: The configurations that the pipeline has asked for in this step.
            at_once: Several runs did, so that under which intent each did is not known.
            paused: The model was paused before the step began, and the step is the sensor's.
        """
        found = [each for each in violations(sight) if each.startswith("routes") or not self.changed_by_hand]
        found += _ledger(sight.entries)
        if not at_once:
            found += self._asked(sight.entries, asked)
        if paused:
            found += _moved(sight.entries, asked)
        state = sight.state
        if state is None or state.open_intent is None:
            again = {version for version in self._rejected if sight.shares.get(version)}
            if again and not self.changed_by_hand:
                found.append(f"versions {again} were rejected, and have traffic")
            if not violations(sight):
                self.changed_by_hand = False
        if sight.endpoint is None:
            self.config_by_hand = 0
        self._rejected |= rejected(sight.entries)
        return found

    def ticked(self, sight: Sight) -> list[str]:
        """What is wrong after a tick whose run was left alone."""
        opened = sight.state.open_intent if sight.state else None
        self._ticks_open = self._ticks_open + 1 if opened and opened.entry_id == self._open else 1
        self._open = opened.entry_id if opened else ""
        if opened and self._ticks_open > MOST_TICKS_OPEN and not self.changed_by_hand:
            return [f"the intent to {opened.action} is open after {self._ticks_open} ticks"]
        return []

    def _asked(self, entries: Sequence[Entry], asked: Sequence[Asked]) -> list[str]:
        found, intents = list[str](), {entry.entry_id: entry for entry in entries}
        for each in asked:
            again = {version for version in self._rejected if each.shares.get(version)}
            if again:
                found.append(f"the pipeline asked for traffic of the rejected versions {again}: {each.shares}")
            intent = intents.get(each.intent)
            if intent is None:
                found.append(f"the pipeline asked for {each.shares} without an intent")
            elif intent.config_version < self.config_by_hand and intent.action is not Action.ROLL_BACK:
                found.append(
                    f"{intent.action} was decided on configuration {intent.config_version}, and wrote {each.shares} "
                    f"over configuration {self.config_by_hand}, which was made by hand"
                )
        return found


def _moved(entries: Sequence[Entry], asked: Sequence[Asked]) -> list[str]:
    """Moves that the pipeline made by itself while it was paused; one that has its traffic asks for nothing more."""
    intents = {entry.entry_id: entry for entry in entries}
    moved = [intent for each in asked if (intent := intents.get(each.intent)) is not None and intent.action in MOVES]
    return [f"paused, and yet there was a {intent.action}" for intent in moved if not intent.after.get(BY_HAND)]


def rejected(entries: Sequence[Entry]) -> set[str]:
    """Versions that a release was rolled back from as bad."""
    rows = [row for row in entries if row.action is Action.ROLL_BACK and row.after.get("status", REJECTED) == REJECTED]
    return {str(row.after["rejected"]) for row in rows if row.after.get("rejected")}


def _ledger(entries: Sequence[Entry]) -> list[str]:
    found = list[str]()
    numbers = [entry.sequence for entry in entries]
    if numbers != list(range(1, len(numbers) + 1)):
        found.append(f"the ledger's rows are numbered {numbers}")
    releases = {entry.release for entry in entries if entry.action is Action.DEPLOY}
    states = [current_release(entries, release) for release in sorted(releases)]
    active = [state.release for state in states if state and state.active]
    if len(active) > 1:
        found.append(f"{active} are under way at once")
    return found
