"""A page of the documentation, typed as it stands: every command, every file, every change, and what it says one sees.

Only two things are other than a reader's: the ports, which may be taken here, and that `make` does not install anew.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import free_port

PROJECT = Path(__file__).parents[2]
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


def make_clone(folder: Path) -> Path:
    """The project's files in a folder of their own, as in a fresh clone, with the environment that is there."""
    for name in ("release_pipeline", "examples"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("*.pyc"))
    for name in ("Makefile", "dagster.yaml", "pyproject.toml", "requirements.lock", "workspace.yaml", "README.md"):
        shutil.copy(PROJECT / name, folder / name)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def follow(page: str, clone: Path) -> None:
    """Type a page into two terminals in a clone; `make dev` is the last command of the first.

    Raises:
        AssertionError: A command does not end well, or something is not shown that the page shows.
    """
    ui, port = f"127.0.0.1:{free_port()}", free_port()
    page = page.replace("127.0.0.1:3000", ui).replace("127.0.0.1:5005", f"127.0.0.1:{port}")
    with _terminal(clone) as terminal, _terminal(clone) as second:
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
                terminal = second
            elif step.kind == "command":
                for command in re.split(r"(?<!\\)\n", step.body.strip()):
                    started = f" --dagster http://{ui}" if command.startswith("release-pipeline start") else ""
                    shown = terminal.type(command + started)
            elif command.startswith("release-pipeline "):  # a look, to be repeated until it shows what the page says
                await_shown(lambda: terminal.type(command), step.body)  # noqa: B023
            else:
                assert shows(shown, step.body), f"expected:\n{step.body}\nshown:\n{shown}"


def await_shown(look: Callable[[], str], expected: str) -> None:
    """Look again until everything that is expected is shown."""
    deadline = time.monotonic() + SHOWN_SECONDS
    while not shows(seen := look(), expected):
        assert time.monotonic() < deadline, f"expected:\n{expected}\nshown:\n{seen}"
        time.sleep(0.5)


@contextmanager
def _terminal(clone: Path) -> Iterator[Terminal]:
    foreign = ("DATABRICKS_", "MLFLOW_", "DAGSTER_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    environment |= {"PYTHONPATH": str(clone), "COLUMNS": "300", "DATABRICKS_CONFIG_FILE": str(clone / "none")}
    terminal = Terminal(clone, environment)
    terminal.type('make() { command make -o .venv/.installed "$@"; }')
    try:
        yield terminal
    finally:
        terminal.close()
