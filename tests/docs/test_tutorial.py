"""The tutorial can be followed as it stands."""

from pathlib import Path

import pytest

from tests.docs.followed_page import PROJECT, changed, follow, make_clone, shows, steps

PAGE = PROJECT / "docs" / "tutorial.md"


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_page_can_be_followed(tmp_path: Path) -> None:
    follow(PAGE.read_text(encoding="utf-8"), make_clone(tmp_path / "clone"))


def test_the_changes_of_the_page_fit_its_files() -> None:
    files: dict[str, str] = {}
    kinds = []
    for step in steps(PAGE.read_text(encoding="utf-8")):
        kinds.append(step.kind)
        if step.kind == "file":
            files[step.file] = step.body
        elif step.kind == "change":
            files[step.file] = changed(files[step.file], step.body)
            compile(files[step.file], step.file, "exec")
    assert {"file", "change", "command", "shown"} == set(kinds)


def test_what_is_shown_is_compared_line_by_line() -> None:
    seen = "release 20261121 is\n   promoted: version 1\nother"
    assert shows(seen, "release ... is promoted: version 1\nother\n")
    assert not shows(seen, "release ... is promoted: version 1\nothers\n")
