"""The benchmarks of many models run, small: a figure that nobody can measure any more would be missed by nobody."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PROJECT = Path(__file__).parents[2]


def figures_of(module: str, *options: str, folder: Path) -> dict[str, Any]:
    """The figures of a run by name; it ends with 0, or 1 where this machine is too slow or too busy for a goal."""
    written = folder / "figures.json"
    command = [sys.executable, "-m", f"benchmarks.{module}", *options, "--json", str(written)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, timeout=500)
    assert done.returncode in (0, 1, 2), done.stdout + done.stderr
    assert written.exists(), done.stdout + done.stderr
    return {each["name"]: each for each in json.loads(written.read_text())["figures"]}


def test_scale_measures_definitions_start_and_memory(tmp_path: Path) -> None:
    found = figures_of("scale", "--models", "1", "--repetitions", "1", folder=tmp_path)
    wanted = {
        "1 models: definitions": 0.1,
        "1 models: UI up": 8.0,
        "1 models: memory of all of Dagster's processes": 600.0,
    }
    assert {name: found[name]["at_most"] for name in wanted} == wanted
    assert all(each["value"] > 0 for each in found.values())


def test_definitions_measures_and_counts_what_is_imported(tmp_path: Path) -> None:
    found = figures_of("definitions", "--repetitions", "1", folder=tmp_path)
    assert found["assets in them"]["value"] == 7
    assert [each["value"] for name, each in found.items() if name.startswith("imports ")] == [0, 0, 0, 0]
