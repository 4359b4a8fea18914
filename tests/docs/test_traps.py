"""Every trap in docs/local-workspace-traps.md names tests that exist, and no test of a trap is left out of it."""

import ast
import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
TESTS = PROJECT / "tests"
PAGE = PROJECT / "docs" / "local-workspace-traps.md"
# Files that hold tests of traps and nothing else.
OF_TRAPS = ("test_facts_*.py", "test_client_traps.py")
NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")


def traps() -> dict[str, list[tuple[str, str]]]:
    """The tests of every trap, as (file below tests, name)."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if re.match(r"\| (?!\*\*|Trap)", line)]
    cells = [line.strip("| ").rpartition(" | ") for line in lines]
    found = {trap: NAMED.findall(tests) for trap, _, tests in cells}
    assert len(found) == len(lines), "a trap is named twice"
    return found


def names_in(file: Path) -> set[str]:
    """Names of the test functions of a file."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize("trap", traps())
def test_a_trap_names_tests_that_exist(trap: str) -> None:
    named = traps()[trap]
    assert named, "no test is named"
    assert [f"{file}::{name}" for file, name in named if name not in names_in(TESTS / file)] == []


def test_every_test_of_a_trap_is_in_the_table() -> None:
    named = {test for tests in traps().values() for test in tests}
    files = [file for pattern in OF_TRAPS for file in TESTS.rglob(pattern)]
    assert len(files) >= len(OF_TRAPS)
    held = {(file.relative_to(TESTS).as_posix(), name) for file in files for name in names_in(file)}
    assert held - named == set()
