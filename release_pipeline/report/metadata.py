"""What Dagster shows of a release: the same keys on materialisations and observations, so that plots share a line."""

import math
from collections.abc import Sequence
from typing import Any

import dagster as dg

from release_pipeline.gate.betting import log_e_value
from release_pipeline.gate.verdict import MetricVerdict, Verdict
from release_pipeline.report.sparkline import sparkline
from release_pipeline.rollout.observer import Observed

E_VALUE_SHOWN = 1e6


def canary_metadata(observed: Observed, *, endpoint_url: str) -> dict[str, Any]:
    """Metadata of one look at the canary: traffic, verdict, numbers per metric, trend and report."""
    release, verdict = observed.release, observed.verdict
    metadata: dict[str, Any] = {
        "traffic_percent": release.traffic_percent,
        "step": release.step + 1,
        "verdict": verdict.action.value,
        "reason": str(verdict.reason),
        "sentence": verdict.sentence,
        "stage": release.stage.value,
        "challenger_version": release.challenger_version,
        "champion_version": release.champion_version or "none",
        "endpoint": dg.MetadataValue.url(endpoint_url),
        "metrics": metrics_table(verdict.metrics),
        "report": dg.MetadataValue.md(report(observed)),
    }
    if observed.lag_seconds is not None:
        metadata["lag_seconds"] = round(observed.lag_seconds, 1)
    for metric in verdict.metrics:
        metadata[f"{metric.name}_challenger"] = rate(metric.challenger_bad, metric.challenger_n)
        metadata[f"{metric.name}_champion"] = rate(metric.champion_bad, metric.champion_n)
        metadata[f"{metric.name}_requests"] = metric.challenger_n
        metadata[f"{metric.name}_harm_e"] = min(metric.harm_e, E_VALUE_SHOWN)
        metadata[f"{metric.name}_noninferiority_e"] = min(metric.noninferiority_e, E_VALUE_SHOWN)
    trend = trend_picture(observed)
    if trend:
        metadata["trend"] = dg.MetadataValue.md(trend)
    return {key: value for key, value in metadata.items() if value is not None}


def rate(bad: float, rows: int) -> float | None:
    """Share of bad rows, None without rows."""
    return bad / rows if rows else None


def metrics_table(metrics: Sequence[MetricVerdict]) -> dg.TableMetadataValue:
    """One row per metric: values, sample, evidence against its limit."""
    return dg.MetadataValue.table([dg.TableRecord(dict(_row(metric))) for metric in metrics])


def _row(metric: MetricVerdict) -> dict[str, str | int | float]:
    aim = f"margin {metric.margin:g}" if metric.margin is not None else f"bound {metric.bound}"
    return {
        "metric": metric.name,
        "role": ("guard, " if metric.guard else "") + ("required" if metric.required else "not required"),
        "challenger": f"{metric.challenger_bad:g} of {metric.challenger_n}",
        "champion": f"{metric.champion_bad:g} of {metric.champion_n}",
        "aim": aim,
        "evidence of harm": f"{metric.harm_e:.3g} (limit {metric.harm_limit:.3g})",
        "evidence of good": f"{metric.noninferiority_e:.3g} (limit {metric.noninferiority_limit:.3g})",
        "state": str(metric.state),
    }


def report(observed: Observed) -> str:
    """The whole story of one look, in markdown."""
    release, verdict = observed.release, observed.verdict
    lines = [
        f"### Release {release.release}: {verdict.action} ({verdict.reason})",
        "",
        verdict.sentence,
        "",
        f"Version {release.challenger_version} at {release.traffic_percent} %, champion "
        f"{release.champion_version or 'none'}; {observed.ingests} reads of new rows, evidence digest "
        f"`{observed.evidence_digest}`.",
        "",
        "| metric | challenger | champion | evidence of harm | evidence of good | state |",
        "|---|---|---|---|---|---|",
    ]
    for metric in verdict.metrics:
        row = _row(metric)
        lines.append(
            f"| {row['metric']} | {row['challenger']} | {row['champion']} | {row['evidence of harm']} "
            f"| {row['evidence of good']} | {row['state']} |"
        )
    return "\n".join(lines)


def trend_picture(observed: Observed) -> str:
    """The e-value of the metric that decides, ingest by ingest, against its limit."""
    metric = _decisive(observed.verdict)
    if metric is None:
        return ""
    bet = "harm" if metric.harmful else ("noninferiority" if metric.margin is not None else "below")
    limit = metric.harm_limit if metric.harmful else metric.noninferiority_limit
    values = [
        min(E_VALUE_SHOWN, math.exp(min(float(log_e_value(row.log_capitals[bet])), 30.0)))
        for row in observed.rows
        if row.kind == "block" and row.metric == metric.name and bet in row.log_capitals
    ]
    return sparkline(values, limit=limit, colour="#dc2626" if metric.harmful else "#3b82f6")


def _decisive(verdict: Verdict) -> MetricVerdict | None:
    harmful = [metric for metric in verdict.metrics if metric.harmful]
    required = [metric for metric in verdict.metrics if metric.required]
    if harmful:
        return max(harmful, key=lambda metric: metric.harm_e)
    return min(required, key=lambda metric: metric.noninferiority_e) if required else None
