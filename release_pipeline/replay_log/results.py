"""How a replayed release ended: as data, as JSON, and as tables for people."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import TYPE_CHECKING, Any

from release_pipeline.gate.observations import Baseline, Series
from release_pipeline.gate.verdict import Action, MetricVerdict, Verdict, e_text, percent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


@dataclass(frozen=True)
class EPath:
    """The e-values of one series, a point for each look at which they had changed.

    Attributes:
        at: Times of the looks, unix seconds.
        step: Ramp step at each, 0 is the first.
        harm_e: Evidence of harm, carried over the steps.
        noninferiority_e: Evidence of being good enough, of the step alone.
    """

    at: tuple[float, ...]
    step: tuple[int, ...]
    harm_e: tuple[float, ...]
    noninferiority_e: tuple[float, ...]


@dataclass(frozen=True)
class Advance:
    """A step that the gate let go."""

    step: int
    at: float
    sentence: str
    champion: int
    challenger: int


@dataclass(frozen=True)
class ReleaseResult:
    """How one release ended.

    Attributes:
        release: Its name; empty where the log has no column for it.
        verdict: The last verdict: that of the rollback or the promotion, or of the log's last tick.
        started_at: When the ramp began, unix seconds.
        at: Time of the verdict, unix seconds.
        step: Step at the verdict, 0 is the first; None for a first release, which has none.
        requests: Champion and challenger requests of the ramp that had been read by then.
        advances: The steps that were passed.
        frozen: The champion's levels.
        buckets: Length of an event-time bucket per metric, seconds.
        paths: E-values by series.
        rows: What became of the rows.
        share_differs: Steps at which the log's share of challenger requests was not the step's.
    """

    release: str
    verdict: Verdict
    started_at: float
    at: float
    step: int | None
    requests: tuple[int, int]
    advances: tuple[Advance, ...]
    frozen: tuple[Baseline, ...]
    buckets: Mapping[str, float]
    paths: Mapping[Series, EPath]
    rows: Mapping[str, int]
    share_differs: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON; steps are numbered from 1, as in sentences."""
        champion, challenger = self.requests
        return {
            "release": self.release,
            "verdict": self.verdict.action.value,
            "reason": str(self.verdict.reason),
            "sentence": self.verdict.sentence,
            "at": self.at,
            "time": iso(self.at),
            "ramp_started_at": self.started_at,
            "seconds": self.at - self.started_at,
            "step": None if self.step is None else self.step + 1,
            "requests": {"champion": champion, "challenger": challenger},
            "advances": [
                {
                    "step": advance.step + 1,
                    "at": advance.at,
                    "time": iso(advance.at),
                    "seconds": advance.at - self.started_at,
                    "requests": {"champion": advance.champion, "challenger": advance.challenger},
                    "sentence": advance.sentence,
                }
                for advance in self.advances
            ],
            "rows": dict(self.rows),
            "share_differs_at_steps": [step + 1 for step in self.share_differs],
            "metrics": [self._metric(metric) for metric in self.verdict.metrics],
        }

    def _metric(self, metric: MetricVerdict) -> dict[str, Any]:
        series = Series(metric.name, metric.segment)
        path = self.paths[series]
        baseline = next((each for each in self.frozen if (each.metric, each.segment) == series), None)
        return {
            **asdict(metric),
            "state": metric.state.value,
            "champion_rate": metric.champion_rate,
            "challenger_rate": metric.challenger_rate,
            "champion_level": baseline.level if baseline else None,
            "baseline_rows": baseline.n if baseline else 0,
            "threshold_ms": baseline.threshold_ms if baseline else None,
            "bucket_seconds": self.buckets[metric.name],
            "path": {
                "at": list(path.at),
                "step": [step + 1 for step in path.step],
                "harm_e": list(path.harm_e),
                "noninferiority_e": list(path.noninferiority_e),
            },
        }


def iso(seconds: float) -> str:
    """A time as people read it, in UTC."""
    return datetime.fromtimestamp(seconds, tz=UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def totals(results: Sequence[ReleaseResult]) -> dict[str, dict[str, float]]:
    """Per verdict the number of releases, and the median of the challenger's requests until then."""
    counted = Counter(result.verdict.action for result in results)
    return {
        action.value: {
            "releases": number,
            "median_challenger_requests": median(
                result.requests[1] for result in results if result.verdict.action is action
            ),
        }
        for action, number in sorted(counted.items())
    }


def show(results: Sequence[ReleaseResult], console: "Console") -> None:
    """A row per release; all about it where it is the only one; totals where there are several."""
    console.print(_releases_table(results))
    if len(results) == 1:
        console.print(_metrics_table(results[0]))
        console.print(results[0].verdict.sentence, highlight=False, markup=False)
    else:
        for action, counted in totals(results).items():
            console.print(
                f"{action}: {counted['releases']:.0f} of {len(results)} releases, after "
                f"{counted['median_challenger_requests']:.0f} challenger requests (median)",
                highlight=False,
            )
    differing = sum(bool(result.share_differs) for result in results)
    if differing:
        console.print(
            f"In {differing} of {len(results)} releases the challenger's share was far from that of the spec's step; "
            "without a column traffic_percent nothing says what was configured, so it was not held against them.",
            highlight=False,
        )


def _releases_table(results: Sequence[ReleaseResult]) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Replayed releases")
    for name in ("release", "verdict", "reason", "step", "after"):
        table.add_column(name)
    for name in ("champion", "challenger", "duplicates"):
        table.add_column(name, justify="right")
    colours = {Action.ROLL_BACK: "red", Action.HOLD: "yellow"}
    for result in results:
        champion, challenger = result.requests
        action = result.verdict.action
        table.add_row(
            escape(result.release) or "-",
            f"[{colours.get(action, 'green')}]{action.value}[/]",
            str(result.verdict.reason),
            "-" if result.step is None else str(result.step + 1),
            str(timedelta(seconds=round(result.at - result.started_at))),
            str(champion),
            str(challenger),
            str(result.rows["duplicates"]),
        )
    return table


def _metrics_table(result: ReleaseResult) -> "Table":
    from rich.table import Table

    table = Table(title=f"Metrics at {iso(result.at)}")
    table.add_column("metric")
    for name in ("champion", "challenger", "unjudged", "harm e", "limit", "not worse e", "limit"):
        table.add_column(name, justify="right")
    for metric in result.verdict.metrics:
        table.add_row(
            metric.title,
            f"{percent(metric.champion_rate)} of {metric.champion_n}",
            f"{percent(metric.challenger_rate)} of {metric.challenger_n}",
            f"{metric.champion_unjudged} / {metric.challenger_unjudged}",
            e_text(metric.harm_e),
            e_text(metric.harm_limit) if metric.guard else "no guard",
            e_text(metric.noninferiority_e),
            e_text(metric.noninferiority_limit) if metric.required else "not required",
        )
    return table
