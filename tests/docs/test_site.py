"""The site that `make docs` builds: every page is in it, nothing leads nowhere, nothing comes from elsewhere."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.docs.test_docs import NAMES, PROJECT

SPHINX = Path(sys.prefix) / "docs" / "bin" / "sphinx-build"
# What a browser fetches by itself; links that people may follow are not among them.
FETCHED = re.compile(r"<(?:script|img|iframe|source)\b[^>]*?\bsrc=\"([^\"]+)|<link\b[^>]*?\bhref=\"([^\"]+)")
IMPORTED = re.compile(r"url\(\s*[\"']?((?:https?:)?//[^)]+)|@import\s+[\"']((?:https?:)?//[^\"']+)")


@pytest.fixture(scope="module")
def conf() -> ModuleType:
    """The settings of the site, as a module; Sphinx is not needed for that."""
    spec = importlib.util.spec_from_file_location("site_conf", PROJECT / "docs" / "conf.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_has_one_place_in_the_navigation(conf: ModuleType) -> None:
    places = ["README.md"]
    for name, begin in conf.LISTS.items():
        text = (PROJECT / f"{name}.md").read_text(encoding="utf-8")
        folder = Path(name).parent
        places += [str(folder / f"{page}.md") for _, pages in conf.navigation(text, begin) for page in pages]
    assert sorted(places) == NAMES


def test_the_sections_stand_in_the_order_of_reading(conf: ModuleType) -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    titles = [title for title, _ in conf.navigation(text, conf.LISTS["README"])]
    assert titles == ["Start", "Use", "Operate", "Understand", "Reference", "Contribute"]


Build = Callable[[Path, Path], subprocess.CompletedProcess[str]]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Builds a folder of pages as `make docs` does."""
    if not SPHINX.exists():
        pytest.skip("the site's own environment is not there; make docs installs it")

    def run(source: Path, site: Path) -> subprocess.CompletedProcess[str]:
        strict = ["-W", "--keep-going", "-q", "-b", "html", "-d", str(tmp_path / "doctrees")]
        command = [str(SPHINX), *strict, "-c", str(PROJECT / "docs"), str(source), str(site)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_site_is_built_without_a_warning_and_needs_no_other_host(build: Build, tmp_path: Path) -> None:
    site = tmp_path / "site"
    done = build(PROJECT, site)
    assert (done.returncode, done.stderr) == (0, "")
    assert {name for name in NAMES if not (site / name).with_suffix(".html").exists()} == set()
    assert "README.html" in (site / "index.html").read_text(encoding="utf-8")
    elsewhere = []
    for page in site.rglob("*.html"):
        found = [one or other for one, other in FETCHED.findall(page.read_text(encoding="utf-8"))]
        elsewhere += [address for address in found if re.match(r"(?:https?:)?//", address)]
    for sheet in site.rglob("*.css"):
        elsewhere += ["".join(found) for found in IMPORTED.findall(sheet.read_text(encoding="utf-8"))]
    assert elsewhere == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_link_that_leads_nowhere_fails_the_build(build: Build, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "docs").mkdir(parents=True)
    (source / "README.md").write_text("# Title\n\n## Documentation\n\n### Use\n\n- [Page](docs/page.md)\n")
    links = [
        "[right](page.md#two-words)",
        "[page](nowhere.md)",
        "[anchor](page.md#missing-one)",
        "[here](#missing-two)",
        "![picture](images/missing.png)",
    ]
    (source / "docs" / "page.md").write_text("\n\n".join(["# Page", "## Two words", *links]) + "\n")
    (source / "docs" / "alone.md").write_text("# Alone\n")
    done = build(source, tmp_path / "site")
    assert done.returncode != 0
    complaints = ["nowhere.md", "missing-one", "missing-two", "images/missing.png", "alone.md"]
    assert [each for each in complaints if each not in done.stderr] == []
    assert done.stderr.count("WARNING") == len(complaints), done.stderr
