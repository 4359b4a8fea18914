"""Where a release stands, read off its ledger: a pure function of the rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from release_pipeline.rollout.ledger import EVENTS, Action, Entry, Phase


class Stage(StrEnum):
    """Where a release stands."""

    DEPLOYED = "deployed"
    RAMPING = "ramping"
    PROMOTED = "promoted"
    FINISHED = "finished"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    STARTING = "starting"


@dataclass(frozen=True)
class StepWindow:
    """The event times of one ramp step: from the verified write that began it to the intent that ended it.

    The bake after a promotion is one more step, at 100 %.
    """

    step: int
    traffic_percent: int
    started_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True)
class ReleaseState:
    """One release, as its ledger tells it.

    Attributes:
        champion_version: The version it is measured against, None for the first release of a model.
        open_intent: The intent that has no outcome yet, if any.
        steps: The ramp steps so far, oldest first, and then the bake. A first release has one step, at 100 %.
        promoted_at: When the promotion was verified.
        last_sequence: Sequence of the newest row of the release that is no event.
        reason: The reason of the newest row that is no event.
        champion_entity: How the champion was served when the release began, as the ledger wrote it.
        last_at: When the row of ``last_sequence`` was written.
        moved_at: When the newest act of the release that was done ended, or when the release began.
        approved: The event by which a person approved the promotion.
        frozen: The event by which the release was frozen.
        paused: The event by which all releases of the model were paused, while they are.
    """

    release: str
    stage: Stage
    challenger_version: str
    champion_version: str | None
    entities: Mapping[str, str]
    open_intent: Entry | None
    steps: tuple[StepWindow, ...]
    started_at: datetime
    promoted_at: datetime | None
    last_sequence: int
    reason: str = ""
    baseline_version: int = field(default=0)
    champion_entity: Mapping[str, Any] | None = None
    last_at: datetime | None = field(default=None, compare=False)
    moved_at: datetime | None = field(default=None, compare=False)
    approved: Entry | None = None
    frozen: Entry | None = None
    paused: Entry | None = None

    @property
    def step(self) -> int:
        """Index of the current ramp step, -1 before the first."""
        return self.steps[-1].step if self.steps else -1

    @property
    def traffic_percent(self) -> int:
        """The challenger's traffic as last verified."""
        if self.stage in (Stage.PROMOTED, Stage.FINISHED):
            return 100
        if self.stage in (Stage.ROLLED_BACK, Stage.FAILED) or not self.steps:
            return 0
        return self.steps[-1].traffic_percent

    @property
    def active(self) -> bool:
        """Whether anything is still to be done or watched."""
        return self.open_intent is not None or self.stage not in (Stage.FINISHED, Stage.ROLLED_BACK, Stage.FAILED)


def current_release(entries: Sequence[Entry], release: str | None = None) -> ReleaseState | None:
    """The state of ``release``, or of the newest release that has begun; None where there is none.

    Args:
        entries: Rows of the ledger, oldest first.
        release: A release's key, or None for the newest. One that only waits in the queue has not begun.
    """
    acts = [entry for entry in entries if entry.action not in EVENTS]
    if release is None:
        release = acts[-1].release if acts else None
    rows = [entry for entry in acts if entry.release == release]
    if release is None or not rows:
        return None
    stage = Stage.STARTING
    steps: list[StepWindow] = []
    promoted_at: datetime | None = None
    open_intent: Entry | None = None
    for row in rows:
        if row.action is Action.MEND:  # what it brings back is what the rows before it say
            open_intent = row if row.phase is Phase.INTENT else None
            continue
        if row.phase is Phase.INTENT:
            open_intent = row
            if steps and steps[-1].ended_at is None:
                steps[-1] = _ended(steps[-1], row.at)
            continue
        open_intent = None
        if row.phase is Phase.FAILED:
            if row.action is Action.DEPLOY:
                stage = Stage.FAILED
            elif steps and row.action in (Action.SET_TRAFFIC, Action.PROMOTE, Action.RETIRE):
                # The endpoint still serves as before: the step goes on.
                steps[-1] = StepWindow(steps[-1].step, steps[-1].traffic_percent, steps[-1].started_at, None)
            continue
        if row.action is Action.DEPLOY:
            stage = Stage.DEPLOYED
            if row.after.get("champion_version") is None:
                stage, steps = Stage.RAMPING, [StepWindow(0, 100, row.at, None)]
        elif row.action is Action.SET_TRAFFIC:
            stage = Stage.RAMPING
            steps.append(StepWindow(int(row.after["step"]), int(row.after["traffic_percent"]), row.at, None))
        elif row.action is Action.PROMOTE:
            stage, promoted_at = Stage.PROMOTED, row.at
            steps.append(StepWindow(steps[-1].step + 1 if steps else 0, 100, row.at, None))
        elif row.action is Action.RETIRE:
            stage = Stage.FINISHED
        elif row.action is Action.ROLL_BACK:
            stage = Stage.ROLLED_BACK
    # A deployment that failed may be tried again, beside another champion by then.
    first = next((row for row in reversed(rows) if row.action is Action.DEPLOY and row.phase is Phase.INTENT), rows[0])
    champion = first.after.get("champion_version")
    return ReleaseState(
        release=release,
        stage=stage,
        challenger_version=str(first.after.get("challenger_version", "")),
        champion_version=None if champion is None else str(champion),
        entities=dict(first.after.get("entities", {})),
        open_intent=open_intent,
        steps=tuple(steps),
        started_at=first.at,
        promoted_at=promoted_at,
        last_sequence=rows[-1].sequence,
        champion_entity=first.after.get("champion_entity"),
        last_at=rows[-1].at,
        moved_at=next((row.at for row in reversed(rows) if row.phase is Phase.DONE), first.at),
        reason=next((row.reason for row in reversed(rows) if row.action is not Action.MEND), ""),
        baseline_version=int(first.after.get("table_version", 0) or 0),
        approved=_newest(entries, Action.APPROVE, release),
        frozen=_frozen(entries, release),
        paused=paused(entries),
    )


def paused(entries: Sequence[Entry]) -> Entry | None:
    """The pause that holds the model's releases, None where there is none."""
    said = [entry for entry in entries if entry.action in (Action.PAUSE, Action.UNPAUSE)]
    return said[-1] if said and said[-1].action is Action.PAUSE else None


def queued(entries: Sequence[Entry]) -> list[str]:
    """The releases that wait for the end of another, the one that has waited longest first."""
    waiting: dict[str, None] = {}
    for entry in entries:
        if entry.action is Action.QUEUE and entry.phase is Phase.DONE:
            waiting.setdefault(entry.release)
        elif entry.action in (Action.QUEUE, Action.DEPLOY):
            waiting.pop(entry.release, None)
    return list(waiting)


def _newest(entries: Sequence[Entry], event: Action, release: str) -> Entry | None:
    said = (entry for entry in reversed(entries) if entry.action is event and entry.release == release)
    return next(said, None)


def _frozen(entries: Sequence[Entry], release: str) -> Entry | None:
    """The newest freeze; a person who promoted the release after it has decided."""
    promotions = [entry for entry in entries if entry.action is Action.PROMOTE and entry.phase is Phase.DONE]
    decided = max((entry.sequence for entry in promotions if entry.release == release), default=-1)
    frozen = _newest(entries, Action.FREEZE, release)
    return frozen if frozen is not None and frozen.sequence > decided else None


def _ended(window: StepWindow, at: datetime) -> StepWindow:
    return StepWindow(window.step, window.traffic_percent, window.started_at, at)
