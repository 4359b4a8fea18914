"""Error rates and speed of the gate's rule on simulated releases, beside other rules on the same traffic.

Run as ``python -m benchmarks.gate``: twenty minutes of processor time on one core. Seeds are fixed, so the figures
change only when the rule does (and the last cell's, which are times). Exits with 1 when a goal is missed.
"""

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console

from benchmarks.figures import add_json_option
from benchmarks.gate_cells import CELLS
from benchmarks.gate_plots import write_plots
from benchmarks.gate_report import print_tables, write_document, write_json
from benchmarks.gate_results import Cell

_SEED = 2026


def main() -> int:
    """Simulate, print, write what was asked for, and return 1 when a goal is missed."""
    parser = argparse.ArgumentParser(prog="benchmarks.gate", description=__doc__.splitlines()[0])
    parser.add_argument("--releases", type=int, metavar="N", help="simulated releases of every cell, for a quick look")
    parser.add_argument("--cell", nargs="+", choices=CELLS, metavar="NAME", help=f"only these: {', '.join(CELLS)}")
    parser.add_argument("--seed", type=int, default=_SEED, help="of the random numbers")
    parser.add_argument("--write-docs", action="store_true", help="write docs/gate-figures.md and its plots")
    add_json_option(parser)
    options = parser.parse_args()
    if options.releases is not None and options.releases < 10:
        parser.error("--releases is below 10, too few for any interval")
    if options.write_docs and (options.releases or options.cell):
        parser.error("--write-docs needs all cells at their full size; leave out --releases and --cell")
    names = options.cell or list(CELLS)
    console = Console(width=None if Console().is_terminal else 150)
    cells: dict[str, Cell] = {}
    began = time.monotonic()
    for number, name in enumerate(names, start=1):
        plan = CELLS[name]
        releases = options.releases or plan.releases
        console.print(f"{number}/{len(names)} {name}: {plan.about}, {releases} releases", end=" ... ", highlight=False)
        start = time.monotonic()
        cells[name] = plan.run(releases, options.seed)
        console.print(f"{time.monotonic() - start:.0f} s", highlight=False)
    seconds = time.process_time()
    print_tables(cells, console)
    console.print(
        f"{time.monotonic() - began:.0f} s in all, {seconds:.0f} s of processor time, seed {options.seed}",
        highlight=False,
    )
    if options.json is not None:
        write_json(cells, options.json, seed=options.seed, seconds=seconds)
    if options.write_docs:
        docs = Path(__file__).parents[1] / "docs"
        write_document(cells, docs / "gate-figures.md", seconds=seconds)
        write_plots(cells, docs / "images")
    missed = [each.what for cell in cells.values() for each in cell.measured if not each.met]
    for what in missed:
        console.print(f"MISSED: {what}", highlight=False)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
