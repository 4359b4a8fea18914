"""docs/troubleshooting.md has the platform's own errors as the pipeline tells them, each with its test."""

import ast
import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
TESTS = PROJECT / "tests" / "pipeline" / "test_known_errors.py"


def rows() -> list[list[str]]:
    """The cells of the table's rows."""
    page = (PROJECT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    section = page.split("## The platform's own errors\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def sentences() -> str:
    """Every text of the package, with what is put together at run time left out."""
    found = []
    for file in sorted((PROJECT / "release_pipeline").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_every_test_has_its_row_and_every_row_its_test() -> None:
    defined = set(re.findall(r"^def (test_\w+)", TESTS.read_text(encoding="utf-8"), re.MULTILINE))
    assert {row[4].strip("`") for row in rows()} == defined


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_what_the_pipeline_is_said_to_say_is_in_its_code_and_in_the_test(row: list[str]) -> None:
    said, texts, tests = re.findall(r"`([^`]+)`", row[2]), sentences(), TESTS.read_text(encoding="utf-8")
    assert said
    for words in said:
        assert words in texts
        assert words in tests
