"""What served when, read off the ledger: a pure function of its rows.

A change counts from its outcome, when it had been read back; until then the ledger only says what was meant, so
the old state stands and the change is told to be under way. A rollback counts from the moment at which it was seen
that nobody was sent to the version any more.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from release_pipeline.rollout.ledger import EVENTS, Action, Entry, Phase
from release_pipeline.rollout.rollback_time import zero_traffic_at


@dataclass(frozen=True)
class Served:
    """One state, from ``since`` up to but not including ``until``.

    Attributes:
        since: None for the time before the ledger, of which nothing is known.
        until: None for the state that the newest row tells.
        shares: Percent of the traffic by version, 0 for one that stood by; empty where nothing served.
        aliases: The versions behind aliases, as far as the ledger has set them.
        intent: The row in which the change was asked for, with who asked.
        outcome: The row in which it was done; None where a deployment or a mend found it so, and nobody had said so.
    """

    since: datetime | None
    until: datetime | None
    shares: Mapping[str, int]
    aliases: Mapping[str, str | None]
    intent: Entry | None = None
    outcome: Entry | None = None

    @property
    def row(self) -> Entry | None:
        """The row that brought it about, None before the ledger."""
        return self.outcome or self.intent


@dataclass(frozen=True)
class Change:
    """The time between an intent and what came of it.

    Attributes:
        until: None while it is open.
        outcome: The row that ended it, of another action where a rollback took its place; None while it is open.
        shares: What was meant to serve; empty where nothing was, None where the traffic was to stay as it is.
    """

    since: datetime
    until: datetime | None
    intent: Entry
    outcome: Entry | None
    shares: Mapping[str, int] | None


@dataclass(frozen=True)
class Event:
    """What people said, and what was noted: it changed nothing on the endpoint."""

    at: datetime
    entry: Entry


@dataclass(frozen=True)
class Answer:
    """What served at one time, and the changes that were under way."""

    at: datetime
    served: Served
    under_way: tuple[Change, ...]


@dataclass(frozen=True)
class History:
    """The states without gaps, oldest first; the changes; the events."""

    served: tuple[Served, ...]
    changes: tuple[Change, ...]
    events: tuple[Event, ...]

    def at(self, moment: datetime) -> Answer:
        """What served at ``moment``, which has a time zone."""
        found = [each for each in self.served if each.since is None or each.since <= moment][-1]
        under_way = (
            each for each in self.changes if each.since <= moment and (each.until is None or moment < each.until)
        )
        return Answer(moment, found, tuple(under_way))


@dataclass
class _Story:
    """The states as they are told, row by row."""

    served: list[Served] = field(default_factory=lambda: [Served(None, None, {}, {})])
    changes: list[Change] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    """Versions by the name of their served entity."""
    open: list[tuple[datetime, Entry]] = field(default_factory=list)

    def shares(self, entry: Entry) -> dict[str, int] | None:
        """What serves once the row is done, None where that does not change."""
        removed = entry.after.get("remove", ())
        routes = entry.after.get("routes")
        return None if routes is None else self._by_version(routes, removed)

    def _by_version(self, routes: Mapping[str, int], removed: Collection[str] = ()) -> dict[str, int]:
        return {self.versions.get(name, name): int(share) for name, share in routes.items() if name not in removed}

    def asked(self, at: datetime, entry: Entry) -> None:
        """An intent; one that begins with a look at the endpoint knows what somebody else has changed."""
        self.open.append((at, entry))
        last, found, aliases = self.served[-1], None, dict(self.served[-1].aliases)
        if entry.action is Action.DEPLOY:
            names = entry.after.get("entities", {})
            champion = entry.after.get("champion_version")
            for arm, version in (("challenger", entry.after.get("challenger_version")), ("champion", champion)):
                if arm in names:
                    self.versions[names[arm]] = str(version)
            found = {} if champion is None else {str(champion): 100}
            # A deployment goes by an alias that names what serves, or none.
            aliases = {name: version for name, version in aliases.items() if version in found}
        elif entry.action is Action.MEND and "routes" in entry.before:
            found = self._by_version(entry.before["routes"])
            aliases |= entry.before.get("alias", {})
        if found is None:
            return
        if last.since is None or serving(last.shares) != serving(found) or aliases != last.aliases:
            self.begins(Served(at, None, found, aliases, intent=entry))

    def ended(self, at: datetime, entry: Entry) -> None:
        """An outcome; it ends every intent that was open."""
        began, intent = at, None
        for since, opened in self.open:
            if (opened.release, opened.action) == (entry.release, entry.action):
                began, intent = since, opened
            self.changes.append(Change(since, at, opened, entry, self.shares(opened)))
        self.open = []
        if entry.phase is Phase.FAILED:
            return  # the endpoint serves as before
        shares, aliases, last = self.shares(entry), self.aliases(entry), self.served[-1]
        if shares is None and aliases == last.aliases:
            return
        seen = zero_traffic_at(entry)
        since = at if seen is None else min(max(seen, began), at)
        self.begins(Served(since, None, last.shares if shares is None else shares, aliases, intent, entry))

    def aliases(self, entry: Entry) -> dict[str, str | None]:
        """What aliases name once the row is done."""
        now = dict(self.served[-1].aliases)
        for name, version in entry.after.get("alias", {}).items():
            # A rollback takes an alias away from the rejected version and from no other.
            if entry.action is not Action.ROLL_BACK or now.get(name) == entry.after.get("rejected"):
                now[name] = None if version is None else str(version)
        return now

    def begins(self, served: Served) -> None:
        """A state that ends the one before."""
        last = self.served[-1]
        since = served.since if last.since is None or served.since is None else max(served.since, last.since)
        self.served[-1] = replace(last, until=since)
        self.served.append(replace(served, since=since))


def history(entries: Sequence[Entry]) -> History:
    """What served when.

    Args:
        entries: All rows of a ledger, oldest first. Where a clock was behind that of the row before, the time of the
            row before counts: the order of the rows is the order in which things happened.
    """
    story = _Story()
    latest: datetime | None = None
    for entry in entries:
        at = latest = entry.at if latest is None else max(entry.at, latest)
        if entry.action in EVENTS:
            story.events.append(Event(at, entry))
        elif entry.phase is Phase.INTENT:
            story.asked(at, entry)
        else:
            story.ended(at, entry)
    still = [Change(since, None, intent, None, story.shares(intent)) for since, intent in story.open]
    return History(tuple(story.served), (*story.changes, *still), tuple(story.events))


def serving(shares: Mapping[str, int]) -> dict[str, int]:
    """The versions that have traffic."""
    return {version: share for version, share in shares.items() if share}
