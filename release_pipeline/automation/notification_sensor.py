"""The notification sensor: tells people what the ledger holds that is new, and what has waited for too long.

It is a sensor of its own, so that a service that does not answer keeps no release waiting. What could not be sent is
tried again at the next ticks, and given up after a few.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Self

import dagster as dg

from release_pipeline.assets.context import ModelContext
from release_pipeline.automation.gate_sensor import SQL_SECONDS
from release_pipeline.automation.notify import send
from release_pipeline.errors import ReleasePipelineError, WorkspaceError
from release_pipeline.report.news import Message, hold_of, news_of
from release_pipeline.rollout.ledger import Entry
from release_pipeline.rollout.mending import look_for_drift
from release_pipeline.rollout.parts import Parts, connect_parts
from release_pipeline.rollout.state import current_release
from release_pipeline.spec import ReleaseSpec
from release_pipeline.workspace.sql.warehouse import within

TICK_SECONDS = 60
DRIFT_SECONDS = 300.0
MOST_ATTEMPTS = 5


@dataclass
class Told:
    """What has been told already, kept in the sensor's cursor.

    Attributes:
        sequence: The ledger's newest row that was told; -1 before the first tick, which tells nothing of the past.
        holds: The holds of the release that were told.
        drift: The drift that was told last.
        drift_at: When drift was looked for, unix seconds.
        attempts: How often the same news could not be sent.
    """

    sequence: int = -1
    holds: list[str] = field(default_factory=list)
    drift: list[str] = field(default_factory=list)
    drift_at: float = 0.0
    attempts: int = 0

    @classmethod
    def of(cls, cursor: str | None) -> Self:
        """What a cursor says; the beginning where there is none."""
        return cls(**json.loads(cursor)) if cursor else cls()


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
        told = Told.of(context.cursor)
        try:
            parts = connect_parts(spec, actor=f"sensor:{spec.name}_notifications", progress=context.log.info)
            with within(SQL_SECONDS):
                messages = gather(parts, spec, told, datetime.now(UTC), context.log.warning)
            sent = not messages or send(messages, spec, f"{parts.workspace.host}/ml/endpoints/{spec.endpoint_name}")
        except ReleasePipelineError as error:
            return dg.SkipReason(str(error))
        if not sent:
            told.attempts += 1
            if told.attempts < MOST_ATTEMPTS:
                context.update_cursor(json.dumps({**asdict(Told.of(context.cursor)), "attempts": told.attempts}))
                return dg.SkipReason(
                    f"{len(messages)} news could not be sent; attempt {told.attempts} of {MOST_ATTEMPTS}"
                )
            context.log.warning(f"given up: {len(messages)} news could not be sent in {MOST_ATTEMPTS} attempts")
        told.attempts = 0
        context.update_cursor(json.dumps(asdict(told)))
        return dg.SkipReason(f"sent {len(messages)} news" if messages and sent else "no news")

    return notifications


def gather(parts: Parts, spec: ReleaseSpec, told: Told, now: datetime, warn: Callable[[str], None]) -> list[Message]:
    """What there is to tell; ``told`` is brought up to it. A look that fails keeps no row from being told.

    Raises:
        WorkspaceError: The ledger cannot be read.
    """
    entries = parts.ledger.read()
    newest = entries[-1].sequence if entries else 0
    messages = news_of(entries, told.sequence, spec) if told.sequence >= 0 else []
    told.sequence = newest
    for look in (_holds, _drifts):
        try:
            messages += look(parts, spec, told, now, entries)
        except WorkspaceError as error:
            warn(str(error))
    return messages


def _holds(parts: Parts, spec: ReleaseSpec, told: Told, now: datetime, entries: Sequence[Entry]) -> list[Message]:
    state = current_release(entries)
    wanted = {"hold", "approval"} & set(spec.notifications.about)
    if state is None or not state.active or state.open_intent is not None or not wanted:
        return []
    observed = parts.observer.look(state.release, entries=entries, ingest=False)
    held = hold_of(observed, spec, now) if observed else None
    known = [key for key in told.holds if key.startswith(f"{state.release}/")]
    if held is None or held[0] in known:
        told.holds = known
        return []
    told.holds = [*known, held[0]]
    return [held[1]]


def _drifts(parts: Parts, spec: ReleaseSpec, told: Told, now: datetime, entries: Sequence[Entry]) -> list[Message]:
    if "drift" not in spec.notifications.about or now.timestamp() - told.drift_at < DRIFT_SECONDS:
        return []
    look = look_for_drift(parts, spec)
    if look.not_looked:
        return []
    found = [finding.sentence for finding in look.findings]
    fresh = [Message("drift", f"{spec.name}: {text}", bad=True) for text in found if text not in told.drift]
    told.drift, told.drift_at = found, now.timestamp()
    return fresh
