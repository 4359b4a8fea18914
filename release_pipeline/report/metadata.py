"""What Dagster shows of a release: the same keys on materialisations and observations, so that plots share a line.

The first keys are for people: sentence, picture, table. Values are kept narrow, because Dagster's overview cuts off a
table that is wider than half the window. Numbers, which it plots over time, come last.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from release_pipeline.gate.evidence import Bet
from release_pipeline.gate.observations import Series
from release_pipeline.gate.verdict import MetricVerdict, Verdict, percent, points
from release_pipeline.report.markdown import INLINE, literal
from release_pipeline.report.sparkline import Line, sparkline
from release_pipeline.rollout.observer import Observed
from release_pipeline.rollout.state import ReleaseState
from release_pipeline.workspace.links import Links

# Beyond this many times its limit, an e-value would only flatten the rest of its plot.
TIMES_LIMIT_PLOTTED = 5
MOST_WRITTEN = 9999


def canary_metadata(observed: Observed, *, endpoint_url: str, now: ReleaseState | None = None) -> dict[str, Any]:
    """Metadata of one look at the canary: sentence, trend, table, report, then the numbers that are plotted.

    Args:
        observed: The look; verdict and evidence are shown as it saw them.
        endpoint_url: The endpoint's page.
        now: Where the release stands after the run that acted on the look; without it, as observed.
    """
    release = now or observed.release
    metadata = _story(observed, release, endpoint_url)
    metadata["step"] = release.step + 1
    if observed.lag_seconds is not None:
        metadata["lag_seconds"] = round(observed.lag_seconds, 1)
    for metric in observed.verdict.metrics:
        metadata |= _numbers(metric)
    return metadata


def promotion_metadata(
    observed: Observed,
    *,
    endpoint_url: str,
    now: ReleaseState | None,
    live_version: str | None,
    live_url: str | None,
    alias: str,
    routes: dict[str, int],
) -> dict[str, Any]:
    """Metadata of a promotion: which version is live comes first, then why.

    Args:
        observed: The look that the promotion rests on.
        endpoint_url: The endpoint's page.
        now: Where the release stands after the promotion.
        live_version: The version behind the alias, as read back.
        live_url: The page of that version.
        alias: The alias.
        routes: Traffic percent per served entity, as read back.
    """
    return {
        **live_metadata(live_version, alias, routes, endpoint_url=endpoint_url, live_url=live_url),
        **_story(observed, now or observed.release, endpoint_url),
    }


def live_metadata(
    live_version: str | None, alias: str, routes: Mapping[str, int], *, endpoint_url: str, live_url: str | None
) -> dict[str, Any]:
    """Which version is live, first of all that is shown of a promotion; arguments as of :func:`promotion_metadata`."""
    return {
        "live_version": live_version or "none",
        **({"live_model": dg.MetadataValue.url(live_url)} if live_url else {}),
        "alias": alias,
        "routes": ", ".join(f"{name} {share} %" for name, share in routes.items()),
        "endpoint": dg.MetadataValue.url(endpoint_url),
    }


def link_metadata(links: Links) -> dict[str, Any]:
    """Metadata of an endpoint: its page, where it is queried, where it is reviewed, its traces where they are known."""
    return {
        "endpoint": dg.MetadataValue.url(links.endpoint),
        "query_url": links.query,
        "review": dg.MetadataValue.url(links.review),
        **({"traces": dg.MetadataValue.url(links.traces)} if links.traces else {}),
    }


def _story(observed: Observed, release: ReleaseState, endpoint_url: str) -> dict[str, Any]:
    verdict, trend = observed.verdict, trend_picture(observed)
    return {
        "sentence": verdict.sentence,
        "traffic_percent": release.traffic_percent,
        **({"trend": dg.MetadataValue.md(trend)} if trend else {}),
        # A first step was decided without any.
        **({"metrics": metrics_table(verdict.metrics)} if verdict.metrics else {}),
        "verdict": verdict.action.value,
        "reason": str(verdict.reason),
        "stage": release.stage.value,
        "challenger_version": release.challenger_version,
        "champion_version": release.champion_version or "none",
        "endpoint": dg.MetadataValue.url(endpoint_url),
        "report": dg.MetadataValue.md(report(observed, release)),
    }


def _numbers(metric: MetricVerdict) -> dict[str, float | int]:
    numbers: dict[str, float | int | None] = {
        "challenger": rate(metric.challenger_bad, metric.challenger_n),
        "champion": rate(metric.champion_bad, metric.champion_n),
        "requests": metric.challenger_n,
        "unjudged": metric.challenger_unjudged or None,
        "harm_e": plotted(metric.harm_e, metric.harm_limit),
        "good_e": plotted(metric.noninferiority_e, metric.noninferiority_limit),
    }
    return {f"{metric.key}_{name}": number for name, number in numbers.items() if number is not None}


def rate(bad: float, rows: int) -> float | None:
    """Share of bad rows to four digits, None without rows."""
    return float(f"{bad / rows:.4g}") if rows else None


def plotted(e_value: float, limit: float) -> float:
    """An e-value to four digits, and no more than five times its limit."""
    return float(f"{min(e_value, TIMES_LIMIT_PLOTTED * limit):.4g}")


def metrics_table(metrics: Sequence[MetricVerdict]) -> dg.TableMetadataValue:
    """One row per metric: value of each arm, the most it may be, evidence of harm and of good against its limit.

    Evidence that has reached its limit is marked. Few columns, or the asset's overview cuts all values off.
    """
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "metric": metric.title,
                    "challenger": _value(metric.challenger_rate, metric.challenger_n) + _at_most(metric),
                    "champion": _value(metric.champion_rate, metric.champion_n),
                    "harm": _against(metric.harm_e, metric.harm_limit) + " ✗" * metric.harmful,
                    "good": _against(metric.noninferiority_e, metric.noninferiority_limit) + " ✓" * metric.shown,
                }
            )
            for metric in metrics
        ]
    )


def _value(share: float | None, rows: int) -> str:
    return f"{percent(share)} of {rows}" if rows else "-"


def _at_most(metric: MetricVerdict) -> str:
    return f", at most {percent(metric.most)}" if metric.most is not None else ""


def _against(e_value: float, limit: float) -> str:
    if e_value > MOST_WRITTEN:
        return f">{MOST_WRITTEN} / {limit:.3g}"
    written = f"{e_value:.0f}" if e_value >= 100 else f"{e_value:.3g}" if e_value >= 0.001 else "<0.001"
    return f"{written} / {limit:.3g}"


def report(observed: Observed, release: ReleaseState) -> str:
    """The whole story of one look, in markdown that wraps; only what matters most where there are many segments."""
    verdict = observed.verdict
    against = f"champion version {release.champion_version}" if release.champion_version else "no champion"
    head = (
        f"**Release {release.release}: {verdict.action} ({verdict.reason})**\n\n"
        f"Version {release.challenger_version}, now at {release.traffic_percent} %; {against}. Evidence against its "
        "limit: harm rolls back, good advances.\n\n"
    )
    foot = f"\n\n{_reads(observed)}."
    lines = [_told(metric) for metric in sorted(verdict.metrics, key=_urgency)]
    shown = len(lines)
    while shown and len(head) + len("\n".join(lines[:shown])) + len(foot) > INLINE - len(_left_out(len(lines))):
        shown -= 1
    left_out = [_left_out(len(lines) - shown)] if shown < len(lines) else []
    return head + "\n".join([*lines[:shown], *left_out]) + foot


def _urgency(metric: MetricVerdict) -> int:
    """What has rolled back comes first, then what keeps the step from being taken; else the order of the gate."""
    if metric.guard and metric.harmful:
        return 0
    return 1 if metric.required and not metric.shown else 2


def _left_out(count: int) -> str:
    return f"- and {count} more, in the table `metrics`"


def _told(metric: MetricVerdict) -> str:
    role = ", ".join(word for word, holds in (("guard", metric.guard), ("required", metric.required)) if holds)
    role = role or "only watched"
    if metric.segments > 1:
        role += f", alpha split over {metric.segments} segments"
    told = [f"- **{literal(metric.title)}** ({role}): {metric.state}"]
    if metric.challenger_n:
        told.append(f"challenger {_value(metric.challenger_rate, metric.challenger_n)}")
    else:
        told.append("no challenger requests in this step")
    if metric.champion_n:
        told.append(f"champion {_value(metric.champion_rate, metric.champion_n)}")
    told.append(_aim(metric))
    told.append(f"harm {_against(metric.harm_e, metric.harm_limit)}")
    told.append(f"good {_against(metric.noninferiority_e, metric.noninferiority_limit)}")
    if metric.challenger_unjudged:
        told.append(f"{metric.challenger_unjudged} challenger rows not judged")
    return "; ".join(told)


def _reads(observed: Observed) -> str:
    count, unlogged = max(observed.ingests, 0), observed.signals.unlogged_errors
    said = [f"{count} {'read' if count == 1 else 'reads'} of new rows"]
    if observed.sampling_fraction < 1:
        said.append(f"the table logs {percent(observed.sampling_fraction)} of the requests")
    said += [f"{observed.duplicates} rows delivered again and dropped"] if observed.duplicates else []
    said += [f"{observed.late} rows too late to be judged"] if observed.late else []
    said += [f"{unlogged} failures that the endpoint counted and the table lacks"] if unlogged else []
    said += [literal(note, longest=160) for note in observed.notes]
    said += [f"evidence digest `{observed.evidence_digest}`"] if observed.evidence_digest else []
    return "; ".join(said)


def _aim(metric: MetricVerdict) -> str:
    if metric.margin is not None:
        return f"margin {points(metric.margin)}"
    return f"bound {percent(metric.bound)}" if metric.bound is not None else "no bound"


def trend_picture(observed: Observed) -> str:
    """The e-values of the metric that decides, look by look, against their limits, with a caption."""
    metric = _decisive(observed.verdict)
    if metric is None:
        return ""
    path = observed.path.get(Series(metric.name, metric.segment), ())
    good, harm = (Bet.BELOW, Bet.ABOVE) if metric.margin is None else (Bet.NONINFERIORITY, Bet.HARM)
    lines, captions = [], []
    for drawn, bet, e_value, limit, told, colour in (
        (metric.required, good, metric.noninferiority_e, metric.noninferiority_limit, "blue: good", "#3b82f6"),
        (metric.guard, harm, metric.harm_e, metric.harm_limit, "red: harm", "#dc2626"),
    ):
        if drawn:
            lines.append(Line([point.values.get(bet.value, 0.0) for point in path], limit, colour))
            captions.append(f"{told} {_against(e_value, limit)}")
    picture = sparkline(lines)
    return f"{picture}\n\nevidence on {literal(metric.title)}; {'; '.join(captions)}; dashed: limit" if picture else ""


def _decisive(verdict: Verdict) -> MetricVerdict | None:
    # The same metric that the gate's sentence names: the first guard that was shown to be worse.
    harmful = [metric for metric in verdict.metrics if metric.guard and metric.harmful]
    required = [metric for metric in verdict.metrics if metric.required]
    if harmful:
        return harmful[0]
    return min(required, key=lambda metric: metric.noninferiority_e) if required else None
