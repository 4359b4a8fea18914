"""The arrows between the parts run one way; see docs/architecture.md."""

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from release_pipeline.operate.doctor import SETTINGS

PROJECT = Path(__file__).parents[2]
PACKAGE = PROJECT / "release_pipeline"
LONGEST = 400

# What each part may import of the project beside itself.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "exit_codes": {"errors"},
    "clock": set(),
    "waits": set(),
    "spec_cron": set(),
    "spec_lines": set(),
    "spec_schema": set(),
    "spec_sentences": set(),
    "spec_gate": {"spec_sql"},
    "spec_sql": set(),
    "spec_templates": {"errors", "spec_lines"},
    "spec_file": {"errors", "spec", "spec_lines", "spec_templates"},
    "spec_windows": set(),
    "spec_endpoint": {"spec_gate", "spec_sentences"},
    "spec_rollout": {"spec_cron", "spec_gate", "spec_windows"},
    "spec_notifications": {"spec_gate"},
    "spec": {
        "errors",
        "spec_endpoint",
        "spec_gate",
        "spec_lines",
        "spec_notifications",
        "spec_rollout",
        "spec_sentences",
    },
    "gate": {"spec", "spec_gate"},
    "workspace": {"spec", "spec_endpoint", "spec_gate", "spec_sql", "errors", "clock"},
    "package_index": set(),
    "local_workspace": {"package_index"},
    "rollout": {"gate", "workspace", "spec", "spec_endpoint", "spec_gate", "spec_windows", "errors", "clock"},
    "evaluation": {"package_index", "workspace", "spec", "spec_gate", "errors"},
    "replay_log": {
        "exit_codes",
        "waits",
        "gate",
        "workspace",
        "spec",
        "spec_file",
        "spec_gate",
        "spec_sentences",
        "errors",
    },
    "report": {"gate", "rollout", "workspace", "spec", "spec_gate", "spec_notifications", "errors"},
    "assets": {"report", "rollout", "gate", "evaluation", "workspace", "spec", "spec_gate", "errors"},
    "automation": {
        "assets",
        "report",
        "rollout",
        "gate",
        "evaluation",
        "workspace",
        "spec",
        "spec_gate",
        "errors",
        "clock",
    },
    "operate": {
        "exit_codes",
        "waits",
        "assets",
        "evaluation",
        "gate",
        "report",
        "rollout",
        "workspace",
        "spec",
        "spec_file",
        "errors",
        "clock",
    },
    "build": {"assets", "automation", "spec", "errors"},
    "component": {"build", "scaffold", "spec", "spec_file", "spec_lines", "spec_schema", "spec_templates", "errors"},
    "scaffold": {"spec", "errors"},
    "definitions": {"component", "build", "defs"},
}
# They start the others and are imported by nobody; a deployed code location has no use for them.
OUTERMOST = {"cli", "demo", "__init__", "defs"}


def test_the_page_shows_these_arrows() -> None:
    page = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.split("| Part | Imports |\n|---|---|\n")[1].split("\n\n")[0]
    shown = {}
    for row in table.splitlines():
        part, imported = (re.findall(r"`(\w+)`", cell) for cell in row.strip("|").split(" | "))
        shown[part[0]] = set(imported)
    assert shown == MAY_IMPORT
    described = page.split("## Parts")[1].split("## Arrows")[0]
    assert [part for part in [*MAY_IMPORT, "cli", "demo"] if not re.search(rf"\b{part}\b", described)] == []


def modules() -> Iterator[Path]:
    return (file for file in sorted(PACKAGE.rglob("*.py")) if "__pycache__" not in file.parts)


def part_of(file: Path) -> str:
    """The part that a module belongs to: its folder below the package, or its own name."""
    top = file.relative_to(PACKAGE).parts[0]
    return top.removesuffix(".py")


