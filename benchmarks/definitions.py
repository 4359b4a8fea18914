"""Time to load what Dagster loads, in fresh interpreters, and which heavy packages that imports.

Run as ``python -m benchmarks.definitions``. Dagster loads the definitions anew for every run and every code server,
so this time is paid all day long. Its own import is shown by itself: nobody here can make that quicker. Processor time
is shown too, because a machine with other work makes the other times longer and not this one.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.figures import Figure, add_json_option, report

ROOT = Path(__file__).parents[1]
HEAVY = ("mlflow", "databricks.sdk", "duckdb", "pandas")
GOAL_S = 1.0
LOAD = """
import json, sys, time
start_processor = time.process_time()
begin = time.perf_counter()
import dagster
dagster_ready = time.perf_counter()
dagster_processor = time.process_time()
from release_pipeline.definitions import defs
repository = defs().get_repository_def()
end = time.perf_counter()
print(json.dumps({
    "dagster": dagster_ready - begin,
    "own": end - dagster_ready,
    "dagster_processor": dagster_processor - start_processor,
    "own_processor": time.process_time() - dagster_processor,
    "assets": len(list(repository.asset_graph.get_all_asset_keys())),
    "heavy": [name for name in HEAVY if name in sys.modules],
}))
"""


def main() -> int:
    """Measure, print, and return 1 when a goal is missed."""
    parser = argparse.ArgumentParser(prog="benchmarks.definitions", description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5, help="fresh interpreters to load in")
    add_json_option(parser)
    options = parser.parse_args()
    _load()  # compiles what is not compiled yet
    loads = [_load() for _ in range(options.repetitions)]
    totals = [load["dagster"] + load["own"] for load in loads]
    figures = [
        Figure("import of dagster alone", median(load["dagster"] for load in loads), "s"),
        Figure("own part: imports, YAML, definitions", median(load["own"] for load in loads), "s"),
        Figure("definitions loaded, in all", median(totals), "s", at_most=GOAL_S),
        Figure("definitions loaded, quickest of all", min(totals), "s"),
        Figure("processor time, dagster alone", median(load["dagster_processor"] for load in loads), "s"),
        Figure("processor time, own part", median(load["own_processor"] for load in loads), "s"),
        Figure("assets in them", loads[0]["assets"], ""),
        *(Figure(f"imports {name}", name in loads[0]["heavy"], "", at_most=0) for name in HEAVY),
    ]
    return report("definitions", figures, options.json)


def _load() -> dict[str, Any]:
    code = f"HEAVY = {HEAVY!r}\n{LOAD}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=os.environ)
    if done.returncode:
        raise RuntimeError(f"The definitions do not load:\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    sys.exit(main())
