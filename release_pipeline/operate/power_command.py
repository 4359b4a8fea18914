"""The command ``power``: what a ramp can show at a given traffic, before it starts."""

import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from release_pipeline.errors import SpecError
from release_pipeline.exit_codes import mistakes_are_sentences
from release_pipeline.operate.session import model_argument
from release_pipeline.operate.spec_files import FILE
from release_pipeline.waits import waiting

if TYPE_CHECKING:
    from release_pipeline.gate.power_plan import Plan, Traffic
    from release_pipeline.spec import ReleaseSpec

_SECONDS: Final[Mapping[str, int]] = {"s": 1, "min": 60, "h": 3600, "day": 86_400}


def _rate(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Requests per second from `10/s`, `1/min`, `600/h` or `5000/day`."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)/(s|min|h|day)", value.strip())
    if not found or float(found[1]) <= 0:
        raise click.BadParameter(
            f"{value} is no rate; write a number above 0 and a unit, such as 10/s, 1/min, 600/h or 5000/day."
        )
    return float(found[1]) / _SECONDS[found[2]]


def _numbers(allowed: Callable[[float], bool], bounds: str) -> Callable[..., dict[str, float]]:
    """Reads options that give a metric its number, as in `errors=0.02`."""

    def read(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
        found = {}
        for value in values:
            name, _, text = value.partition("=")
            try:
                found[name] = float(text)
            except ValueError:
                found[name] = math.nan
            if not name or not allowed(found[name]):
                raise click.BadParameter(f"{value} is not {param.metavar} with {bounds}.")
        return found

    return read


@click.command()
@model_argument
@click.option("--rate", metavar="N/UNIT", callback=_rate,
              help="Requests to the endpoint, such as 10/s, 1/min, 600/h or 5000/day.")  # fmt: skip
@click.option("--days", type=click.FloatRange(0, 90, min_open=True),
              help="Take rate, levels and segments from this many days of the endpoint's tables instead.")  # fmt: skip
@click.option("--level", "levels", metavar="METRIC=SHARE", multiple=True,
              callback=_numbers(lambda share: 0 < share < 1, "a share above 0 and below 1"),
              help="The champion's share of bad rows; else 0.01 for errors, 0.05 for others; repeatable.")  # fmt: skip
@click.option("--rows", metavar="METRIC=SHARE", multiple=True,
              callback=_numbers(lambda share: 0 < share <= 1, "a share above 0 and up to 1"),
              help="Share of requests that give a row; else a judge's `sample`, 0.05 of feedback, 1.")  # fmt: skip
@click.option("--segments", metavar="METRIC=N", multiple=True,
              callback=_numbers(lambda count: count in range(1, 101), "a whole number from 1 to 100"),
              help="Number of equally large segments of a metric that has them; else 3. Not with --days.")  # fmt: skip
@click.option("--lag", "lag_minutes", type=click.FloatRange(0),
              help="Minutes from a request to its row; else 30, or with --days as it was.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="JSON; times in hours, null for what never ends.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Write the plot to this SVG file, too.")
def power(
    model: str,
    rate: float | None,
    days: float | None,
    levels: dict[str, float],
    rows: dict[str, float],
    segments: dict[str, float],
    lag_minutes: float | None,
    as_json: bool,
    plot: Path | None,
) -> None:
    r"""Say what the gate of MODEL can show: how soon a ramp advances, and what it rolls back.

    MODEL is a model of the project, or the path of a YAML. With --rate nothing is asked of a workspace.

    \b
        release-pipeline power my_agent --days 7 --plot power.svg
        release-pipeline power drafts/defs.yaml --rate 10/s

    Exit codes: 0 it is told, whatever the gate can show; 1 with --days, the workspace could not be read; 2 a mistake in
    what was asked.
    """
    if (rate is None) == (days is None):
        raise click.UsageError("say how much traffic there is: either --rate, such as 10/s, or --days, such as 7.")
    if days is not None and segments:
        raise click.UsageError("--segments goes with --rate; with --days the tables tell the segments.")
    if plot is not None and plot.suffix != ".svg":
        raise click.BadParameter(f"{plot} must end in .svg; the plot is written as SVG.", param_hint="--plot")
    with mistakes_are_sentences(), waiting("measuring the traffic" if days is not None else "planning") as wait:
        from release_pipeline.gate.planner import adjusted, plan, usual_traffic
        from release_pipeline.operate.find_spec import find_whole_spec
        from release_pipeline.spec_file import read_spec

        path = Path(model)
        is_path = len(path.parts) > 1 or path.suffix or path.is_file() or (path / FILE).is_file()
        spec = read_spec(path) if model and is_path else find_whole_spec(model)[1]
        _known(spec, levels, rows, segments)
        if rate is not None:
            traffic = usual_traffic(spec.gate, rate, {name: int(count) for name, count in segments.items()})
        else:
            traffic = _measured(spec, days or 0.0)
        lag = None if lag_minutes is None else 60 * lag_minutes
        planned = plan(spec, adjusted(traffic, levels=levels, rows=rows, lag_seconds=lag))
        wait.over()
        _show(planned, as_json, plot)


def _known(
    spec: "ReleaseSpec", levels: Mapping[str, float], rows: Mapping[str, float], segments: Mapping[str, float]
) -> None:
    """A metric that the gate does not watch is a mistake, and so are segments of one that has none."""
    for option, given in (("--level", levels), ("--rows", rows), ("--segments", segments)):
        segmented = option == "--segments"
        watched = [each.name for each in spec.gate.metrics if each.segments or not segmented]
        for name in given:
            if name not in watched:
                which = "metrics with segments" if segmented else "metrics"
                raise SpecError(f"{option} names {name}; the gate's {which} are {', '.join(watched) or 'none'}.")


def _measured(spec: "ReleaseSpec", days: float) -> "Traffic":
    """What the endpoint's tables say; this needs a workspace."""
    from release_pipeline.clock import SystemClock
    from release_pipeline.rollout.parts import connect_parts
    from release_pipeline.rollout.traffic import measured_traffic

    parts = connect_parts(spec, actor="power", progress=lambda line: None)
    return measured_traffic(
        spec, parts.payload, parts.observer.sources_of(spec.gate.metrics), SystemClock().now(), days
    )


def _show(planned: "Plan", as_json: bool, plot: Path | None) -> None:
    """Print the plan, and write its plot."""
    if plot is not None:
        from release_pipeline.report.power_plot import power_plot

        try:
            plot.write_text(power_plot(planned) + "\n", encoding="utf-8")
        except OSError as error:
            raise SpecError(f"{plot} cannot be written ({type(error).__name__}); name another --plot.") from None
    if as_json:
        click.echo(json.dumps(planned.to_dict(), indent=2))
        return
    from rich.console import Console

    from release_pipeline.report.power_report import power_text

    console = Console(width=None if sys.stdout.isatty() else 160)
    for part in power_text(planned):
        console.print(part, highlight=False)
