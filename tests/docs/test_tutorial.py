"""The tutorial, typed as it stands: every command, every file, every change, and what it says that one sees.

Only two things are other than a reader's: the ports, which may be taken here, and that `make` does not install anew.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import free_port

PROJECT = Path(__file__).parents[2]
PAGE = PROJECT / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<body>.*?)^```", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"`([\w./]+\.\w+)`:$")
SHOWN_SECONDS = 900
END = "-- end of the answer --"


@dataclass(frozen=True)
class Step:
    """One block of the page: a command, a file, a change of one, or what the command before it shows."""

    kind: str
    body: str
    file: str = ""


def steps(page: str) -> list[Step]:
    """The blocks of the page in their order.

    A block after a line that ends with a file's name and a colon is that file, or a change of it. Other blocks are
    commands, or what the last command shows sooner or later.
    """
    found, before = [], 0
    for block in BLOCK.finditer(page):
        between = page[before : block.start()].strip()
        named = FILE.search(between.splitlines()[-1]) if between else None
        before = block.end()
        kind = {"sh": "command", "diff": "change"}.get(block["language"], "file" if named else "shown")
        found.append(Step(kind, block["body"], named[1] if named else ""))
    return found


def changed(text: str, diff: str) -> str:
    """A text with the lines of a hunk that begin with a minus replaced by those that begin with a plus."""
    sides = ["".join(line[1:] + "\n" for line in diff.splitlines() if line[0] == sign) for sign in "-+"]
    assert text.count(sides[0]) == 1, f"the page changes what is not there once:\n{sides[0]}"
    return text.replace(sides[0], sides[1])


def shows(output: str, expected: str) -> bool:
    """Whether all that is expected stands in an output; three dots stand for anything, blanks for any blanks."""
    plain = " ".join(output.split())
    lines = (re.escape(" ".join(line.split())).replace(r"\.\.\.", ".*") for line in expected.splitlines())
    return all(re.search(line, plain) for line in lines)


class Terminal:
    """A shell that stays, so that what one command sets is there for the next."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._shell = subprocess.Popen(
            ["bash"],
            cwd=folder,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def type(self, command: str) -> str:
        """Type a command; what it has shown when it has ended, which must be well."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f"{{\n{command}\n}} </dev/null\necho; echo '{END}' $?\n")
        self._shell.stdin.flush()
        shown: list[str] = []
        for line in self._shell.stdout:
            if line.startswith(END):
                assert line.split()[-1] == "0", f"{command}\n{''.join(shown)}"
                return "".join(shown)
            shown.append(line)
        raise AssertionError(f"the shell has ended at {command}\n{''.join(shown)}")

    def close(self) -> None:
        """End the shell and all that still runs in it."""
        self._shell.communicate("kill $(jobs -p); wait\n")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The project's files in a folder of their own, as in a fresh clone, with the environment that is there."""
    folder = tmp_path / "clone"
    shutil.copytree(PROJECT / "release_pipeline", folder / "release_pipeline", ignore=shutil.ignore_patterns("*.pyc"))
    for name in ("Makefile", "dagster.yaml", "pyproject.toml", "requirements.lock", "workspace.yaml", "README.md"):
        shutil.copy(PROJECT / name, folder / name)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


@pytest.fixture
def terminals(clone: Path) -> Iterator[tuple[Terminal, Terminal]]:
    """Two terminals in the clone, as the page wants them."""
    foreign = ("DATABRICKS_", "MLFLOW_", "DAGSTER_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    environment |= {"PYTHONPATH": str(clone), "COLUMNS": "300", "DATABRICKS_CONFIG_FILE": str(clone / "none")}
    both = Terminal(clone, environment), Terminal(clone, environment)
    for each in both:
        each.type('make() { command make -o .venv/.installed "$@"; }')
    yield both
    for each in both:
        each.close()


def await_shown(look: Callable[[], str], expected: str) -> None:
    """Look again until everything that is expected is shown."""
    deadline = time.monotonic() + SHOWN_SECONDS
    while not shows(seen := look(), expected):
        assert time.monotonic() < deadline, f"expected:\n{expected}\nshown:\n{seen}"
        time.sleep(0.5)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_page_can_be_followed(clone: Path, terminals: tuple[Terminal, Terminal]) -> None:
    terminal = terminals[0]
    ui, port = f"127.0.0.1:{free_port()}", free_port()
    page = PAGE.read_text(encoding="utf-8").replace("127.0.0.1:3000", ui).replace("127.0.0.1:5005", f"127.0.0.1:{port}")
    command, shown = "", ""
    for step in steps(page):
        file = clone / step.file
        if step.kind == "file":
            file.write_text(step.body, encoding="utf-8")
        elif step.kind == "change":
            file.write_text(changed(file.read_text(encoding="utf-8"), step.body), encoding="utf-8")
        elif step.body == "make dev\n":
            ports = f"--ui-port {ui.rpartition(':')[2]} --workspace-port {port}"
            printed = clone / "dev.txt"
            printed.touch()
            terminal.type(f"release-pipeline dev {ports} > {printed.name} 2>&1 &")
            await_shown(printed.read_text, "Dagster's UI:")
            terminal = terminals[1]
        elif step.kind == "command":
            for command in re.split(r"(?<!\\)\n", step.body.strip()):
                started = f" --dagster http://{ui}" if command.startswith("release-pipeline start") else ""
                shown = terminal.type(command + started)
        elif command.startswith("release-pipeline "):  # a look, to be repeated until it shows what the page says
            await_shown(lambda: terminal.type(command), step.body)  # noqa: B023
        else:
            assert shows(shown, step.body), f"expected:\n{step.body}\nshown:\n{shown}"


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
