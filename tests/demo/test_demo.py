"""The whole story, run as a user runs it, and what it must notice when something is wrong at its end."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from release_pipeline.demo import summary
from release_pipeline.demo.load import Answer, read_log
from release_pipeline.demo.stack import free_port
from release_pipeline.demo.story import CHAPTERS, Ended, example_spec
from release_pipeline.rollout.parts import Parts, connect_parts
from release_pipeline.rollout.state import Stage

PROJECT = Path(__file__).parents[2]
COMMAND = Path(sys.prefix) / "bin" / "release-pipeline"
DEMO_SECONDS = 600


def project_copy(folder: Path) -> Path:
    for name in ("workspace.yaml", "dagster.yaml", "pyproject.toml"):
        shutil.copy(PROJECT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A demo that has told its story and stays; its data folder and what it printed."""
    folder = project_copy(tmp_path_factory.mktemp("project"))
    ui, port = free_port(), free_port()
    output = folder / "output.txt"
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [str(COMMAND), "demo", "--keep", "--ui-port", str(ui), "--workspace-port", str(port)],
            cwd=folder,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + DEMO_SECONDS
        while process.poll() is None and "UI stays" not in output.read_text():
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(1)
        assert process.poll() is None, output.read_text()
        data = folder / ".data" / "demo"
        before = {name: os.environ.get(name) for name in ("DATABRICKS_HOST", "DATABRICKS_TOKEN")}
        os.environ.update(
            DATABRICKS_HOST=f"http://127.0.0.1:{port}", DATABRICKS_TOKEN=(data / "token").read_text().strip()
        )
        yield data, output.read_text()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        finally:
            process.kill()


def retold(parts: Parts) -> list[Ended]:
    """The chapters as the ledger tells them."""
    releases = list(dict.fromkeys(entry.release for entry in parts.ledger.read()))
    ended = []
    for chapter, release in zip(CHAPTERS, releases, strict=True):
        observed = parts.observer.look(release, ingest=False)
        assert observed is not None
        ended.append(Ended(chapter, release, observed, 0.0))
    return ended


@pytest.mark.slow
@pytest.mark.timeout(DEMO_SECONDS + 120)
def test_the_story_ends_well_and_its_end_is_checked(told: tuple[Path, str]) -> None:
    data, output = told
    assert "failed" not in output.splitlines()[-1]
    spec = example_spec()
    parts = connect_parts(spec, actor="test", progress=print)
    story = retold(parts)
    # A bake that has ended in the meantime is as good as one that goes on.
    assert [ended.observed.release.stage for ended in story[::2]] == [Stage.FINISHED, Stage.ROLLED_BACK]
    assert story[1].observed.release.stage in (Stage.PROMOTED, Stage.FINISHED)
    answers = list(read_log(data / "load.jsonl"))
    assert answers
    own_bug = story[2].observed.release.entities["challenger"]
    assert {answer.served_entity for answer in answers if answer.status != 200} == {own_bug}
    assert summary.impact(story[2], answers, parts.ledger.read()).bad > 0
    assert summary.problems(story, answers, parts, spec) == []

    broken = [*answers, Answer(time.time(), 0, 1.0, "")]
    assert "1 requests" in summary.problems(story, broken, parts, spec)[0]
    live = story[1].observed.release.challenger_version
    parts.registry.set_alias(spec.promotion.alias, "1")
    assert "alias champion names 1" in summary.problems(story, answers, parts, spec)[0]
    parts.registry.set_alias(spec.promotion.alias, live)
    assert summary.problems(story, answers, parts, spec) == []


@pytest.mark.slow
@pytest.mark.timeout(DEMO_SECONDS + 120)
def test_no_secret_and_no_question_is_in_what_people_see(told: tuple[Path, str]) -> None:
    data, output = told
    token = (data / "token").read_text().strip()
    question = "How do I"
    for file in (data / "dagster.log", data / "workspace.log", data / "load.log"):
        text = file.read_text(errors="replace")
        assert token not in text, file
        assert question not in text, file
    assert token not in output


def test_a_line_of_the_load_log_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    log = tmp_path / "load.jsonl"
    assert list(read_log(log)) == []
    log.write_text(json.dumps([1.0, 200, 3.5, "agent_1"]) + "\n[2.0, 2")
    assert list(read_log(log)) == [Answer(1.0, 200, 3.5, "agent_1")]
