"""The whole story, run as a user runs it, and what it must notice when something is wrong at its end.

Where a PostgreSQL server can be started, what Dagster knows is in it, by the settings of ``deploy/dagster.yaml``; else
in SQLite files, as after ``make demo``.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from release_pipeline.demo import summary
from release_pipeline.demo.load import Answer, read_log
from release_pipeline.demo.story import CHAPTERS, MODEL, Ended, example_folder, example_spec
from release_pipeline.rollout.parts import Parts, connect_parts
from release_pipeline.rollout.state import Stage, current_release
from tests.browser.chromium import Chromium
from tests.browser.dagster_ui import HEIGHT, WIDTH, DagsterUi
from tests.conftest import free_port
from tests.deploy.postgres_server import Postgres, running_server, without_server

PROJECT = Path(__file__).parents[2]
COMMAND = Path(sys.prefix) / "bin" / "release-pipeline"
DEMO_SECONDS = 600


def project_copy(folder: Path) -> Path:
    for name in ("workspace.yaml", "pyproject.toml"):
        shutil.copy(PROJECT / name, folder / name)
    return folder


@dataclass(frozen=True)
class Told:
    """A demo that has told its story and stays: its data folder, what it printed, its UI, and its server, if any."""

    data: Path
    output: str
    ui: str
    postgres: Postgres | None


def settings_for_postgres(folder: Path) -> Path:
    """Dagster's settings for production; all but the launcher of runs is used as it is."""
    settings = yaml.safe_load((PROJECT / "deploy" / "dagster.yaml").read_text(encoding="utf-8"))
    del settings["run_launcher"]
    file = folder / "production.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """The demo, started from a copy of what it needs of the project."""
    folder = project_copy(tmp_path_factory.mktemp("project"))
    ui, port = free_port(), free_port()
    output = folder / "output.txt"
    with ExitStack() as stack:
        postgres = None if without_server() else stack.enter_context(running_server())
        settings = ["--settings", str(settings_for_postgres(folder))] if postgres else []
        with output.open("wb") as stream:
            process = subprocess.Popen(
                [str(COMMAND), "demo", "--keep", "--ui-port", str(ui), "--workspace-port", str(port), *settings],
                cwd=folder,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(postgres.environment if postgres else {})},
            )
        stack.callback(_end, process)
        deadline = time.monotonic() + DEMO_SECONDS
        while process.poll() is None and "UI stays" not in output.read_text():
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(1)
        assert process.poll() is None, output.read_text()
        data = folder / ".data" / "demo"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DATABRICKS_HOST", f"http://127.0.0.1:{port}")
            patch.setenv("DATABRICKS_TOKEN", (data / "token").read_text().strip())
            yield Told(data, output.read_text(), f"http://127.0.0.1:{ui}", postgres)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(60)
    finally:
        process.kill()


def retold(parts: Parts) -> list[Ended]:
    """The chapters as the ledger tells them."""
    releases = list(dict.fromkeys(entry.release for entry in parts.ledger.read()))[: len(CHAPTERS)]
    ended = []
    for chapter, release in zip(CHAPTERS, releases, strict=True):
        observed = parts.observer.look(release, ingest=False)
        assert observed is not None
        ended.append(Ended(chapter, release, observed, 0.0))
    return ended


@contextmanager
def questions_asked(folder: Path) -> Iterator[None]:
    """Users of the example's endpoint."""
    asking = [sys.executable, "-m", "release_pipeline.demo.load", "--endpoint", example_spec().endpoint_name]
    asking += ["--questions", str(example_folder() / "questions.txt"), "--log", str(folder / "load.jsonl")]
    process = subprocess.Popen(asking)
    try:
        yield
    finally:
        process.terminate()
        assert process.wait(90) == 0


@pytest.mark.slow
@pytest.mark.timeout(DEMO_SECONDS + 120)
def test_the_story_ends_well_and_its_end_is_checked(told: Told) -> None:
    data, output = told.data, told.output
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
def test_no_secret_and_no_question_is_in_what_people_see(told: Told) -> None:
    data, output = told.data, told.output
    token = (data / "token").read_text().strip()
    question = "How do I"
    for file in (data / "dagster.log", data / "workspace.log", data / "load.log"):
        text = file.read_text(errors="replace")
        assert token not in text, file
        assert question not in text, file
        assert told.postgres is None or told.postgres.password not in text, file
    assert token not in output


