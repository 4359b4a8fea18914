"""The other end of the runner: starts runs, waits for their ends, and kills the one that is under way."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: A run that does not end by itself is a fault of its own.
LONGEST_RUN_SECONDS = 180.0
PATIENT, IMPATIENT = 30.0, 0.6


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        killed: By a signal.
        error: What it raised; empty where it did what it was for.
        expected: Whether that was one of the errors that the pipeline raises on purpose.
        value: What it returned.
    """

    killed: bool
    error: str
    expected: bool
    value: Any


class Runner:
    """One runner process.

    Args:
        attributes: The release's YAML.
        file: Where the YAML lies.
        scratch: Where its runs may write.
        environment: What its runs find in their environment.
    """

    def __init__(
        self, attributes: Mapping[str, Any], file: Path, scratch: Path, environment: Mapping[str, str]
    ) -> None:
        self._begin = {"attributes": attributes, "file": str(file), "scratch": str(scratch)}
        self._environment = dict(environment)
        self._imports: list[str] = []
        self._pid: int | None = None
        self._known = threading.Event()
        self._start()

    def warm_up(self, run: str, *arguments: Any) -> None:
        """Begin anew with everything imported that this run has imported."""
        said = self._order(run, arguments, PATIENT, tell_imports=True)["said"]
        assert said["error"] is None, said["error"]
        self._imports = sorted({*self._imports, *said["imports"]})
        self.stop()
        self._start()

    def run(self, run: str, *arguments: Any, answer_seconds: float = PATIENT) -> Outcome:
        """One run to its end."""
        end = self._order(run, arguments, answer_seconds)
        said = end["said"]
        if said is None:
            return Outcome(end["signal"] == signal.SIGKILL, "", end["signal"] == signal.SIGKILL, None)
        return Outcome(False, said["error"] or "", said["expected"], said["value"])

    def kill(self) -> None:
        """End the run that is under way, at once."""
        assert self._known.wait(10)
        assert self._pid is not None
        os.kill(self._pid, signal.SIGKILL)

    def stop(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.runner"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._environment,
            cwd=Path(__file__).parents[2],
        )
        self._say({**self._begin, "imports": self._imports})
        assert self._hear() == {"ready": True}

    def _order(self, run: str, arguments: tuple[Any, ...], answer_seconds: float, **more: Any) -> dict[str, Any]:
        self._known.clear()
        self._say({"run": run, "arguments": arguments, "answer_seconds": answer_seconds, **more})
        self._pid = self._hear()["pid"]
        self._known.set()
        too_long = threading.Timer(LONGEST_RUN_SECONDS, self.kill)
        too_long.start()
        try:
            return self._hear()
        finally:
            too_long.cancel()

    def _say(self, what: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the runner ended with code {self._process.wait(timeout=10)}"
        return dict(json.loads(line))
