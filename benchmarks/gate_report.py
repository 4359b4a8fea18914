"""The figures of `benchmarks.gate` as tables: on the terminal, in docs/gate-figures.md, as JSON."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.gate_results import Cell, Compared, Measured

BEGIN: Final = "<!-- Written by python -m benchmarks.gate --write-docs: begin -->"
END: Final = "<!-- end -->"

_HEADINGS: Final = ("goal", "what", "measured", "95 % interval", "mean", "Wald floor", "must be", "releases", "")


def print_tables(cells: Mapping[str, Cell], console: Console) -> None:
    """Print what was measured and how other rules did."""
    table = Table(title="the gate's rule")
    for heading in _HEADINGS:
        table.add_column(heading, justify="left" if heading in ("goal", "what") else "right")
    for measured in _measured(cells):
        table.add_row(*_row(measured))
    console.print(table)
    columns, rules = _columns(cells)
    if columns:
        table = Table(title="the same traffic, other rules")
        for heading in ("", *rules):
            table.add_column(heading, justify="right" if heading else "left")
        for column, by_rule in columns.items():
            table.add_row(column, *(_compared(by_rule.get(rule)) for rule in rules))
        console.print(table)


def write_document(cells: Mapping[str, Cell], path: Path, *, seconds: float) -> None:
    """Write both tables between the markers of a page that has them, and the processor time that they took.

    Raises:
        ValueError: The page lacks a marker.
    """
    page = path.read_text(encoding="utf-8")
    if BEGIN not in page or END not in page:
        raise ValueError(f"{path.name} lacks its markers; put back the lines {BEGIN!r} and {END!r}")
    before, after = page.split(BEGIN)[0], page.split(END, 1)[1]
    columns, rules = _columns(cells)
    lines = [f"The run took {seconds / 60:.0f} minutes of processor time on one core.", ""]
    lines += _markdown(_HEADINGS, [_row(measured) for measured in _measured(cells)])
    lines += ["", "### Other rules on the same traffic", ""]
    lines += _markdown(
        ("share of releases", *rules),
        [(column, *(_compared(by_rule.get(rule)) for rule in rules)) for column, by_rule in columns.items()],
    )
    path.write_text("\n".join([before + BEGIN, "", *lines, "", END]) + after, encoding="utf-8")


def write_json(cells: Mapping[str, Cell], path: Path, *, seed: int, seconds: float) -> None:
    """Write every figure; what is infinite becomes null."""
    document = {
        "benchmark": "gate",
        "seed": seed,
        "seconds": round(seconds, 1),
        "figures": [_finite(asdict(measured) | {"met": measured.met}) for measured in _measured(cells)],
        "compared": [_finite(asdict(each)) for cell in cells.values() for each in cell.compared],
    }
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _measured(cells: Mapping[str, Cell]) -> list[Measured]:
    """By goal."""
    return sorted((each for cell in cells.values() for each in cell.measured), key=lambda each: each.goal)


def _columns(cells: Mapping[str, Cell]) -> tuple[dict[str, dict[str, Compared]], list[str]]:
    """What is compared, by column and rule, and all rules in the order in which they came."""
    columns: dict[str, dict[str, Compared]] = {}
    rules: dict[str, None] = {}
    for cell in cells.values():
        for each in cell.compared:
            columns.setdefault(each.column, {})[each.rule] = each
            rules[each.rule] = None
    return columns, list(rules)


def _row(measured: Measured) -> tuple[str, ...]:
    unit = measured.unit
    low, high = measured.low, measured.high
    interval = "" if low is None or high is None else f"{_number(low, unit)} to {_number(high, unit)}"
    return (
        measured.goal,
        measured.what,
        _number(measured.value, unit) + (f" {unit}" if unit in ("us", "min") else ""),
        interval,
        "" if measured.mean is None else _number(measured.mean, unit),
        "" if measured.floor is None else _number(measured.floor, unit),
        "" if measured.at_most is None else f"<= {_number(measured.at_most, unit)}",
        f"{measured.releases:,}" if unit != "us" else "",
        "" if measured.at_most is None else "met" if measured.met else "MISSED",
    )


def _number(value: float, unit: str) -> str:
    if math.isinf(value):
        return "never"
    if unit == "share":
        return f"{100 * value:.2f} %"
    return f"{value:,.0f}" if unit == "requests" or value >= 10 else f"{value:.1f}"


def _compared(each: Compared | None) -> str:
    return "-" if each is None else f"{100 * each.value:.1f} % ({100 * each.low:.1f} to {100 * each.high:.1f})"


def _markdown(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def _finite(figures: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in figures.items()
    }
