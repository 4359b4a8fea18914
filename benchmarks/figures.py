"""Figures beside their goals: how every benchmark prints them, writes them and ends."""

import argparse
import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

OTHER_WORK_LIMIT = 0.1


@dataclass(frozen=True)
class Figure:
    """One measured number, and the bound it has to keep if it has one.

    Attributes:
        name: What was measured.
        value: The number, in ``unit``.
        unit: ``s``, ``ms``, ``MB``, ``1/s``, ``%``, or ``x`` for a ratio.
        at_most: The goal, where less is better.
        at_least: The goal, where more is better.
    """

    name: str
    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None

    @property
    def met(self) -> bool:
        """Whether the goal is kept; true without one."""
        below = self.at_most is None or self.value <= self.at_most
        return below and (self.at_least is None or self.value >= self.at_least)

    @property
    def goal(self) -> str:
        """The goal in words, empty without one."""
        if self.at_most is not None:
            return f"<= {self.at_most:g} {self.unit}"
        return f">= {self.at_least:g} {self.unit}" if self.at_least is not None else ""


def report(title: str, figures: list[Figure], json_path: Path | None, *, other_work: float = 0.0) -> int:
    """Print the figures and write them as JSON where asked.

    Args:
        title: Name of the benchmark.
        figures: What was measured.
        json_path: The file, or None.
        other_work: Share in [0, 1] of all processors that other processes used during the measurement. Above
            `OTHER_WORK_LIMIT` no goal is judged: what is compared would be when the others happened to run.

    Returns:
        The exit code: 0, 1 when a goal is missed, 2 when none was judged.
    """
    judged = other_work <= OTHER_WORK_LIMIT
    table = Table(title=f"{title} ({_machine()})")
    table.add_column("figure")
    table.add_column("measured", justify="right")
    table.add_column("goal", justify="right")
    table.add_column("")
    for figure in figures:
        mark = "" if not figure.goal else "not judged" if not judged else "met" if figure.met else "MISSED"
        table.add_row(figure.name, f"{figure.value:.2f} {figure.unit}", figure.goal, mark)
    console = Console(width=None if Console().is_terminal else 110)
    console.print(table)
    if not judged:
        console.print(f"Other work took {other_work:.0%} of the processors: no goal is judged; run again without it.")
    missed = [figure.name for figure in figures if not figure.met]
    if json_path is not None:
        document = {"benchmark": title, "machine": _machine(), "other_work": other_work, "judged": judged}
        rows = [{**asdict(figure), "met": figure.met if judged else None} for figure in figures]
        json_path.write_text(json.dumps({**document, "figures": rows}, indent=2) + "\n", encoding="utf-8")
    return 2 if not judged else 1 if missed else 0


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """The option that every benchmark has."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")


def _machine() -> str:
    python = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    return f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {python}"
