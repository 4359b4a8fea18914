"""Every route of the local workspace has a client's call and a test that makes it."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

PROJECT = Path(__file__).parents[2]
TESTS = PROJECT / "tests" / "local_workspace"


@pytest.fixture(scope="module")
def maker() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PROJECT / "docs"))
        yield importlib.import_module("make_reference")


def code_of(file: Path) -> str:
    """The code of a test, without comments and docstrings, which can promise what they like."""
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            for number in range(node.lineno - 1, node.end_lineno or node.lineno):
                lines[number] = ""
    return "\n".join(line for line in lines if not line.lstrip().startswith("#"))


def names_in(code: str) -> set[str]:
    """Every dotted name that the code uses, as ``client.serving_endpoints.query``; what is called is left out."""
    return {ast.unparse(node) for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Attribute | ast.Name)}


def is_used(call: str, code: str, names: set[str]) -> bool:
    """Whether a call stands in the code, not in a text of it; what is no name, as a path, in any way."""
    if not re.fullmatch(r"\w+(\.\w+)*", call):
        return call in code
    return any(name == call or name.endswith(f".{call}") for name in names)


def test_every_route_has_an_entry_and_no_entry_is_left_over(maker: ModuleType) -> None:
    routes = maker.route_names()
    assert "GET /api/2.0/serving-endpoints/{name}" in routes, "the collection of routes has lost its way"
    assert set(routes) == set(maker.COVERAGE)


def test_a_call_in_a_text_does_not_count() -> None:
    code = "'client.files.upload'\nclient.files.download(path)\nget('/local/faults')"
    names = names_in(code)
    assert [is_used(each, code, names) for each in ("files.upload", "files.download", "/local/faults")] == [
        False,
        True,
        True,
    ]


def test_every_call_is_in_the_code_of_its_test(maker: ModuleType) -> None:
    codes: dict[str, tuple[str, set[str]]] = {}
    for route, (call, test) in maker.COVERAGE.items():
        assert test.startswith("test_"), f"{route} has no test"
        if test not in codes:
            code = code_of(TESTS / test)
            codes[test] = code, names_in(code)
        calls = re.findall(r"`([^`]+)`", call)
        assert calls, f"{route} names a test but no call"
        assert [each for each in calls if not is_used(each, *codes[test])] == [], f"{route}: not called in {test}"
