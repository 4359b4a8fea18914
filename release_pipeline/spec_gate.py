"""The gate's part of the YAML: what is watched, against what, and with which share of alpha."""

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from release_pipeline.spec_sql import expression_problem

#: For ``fullmatch``, as every pattern here: ``$`` lets a line break through.
IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TABLE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*){2}")

Kind = Literal["errors", "slow", "feedback", "judge", "label", "expression"]

#: Fields that belong to some kinds only.
FIELDS_OF_KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "threshold_ms": ("slow",),
    "assessment": ("feedback",),
    "source": ("feedback",),
    "scorer": ("judge",),
    "sample": ("judge",),
    "worst": ("feedback", "judge"),
    "best": ("feedback", "judge"),
    "table": ("label",),
    "request_id_column": ("label",),
    "badness": ("label", "expression"),
}
#: What a kind cannot do without.
REQUIRED_OF_KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "feedback": ("assessment",),
    "judge": ("scorer",),
    "label": ("table", "badness"),
    "expression": ("badness",),
}
#: Minutes after which nearly all values of a kind are there; others come with the row.
SETTLE_MINUTES: Final[Mapping[str, float]] = {"feedback": 60, "judge": 10}
#: Values of requests that are older than an hour are looked for once an hour.
_SWEPT_MINUTES: Final = 60
#: Value bins of metrics that are more than good or bad: 0, 0.05, ..., 1.
SCORE_BINS: Final = 21


class Strict(BaseModel):
    """Base of every part of the YAML: unknown fields are refused, numbers are finite, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Metric(Strict):
    """One thing that the gate watches, as a badness in [0, 1] per request."""

    name: str = Field(description="Name, unique in the gate.")
    kind: Kind = Field(
        description="`errors` (status and stream errors), `slow` (duration), `feedback` (an assessment of people), "
        "`judge` (an MLflow scorer on a sample of the rows), `label` (truth that comes later) or `expression` (SQL)."
    )
    margin: float | tuple[float, ...] | None = Field(
        default=0.02,
        description="How much worse than the champion is tolerable, as a share; one number, or one per ramp step. "
        "None judges by `bound` alone, in every step.",
    )
    tolerance: float = Field(
        default=0.0, ge=0, lt=1, description="Harm up to this share does not count as harm for the rollback."
    )
    bound: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Absolute bound of the mean badness; used where there is no champion, and where `margin` is none.",
    )
    guard: bool = Field(default=True, description="Can roll the release back.")
    required: bool = Field(default=True, description="Must be shown good enough before a step advances.")
    muted: bool = Field(
        default=False, description="Counted and shown, decides nothing: neither guard nor required, whatever they say."
    )
    alpha_share: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Share of alpha that this guard may spend; guards without one share the rest equally.",
    )
    segments: str | None = Field(
        default=None,
        min_length=1,
        description="Databricks SQL over a logged row that gives a label, such as a customer group; each label is "
        "judged by itself, and the worst one decides.",
    )
    threshold_ms: int | None = Field(
        default=None, gt=0, description="`slow`: what counts as slow; none means the champion's p95, frozen."
    )
    assessment: str | None = Field(default=None, min_length=1, description="`feedback`: name of the assessment.")
    source: Literal["traces", "assessment_logs"] = Field(
        default="traces",
        description="`feedback`: MLflow traces, or the older table `<model>_payload_assessment_logs`.",
    )
    scorer: str | None = Field(
        default=None,
        min_length=1,
        description="`judge`: a built-in scorer of MLflow by its class name, or `file.py:function` beside this YAML.",
    )
    sample: float = Field(default=0.1, gt=0, le=1, description="`judge`: share of the logged rows that is scored.")
    worst: float = Field(default=0.0, description="`feedback`, `judge`: the number that means entirely bad.")
    best: float = Field(
        default=1.0,
        description="`feedback`, `judge`: the number that means entirely good; true, yes, pass and positive mean the "
        "higher of the two, false, no, fail and negative the lower.",
    )
    table: str | None = Field(
        default=None, description="`label`: table of truth, `catalog.schema.table`, with one row per request."
    )
    request_id_column: str = Field(
        default="request_id", description="`label`: its column with databricks_request_id or client_request_id."
    )
    badness: str | None = Field(
        default=None,
        min_length=1,
        description="`expression`, `label`: Databricks SQL that gives the badness of a row from 0 to 1 (NULL: cannot "
        "be judged), over the columns of the payload and, for `label`, of the table as `label.<column>`.",
    )

    settle_minutes: float | None = Field(
        default=None,
        ge=0,
        le=90 * 1440,
        description="Minutes after a request by which nearly every value of the metric is there, the bad ones too; "
        "younger requests are not bet on. None means 60 for `feedback`, 10 for `judge`, and 0 for what comes with the "
        "row; a `label` that decides must say it.",
    )

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not IDENTIFIER.fullmatch(value):
            raise ValueError("must be letters, digits and underscores, not starting with a digit")
        return value

    @field_validator("margin")
    @classmethod
    def _margin(cls, value: float | tuple[float, ...] | None) -> float | tuple[float, ...] | None:
        if value == ():
            raise ValueError("needs at least one number, such as 0.02, or [0.03, 0.02] for one per ramp step")
        for margin in value if isinstance(value, tuple) else () if value is None else (value,):
            if not 0 < margin < 1:
                raise ValueError("must be a share above 0 and below 1, such as 0.02 for 2 percentage points")
        return value

    @field_validator("table")
    @classmethod
    def _table(cls, value: str | None) -> str | None:
        if value is not None and not _TABLE_NAME.fullmatch(value):
            raise ValueError("must be catalog.schema.table, each of letters, digits and underscores")
        return value

    @field_validator("request_id_column")
    @classmethod
    def _column(cls, value: str) -> str:
        if not IDENTIFIER.fullmatch(value):
            raise ValueError("must be the name of a column: letters, digits and underscores")
        return value

    @field_validator("assessment", "scorer")
    @classmethod
    def _plain_name(cls, value: str | None) -> str | None:
        if value is not None and (not value.isprintable() or set(value) & set("`'\"")):
            raise ValueError("must be a name without backticks, quotes and control characters")
        return value

    @field_validator("badness", "segments")
    @classmethod
    def _one_expression(cls, value: str | None) -> str | None:
        if value is not None and (problem := expression_problem(value)):
            raise ValueError(problem)
        return value

    @model_validator(mode="after")
    def _fields_of_the_kind(self) -> "Metric":
        for field, kinds in FIELDS_OF_KINDS.items():
            if self.kind not in kinds and field in self.model_fields_set and getattr(self, field) is not None:
                raise ValueError(f"{field} belongs to kind {' and '.join(f'`{kind}`' for kind in kinds)} only")
        for field in REQUIRED_OF_KINDS.get(self.kind, ()):
            if getattr(self, field) is None:
                raise ValueError(f"kind `{self.kind}` needs {field}; add it")
        if self.kind == "label" and self.settle_minutes is None and (self.guards or self.requires):
            raise ValueError(
                "kind `label` needs settle_minutes, the minutes after a request by which nearly every label is there, "
                "such as 1440 for a day; where good labels come sooner than bad ones, younger requests make a bad "
                "version look good"
            )
        if self.worst == self.best:
            raise ValueError("worst and best are the same number; they must differ, such as worst: 1 and best: 5")
        if self.alpha_share is not None and not self.guard:
            raise ValueError("alpha_share is for guards, and guard is false; remove one of the two")
        if self.margin is None and self.bound is None:
            raise ValueError("margin is none, so bound must say what is good enough")
        return self

    @property
    def guards(self) -> bool:
        """Whether the metric can roll back: a guard that is not muted."""
        return self.guard and not self.muted

    @property
    def requires(self) -> bool:
        """Whether the metric must be shown before a step advances: required, and not muted."""
        return self.required and not self.muted

    @property
    def settle_seconds(self) -> float:
        """Age from which a request's value counts: all that were in time have been read by then."""
        minutes = SETTLE_MINUTES.get(self.kind, 0.0) if self.settle_minutes is None else self.settle_minutes
        if self.kind in ("feedback", "label") and minutes > _SWEPT_MINUTES:
            minutes += _SWEPT_MINUTES
        return 60 * minutes

    @property
    def bins(self) -> int:
        """Value bins that its rows are counted in: good and bad, or :data:`SCORE_BINS`."""
        return 2 if self.kind in ("errors", "slow") else SCORE_BINS

    def margin_at(self, step: int) -> float | None:
        """The margin of ramp step ``step`` (0 is the first); the last one where the list is shorter; None without."""
        if isinstance(self.margin, tuple):
            return self.margin[min(step, len(self.margin) - 1)]
        return self.margin