@pytest.mark.slow
@pytest.mark.timeout(DEMO_SECONDS + 120)
def test_runs_events_partitions_and_ticks_are_in_the_postgresql_server_and_in_no_file_beside_it(told: Told) -> None:
    if told.postgres is None:
        pytest.skip(without_server())
    ask = told.postgres.ask
    assert dict(ask("SELECT status, count(*) FROM runs GROUP BY status"))["SUCCESS"] >= 6, "releases and their ends"
    ((partitions,),) = ask("SELECT count(*) FROM dynamic_partitions")
    assert partitions >= len(CHAPTERS)
    for table in ("event_logs", "asset_keys", "jobs", "job_ticks", "daemon_heartbeats"):
        ((rows,),) = ask(f"SELECT count(*) FROM {table}")
        assert rows > 0, table
    assert list((told.data / "dagster").rglob("*.db")) == []


@pytest.mark.slow
@pytest.mark.timeout(2 * DEMO_SECONDS)
def test_an_operator_starts_a_release_reads_a_hold_watches_a_step_and_rolls_back_in_the_ui(
    told: Told, chromium: Chromium, tmp_path: Path
) -> None:
    pictures = os.environ.get("SCREENSHOTS")
    ui = DagsterUi(chromium, told.ui, Path(pictures) if pictures else None)
    spec = example_spec()
    parts = connect_parts(spec, actor="test", progress=print)
    better, worse = (ended.release for ended in retold(parts)[1:])
    live = parts.registry.version_of_alias(spec.promotion.alias)

    lineage = f"/locations/release_pipeline/asset-groups/{MODEL}/lineage"
    ui.open(lineage, "logged_model", "promoted_alias")
    ui.graphs_go_down()
    chromium.resize(900, 2150)  # each asset tells what is in it where the graph has the room
    ui.open(lineage, "logged_model", "promoted_alias", "Asset checks")
    ui.keep("graph")
    chromium.resize(WIDTH, HEIGHT)
    # The newest event is that of the third release, whose rollback left the second one live.
    ui.open(f"/assets/{MODEL}/promoted_alias?view=events", f"{worse} observed in run", "live_version", f"_{live} 100 %")
    ui.open(f"/assets/{MODEL}/promoted_alias?view=partitions&partition={better}", better, "Promote from step 2 of 2")
    ui.open(f"/assets/{MODEL}/deployed_endpoint?view=events", "power_sentence", "power_ramp")
    ui.keep("power-metadata")
    ui.open(f"/assets/{MODEL}/canary_traffic?view=checks&checkDetail=gate", "Failed", worse, "errors_bound")
    ui.keep("check")
    ui.open(f"/assets/{MODEL}/canary_traffic?view=overview", "Plots")
    ui.press("Plots")
    ui.press("Events", "button, span")
    ui.shows("traffic_percent", "errors_harm_e")
    ui.keep("plots")
    ui.scroll_to("traffic_percent")
    ui.keep("staircase")
    ui.open(f"/assets/{MODEL}/canary_traffic?view=partitions&partition={better}", better, "trend", "errors_good_e")
    ui.keep("canary")

    release = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    ui.start_release(MODEL, release, "tuned.yaml")
    held = ui.canary(MODEL, lambda text: release in text and "NO_DATA" in text)
    assert "Hold: the inference table has no challenger rows of step 1 of 2 (25 %) yet; is there traffic?" in held
    ui.keep("hold")
    ui.open(f"/locations/release_pipeline/sensors/{MODEL}_gate", "0 runs requested", "All ticks")
    ui.hover("0 runs requested")
    ui.shows("NO_DATA: Hold: the inference table has no challenger rows")
    ui.keep("sensor")

    with questions_asked(tmp_path):
        stepped = ui.canary(MODEL, lambda text: release in text and "step 2 of 2" in text)
        ui.keep("step")
    assert re.search(r"traffic_percent\s+50\s", stepped)

    ui.roll_back(MODEL, release)
    back = ui.canary(MODEL, lambda text: "rolled_back" in text and "ASKED_FOR" in text)
    assert "asked for by hand" in back
    state = current_release(parts.ledger.read(), release)
    assert state is not None
    assert (state.stage, parts.registry.version_of_alias(spec.promotion.alias)) == (Stage.ROLLED_BACK, live)


def test_a_line_of_the_load_log_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    log = tmp_path / "load.jsonl"
    assert list(read_log(log)) == []
    log.write_text(json.dumps([1.0, 200, 3.5, "agent_1"]) + "\n[2.0, 2")
    assert list(read_log(log)) == [Answer(1.0, 200, 3.5, "agent_1")]
