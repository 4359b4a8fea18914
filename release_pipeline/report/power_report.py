"""A plan of a ramp for people: tables in the terminal, and the same as markdown with its picture for Dagster."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from release_pipeline.gate.power_plan import Plan, SeriesStep, hours_text, requests_text
from release_pipeline.gate.power_simulation import RELEASES
from release_pipeline.gate.verdict import percent, points
from release_pipeline.report.markdown import literal
from release_pipeline.report.power_plot import power_plot, small_plot

if TYPE_CHECKING:
    import dagster as dg
    from rich.console import RenderableType


class Table(NamedTuple):
    """One table of a plan."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def tables(plan: Plan) -> list[Table]:
    """The ramp of an equal version, what is rolled back, and how often that is false."""
    return [_ramp(plan), _advances(plan), _rollbacks(plan), _false_rollbacks(plan)]


def notes(plan: Plan) -> list[str]:
    """What the figures rest on."""
    traffic = plan.traffic
    found = [
        *traffic.notes,
        f"{requests_text(traffic.requests_per_second)}; rows come {hours_text(traffic.lag_seconds / 3600)} after their "
        f"request; alpha {plan.alpha:g}. Requests are the challenger's; times include the lag, buckets of event time "
        f"and the shortest time of a step, but not updates of the endpoint. Simulated with {RELEASES} releases.",
    ]
    less = dict.fromkeys(
        f"{each.metric.name}: {percent(each.rows * each.alike)} of requests" for each in traffic.series if each.rows < 1
    )
    if less:
        found.append(f"Requests that give a row: {', '.join(less)}.")
    if any(each.metric.bins > 2 for each in traffic.series):
        found.append("Scores are taken to be 0 or 1, as thumbs and yes-or-no judges give them; others need fewer rows.")
    return found


def power_text(plan: Plan) -> "Iterable[RenderableType]":
    """What the terminal shows."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    yield Text(plan.sentence, style="bold red" if plan.problems else "bold")
    for table in tables(plan):
        shown = RichTable(box=box.SIMPLE_HEAD)
        for index, column in enumerate(table.columns):
            shown.add_column(column, justify="left" if index == 0 else "right")
        for row in table.rows:
            shown.add_row(*row)
        if table.rows:
            yield Text(f"\n{table.title}", style="bold")
            yield shown
    for note in notes(plan):
        yield Text(note, style="dim")


def power_metadata(plan: Plan) -> dict[str, Any]:
    """What Dagster shows: sentence, small picture and two tables at once, everything else behind a link."""
    import dagster as dg

    small = small_plot(plan)
    metadata: dict[str, Any] = {"power_sentence": plan.sentence}
    if small:
        metadata["power"] = dg.MetadataValue.md(small)
    metadata["power_ramp"] = dg.MetadataValue.table(_records(_ramp(plan)))
    metadata["power_metrics"] = dg.MetadataValue.table(_records(_metrics(plan)))
    metadata["power_report"] = dg.MetadataValue.md(power_markdown(plan))
    return metadata


def _records(table: Table) -> "list[dg.TableRecord]":
    import dagster as dg

    return [dg.TableRecord(dict(zip(table.columns, row, strict=True))) for row in table.rows]


def power_markdown(plan: Plan) -> str:
    """The sentence, the picture and the tables, as Dagster shows them when asked for more."""
    lines = [plan.sentence, "", f"![power](data:image/svg+xml,{quote(power_plot(plan), safe='=:/,')})"]
    for table in tables(plan):
        if table.rows:
            lines += ["", f"#### {table.title}", "", _row(table.columns), _row(["---"] * len(table.columns))]
            lines += [_row([literal(row[0]), *row[1:]]) for row in table.rows]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes(plan))])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _ramp(plan: Plan) -> Table:
    rows = [
        (
            f"{step.percent} %",
            f"{_count(step.requests_per_hour)}",
            hours_text(step.hours),
            hours_text(step.hours_90),
            step.slowest or "shortest time of a step",
        )
        for step in plan.steps
    ]
    rows.append(("all", "", hours_text(plan.hours), hours_text(plan.hours_90), f"{percent(plan.by_deadline)} in time"))
    return Table(
        f"Ramp of an equal version; deadline {hours_text(plan.deadline_hours)}",
        ("step", "requests/h", "median", "90 %", "because of"),
        rows,
    )


def _metrics(plan: Plan) -> Table:
    """One row per metric and step, narrow: the median time until an equal version is shown, and what the step finds."""
    rows = [
        (
            each.title,
            f"{each.percent} %",
            percent(each.level),
            "-" if each.aim is None else f"< {percent(each.aim)}" if each.bounded else f"+ {points(each.aim)}",
            "-" if each.advance is None else hours_text(each.advance.hours),
            _found(each.found_in_step, each) if each.curve else "-",
        )
        for each in plan.series
    ]
    return Table("Per metric", ("metric", "step", "level", "margin", "shown", "finds"), rows)


def _advances(plan: Plan) -> Table:
    rows = []
    for each in plan.series:
        if each.advance is not None and each.aim is not None:
            aim = f"< {percent(each.aim)}" if each.bounded else f"+ {points(each.aim)}"
            rows.append(
                (
                    each.title,
                    f"{each.percent} %",
                    percent(each.level),
                    aim,
                    _count(each.advance.requests),
                    _count(each.advance.requests_90),
                    hours_text(each.advance.hours),
                    hours_text(each.advance.hours_90),
                    hours_text(each.bucket_seconds / 3600),
                    percent(each.false_advance),
                )
            )
    return Table(
        "Until an equal version is shown to be good enough; and how often one exactly at the margin is: simulated, "
        f"proven at most {percent(plan.alpha)}",
        ("metric", "step", "level", "margin", "requests", "90 %", "time", "90 %", "bucket", "at the margin"),
        rows,
    )


def _rollbacks(plan: Plan) -> Table:
    names = list(dict.fromkeys(one.name for each in plan.series for one in each.regressions))
    rows = []
    for each in plan.series:
        if each.curve:
            found = {one.name: one for one in each.regressions}
            cells = [
                f"{percent(found[name].mean)}: {_wait(found[name].wait.requests, found[name].wait.hours)}"
                if name in found
                else "-"
                for name in names
            ]
            in_step, in_ramp = _found(each.found_in_step, each), _found(each.found_in_ramp, each)
            rows.append((each.title, f"{each.percent} %", percent(each.level), *cells, in_step, in_ramp))
    return Table(
        "Until a regression is rolled back, median; and the smallest that 90 % of releases roll back",
        ("metric", "step", "level", *names, "within the step", "by the deadline"),
        rows,
    )


def _false_rollbacks(plan: Plan) -> Table:
    rows = [(each.title, percent(each.simulated), percent(each.at_most)) for each in plan.false_rollback]
    if rows:
        rows.append(("all guards", percent(plan.false_rollback_in_all), percent(plan.alpha)))
    return Table("Rollback of an equal version, over the whole ramp", ("metric", "simulated", "proven at most"), rows)


def _wait(requests: float, hours: float) -> str:
    return f"{_count(requests)}, {hours_text(hours)}" if math.isfinite(hours) else "not in time"


def _found(mean: float | None, series: SeriesStep) -> str:
    """The smallest mean that is found; where none is, the largest that was tried."""
    if mean is not None:
        return percent(mean)
    largest = max(each.mean for each in series.curve)
    return f"> {percent(largest)}" if largest < 1 else "none"


def _count(requests: float) -> str:
    return f"{math.ceil(requests):,}" if math.isfinite(requests) else "never"
