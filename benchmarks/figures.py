"""Figures beside their goals: how every benchmark prints them, writes them and ends."""

import argparse
import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One measured number, and the bound it has to keep if it has one.

    Attributes:
        name: What was measured.
        value: The number, in ``unit``.
        unit: ``s``, ``ms``, ``MB``, ``1/s``, or ``x`` for a ratio.
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


def report(title: str, figures: list[Figure], json_path: Path | None) -> int:
    """Print the figures and write them as JSON where asked.

    Returns:
        The exit code: 1 when a goal is missed, else 0.
    """
    table = Table(title=f"{title} ({_machine()})")
    for column, side in (("figure", "left"), ("measured", "right"), ("goal", "right"), ("", "left")):
        table.add_column(column, justify=side)  # type: ignore[arg-type]
    for figure in figures:
        mark = "" if not figure.goal else "met" if figure.met else "MISSED"
        table.add_row(figure.name, f"{figure.value:.2f} {figure.unit}", figure.goal, mark)
    Console(width=None if Console().is_terminal else 110).print(table)
    missed = [figure.name for figure in figures if not figure.met]
    if json_path is not None:
        document = {"benchmark": title, "machine": _machine(), "missed": missed}
        rows = [{**asdict(figure), "met": figure.met} for figure in figures]
        json_path.write_text(json.dumps({**document, "figures": rows}, indent=2) + "\n", encoding="utf-8")
    return 1 if missed else 0


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """The option that every benchmark has."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")


def _machine() -> str:
    python = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    return f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {python}"
