"""The history of what served, as a table and sentences for people, and as JSON for machines."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rich.markup import escape
from rich.table import Table

from release_pipeline.operate.history import Answer, Change, Event, History, Served, serving
from release_pipeline.rollout.ledger import Action, Entry, Phase

#: What an event is called; a queued release that waits no longer has a row that failed.
_EVENTS: Mapping[tuple[Action, Phase], str] = {
    (Action.QUEUE, Phase.DONE): "queued",
    (Action.QUEUE, Phase.FAILED): "withdrawn from the queue",
    (Action.APPROVE, Phase.DONE): "approved",
    (Action.FREEZE, Phase.DONE): "frozen",
    (Action.PAUSE, Phase.DONE): "paused",
    (Action.UNPAUSE, Phase.DONE): "unpaused",
}

_FOUND: Mapping[Action, str] = {
    Action.DEPLOY: "it served as the release began, and no row before says so",
    Action.MEND: "somebody else had changed it",
}


def history_table(history: History, model: str) -> Table:
    """States, attempts that changed nothing, what is under way, and events, in the order in which they came."""
    table = Table(title=f"What served of {model}; times in UTC")
    for column in ("from", "to", "traffic", "alias", "release", "what", "by", "evidence"):
        table.add_column(column, no_wrap=column in ("from", "to", "release", "evidence"))
    table.add_column("why", ratio=1)
    for row in _rows(history):
        table.add_row(*(escape(cell) for cell in row))
    return table


def _rows(history: History) -> list[tuple[str, ...]]:
    found: list[tuple[datetime, int, tuple[str, ...]]] = []
    for served in history.served:
        if served.since is not None and served.row is not None:
            found.append((served.since, served.row.sequence, _state_row(served)))
    for change in history.changes:
        failed = change.outcome is None or change.outcome.phase is Phase.FAILED or not _is_of(change.outcome, change)
        if failed:
            found.append((change.since, change.intent.sequence, _attempt_row(change)))
    for event in history.events:
        found.append((event.at, event.entry.sequence, _event_row(event)))
    return [row for _, _, row in sorted(found, key=lambda each: each[:2])]


def _state_row(served: Served) -> tuple[str, ...]:
    row, asked = served.row, served.intent or served.row
    assert row is not None
    assert asked is not None
    what = f"found by {row.action}" if served.outcome is None else row.action.replace("_", " ")
    return (
        _short(served.since),
        _short(served.until) if served.until else "now",
        shares_text(served.shares),
        _aliases(served.aliases),
        row.release,
        what,
        _who(served),
        row.evidence_digest[:8],
        _FOUND[row.action] if served.outcome is None else row.reason,
    )


def _attempt_row(change: Change) -> tuple[str, ...]:
    intent = change.intent
    meant = "" if change.shares is None else f" to {shares_text(change.shares)}"
    what = f"{intent.action.replace('_', ' ')}{meant}: {_end(change)}"
    reason = change.outcome.reason if change.outcome and _is_of(change.outcome, change) else intent.reason
    until = _short(change.until) if change.until else "now"
    return (
        *(_short(change.since), until, "", "", intent.release),
        *(what, intent.actor, intent.evidence_digest[:8], reason),
    )


def _event_row(event: Event) -> tuple[str, ...]:
    entry = event.entry
    what = event_name(entry)
    return (
        *(_short(event.at), "", "", "", entry.release),
        *(what, entry.actor, entry.evidence_digest[:8], entry.reason),
    )


def event_name(entry: Entry) -> str:
    """What an event is called."""
    return _EVENTS.get((entry.action, entry.phase), entry.action.value)


def answer_text(answer: Answer) -> str:
    """What served at one time, why, and what was under way, in a few sentences."""
    served, when = answer.served, _long(answer.at)
    row = served.row
    if served.since is None or row is None:
        return f"The ledger begins {_long(served.until)}; it does not say what served at {when}." if served.until else (
            f"The ledger is empty; it does not say what served at {when}."
        )  # fmt: skip
    until = f"until {_long(served.until)}" if served.until else "and does so still, as far as the ledger says"
    lines = [f"At {when} {_served_text(served)}, since {_long(served.since)} {until}."]
    if served.outcome is None:
        lines.append(
            f"The {row.action} of release {row.release} found it so (row {row.sequence}): {_FOUND[row.action]}."
        )
    else:
        evidence = f", on evidence {row.evidence_digest}" if row.evidence_digest else ""
        lines.append(
            f"It came of {row.action.replace('_', ' ')} of release {row.release} by {_who(served)}{evidence} "
            f"(row {row.sequence}): {row.reason}"
        )
    for change in answer.under_way:
        meant = "leave the traffic" if change.shares is None else f"give {shares_text(change.shares)}"
        lines.append(
            f"A change was under way: {change.intent.action.replace('_', ' ')} of release {change.intent.release} by "
            f"{change.intent.actor}, begun {_long(change.since)}, meant to {meant}; "
            f"{_end(change)}. Until its outcome the ledger cannot tell whether the endpoint had it already."
        )
    return "\n".join(lines)


def _served_text(served: Served) -> str:
    if not served.shares:
        return "nothing served"
    aliases = f", and alias {_aliases(served.aliases)}" if served.aliases else ""
    return f"the traffic went to version {shares_text(served.shares)}{aliases}"


def _end(change: Change) -> str:
    if change.outcome is None or change.until is None:
        return "it is still open"
    if not _is_of(change.outcome, change):
        return f"given up for {change.outcome.action.replace('_', ' ')} {_long(change.until)}"
    return f"{change.outcome.phase.value} {_long(change.until)}"


def _is_of(outcome: Entry, change: Change) -> bool:
    return (outcome.release, outcome.action) == (change.intent.release, change.intent.action)


def _who(served: Served) -> str:
    """Who asked; then who finished it, where that was somebody else, and who approved it."""
    intent, outcome = served.intent, served.outcome
    said = [intent.actor if intent else outcome.actor if outcome else ""]
    if intent and outcome and outcome.actor != intent.actor:
        said.append(f"finished by {outcome.actor}")
    if outcome and outcome.after.get("approved_by"):
        said.append(f"approved by {outcome.after['approved_by']}")
    return ", ".join(said)


def shares_text(shares: Mapping[str, int]) -> str:
    """``4 25 %, 3 75 %``: versions with their traffic, those with most of it first."""
    by_share = sorted(shares.items(), key=lambda each: (-each[1], each[0]))
    return ", ".join(f"{version} {share} %" for version, share in by_share) or "nothing"


def _aliases(aliases: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} → {version or 'none'}" for name, version in sorted(aliases.items()))


def _short(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}" if moment else ""


def _long(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def history_dict(history: History, model: str) -> dict[str, Any]:
    """The whole history for machines; times in ISO 8601, null where there is no end or no beginning."""
    return {
        "model": model,
        "served": [_served_dict(each) for each in history.served if each.since is not None],
        "changes": [_change_dict(each) for each in history.changes],
        "events": [{"event": event_name(each.entry), **_entry_dict(each.entry)} for each in history.events],
    }


def answer_dict(answer: Answer, model: str) -> dict[str, Any]:
    """What served at one time, for machines; ``known`` is false before the ledger."""
    return {
        "model": model,
        "at": answer.at.isoformat(),
        "known": answer.served.since is not None,
        "served": _served_dict(answer.served),
        "under_way": [_change_dict(each) for each in answer.under_way],
    }


def _served_dict(served: Served) -> dict[str, Any]:
    return {
        "since": _iso(served.since),
        "until": _iso(served.until),
        "traffic": dict(served.shares),
        "serving": serving(served.shares),
        "aliases": dict(served.aliases),
        "asked": _entry_dict(served.intent) if served.intent else None,
        "done": _entry_dict(served.outcome) if served.outcome else None,
        "approved_by": served.outcome.after.get("approved_by") if served.outcome else None,
    }


def _change_dict(change: Change) -> dict[str, Any]:
    return {
        "since": _iso(change.since),
        "until": _iso(change.until),
        "meant": None if change.shares is None else dict(change.shares),
        "asked": _entry_dict(change.intent),
        "ended": _entry_dict(change.outcome) if change.outcome else None,
    }


def _entry_dict(entry: Entry) -> dict[str, Any]:
    return {
        "sequence": entry.sequence,
        "at": entry.at.isoformat(),
        "release": entry.release,
        "action": entry.action.value,
        "phase": entry.phase.value,
        "actor": entry.actor,
        "evidence_digest": entry.evidence_digest,
        "config_version": entry.config_version,
        "reason": entry.reason,
    }


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
