"""The demo: three releases of the example agent under live traffic; the verdicts come from the gate alone.

The story only starts releases and sends questions. It watches the ledger to know when a release has ended, and at the
end it checks that alias, endpoint and ledger agree and that no user's request failed but for release 3's own bug.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml

from release_pipeline.demo.load import Answer, read_log
from release_pipeline.demo.stack import Stack
from release_pipeline.errors import ReleasePipelineError
from release_pipeline.operate.dagster_api import DagsterApi
from release_pipeline.rollout.observer import Observed
from release_pipeline.rollout.parts import Parts, connect_parts
from release_pipeline.rollout.state import ReleaseState, Stage
from release_pipeline.spec import ReleaseSpec, parse_spec

MODEL = "python_docs_agent"
REQUESTS_PER_SECOND = 30.0
RELEASE_SECONDS = 420.0
POLL_SECONDS = 1.5


class StoryFailed(ReleasePipelineError):
    """The demo did not go as it must."""


@dataclass(frozen=True)
class Chapter:
    """One release of the story: its configuration, and where it must end."""

    title: str
    config: str
    ends: Stage


CHAPTERS = (
    Chapter("release 1: the first version", "baseline.yaml", Stage.PROMOTED),
    Chapter("release 2: better retrieval", "tuned.yaml", Stage.PROMOTED),
    Chapter("release 3: a regression", "phrases.yaml", Stage.ROLLED_BACK),
)


@dataclass(frozen=True)
class Ended:
    """How a release of the story ended."""

    chapter: Chapter
    release: str
    observed: Observed
    seconds: float


def example_folder() -> Path:
    """Where the example agent lies."""
    import release_pipeline

    return Path(release_pipeline.__file__).parent / "defs" / MODEL


def example_spec(folder: Path | None = None) -> ReleaseSpec:
    """The example's YAML, validated; ``folder`` is where it lies, if it is a copy."""
    file = (folder or example_folder()) / "defs.yaml"
    return parse_spec(yaml.safe_load(file.read_text())["attributes"], file=file)


class Story:
    """Runs the chapters against a started stack.

    Args:
        stack: The local workspace and Dagster.
        say: Takes each line of the story.
        folder: Where the example lies that Dagster has loaded, if it is a copy.
        per_second: How many questions are asked.
    """

    def __init__(
        self,
        stack: Stack,
        say: Callable[[str], None],
        folder: Path | None = None,
        per_second: float = REQUESTS_PER_SECOND,
    ) -> None:
        self._stack = stack
        self._per_second = per_second
        self._say = say
        self._folder = folder or example_folder()
        self._load: subprocess.Popen[bytes] | None = None
        self.load_log = stack.data / "load.jsonl"
        self.spec = example_spec(self._folder)
        self.parts: Parts = connect_parts(self.spec, actor="demo", progress=lambda line: None)
        self._dagster = DagsterApi(stack.ui_url)

    def run(self, chapters: Sequence[Chapter] = CHAPTERS) -> list[Ended]:
        """The chapters in order, questions being asked all the while.

        Raises:
            StoryFailed: A release did not end as it must.
        """
        try:
            return [self._chapter(chapter) for chapter in chapters]
        finally:
            self.stop_load()

    def answers(self) -> list[Answer]:
        """Every answer that the users of the story got."""
        return list(read_log(self.load_log))

    def stop_load(self) -> None:
        """Stop asking; every question that was asked is answered first."""
        if self._load is not None:
            self._load.terminate()
            self._load.wait(timeout=90)
            self._load = None

    def _start_load(self) -> None:
        self._say(f"questions at {self._per_second:g} a second to {self.parts.endpoint.query_url}")
        with (self._stack.data / "load.log").open("wb") as log:
            self._load = subprocess.Popen(
                [
                    *(sys.executable, "-m", "release_pipeline.demo.load", "--endpoint", self.spec.endpoint_name),
                    *("--questions", str(self._folder / "questions.txt"), "--log", str(self.load_log)),
                    *("--rate", str(self._per_second)),
                ],
                stdout=log,
                stderr=log,
            )

    def _chapter(self, chapter: Chapter) -> Ended:
        release = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        self._say(f"[bold]{chapter.title}[/] ({release}, {chapter.config})")
        started = time.monotonic()
        config = {"ops": {f"{MODEL}__logged_model": {"config": {"config": chapter.config}}}}
        run_id = self._dagster.start_release(MODEL, release, config)
        said: set[str] = set()
        while True:
            self._stack.check()
            if self._load is not None and self._load.poll() is not None:
                raise StoryFailed(f"nobody asks questions any more; see {self._stack.data / 'load.log'}.")
            if time.monotonic() - started > RELEASE_SECONDS:
                raise StoryFailed(
                    f"{chapter.title} did not end within {RELEASE_SECONDS:.0f} s; see {self._stack.data}."
                )
            state = self.parts.rollout.state(release)
            if state is None:
                self._say_steps(run_id, said, chapter)
            else:
                self._say_state(state, said)
                if self._load is None and state.stage is Stage.RAMPING:
                    self._start_load()
                if state.stage in (Stage.PROMOTED, Stage.ROLLED_BACK, Stage.FAILED) and state.open_intent is None:
                    return self._ended(chapter, release, time.monotonic() - started)
            time.sleep(POLL_SECONDS)

    def _ended(self, chapter: Chapter, release: str, seconds: float) -> Ended:
        observed = self.parts.observer.look(release, ingest=False)
        assert observed is not None, "the ledger knows the release, or it would not have ended"
        if observed.release.stage is not chapter.ends:
            raise StoryFailed(
                f"{chapter.title} ended as {observed.release.stage}, not as {chapter.ends}: {observed.release.reason}"
            )
        self._say(f"  {observed.release.stage} after {seconds:.0f} s")
        return Ended(chapter, release, observed, seconds)

    def _say_steps(self, run_id: str, said: set[str], chapter: Chapter) -> None:
        status, steps = self._dagster.run_status(run_id)
        if status in ("FAILURE", "CANCELED"):
            raise StoryFailed(f"the run {run_id} of {chapter.title} ended as {status}; see {self._stack.ui_url}.")
        for step in steps:
            line = f"  {step.removeprefix(f'{MODEL}__')}"
            if line not in said:
                said.add(line)
                self._say(line)

    def _say_state(self, state: ReleaseState, said: set[str]) -> None:
        if state.open_intent is not None:
            line = f"  {state.open_intent.action}: {state.open_intent.reason}"
        else:
            line = f"  {state.stage} at {state.traffic_percent} %"
        if line not in said:
            said.add(line)
            self._say(line)
        if state.stage is Stage.RAMPING and state.open_intent is None:
            observed = self.parts.observer.look(state.release, ingest=False)
            if observed is not None and observed.ingests and str(observed.ingests) not in said:
                said.add(str(observed.ingests))
                self._say(f"    [dim]{observed.verdict.sentence}[/]")