def imports(file: Path) -> Iterator[tuple[str, int, bool]]:
    """Parts of the project that a module imports, with the line, and whether at its top level."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    at_top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative imports hide the arrows"
            module = node.module or ""
            # `from release_pipeline import spec` names a part, too.
            names = [f"{module}.{alias.name}" for alias in node.names] if module == PACKAGE.name else [module]
        for name in names:
            if name.split(".")[0] == PACKAGE.name and "." in name:
                yield name.split(".")[1], node.lineno, id(node) in at_top


def test_every_part_has_its_arrows() -> None:
    parts = {part_of(file) for file in modules()}
    assert parts == MAY_IMPORT.keys() | OUTERMOST


@pytest.mark.parametrize("part", sorted(MAY_IMPORT))
def test_a_part_imports_only_what_lies_below_it(part: str) -> None:
    wrong = [
        f"{file.relative_to(PROJECT)}:{line} imports {name}"
        for file in modules()
        if part_of(file) == part
        for name, line, _ in imports(file)
        if name not in MAY_IMPORT[part] | {part}
    ]
    assert wrong == []


#: The same inside the local workspace: what its folders may import of each other.
INSIDE = {"sql": set[str](), "state": set[str](), "serving": {"sql", "state"}, "wire": {"sql", "state", "serving"}}


@pytest.mark.parametrize("folder", sorted(INSIDE))
def test_inside_the_local_workspace_the_arrows_run_one_way_too(folder: str) -> None:
    top = f"{PACKAGE.name}.local_workspace."
    wrong = [
        f"{file.relative_to(PROJECT)}:{node.lineno} imports {node.module}"
        for file in (PACKAGE / "local_workspace" / folder).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(top)
        if node.module.removeprefix(top).partition(".")[0] in INSIDE.keys() - INSIDE[folder] - {folder}
    ]
    assert wrong == []


def test_the_arrows_have_no_circle() -> None:
    left = {part: set(below) for part, below in MAY_IMPORT.items()}
    while left:
        free = {part for part, below in left.items() if not below & left.keys()}
        assert free, f"a circle among {sorted(left)}"
        left = {part: below for part, below in left.items() if part not in free}


def test_only_the_command_line_knows_the_local_workspace_and_only_when_asked() -> None:
    found = {
        (part_of(file), at_top)
        for file in modules()
        for name, _, at_top in imports(file)
        if name == "local_workspace" and part_of(file) != "local_workspace"
    }
    assert found == {("cli", False)}


def test_a_replay_asks_the_workspace_only_for_a_table() -> None:
    found = {
        (file.name, at_top)
        for file in modules()
        if part_of(file) == "replay_log"
        for name, _, at_top in imports(file)
        if name == "workspace"
    }
    assert found == {("workspace_table.py", False)}


def test_the_gate_needs_nothing_but_numpy_and_the_standard_library() -> None:
    import sys

    allowed = sys.stdlib_module_names | {"numpy", "release_pipeline"}
    for file in (PACKAGE / "gate").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0] for name in names} <= allowed, f"{file}:{getattr(node, 'lineno', 0)}"


def test_modules_are_short_and_named_for_what_is_in_them() -> None:
    long = {str(file): len(file.read_text(encoding="utf-8").splitlines()) for file in modules()}
    assert {name: lines for name, lines in long.items() if lines > LONGEST} == {}
    assert [file for file in modules() if file.stem in ("utils", "helpers", "common", "misc")] == []


def test_the_public_names_are_what_the_package_says() -> None:
    import release_pipeline

    assert set(release_pipeline.__all__) == {"ReleasePipelineComponent", "ReleaseSpec", "parse_spec"}
    assert all(getattr(release_pipeline, name) is not None for name in release_pipeline.__all__)
    assert importlib.util.find_spec("release_pipeline.definitions") is not None


def test_what_others_look_for_is_at_the_top() -> None:
    for name in ("pyproject.toml", "dagster.yaml", "workspace.yaml", "release_pipeline", "tests", "Makefile"):
        assert (PROJECT / name).exists(), name
    assert PROJECT / "dagster.yaml" == SETTINGS, "what doctor tells, and what a demo is started with"
