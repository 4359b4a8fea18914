"""What people are told of releases: messages from the ledger's rows and from a look. Pure functions.

A message has the model, the release, what happened, who or what did it, and why; never a request or a response.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from release_pipeline.gate.verdict import Action as GateAction
from release_pipeline.gate.verdict import HoldReason
from release_pipeline.rollout.ledger import Action, Entry, Phase
from release_pipeline.rollout.observer import Observed
from release_pipeline.rollout.state import ReleaseState
from release_pipeline.spec import ReleaseSpec
from release_pipeline.spec_notifications import Topic


@dataclass(frozen=True)
class Message:
    """One piece of news.

    Attributes:
        topic: What it is about; `notifications.about` chooses among the topics.
        text: One line or two.
        bad: Whether somebody should look at it.
    """

    topic: Topic
    text: str
    bad: bool = False


def news_of(entries: Sequence[Entry], after: int, spec: ReleaseSpec) -> list[Message]:
    """What the rows behind sequence ``after`` tell, oldest first, of the topics that are wanted."""
    found = [message for entry in entries if entry.sequence > after and (message := _row(entry, spec)) is not None]
    return [message for message in found if message.topic in spec.notifications.about]


def hold_key(observed: Observed) -> str:
    """What stays the same while a release holds on one step for one reason; empty where it does not hold."""
    verdict, state = observed.verdict, observed.release
    return f"{state.release}/{state.step}/{verdict.reason}" if verdict.action is GateAction.HOLD else ""


def hold_of(observed: Observed, spec: ReleaseSpec, minutes: float) -> Message | None:
    """A hold that somebody should know of, None where there is none.

    A missing approval is told at once, anything else once it has lasted for `notifications.hold_minutes`.

    Args:
        observed: The look.
        spec: The release's YAML.
        minutes: How long the release has held for this reason.
    """
    verdict, state, about = observed.verdict, observed.release, spec.notifications.about
    if verdict.action is not GateAction.HOLD:
        return None
    where = f"{spec.name} {state.release}, version {state.challenger_version} at {state.traffic_percent} %"
    if verdict.reason == HoldReason.AWAITING_APPROVAL:
        wanted = Message("approval", f"{where}: approval wanted. {verdict.sentence}", bad=True)
        return wanted if "approval" in about else None
    if "hold" not in about or verdict.reason == HoldReason.BAKING or minutes < spec.notifications.hold_minutes:
        return None
    return Message("hold", f"{where}: {verdict.reason} for {minutes:.0f} min on this step. {verdict.sentence}", True)


def stuck(state: ReleaseState, spec: ReleaseSpec, now: datetime) -> Message | None:
    """An act that was begun and is not finished after `notifications.hold_minutes`, None where there is none."""
    opened = state.open_intent
    minutes = (now - opened.at).total_seconds() / 60 if opened is not None else 0.0
    if opened is None or minutes < spec.notifications.hold_minutes:
        return None
    topic: Topic = "rollback" if opened.action is Action.ROLL_BACK else "hold"
    text = (
        f"{spec.name} {state.release}: {opened.action} was begun {minutes:.0f} min ago by {opened.actor} and is not "
        f"finished; the newest run in Dagster says what keeps it. {opened.reason}"
    )
    return Message(topic, text, bad=True) if topic in spec.notifications.about else None


def letter(messages: Sequence[Message], spec: ReleaseSpec, endpoint_url: str) -> tuple[str, str]:
    """Title and body of one notification that holds all messages."""
    worst = next((message for message in messages if message.bad), messages[-1])
    title = f"{spec.name}: {worst.topic}" + (f" and {len(messages) - 1} more" if len(messages) > 1 else "")
    return title, "\n".join([*(f"- {message.text}" for message in messages), f"Endpoint: {endpoint_url}"])


def _row(entry: Entry, spec: ReleaseSpec) -> Message | None:
    version = entry.after.get("challenger_version") or entry.after.get("rejected") or ""
    who = f"{spec.name} {entry.release}".strip()
    by = f"by {entry.actor}: {entry.reason}"
    match entry.action, entry.phase:
        case Action.DEPLOY, Phase.DONE:
            champion = entry.after.get("champion_version")
            beside = f"beside version {champion} at 0 %" if champion else "as the first version, at 100 %"
            return Message("start", f"{who}: version {version} is deployed {beside}, {by}")
        case Action.DEPLOY, Phase.FAILED:
            return Message("start", f"{who}: version {version} could not be deployed, {by}", bad=True)
        case Action.QUEUE, Phase.DONE:
            return Message("start", f"{who}: waits in the queue, {by}")
        case Action.QUEUE, Phase.FAILED:
            return Message("start", f"{who}: waits in the queue no longer, {by}", bad=True)
        case Action.SET_TRAFFIC, Phase.DONE:
            return Message("step", f"{who}: {entry.after.get('traffic_percent')} % of the traffic, {by}")
        case Action.SET_TRAFFIC | Action.PROMOTE, Phase.FAILED:
            return Message("step", f"{who}: {entry.action} failed and the endpoint serves as before, {by}", bad=True)
        case Action.FREEZE, _:
            return Message("hold", f"{who}: frozen, {by}", bad=True)
        case Action.PAUSE | Action.UNPAUSE, _:
            return Message("hold", f"{spec.name}: {entry.action}d, {by}")
        case Action.ROLL_BACK, Phase.INTENT:
            return Message("rollback", f"{who}: version {version} is being rolled back, {by}", bad=True)
        case Action.ROLL_BACK, Phase.DONE:
            return Message("rollback", f"{who}: version {version} is rolled back and has no traffic, {by}", bad=True)
        case Action.APPROVE, _:
            return Message("approval", f"{who}: approved {by}")
        case Action.PROMOTE, Phase.DONE:
            alias, named = next(iter(entry.after.get("alias", {}).items()), ("", ""))
            return Message("promotion", f"{who}: version {named} is live, alias {alias}, {by}")
        case Action.RETIRE, Phase.DONE:
            return Message("promotion", f"{who}: the bake is over, {by}")
        case Action.MEND, Phase.DONE:
            return Message("drift", f"{who}: mended, {by}")
        case Action.MEND, Phase.FAILED:
            return Message("drift", f"{who}: could not be mended, {by}", bad=True)
        case _:
            return None