class GatePart(Strict):
    """What decides between advance, hold and roll back."""

    alpha: float = Field(
        default=0.05, gt=0, lt=0.5, description="Probability of a false rollback, and of a false advance, at most."
    )
    metrics: tuple[Metric, ...] = Field(
        default=(Metric(name="errors", kind="errors"), Metric(name="slow", kind="slow", margin=0.05)),
        min_length=1,
        description="What is watched.",
    )
    baseline_days: float = Field(
        default=7, gt=0, le=90, description="Days before the release from which the champion's level is frozen."
    )
    min_block_rows: int = Field(
        default=40, ge=1, le=20_000, description="Rows, of both versions together, that close a block of evidence."
    )
    bucket_seconds: int | None = Field(
        default=None, ge=1, le=86_400, description="Event-time bucket of a block; none sizes it by the traffic."
    )
    max_lag_minutes: float = Field(default=120, gt=0, description="A table that lags more than this holds the release.")

    @field_validator("metrics")
    @classmethod
    def _unique(cls, value: tuple[Metric, ...]) -> tuple[Metric, ...]:
        names = [metric.name for metric in value]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two metrics are called {name}; names must be unique")
        return value

    @model_validator(mode="after")
    def _alpha_is_enough(self) -> "GatePart":
        given = [metric.alpha_share for metric in self.guards if metric.alpha_share is not None]
        without = len(self.guards) - len(given)
        if sum(given) > 1 + 1e-9 or (without and sum(given) > 1 - 1e-9):
            raise ValueError(
                f"alpha_share of the guards adds up to {sum(given):g}; it must be at most 1, and below 1 where a guard "
                "has none"
            )
        return self

    @cached_property
    def guards(self) -> tuple[Metric, ...]:
        """The metrics that can roll back; alpha is split over them."""
        return tuple(metric for metric in self.metrics if metric.guards)

    def alpha_of(self, metric: Metric) -> float:
        """The part of alpha that a metric's harm may spend: its own share, or an equal part of what others leave.

        A metric that is no guard is held against the part that a guard without a share of its own would have.
        """
        if metric.guards and metric.alpha_share is not None:
            return self.alpha * metric.alpha_share
        given = [guard.alpha_share for guard in self.guards if guard.alpha_share is not None]
        return self.alpha * max(0.0, 1 - sum(given)) / max(1, len(self.guards) - len(given)) or self.alpha
