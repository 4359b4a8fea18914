"""What the documentation says can be followed: links, YAML, commands; and nothing in the tree names a machine."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from release_pipeline.cli import main
from release_pipeline.spec import ReleaseSpec
from release_pipeline.spec_file import read_spec

PROJECT = Path(__file__).parents[2]
FOLDERS = ("docs", "deploy", "benchmarks", "examples", "release_pipeline/defs")
PAGES = sorted([*PROJECT.glob("*.md"), *(page for folder in FOLDERS for page in (PROJECT / folder).rglob("*.md"))])
NAMES = [str(page.relative_to(PROJECT)) for page in PAGES]
COMPONENT = "release_pipeline.ReleasePipelineComponent"
CAPABILITIES = (
    "A1 A2 A3 A4 A5 L1 L2 L3 L4 D1 D2 D3 D4 D5 D6 D7 D8 D9 C1 M1 M2 M3 M4 M5 P1 P2 U1 T1".split()  # noqa: SIM905
)
# Folders of a person's machine, and addresses of package indexes.
MACHINE = re.compile(
    r"(?<![\w.<>])/(?:root|home|work|mnt|srv)/\w|https?://[^\s\"']*(?:/simple\b|/pypi/|artifactory|nexus)"
    r"|^--(?:extra-)?index-url",
    re.IGNORECASE | re.MULTILINE,
)


def blocks(text: str, language: str) -> list[str]:
    """Fenced blocks of one language, also those within a list."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", text, re.MULTILINE | re.DOTALL)
    return ["\n".join(line.removeprefix(indent) for line in body.splitlines()) for indent, body in found]


def without_code(text: str) -> str:
    """The text without fenced blocks, in which brackets mean other things."""
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", without_code(page.read_text(encoding="utf-8")), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles]
    return {
        name + (f"-{plain[:index].count(name)}" if name in plain[:index] else "") for index, name in enumerate(plain)
    }


