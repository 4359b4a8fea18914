"""The page of the classical model's example can be followed as it stands, with labels that arrive late."""

from pathlib import Path

import pytest

from tests.docs.followed_page import PROJECT, follow, make_clone


@pytest.mark.exhaustive
@pytest.mark.timeout(2400)
def test_the_page_can_be_followed(tmp_path: Path) -> None:
    page = (PROJECT / "examples" / "breast_cancer" / "README.md").read_text(encoding="utf-8")
    follow(page, make_clone(tmp_path / "clone"))
