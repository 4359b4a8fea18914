"""The parts of a release's YAML that say how it moves: its ramp, its promotion, and what runs by itself."""

from datetime import datetime
from itertools import islice
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from release_pipeline.spec_cron import can_fire, next_times, week_minutes
from release_pipeline.spec_gate import IDENTIFIER, Strict
from release_pipeline.spec_windows import Window, parse_window


class RampPart(Strict):
    """The steps of challenger traffic."""

    steps: tuple[int, ...] = Field(default=(5, 25, 50), description="Challenger traffic per step, percent, rising.")
    min_step_seconds: int = Field(default=600, ge=0, description="Shortest time on one step, seconds.")
    deadline_hours: float = Field(
        default=168, gt=0, description="After this a person is called; nothing is shipped by a deadline."
    )
    on_harm: Literal["rollback", "freeze"] = Field(
        default="rollback",
        description="What follows when a guard shows harm: `rollback`, or `freeze`, which keeps the traffic as it is, "
        "stops everything that moves by itself and calls a person.",
    )
    second_release: Literal["refuse", "queue", "replace"] = Field(
        default="refuse",
        description="What happens to a release that is started while another is under way: `refuse` it, `queue` it "
        "until the other has ended with its bake, or roll the other one back and `replace` it.",
    )

    @field_validator("steps")
    @classmethod
    def _rising(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value:
            raise ValueError("needs at least one step, such as [5, 25, 50]")
        if any(step < 1 or step > 99 for step in value):
            raise ValueError("each step must be from 1 to 99 percent; promotion itself sets 100")
        if list(value) != sorted(set(value)):
            raise ValueError("steps must rise, such as [5, 25, 50]")
        return value

    @model_validator(mode="after")
    def _time_for_the_steps(self) -> "RampPart":
        least = self.min_step_seconds * len(self.steps)
        if least > 3600 * self.deadline_hours:
            raise ValueError(
                f"deadline_hours {self.deadline_hours:g} is over before {len(self.steps)} steps of min_step_seconds "
                f"{self.min_step_seconds} are, which take {least / 3600:.3g} h; raise the one, or lower the other"
            )
        return self


class PromotionPart(Strict):
    """What happens when the last step has passed, and when anything may move."""

    alias: str = Field(default="champion", description="Alias that names the live version.")
    automatic: bool = Field(default=False, description="Let the gate sensor promote as soon as the gate has passed.")
    approval: Literal["none", "required"] = Field(
        default="none", description="Whether a person must approve the promotion; the guards stay on while it waits."
    )
    approval_tag: str = Field(
        default="approval",
        min_length=1,
        max_length=250,
        description="Tag of the model version whose value `approved` approves it, as MLflow deployment jobs write it.",
    )
    windows: tuple[str, ...] = Field(
        default=(),
        description="When traffic may grow and a promotion may happen, such as `mon-thu 09:00-16:00`, in `timezone`; "
        "none means always. A rollback is never held.",
    )
    schedule: str | None = Field(default=None, description="Cron expression at which what has passed is promoted.")
    timezone: str = Field(default="UTC", description="IANA time zone of the schedule and of the windows.")
    bake_seconds: int = Field(
        default=86_400,
        ge=0,
        description="How long the old champion stays at 0 % after the promotion, with the guards on.",
    )
    bake_scale_to_zero: bool = Field(
        default=False,
        description="Let the old champion scale to zero during the bake: cheaper, and a rollback waits for its start.",
    )

    @field_validator("alias")
    @classmethod
    def _alias(cls, value: str) -> str:
        if not IDENTIFIER.fullmatch(value) or value == "challenger":
            raise ValueError("must be letters, digits and underscores, and not `challenger`")
        return value

    @field_validator("windows")
    @classmethod
    def _windows(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            parse_window(text)
        return value

    @field_validator("timezone")
    @classmethod
    def _timezone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError("is not an IANA time zone, such as Europe/Berlin") from error
        return value

    @field_validator("schedule")
    @classmethod
    def _cron(cls, value: str | None) -> str | None:
        if value is not None and not can_fire(value):
            raise ValueError("must be a cron expression of five fields, such as 0 9 * * 1-5")
        return value

    @model_validator(mode="after")
    def _schedule_within_windows(self) -> "PromotionPart":
        windows = self.open_windows
        if self.schedule is None or not windows:
            return self
        if any(window.holds(day, minute) for day, minute in week_minutes(self.schedule) for window in windows):
            return self
        now = datetime.now(ZoneInfo(self.timezone)).replace(tzinfo=None)
        tries = ", ".join(f"{at:%a %Y-%m-%d %H:%M}" for at in islice(next_times(self.schedule, now), 3))
        raise ValueError(
            f"schedule {self.schedule!r} never falls into windows {', '.join(self.windows)} ({self.timezone}), so that "
            f"nothing would ever be promoted by it; its next tries are {tries}; move one of the two"
        )

    @property
    def open_windows(self) -> tuple[Window, ...]:
        """The windows, parsed."""
        return tuple(parse_window(text) for text in self.windows)


class AutomationPart(Strict):
    """What runs by itself."""

    gate_sensor: Literal["on", "off"] = Field(
        default="off", description="Whether the gate sensor runs when the code location is first loaded."
    )
    tick_seconds: int = Field(default=30, ge=1, le=3600, description="Shortest time between two ticks of the gate.")
    promotion_schedule: Literal["on", "off"] = Field(
        default="off", description="Whether the promotion schedule runs when the code location is first loaded."
    )
    most_attempts: int = Field(
        default=8,
        ge=1,
        le=1000,
        description="Failed runs of one step, or of the promotion, after which the release is rolled back, or frozen: "
        "where `ramp.on_harm` says so, and in a first release that serves already.",
    )

    drift_sensor: Literal["on", "off"] = Field(
        default="off", description="Whether the drift sensor runs when the code location is first loaded."
    )
    mend_drift: bool = Field(
        default=False,
        description="Let the drift sensor bring endpoint and alias back to the ledger's side by itself; else a person "
        "runs the job `<name>_mend`.",
    )

    @field_validator("gate_sensor", "promotion_schedule", "drift_sensor", mode="before")
    @classmethod
    def _yaml_booleans(cls, value: Any) -> Any:
        # YAML 1.1 reads a bare `on` or `off` as a boolean.
        return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value
