"""The pages as they are sent: to anybody, because they hold nothing; what they ask for needs the token."""

import re
from pathlib import Path

import pytest
import requests

from tests.conftest import RunningWorkspace

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "release_pipeline" / "local_workspace" / "pages"
FILES = sorted(path.name for path in FOLDER.iterdir())
SHOWN = (
    "/",
    "/ml/endpoints/one",
    "/ml/experiments/1",
    "/ml/experiments/1/traces",
    "/ml/experiments/1/evaluation-runs",
    "/ml/experiments/1/runs/2",
    "/explore/data/main/default/one_payload",
    "/explore/data/models/main/default/one",
    "/explore/data/models/main/default/one/version/1",
)
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def test_the_page_is_the_same_for_every_name_and_needs_no_token(workspace: RunningWorkspace) -> None:
    # The same for an endpoint that does not exist: the page tells nothing to those without a token.
    answers = [requests.get(f"{workspace.url}/review/{name}", timeout=60) for name in ("reviewed", "no-such-endpoint")]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].content == answers[1].content == (FOLDER / "review.html").read_bytes()
    assert workspace.token not in answers[0].text


@pytest.mark.parametrize("path", SHOWN)
def test_an_address_of_databricks_leads_to_a_page_that_holds_nothing(workspace: RunningWorkspace, path: str) -> None:
    answer = requests.get(f"{workspace.url}{path}", timeout=60)
    assert (answer.status_code, answer.content) == (200, (FOLDER / "console.html").read_bytes())
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_sent_with_the_policy_that_keeps_others_out(workspace: RunningWorkspace, name: str) -> None:
    answer = requests.get(f"{workspace.url}/pages/{name}", timeout=60)
    assert answer.content == (FOLDER / name).read_bytes()
    assert answer.headers["content-type"].split(";")[0] == TYPES[Path(name).suffix]
    policy = dict(each.split(" ", 1) for each in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_a_page_is_quick_because_it_is_small() -> None:
    """All files of both pages, uncompressed; no file is built, and none comes from elsewhere (see below)."""
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 60_000


@pytest.mark.parametrize(
    "path",
    [
        "pages/none.js",
        "pages/..%2fapp.py",
        "pages/%2e%2e%2fapp.py",
        "review/a/b",
        "review/",
        "pages/",
        "ml/",
        "ml/none",
    ],
)
def test_there_is_nothing_else_below_them(workspace: RunningWorkspace, path: str) -> None:
    answer = requests.get(f"{workspace.url}/{path}", timeout=60)
    assert answer.status_code == 404
    assert "import" not in answer.text


def test_only_reading_the_page_is_open(workspace: RunningWorkspace) -> None:
    assert requests.post(f"{workspace.url}/review/reviewed", json={}, timeout=60).status_code == 404
    assert requests.get(f"{workspace.url}/review", timeout=60).status_code == 401
    for path in ("/api/2.0/serving-endpoints/reviewed", "/api/2.0/serving-endpoints/reviewed/openapi"):
        answer = requests.get(workspace.url + path, headers={"Origin": "http://localhost"}, timeout=60)
        assert answer.status_code == 401
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_the_pages_load_nothing_from_elsewhere_and_makes_no_html() -> None:
    text = "".join((FOLDER / name).read_text(encoding="utf-8") for name in FILES)
    hosts = set(re.findall(r"https?://[\w.-]+", text))
    assert hosts == {"http://www.w3.org"}, "the name of SVG's own language is no address"
    for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert forbidden not in text
    assert not re.search(r"<\w+ [^>]*\bon\w+=", text), "a handler in HTML"
    named = set(re.findall(r"/pages/([\w.]+)|from \"\./([\w.]+)\"", text))
    assert {name for pair in named for name in pair if name} | {"review.html", "console.html"} == set(FILES)
