"""Where a release stands, read off its ledger: a pure function of the rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from release_pipeline.rollout.ledger import Action, Entry, Phase


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
    """The event times of one ramp step: from the verified write that began it to the intent that ended it."""

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
        steps: The ramp steps so far, oldest first. A release without a champion has one, at 100 %.
        promoted_at: When the promotion was verified.
        reason: The reason of the newest row.
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
    """The state of ``release``, or of the newest release in the ledger; None where there is none.

    Args:
        entries: Rows of the ledger, oldest first.
        release: A release's key, or None for the newest.
    """
    if release is None:
        release = entries[-1].release if entries else None
    rows = [entry for entry in entries if entry.release == release]
    if release is None or not rows:
        return None
    stage = Stage.STARTING
    steps: list[StepWindow] = []
    promoted_at: datetime | None = None
    open_intent: Entry | None = None
    for row in rows:
        if row.phase is Phase.INTENT:
            open_intent = row
            if steps and steps[-1].ended_at is None:
                steps[-1] = _ended(steps[-1], row.at)
            continue
        open_intent = None
        if row.phase is Phase.FAILED:
            if row.action is Action.DEPLOY:
                stage = Stage.FAILED
            elif steps and row.action in (Action.SET_TRAFFIC, Action.PROMOTE):
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
        reason=rows[-1].reason,
        baseline_version=int(first.after.get("table_version", 0) or 0),
    )


def _ended(window: StepWindow, at: datetime) -> StepWindow:
    return StepWindow(window.step, window.traffic_percent, window.started_at, at)
