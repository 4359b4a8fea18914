"""How Sphinx makes a site of the Markdown pages; `make docs` runs it.

The pages are written for GitHub and stay as they are. The folder of the project is the source folder, so that a link
from one page to another, to the README or to code leads to the same place on both. What Sphinx wants besides, the order
of the pages, is read from the lists of links in the README and in the decisions' page.
"""

import re
from typing import Any

project = "release-pipeline"
html_title = "release-pipeline"
html_theme = "furo"
extensions = ["myst_parser"]

root_doc = "README"
include_patterns = ["*.md", "docs/**.md", "deploy/**.md", "benchmarks/*.md", "examples/**.md"]
include_patterns += ["release_pipeline/defs/**.md"]
exclude_patterns = [".*", "tests", "**/site-packages"]

# Anchors as GitHub makes them, for every heading that has one there.
myst_heading_anchors = 4
# A link that leads nowhere, or to no heading, is a warning, and `make docs` makes warnings errors.
nitpicky = True

# Only what an English page needs, and nothing that another host would have to send.
html_static_path = ["theme/static"]
html_extra_path = ["theme/index.html"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"

_HEADING = re.compile(r"^#{2,3} (?P<title>.+)$")
_ENTRY = re.compile(r"^(?:-|\d+\.) .*?\]\((?P<page>[^)#:]+)\.md\)")
LISTS = {"README": "## Documentation", "docs/decisions/README": "# Decisions"}


def navigation(text: str, begin: str) -> list[tuple[str, list[str]]]:
    """The pages that a page lists below one of its headings, under the title of their section.

    Args:
        text: Markdown.
        begin: The heading, as written, below which the lists stand.

    Returns:
        For each section that has entries, its title and the first page of each entry, relative and without ``.md``.
    """
    sections: list[tuple[str, list[str]]] = [("", [])]
    for line in text.partition(f"{begin}\n")[2].splitlines():
        if heading := _HEADING.match(line):
            sections.append((heading["title"], []))
        elif entry := _ENTRY.match(line):
            sections[-1][1].append(entry["page"])
    return [section for section in sections if section[1]]


def add_navigation(_: Any, name: str, source: list[str]) -> None:
    """Append to a page with lists what makes a navigation of them; it is not shown on the page."""
    if name not in LISTS:
        return
    for title, pages in navigation(source[0], LISTS[name]):
        options = [":hidden:", *([f":caption: {title}"] if title else [])]
        source[0] += "\n".join(["", "```{toctree}", *options, "", *pages, "```", ""])


def setup(app: Any) -> None:
    """Sphinx calls this."""
    app.connect("source-read", add_navigation)
