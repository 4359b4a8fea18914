"""The notification sensor: tells people what the ledger holds that is new, and what has waited for too long.

It is a sensor of its own, so that a service that does not answer keeps no release waiting. Each receiver has its own
place in the news: what it could not be sent is tried again at the next ticks, and given up after a few, and the others
do not get theirs twice.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from datetime import UTC, datetime

import dagster as dg

from release_pipeline.assets.context import ModelContext
from release_pipeline.automation.gate_sensor import SQL_SECONDS
from release_pipeline.automation.notify import addresses_of, send
from release_pipeline.automation.receivers import Receivers, Told
from release_pipeline.errors import ReleasePipelineError, WorkspaceError
from release_pipeline.report.news import Message, hold_key, hold_of, news_of, stuck
from release_pipeline.rollout.ledger import Entry
from release_pipeline.rollout.mending import look_for_drift
from release_pipeline.rollout.parts import Parts, connect_parts
from release_pipeline.rollout.state import current_release
from release_pipeline.spec import ReleaseSpec
from release_pipeline.workspace.links import endpoint_page
from release_pipeline.workspace.sql.warehouse import within

TICK_SECONDS = 60
DRIFT_SECONDS = 300.0
MOST_ATTEMPTS = 5


def build_notification_sensor(model: ModelContext) -> dg.SensorDefinition:
    """The sensor of a model whose YAML names where news go; it moves nothing, so it runs from the start."""
    spec = model.spec

    @dg.sensor(
        name=f"{spec.name}_notifications",
        minimum_interval_seconds=TICK_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Sends news of releases to the addresses of notifications.addresses_variable.",
    )
    def notifications(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        try:
            addresses = addresses_of(spec)
            before = Receivers.of(context.cursor, len(addresses))
            parts = connect_parts(spec, actor=f"sensor:{spec.name}_notifications", progress=context.log.info)
            with within(SQL_SECONDS):
                after = deepcopy(before)
                news = gather(parts, spec, after, datetime.now(UTC), context.log.warning)
            sent = send(news, addresses, spec, endpoint_page(parts.workspace, spec.endpoint_name))
        except ReleasePipelineError as error:
            return dg.SkipReason(str(error))
        sentences = []
        for number, messages in enumerate(news):
            if not messages:
                after.told[number].attempts = 0
                continue
            settled, sentence = _settled(before.told[number], after.told[number], len(messages), sent[number])
            after.told[number] = settled
            if not sent[number]:
                sentence = f"address {number + 1}: {sentence}"
                context.log.warning(sentence)
            if sentence not in sentences:
                sentences.append(sentence)
        context.update_cursor(after.cursor())
        return dg.SkipReason("; ".join(sentences) or "no news")

    return notifications


def _settled(before: Told, after: Told, count: int, sent: bool) -> tuple[Told, str]:
    """Where a receiver stands once ``count`` news were sent to it, or were not, and a sentence about it."""
    if sent:
        after.attempts = after.lost = 0
        return after, f"sent {count} news"
    attempts = before.attempts + 1
    if attempts < MOST_ATTEMPTS:
        before.attempts = attempts
        return before, f"{count} news could not be sent; attempt {attempts} of {MOST_ATTEMPTS}"
    # What was lost before is among the news.
    after.attempts, after.lost = 0, before.lost + count - bool(before.lost)
    return after, f"given up: {count} news could not be sent in {MOST_ATTEMPTS} attempts"


def gather(
    parts: Parts, spec: ReleaseSpec, receivers: Receivers, now: datetime, warn: Callable[[str], None]
) -> list[list[Message]]:
    """What there is to tell each receiver, who is brought up to it. A look that fails keeps no row from being told.

    Raises:
        WorkspaceError: The ledger cannot be read.
    """
    entries = parts.ledger.read()
    newest = entries[-1].sequence if entries else 0
    seen: list[Callable[[Told], list[Message]]] = []
    for look in (_holds, _drifts):
        try:
            seen.append(look(parts, spec, receivers, now, entries))
        except WorkspaceError as error:
            warn(str(error))
    return [_news(told, entries, newest, spec, seen) for told in receivers.told]


def _news(
    told: Told,
    entries: Sequence[Entry],
    newest: int,
    spec: ReleaseSpec,
    seen: Sequence[Callable[[Told], list[Message]]],
) -> list[Message]:
    """The news of one receiver; where some were given up before, that is the first."""
    messages = news_of(entries, told.sequence, spec) if told.sequence >= 0 else []
    told.sequence = newest
    for fresh in seen:
        messages += fresh(told)
    if told.lost and messages:
        lost = (
            f"{spec.name}: {told.lost} earlier news could not be sent here and are lost; see release-pipeline history"
        )
        messages.insert(0, Message(messages[0].topic, lost, bad=True))
    return messages


def _holds(
    parts: Parts, spec: ReleaseSpec, receivers: Receivers, now: datetime, entries: Sequence[Entry]
) -> Callable[[Told], list[Message]]:
    state = current_release(entries)
    if state is None or not state.active:
        return lambda told: []
    if state.open_intent is not None:
        key, held = f"{state.release}/{state.open_intent.entry_id}", stuck(state, spec, now)
    elif {"hold", "approval"} & set(spec.notifications.about):
        observed = parts.observer.look(state.release, entries=entries, ingest=False)
        key = hold_key(observed) if observed else ""
        seconds = receivers.held_seconds(key, now.timestamp())
        held = hold_of(observed, spec, seconds / 60) if observed else None
    else:
        return lambda told: []

    def fresh(told: Told) -> list[Message]:
        told.holds = [each for each in told.holds if each.startswith(f"{state.release}/")]
        if held is None or key in told.holds:
            return []
        told.holds.append(key)
        return [held]

    return fresh


def _drifts(
    parts: Parts, spec: ReleaseSpec, receivers: Receivers, now: datetime, entries: Sequence[Entry]
) -> Callable[[Told], list[Message]]:
    # One that could not be told is looked for again at once.
    waits = any(told.attempts for told in receivers.told)
    due = waits or now.timestamp() - receivers.drift_at >= DRIFT_SECONDS
    if "drift" not in spec.notifications.about or not due:
        return lambda told: []
    look = look_for_drift(parts, spec)
    if look.not_looked:
        return lambda told: []
    receivers.drift_at = now.timestamp()
    found = [finding.sentence for finding in look.findings]

    def fresh(told: Told) -> list[Message]:
        new = [text for text in found if text not in told.drift]
        told.drift = list(found)
        return [Message("drift", f"{spec.name}: {text}", bad=True) for text in new]

    return fresh
