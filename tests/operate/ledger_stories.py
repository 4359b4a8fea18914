"""Random legal ledgers, with the truth that they tell kept beside them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from release_pipeline.rollout.ledger import Action, Entry, Phase

BEGIN = datetime(2026, 3, 1, 12, tzinfo=UTC)
EVENTS = (Action.PAUSE, Action.UNPAUSE, Action.APPROVE, Action.FREEZE, Action.QUEUE)
STEPS = (5, 25, 50)


@dataclass
class Story:
    """A ledger as it is written, row by row, by a model's releases.

    Attributes:
        truth: Traffic by version, from each time on; as far as a reader of the ledger can know it.
        live: The version that the alias names after the same times, None where the ledger has not said.
        spans: From when to when a change was under way.
    """

    draw: st.DrawFn
    now: datetime = BEGIN
    entries: list[Entry] = field(default_factory=list)
    truth: list[tuple[datetime, dict[str, int]]] = field(default_factory=list)
    live: list[tuple[datetime, str | None]] = field(default_factory=list)
    spans: list[tuple[datetime, datetime | None]] = field(default_factory=list)
    serving: str | None = None
    alias: str | None = None
    number: int = 0

    def release(self) -> None:
        """One release from its deployment to whatever end."""
        if self.draw(st.integers(0, 5)) == 0:
            self._by_hand()
        self.number += 1
        old, new = self.serving, str(self.number + 100)
        key = f"r{self.number}"
        names = {"challenger": f"m_{new}", **({"champion": f"m_{old}"} if old else {})}
        old_routes = {f"m_{old}": 100} if old else {}
        first = {"challenger_version": new, "champion_version": old, "entities": names}
        deploy = {**first, "routes": {**old_routes, f"m_{new}": 0 if old else 100}}
        ended = self._change(key, Action.DEPLOY, deploy, {old: 100} if old else {new: 100}, self.alias)
        if ended != "done":
            if ended == "open":
                self._roll_back(key, old, new)
            return
        for step, share in enumerate(STEPS if old else ()):
            routes = {f"m_{old}": 100 - share, f"m_{new}": share}
            after = {"step": step, "traffic_percent": share, "routes": routes}
            ended = self._change(key, Action.SET_TRAFFIC, after, {str(old): 100 - share, new: share}, self.alias)
            if ended == "open" or self.draw(st.integers(0, 4)) == 0:
                return self._roll_back(key, old, new)
            if self.draw(st.integers(0, 3)) == 0:
                self._mended(key, str(old), new)
        after = {"routes": {f"m_{new}": 100, **dict.fromkeys(old_routes, 0)}, "alias": {"champion": new}}
        ended = self._change(key, Action.PROMOTE, after, {new: 100}, new)
        if ended != "done" or self.draw(st.integers(0, 2)) == 0:
            return self._roll_back(key, old, new)
        self.serving = new
        retired = {"routes": {f"m_{new}": 100}, "remove": [f"m_{old}"] if old else [""]}
        while self._change(key, Action.RETIRE, retired, {new: 100}, new) == "failed":
            pass
        return None

    def _roll_back(self, key: str, old: str | None, new: str) -> None:
        """To the champion again; killed and taken up again as often as the story has it."""
        alias = old if self.alias == new else self.alias
        after = {
            "routes": {f"m_{old}": 100, f"m_{new}": 0} if old else {},
            "alias": {"champion": old},
            "remove": [f"m_{new}"],
            "rejected": new,
        }
        began = self._intent(key, Action.ROLL_BACK, after)
        self._events(key)
        self.now += self._pause()
        zero = self.now
        self.now += self._pause()
        self._outcome(key, Action.ROLL_BACK, Phase.DONE, {**after, "zero_traffic_at": zero.isoformat()})
        self.spans.append((began, self.now))
        self.truth.append((zero, {old: 100} if old else {}))
        self.live.append((zero, alias))
        self.alias, self.serving = alias, old

    def _change(
        self, key: str, action: Action, after: Mapping[str, Any], shares: dict[str, int], alias: str | None
    ) -> str:
        """A change that is done, fails, or is left open by a kill; an open one ends with the rollback's intent."""
        end = self.draw(st.sampled_from(("done", "done", "done", "failed", "open")))
        if action is Action.RETIRE and end == "open":
            end = "done"
        began = self._intent(key, action, after)
        self._events(key)
        self.now += self._pause()
        if end == "open":
            # The rollback's outcome ends this one, too.
            self.spans.append((began, None))
            return end
        self._outcome(key, action, Phase.DONE if end == "done" else Phase.FAILED, after)
        self.spans.append((began, self.now))
        if end == "done":
            self.alias = alias
            self.truth.append((self.now, shares))
            self.live.append((self.now, alias))
        self._events(key)
        return end

    def _mended(self, key: str, old: str, new: str) -> None:
        """Somebody changes the routes during a ramp, or nothing that serves, and a mend brings them back."""
        meant, alias = self.truth[-1][1], self.alias
        moved = self.draw(st.booleans())
        found = {old: 2, new: 98} if moved else meant
        routes, back = ({f"m_{version}": share for version, share in of.items()} for of in (found, meant))
        self.now += self._pause()
        began, before = self.now, {"routes": routes, "alias": {"champion": "7"} if moved else {}}
        self._append(key, Action.MEND, Phase.INTENT, {"routes": back} if moved else {"tags": {}}, before)
        if moved:
            self.truth.append((began, found))
            self.live.append((began, "7"))
        self.now += self._pause()
        after = {"routes": back, "alias": {"champion": alias}} if moved else {"tags": {}}
        self._append(key, Action.MEND, Phase.DONE, after, before)
        self.spans.append((began, self.now))
        self.truth.append((self.now, meant))
        self.live.append((self.now, alias))

    def _by_hand(self) -> None:
        """Somebody serves another version; the ledger hears of it with the next deployment."""
        if self.serving is not None:
            self.serving = f"{self.serving}9"
            self.alias = None

    def _intent(self, key: str, action: Action, after: Mapping[str, Any]) -> datetime:
        self.now += self._pause()
        self._append(key, action, Phase.INTENT, after)
        found = {self.serving: 100} if self.serving else {}
        if action is Action.DEPLOY and (not self.truth or self.truth[-1][1] != found):
            self.truth.append((self.now, found))
            self.live.append((self.now, self.alias))
        return self.now

    def _outcome(self, key: str, action: Action, phase: Phase, after: Mapping[str, Any]) -> None:
        self._append(key, action, phase, after)
        self.spans = [(since, self.now if until is None else until) for since, until in self.spans]

    def _events(self, key: str) -> None:
        for action in self.draw(st.lists(st.sampled_from(EVENTS), max_size=1)):
            self.now += self._pause()
            self._append("" if action in (Action.PAUSE, Action.UNPAUSE) else key, action, Phase.DONE, {})

    def _append(
        self, key: str, action: Action, phase: Phase, after: Mapping[str, Any], before: Mapping[str, Any] | None = None
    ) -> None:
        count = len(self.entries) + 1
        self.entries.append(Entry(key, count, self.now, f"actor{count}", action, phase, before or {}, after))

    def _pause(self) -> timedelta:
        """Often nothing: rows of one millisecond are told apart by their order."""
        return timedelta(milliseconds=self.draw(st.sampled_from((0, 0, 1, 1000))))


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """A ledger of some releases, the last one perhaps cut off anywhere."""
    story = Story(draw)
    for _ in range(draw(st.integers(0, 4))):
        story.release()
    return story