@pytest.mark.parametrize("name", NAMES)
def test_tables_have_a_head(name: str) -> None:
    """A blank line in a table shows what follows as it stands, with its bars."""
    text = without_code((PROJECT / name).read_text(encoding="utf-8"))
    tables = [block for block in re.split(r"\n\s*\n", text) if block.lstrip().startswith("|")]
    assert [block for block in tables if not re.match(r"\s*\|[^\n]+\n\s*\|[\s:|-]+(\n|$)", block)] == []


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = PROJECT / name
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("name", NAMES)
def test_every_release_in_a_page_is_valid(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in blocks((PROJECT / name).read_text(encoding="utf-8"), "yaml"):
        document = yaml.safe_load(text)
        if not isinstance(document, dict) or document.get("type") != COMPONENT:
            continue
        attributes = document["attributes"]
        model = attributes["model"]
        scorers = re.findall(r"([\w/]+\.py):\w+", text)
        dataset = (attributes.get("evaluation") or {}).get("dataset")
        for file in (model.get("source"), model.get("config"), dataset, *scorers):
            if isinstance(file, str):
                (tmp_path / file).touch()
        for folder in model.get("code_paths", []):
            (tmp_path / folder).mkdir(exist_ok=True)
        for variable in re.findall(r"\benv\.(\w+)", text):
            monkeypatch.setenv(variable, "value")
        # As commands and Dagster read it, with its templates resolved.
        (tmp_path / "defs.yaml").write_text(text)
        assert read_spec(tmp_path / "defs.yaml").name == attributes["name"]


def test_there_are_releases_to_be_checked_in_the_pages() -> None:
    pages = [page.name for page in PAGES if COMPONENT in "".join(blocks(page.read_text(encoding="utf-8"), "yaml"))]
    capabilities = "authoring authentication canary deploying drift evaluation inference-tables promotion-and-rollback"
    assert {f"{name}.md" for name in f"{capabilities} querying releases".split()} <= set(pages)


def test_every_part_of_the_yaml_is_shown_in_a_worked_example() -> None:
    shown: set[str] = set()
    for page in PAGES:
        for text in blocks(page.read_text(encoding="utf-8"), "yaml"):
            document = yaml.safe_load(text)
            if isinstance(document, dict) and document.get("type") == COMPONENT:
                shown |= document["attributes"].keys()
    assert shown == ReleaseSpec.model_fields.keys()


@pytest.mark.parametrize("name", NAMES)
def test_every_command_that_is_mentioned_exists(name: str) -> None:
    text = (PROJECT / name).read_text(encoding="utf-8")
    code = "\n".join([*re.findall(r"`([^`\n]+)`", text), *re.findall(r"```sh\n(.*?)```", text, re.DOTALL)])
    mentioned = re.findall(r"(?:^|[\s/])release-pipeline ([a-z]\S*)((?: +--?[a-z-]+(?:[ =]\S+)?| +[\w.]+)*)", code)
    for command, rest in mentioned:
        assert command in main.commands, f"{name}: release-pipeline {command}"
        options = {option for each in main.commands[command].params for option in each.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= options | {"--help"}, f"{name}: release-pipeline {command}{rest}"


@pytest.mark.parametrize("name", NAMES)
def test_every_make_target_that_is_mentioned_exists(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    text = (PROJECT / name).read_text(encoding="utf-8")
    code = "\n".join([*re.findall(r"`([^`\n]+)`", text), *re.findall(r"```sh\n(.*?)```", text, re.DOTALL)])
    assert set(re.findall(r"^(?:\w+=\S+ )?make ([a-z-]+) *(?:#.*)?$", code, re.MULTILINE)) <= targets


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen, waiting = set(), [PROJECT / "README.md"]
    while waiting:
        page = waiting.pop()
        seen.add(page)
        for target in re.findall(r"\]\(([^)\s#]+\.md)", page.read_text(encoding="utf-8")):
            file = (page.parent / target).resolve()
            if file.exists() and file not in seen:
                waiting.append(file)
    assert [str(page.relative_to(PROJECT)) for page in PAGES if page not in seen] == []


def capabilities(text: str) -> list[tuple[str, str, str, str]]:
    """The rows of the page: number, capability, state, and what is said of it."""
    return re.findall(r"^\| ([A-Z]\d) \| ([^|]+) \| ([^|]+) \|(?: ([^|]+))? \|$", text, re.MULTILINE)


def test_capabilities_have_a_state_each_and_what_works_names_its_tests() -> None:
    rows = capabilities((PROJECT / "docs" / "capabilities.md").read_text(encoding="utf-8"))
    assert [row[0] for row in rows] == CAPABILITIES
    for number, _, state, proof in rows:
        assert state in ("Works", "Partly", "Not yet"), number
        assert state != "Works" or "](../tests/" in proof, f"{number} works, but no test says so"
        assert state != "Partly" or proof.strip(), f"{number}: what is missing?"


def test_every_capability_has_a_page_with_a_yaml_to_start_from() -> None:
    text = (PROJECT / "docs" / "capabilities.md").read_text(encoding="utf-8")
    named: list[str] = []
    for rows, page, rest in re.findall(
        r"^\| ((?:[A-Z]\d(?:, )?)+) \| \[[^]]+\]\((\S+?\.md)\S*\)(.*) \|$", text, re.MULTILINE
    ):
        named += rows.split(", ")
        shown = blocks((PROJECT / "docs" / page).read_text(encoding="utf-8"), "yaml")
        assert shown or rest == ", which needs none", page
    missing = {number for number, _, state, _ in capabilities(text) if state == "Not yet"}
    assert sorted(named) == sorted(set(CAPABILITIES) - missing)


def test_the_readme_begins_with_what_can_be_typed() -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert text.index("make demo") < text.index("## What it is")


def test_no_tracked_file_names_a_machine_or_a_package_index() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    files = [PROJECT / name for name in listed.split("\0") if name]
    assert PROJECT / "requirements.lock" in files
    found = []
    for file in files:
        if file.suffix in (".png", ".ico") or not file.exists():
            continue
        text = file.read_text(encoding="utf-8")
        found += [f"{file.relative_to(PROJECT)}: {hit.group()}" for hit in MACHINE.finditer(text)]
        if str(PROJECT) in text or str(Path.home()) + "/" in text:
            found.append(f"{file.relative_to(PROJECT)}: a folder of this machine")
    assert found == []


# In pieces, because this file is searched, too.
@pytest.mark.parametrize(
    "pieces",
    [
        ("see /ho", "me/ann/project"),
        ("/ro", "ot/x"),
        ("--index", "-url x"),
        ("https://mirror.example/si", "mple/uv"),
    ],
)
def test_the_search_for_machines_finds_them(pieces: tuple[str, str]) -> None:
    assert MACHINE.search("".join(pieces))
    assert not MACHINE.search(" ".join(pieces))
