"""What many models in one code location cost: loading their definitions, Dagster's start, and its memory.

Run as ``python -m benchmarks.scale``. Each model is what ``dg scaffold defs`` writes. *Definitions* is from the folder
of YAMLs to Dagster's repository, in a fresh interpreter that has imported Dagster and this package. *UI up* is from the
start of ``dagster dev`` until the UI answers that the location is loaded; *memory* is what its processes then hold, in
proportion where they share it (PSS). Beside them is a component that makes seven empty assets, and nothing else, of a
YAML of two lines: what Dagster takes by itself.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from string import Template
from typing import Any

import requests

import release_pipeline.scaffold
from benchmarks.figures import Figure, add_json_option, report
from benchmarks.serving_sides import Server, free_port

GOALS = {1: (0.1, 8.0, 600.0), 100: (0.6, 20.0, 700.0), 1000: (5.0, 45.0, 1300.0)}
"""By number of models: definitions in s, UI up in s, memory in MB."""
LOCATION = """
import warnings
from pathlib import Path

import dagster as dg

import models


@dg.definitions
def defs():
    tree = dg.ComponentTree.from_module(defs_module=models, project_root=Path(__file__).parent)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.Definitions.merge(tree.build_defs(), dg.Definitions(executor=dg.in_process_executor))
"""
BARE = """
import dagster as dg


class Bare(dg.Component, dg.Model, dg.Resolvable):
    name: str

    def build_defs(self, context):
        specs = [dg.AssetKey([self.name, f"asset_{number}"]) for number in range(7)]
        return dg.Definitions(assets=[dg.asset(key=key)(lambda: None) for key in specs])
"""
LOAD = """
import json, sys, time
import release_pipeline.definitions
release_pipeline.definitions.defs().get_repository_def()  # what is loaded late is loaded now
import location
begin, processor = time.perf_counter(), time.process_time()
repository = location.defs().get_repository_def()
print(json.dumps({
    "seconds": time.perf_counter() - begin,
    "processor": time.process_time() - processor,
    "assets": len(list(repository.asset_graph.get_all_asset_keys())),
    "heavy": [name for name in ("mlflow", "databricks.sdk") if name in sys.modules],
}))
"""
LOADED = (
    "{ workspaceOrError { ... on Workspace { locationEntries { loadStatus locationOrLoadError { __typename } } } } }"
)


def main() -> int:
    """Measure, print, and return 1 when a goal is missed."""
    parser = argparse.ArgumentParser(prog="benchmarks.scale", description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, nargs="+", default=list(GOALS), help="models in the location")
    parser.add_argument("--repetitions", type=int, default=3, help="fresh interpreters to load the definitions in")
    add_json_option(parser)
    options = parser.parse_args()
    figures: list[Figure] = []
    for count in options.models:
        with tempfile.TemporaryDirectory(prefix="bench-scale-") as name:
            folder = Path(name)
            write_models(folder, count)
            goals = GOALS.get(count, (None, None, None))
            figures += [*_definitions(folder, count, options.repetitions, goals[0]), *_start(folder, count, goals[1:])]
        with tempfile.TemporaryDirectory(prefix="bench-scale-bare-") as name:
            write_bare(Path(name), count)
            loads = [_load(Path(name)) for _ in range(options.repetitions)]
            if loads[0]["assets"] != 7 * count:
                raise RuntimeError(f"{count} models were loaded as {loads[0]}")
            words = f"{count} models of seven empty assets: definitions"
            figures.append(Figure(words, median(load["seconds"] for load in loads), "s"))
    return report("scale", figures, options.json)


def write_models(folder: Path, count: int) -> None:
    """A code location with so many models, each in a folder of its own."""
    _write_location(folder)
    (folder / "workspace.yaml").write_text("load_from: [{python_module: {module_name: location}}]")
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}")
    templates = list(Path(release_pipeline.scaffold.__file__).parent.glob("*.template"))
    for number in range(count):
        model = folder / "models" / f"model_{number:04}"
        model.mkdir()
        values = {"name": model.name, "registered_name": f"main.default.{model.name}"}
        for template in templates:
            (model / template.stem).write_text(Template(template.read_text("utf-8")).substitute(values))


def write_bare(folder: Path, count: int) -> None:
    """The same with a component that does next to nothing."""
    _write_location(folder)
    (folder / "bare.py").write_text(BARE)
    for number in range(count):
        model = folder / "models" / f"model_{number:04}"
        model.mkdir()
        (model / "defs.yaml").write_text(f"type: bare.Bare\nattributes: {{name: {model.name}}}\n")


def _write_location(folder: Path) -> None:
    (folder / "models").mkdir()
    (folder / "models" / "__init__.py").touch()
    (folder / "location.py").write_text(LOCATION)


def _environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(folder), "DAGSTER_HOME": str(folder)}


def _definitions(folder: Path, count: int, repetitions: int, goal: float | None) -> list[Figure]:
    loads = [_load(folder) for _ in range(repetitions)]
    if loads[0]["assets"] != 7 * count or loads[0]["heavy"]:
        raise RuntimeError(f"{count} models were loaded as {loads[0]}")
    return [
        Figure(f"{count} models: definitions", median(load["seconds"] for load in loads), "s", at_most=goal),
        Figure(f"{count} models: definitions, processor time", median(load["processor"] for load in loads), "s"),
    ]


def _load(folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-c", LOAD]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=_environment(folder))
    if done.returncode:
        raise RuntimeError(f"The definitions do not load:\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _start(folder: Path, count: int, goals: tuple[float | None, ...]) -> list[Figure]:
    server, seconds = start_dagster(folder)
    try:
        memory = server.memory_mb()
    finally:
        server.stop()
    return [
        Figure(f"{count} models: UI up", seconds, "s", at_most=goals[0]),
        Figure(f"{count} models: memory of all of Dagster's processes", memory, "MB", at_most=goals[1]),
    ]


def start_dagster(folder: Path) -> tuple[Server, float]:
    """``dagster dev`` for the code location of a folder, once its UI shows it; and the seconds that took.

    Raises:
        RuntimeError: It did not start, or cannot load the location.
    """
    port = free_port()
    command = [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml", "-p", str(port)]
    begin = time.perf_counter()
    server = Server(command, folder / "dagster.log", _environment(folder))
    try:
        server.until(lambda: _is_loaded(port))
    except BaseException:
        server.stop()
        raise
    return server, time.perf_counter() - begin


def _is_loaded(port: int) -> bool:
    try:
        answer = requests.post(f"http://127.0.0.1:{port}/graphql", json={"query": LOADED}, timeout=60)
    except requests.ConnectionError:
        return False
    if answer.status_code != 200:
        return False
    entries = answer.json()["data"]["workspaceOrError"].get("locationEntries", [])
    if any((entry["locationOrLoadError"] or {}).get("__typename") == "PythonError" for entry in entries):
        raise RuntimeError("Dagster could not load the location")
    return bool(entries) and all(entry["loadStatus"] == "LOADED" for entry in entries)


if __name__ == "__main__":
    sys.exit(main())
