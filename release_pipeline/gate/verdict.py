"""The words of a decision: what goes into it besides evidence, and what comes out, for machines and for people."""

from dataclasses import dataclass
from enum import StrEnum


class Action(StrEnum):
    """What a release should do next."""

    ADVANCE = "ADVANCE"
    HOLD = "HOLD"
    ROLL_BACK = "ROLL_BACK"
    PROMOTE = "PROMOTE"


class HoldReason(StrEnum):
    """Why a release stays where it is; each has a paragraph in docs/how-the-gate-decides.md."""

    NO_DATA = "NO_DATA"
    NOT_ENOUGH = "NOT_ENOUGH"
    LAGGING = "LAGGING"
    LATE_ROWS = "LATE_ROWS"
    TABLE_MISSING = "TABLE_MISSING"
    TABLE_UNREADABLE = "TABLE_UNREADABLE"
    TABLE_FROZEN = "TABLE_FROZEN"
    MAPPING_UNKNOWN = "MAPPING_UNKNOWN"
    MAPPING_CONTRADICTED = "MAPPING_CONTRADICTED"
    SHARE_MISMATCH = "SHARE_MISMATCH"
    UNJUDGED_ROWS = "UNJUDGED_ROWS"
    UNLOGGED_ERRORS = "UNLOGGED_ERRORS"
    WAREHOUSE_BUSY = "WAREHOUSE_BUSY"
    INCONCLUSIVE = "INCONCLUSIVE"
    OUTSIDE_WINDOW = "OUTSIDE_WINDOW"
    AWAITING_APPROVAL = "AWAITING_APPROVAL"
    UPDATE_IN_PROGRESS = "UPDATE_IN_PROGRESS"
    PAUSED = "PAUSED"
    FROZEN = "FROZEN"
    BAKING = "BAKING"


class GoReason(StrEnum):
    """Why a release moves."""

    SHOWN = "SHOWN"
    """Every required metric was shown to be good enough."""
    NOTHING_REQUIRED = "NOTHING_REQUIRED"
    """No metric of the gate is required: the step's time was over, and nothing was proven."""
    NO_BOUNDS = "NO_BOUNDS"
    """A first release without a required absolute bound: nothing was proven."""
    GUARD = "GUARD"
    """A guard metric was shown to be worse, or above its bound."""
    FIRST_STEP = "FIRST_STEP"
    """The first step of a ramp: there is no evidence before it, and none is needed."""
    ASKED_FOR = "ASKED_FOR"
    """A person, or another system, asked for the rollback; the gate did not."""


class MetricState(StrEnum):
    """What the evidence says of one metric."""

    WORSE = "worse"
    NOT_WORSE = "not worse"
    UNDECIDED = "undecided"

    @classmethod
    def of(cls, harm_e: float, harm_limit: float, good_e: float, good_limit: float) -> "MetricState":
        """What two e-values say against their limits; harm outweighs."""
        if harm_e >= harm_limit:
            return cls.WORSE
        return cls.NOT_WORSE if good_e >= good_limit else cls.UNDECIDED


