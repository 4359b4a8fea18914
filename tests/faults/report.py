"""What the fault injection found, as a line at the end of a test run and as the table of docs/fault-injection.md.

``python -m tests.faults.report`` runs the suite and writes the page's table; with ``--junit FILE...`` it takes the
results of runs that were made with ``pytest --junitxml FILE -o junit_family=xunit1``, and that are the suite together.
Of a test that was run again, the last result counts.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.faults.release_walk import FaultPoint

PROPERTY = "fault_points"
SUITE = (sys.executable, "-m", "pytest", "-m", "slow or exhaustive", str(Path(__file__).parent))
PAGE = Path(__file__).parents[2] / "docs" / "fault-injection.md"
BEGIN, END = "<!-- table of tests.faults.report -->", "<!-- end of the table -->"
Point = dict[str, Any]


def as_json(point: "FaultPoint") -> Point:
    """A fault point as plain values."""
    return {
        "transition": point.transition,
        "fault": point.fault.value,
        "call": point.call,
        "number": point.number,
        "ticks": point.ticks,
        "end": point.end,
        "trouble": point.trouble,
    }


def summary(points: Sequence[Point]) -> str:
    """The one line."""
    survived = sum(not point["trouble"] for point in points)
    return f"{len(points)} fault points, {survived} survived"


def points_of(properties: Iterable[tuple[str, object]]) -> list[Point]:
    """The fault points among the properties of tests."""
    return [point for name, value in properties if name == PROPERTY for point in json.loads(str(value))]


def table(points: Sequence[Point]) -> str:
    """Survived and met by transition and kind of fault, and how the releases ended."""
    transitions, faults = (list(dict.fromkeys(str(point[key]) for point in points)) for key in ("transition", "fault"))
    met = Counter((point["transition"], point["fault"]) for point in points)
    lost = Counter((point["transition"], point["fault"]) for point in points if point["trouble"])

    def cell(transition: str, fault: str) -> str:
        all_of, lost_of = met[transition, fault], lost[transition, fault]
        return "" if not all_of else f"{all_of}" if not lost_of else f"**{all_of - lost_of} of {all_of}**"

    lines = [f"**{summary(points)}.**", "", "| | " + " | ".join(faults) + " |", "|---|" + "---:|" * len(faults)]
    lines += [f"| {each} | " + " | ".join(cell(each, fault) for fault in faults) + " |" for each in transitions]
    ends = Counter(str(point["end"]) for point in points)
    ticks = Counter(int(point["ticks"]) for point in points)
    lines += ["", "| The release | Times |", "|---|---:|"]
    words = {
        "nothing begun": "was as if the run had never been",
        "as meant": "came to the end that was meant",
        "failed, started again": "was recorded as failed, and started again",
        "stopped by the next asset": "was stopped by the next asset, for want of a file; another one is started",
        "rolled back": "was rolled back, the champion serving everybody",
    }
    lines += [f"| {words.get(end, end)} | {count} |" for end, count in ends.most_common()]
    lines += ["", f"Most ticks that acted before the end was reached: {max(ticks)}."]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the table; 1 where a fault point was not survived, or a walk did not come to its end."""
    parser = argparse.ArgumentParser(prog="tests.faults.report", description=__doc__)
    parser.add_argument(
        "--junit", type=Path, nargs="+", help="results of runs that are the suite; without them it is run"
    )
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        files = options.junit or [Path(folder) / "results.xml"]
        if options.junit is None:
            run = [*SUITE, "-n", "4", "--junitxml", str(files[0]), "-o", "junit_family=xunit1"]
            subprocess.run(run, check=False)
        tests = [test for file in files for test in ElementTree.parse(file).getroot().iter("testcase")]
    last = {(test.get("classname"), test.get("name")): test for test in tests}
    if missing := _tests_of_the_suite() - {name for _, name in last}:
        print(f"{len(missing)} tests have no result, {min(missing)} first: the table is not written", file=sys.stderr)
        return 1
    failed = [name for (_, name), test in last.items() if {"failure", "error"} & {each.tag for each in test}]
    if failed:
        print(f"{len(failed)} tests failed, {failed[0]} first: the table is not written", file=sys.stderr)
        return 1
    found = [(each.get("name", ""), each.get("value", "")) for test in last.values() for each in test.iter("property")]
    points = sorted(points_of(found), key=lambda point: (_place(point), point["number"]))
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(points)}\n\n{END}{after}", encoding="utf-8")
    print(f"{summary(points)}, in {len(last)} tests")
    return 0


def _tests_of_the_suite() -> set[str]:
    command = [*SUITE, "--collect-only", "-q", "-o", "addopts="]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {line.partition("::")[2] for line in listed.splitlines() if "::" in line}


def _place(point: Point) -> tuple[int, int]:
    from tests.faults.faults import Fault
    from tests.faults.release_walk import ALL

    names = [each.name for each in ALL]
    return names.index(point["transition"]), [each.value for each in Fault].index(point["fault"])


if __name__ == "__main__":
    sys.exit(main())
