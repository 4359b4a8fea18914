"""Faults of the data or of the endpoint that hold a release, each by name. None of them stops a rollback."""

import math
from typing import Final

from release_pipeline.gate.verdict import (
    Action,
    Contradiction,
    Frozen,
    HoldReason,
    MetricVerdict,
    Signals,
    Verdict,
    percent,
)
from release_pipeline.spec import ReleaseSpec

#: The realised share contradicts the configured one only beyond both: standard deviations, and relative difference.
SHARE_DEVIATIONS: Final = 6.0
SHARE_DIFFERENCE: Final = 0.5
#: Kinds that judge every row of the inference table, so that these tell the share of the traffic.
EVERY_REQUEST: Final = ("errors", "slow", "expression")


def updating(metrics: tuple[MetricVerdict, ...]) -> Verdict:
    """The hold while the endpoint applies a configuration."""
    sentence = "Hold: the endpoint is being updated; wait until it is done."
    return Verdict(Action.HOLD, HoldReason.UPDATE_IN_PROGRESS, sentence, metrics)


def unhealthy(signals: Signals, spec: ReleaseSpec, metrics: tuple[MetricVerdict, ...]) -> Verdict | None:
    """A hold for the first fault of data or endpoint, the most fundamental first."""
    table, lag, most = spec.payload_table, signals.lag_seconds, 60 * spec.gate.max_lag_minutes
    if signals.missing_tables:
        reason = HoldReason.TABLE_MISSING
        remedy = (
            f"turn the inference table on for endpoint {spec.endpoint_name}."
            if table in signals.missing_tables
            else "create it, or take its metric out of the gate."
        )
        sentence = f"the table {' and '.join(signals.missing_tables)} does not exist; {remedy}"
    elif signals.unreadable:
        reason = HoldReason.TABLE_UNREADABLE
        sentence = signals.unreadable
    elif signals.frozen is not None:
        reason, sentence = HoldReason.TABLE_FROZEN, _silence(signals.frozen, signals.now)
    elif signals.update_in_progress:
        return updating(metrics)
    elif signals.contradictions:
        reason = HoldReason.MAPPING_CONTRADICTED
        sentence = _contradicted(signals.contradictions, table)
    elif signals.unmapped_rows:
        reason = HoldReason.MAPPING_UNKNOWN
        sentence = (
            f"{signals.unmapped_rows} rows of {table} come from a served entity that is neither the champion's nor "
            "the challenger's; send tracers to learn which it is."
        )
    elif lag is not None and lag > most:
        reason = HoldReason.LAGGING
        sentence = (
            f"{table} is {lag / 60:.0f} min behind, more than gate.max_lag_minutes {spec.gate.max_lag_minutes:g}."
        )
    else:
        return None
    return Verdict(Action.HOLD, reason, f"Hold: {sentence}", metrics)


def _contradicted(found: tuple[Contradiction, ...], table: str) -> str:
    """Which entity is shown to be what, and what a person can do."""
    told = "; ".join(
        f"tracers show served entity {each.entity} to be versions {' and '.join(each.versions)}, so its {each.rows} "
        "rows belong to neither"
        for each in found
    )
    return (
        f"in {table} {told}, and nothing that came with them is stored; somebody sends the pipeline's own tracers "
        "again: find out who, roll the release back and start it again."
    )


def _silence(frozen: Frozen, now: float) -> str:
    """How it is known that nobody writes to a table any more."""
    newest = f"the newest row of {frozen.table} is {_age(now - frozen.newest)} old"
    if frozen.expected is None:
        return (
            f"{newest}, and the endpoint has answered {frozen.requests} requests since that should be in it; "
            "nothing is logged to it any more."
        )
    end = "nothing is written to it any more: name a source that is, or mute its metrics."
    if not frozen.expected:
        return (
            f"{newest}, older than all of the {frozen.requests} requests of the time that levels are taken from; {end}"
        )
    return (
        f"{newest}, and the {frozen.requests} requests since should have brought about {frozen.expected}, going by "
        f"those before; {end}"
    )


def _age(seconds: float) -> str:
    if seconds < 10_800:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 259_200 else f"{seconds / 86_400:.0f} days"


def no_data(metrics: tuple[MetricVerdict, ...], place: str) -> Verdict | None:
    """A hold if no metric has a challenger row of this step."""
    if any(metric.challenger_n for metric in metrics):
        return None
    sentence = f"Hold: the inference table has no challenger rows of {place} yet; is there traffic?"
    return Verdict(Action.HOLD, HoldReason.NO_DATA, sentence, metrics)


def share_mismatch(signals: Signals, metrics: tuple[MetricVerdict, ...]) -> Verdict | None:
    """A hold if so many rows went the wrong way that the traffic cannot be split as configured."""
    share = signals.configured_share
    telling = [metric for metric in metrics if metric.kind in EVERY_REQUEST]
    if not 0 < share < 1 or not telling:
        return None
    most = max(telling, key=lambda metric: metric.champion_n + metric.challenger_n)
    rows = most.champion_n + most.challenger_n
    if not rows:
        return None
    realised = most.challenger_n / rows
    off = abs(realised - share)
    if off <= SHARE_DEVIATIONS * math.sqrt(share * (1 - share) / rows) or off <= SHARE_DIFFERENCE * min(
        share, 1 - share
    ):
        return None
    sentence = (
        f"Hold: the challenger answered {percent(realised)} of {rows} requests where {percent(share)} is configured; "
        "check the endpoint's traffic split."
    )
    return Verdict(Action.HOLD, HoldReason.SHARE_MISMATCH, sentence, metrics)