@dataclass(frozen=True, slots=True)
class Frozen:
    """A table that nobody writes to any more."""

    table: str
    newest: float
    """Event time of its newest row, unix seconds."""
    requests: int
    """Requests that the endpoint has answered since, and that should have been logged by now."""
    expected: int | None = None
    """Of a table of ratings: how many those requests should have brought, going by the ones before; 0 where it had none
    in all the time that was looked at. None of the inference table, which has a row of each."""


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A served entity that tracers have shown to be several versions."""

    entity: str
    versions: tuple[str, ...]
    rows: int
    """Rows of it that wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """Facts about the release's health that the observer passes; the defaults are healthy."""

    missing_tables: tuple[str, ...] = ()
    """Tables that the gate reads and that do not exist."""
    unreadable: str = ""
    """Which table cannot be read, or which metric's SQL failed, and why: whole sentences; empty where all is well."""
    frozen: Frozen | None = None
    unmapped_rows: int = 0
    """Rows whose served entity is neither the champion's nor the challenger's."""
    contradictions: tuple[Contradiction, ...] = ()
    unlogged_errors: int = 0
    """Failures of the challenger that the endpoint has counted, and that are not in the table."""
    late_rows: int = 0
    """Challenger rows of the step that came too late for an inference table without a change feed: never read."""
    lag_seconds: float | None = None
    """Delay from a request to its row, as last measured; None if it was never measured."""
    update_in_progress: bool = False
    """The endpoint is busy with a configuration update."""
    configured_share: float
    """Challenger's share of the traffic as configured, 0 to 1."""
    now: float
    """Time of the look, unix seconds."""
    step_started_at: float
    """When the traffic of the current step was verified, unix seconds."""
    ramp_started_at: float
    """When the first step's was, unix seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricVerdict:
    """One series at one look. Counts and rates are those of the current step; harm is carried over all steps."""

    name: str
    segment: str = ""
    """Label of the segment; empty where the metric has none."""
    segments: int = 1
    """Segments that share the metric's alpha."""
    kind: str
    guard: bool
    required: bool
    champion_n: int
    champion_bad: float
    """Sum of the badness of the champion's rows: whole for metrics that are good or bad."""
    challenger_n: int
    challenger_bad: float
    champion_unjudged: int = 0
    """Champion rows without a usable value."""
    challenger_unjudged: int = 0
    challenger_failed: int = 0
    """How many of them the metric's own SQL failed on."""
    harm_e: float
    """E-value of "worse than tolerated", or "above the bound" without a champion."""
    harm_limit: float
    noninferiority_e: float
    """E-value of "worse by less than the margin", or "below the bound" without a champion."""
    noninferiority_limit: float
    margin: float | None
    """Margin of the current step; None where an absolute bound is the measure."""
    bound: float | None
    """Absolute bound; None where the champion is the measure, or the metric has none."""
    state: MetricState
    requests_left: int | None
    """Challenger requests until shown, if it is as good as the champion; None if shown or out of reach."""

    @property
    def title(self) -> str:
        """The metric, and the segment where it has one: ``errors of fr``."""
        return f"{self.name} of {self.segment}" if self.segment else self.name

    @property
    def key(self) -> str:
        """The same as a name for machines: ``errors_fr``."""
        return f"{self.name}_{self.segment}" if self.segment else self.name

    @property
    def most(self) -> float | None:
        """Mean badness that it may have: the champion's plus the margin, or the bound; None where neither is known."""
        if self.margin is None:
            return self.bound
        return None if self.champion_rate is None else self.champion_rate + self.margin

    @property
    def champion_rate(self) -> float | None:
        """Mean badness of the champion's rows; None without rows."""
        return self.champion_bad / self.champion_n if self.champion_n else None

    @property
    def challenger_rate(self) -> float | None:
        """Mean badness of the challenger's rows; None without rows."""
        return self.challenger_bad / self.challenger_n if self.challenger_n else None

    @property
    def shown(self) -> bool:
        """Whether the metric was shown to be good enough."""
        return self.noninferiority_e >= self.noninferiority_limit

    @property
    def harmful(self) -> bool:
        """Whether the metric was shown to be worse."""
        return self.harm_e >= self.harm_limit


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do, why, and from what."""

    action: Action
    reason: str
    """A :class:`HoldReason` where the action is HOLD, else a :class:`GoReason`."""
    sentence: str
    """The same for people, with values, limits and numbers of rows."""
    metrics: tuple[MetricVerdict, ...]


def percent(share: float | None) -> str:
    """A share as people read it: ``1.25 %``; ``no rate`` without rows."""
    return "no rate" if share is None else f"{100 * share:.3g} %"


def points(share: float) -> str:
    """A difference of shares: ``2 pp``."""
    return f"{100 * share:.3g} pp"


def e_text(value: float) -> str:
    """An e-value as people read it: three digits, and no more than a million."""
    if value > 1e6:
        return "over a million"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def compared(metric: MetricVerdict) -> str:
    """The rows of both arms: ``errors is 5 % of 120 challenger requests, champion 1 % of 2300``."""
    if not metric.challenger_n:
        return f"{metric.title} has no challenger requests in this step"
    text = f"{metric.title} is {percent(metric.challenger_rate)} of {metric.challenger_n} challenger requests"
    if metric.margin is None:
        return text
    return f"{text}, champion {percent(metric.champion_rate)} of {metric.champion_n}"
