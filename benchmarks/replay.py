"""Time to put many logged releases through the gate, one processor.

Run as ``python -m benchmarks.replay``. The log is made first, and its making is not counted; the command then runs as a
user would run it, in a process of its own. One log has ten requests a second, the other one a minute, where nearly
every row is a tick of its own; each also as CSV, which takes longer to read.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import Figure, add_json_option, report
from benchmarks.serving_sides import machine_busy_seconds

ROOT = Path(__file__).parents[1]
GOAL_S = 60.0
RATES = {"10 requests a second": 10.0, "1 request a minute": 1 / 60}
#: Share of the rows from before the ramp.
BEFORE = 0.2
YAML = """
type: release_pipeline.ReleasePipelineComponent
attributes:
  name: replayed
  model: {registered_name: main.default.replayed, source: agent.py, input_example: {input: []}}
  ramp: {steps: [5, 25, 50], deadline_hours: 1000}
  gate:
    metrics:
      - {name: errors, kind: errors, margin: 0.02}
      - {name: slow, kind: slow, margin: 0.05}
"""


def main() -> int:
    """Measure, print, and return 1 when a goal is missed."""
    parser = argparse.ArgumentParser(prog="benchmarks.replay", description=__doc__.splitlines()[0])
    parser.add_argument("--releases", type=int, default=300, help="releases in a log")
    parser.add_argument("--rows", type=int, default=20_000, help="rows of a release")
    parser.add_argument("--rate", nargs="+", choices=list(RATES), default=list(RATES), help="which traffic")
    parser.add_argument("--format", nargs="+", choices=["parquet", "csv"], default=["parquet", "csv"])
    add_json_option(parser)
    options = parser.parse_args()
    figures, other_work = list[Figure](), list[float]()
    with tempfile.TemporaryDirectory(prefix="bench-replay-") as folder:
        spec = Path(folder, "defs.yaml")
        spec.write_text(YAML, encoding="utf-8")
        for rate in options.rate:
            for kind in options.format:
                log = Path(folder, f"log.{kind}")
                write_log(log, options.releases, options.rows, RATES[rate])
                found, others = _measure(f"{rate}, {kind}", spec, log)
                figures += found
                other_work.append(others)
                log.unlink()
    return report("replay", figures, options.json, other_work=max(other_work))


def write_log(path: Path, releases: int, rows: int, rate: float) -> None:
    """A log of releases: every third one with 3 % of errors where the champion has 1 %, and durations that vary.

    Args:
        path: Parquet or CSV, by its suffix.
        releases: Releases in it.
        rows: Rows of each.
        rate: Requests per second.
    """
    import duckdb

    rng = np.random.default_rng(7)
    number, n = np.repeat(np.arange(releases), rows), releases * rows
    requested = np.cumsum(rng.exponential(1 / rate, (releases, rows)), axis=1).ravel() + 1_700_000_000
    in_ramp = np.tile(np.arange(rows) >= BEFORE * rows, releases)
    challenger = in_ramp & (rng.random(n) < 0.05)
    failed = rng.random(n) < np.where(challenger & (number % 3 == 2), 0.03, 0.01)
    columns = {
        "release": number.astype(np.int32),
        "arrived_at": requested + rng.uniform(5, 60, n),
        "request_time": requested,
        "number": np.arange(n),
        "challenger": challenger,
        "status_code": np.where(failed, 500, 200).astype(np.int16),
        "execution_duration_ms": rng.lognormal(5, 0.5, n).astype(np.int32),
    }
    with duckdb.connect() as connection:
        connection.register("columns", columns)
        connection.execute(
            f"""
            COPY (
                SELECT printf('release-%03d', release) AS release, arrived_at, request_time,
                    md5(CAST(number AS VARCHAR)) AS request_id,
                    CASE WHEN challenger THEN 'challenger' ELSE 'champion' END AS arm,
                    status_code, execution_duration_ms
                FROM columns
            ) TO '{path}' (FORMAT {path.suffix[1:]})
            """
        )


def _measure(name: str, spec: Path, log: Path) -> tuple[list[Figure], float]:
    """The figures, and the share of all processors that other processes used meanwhile."""
    command = [sys.executable, "-m", "release_pipeline.cli", "replay", "--spec", str(spec), "--log", str(log), "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    begin, busy, own = time.perf_counter(), machine_busy_seconds(), _children_seconds()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, preexec_fn=_one_core)
    seconds, own = time.perf_counter() - begin, _children_seconds() - own
    others = (machine_busy_seconds() - busy - own) / seconds / (os.cpu_count() or 1)
    if done.returncode:
        raise RuntimeError(f"The replay failed:\n{done.stderr}")
    releases: list[dict[str, Any]] = json.loads(done.stdout)["releases"]
    verdicts = [release["verdict"] for release in releases]
    rows = sum(release["rows"]["read"] for release in releases)
    figures = [
        Figure(f"{name}: {len(releases)} releases, {rows} rows", seconds, "s", at_most=GOAL_S),
        Figure(f"{name}: processor time", own, "s"),
        Figure(f"{name}: most memory so far", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000, "MB"),
        *(Figure(f"{name}: {verdict}", verdicts.count(verdict), "") for verdict in sorted(set(verdicts))),
    ]
    return figures, others


def _children_seconds() -> float:
    """Processor time of the processes that were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _one_core() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


if __name__ == "__main__":
    sys.exit(main())
