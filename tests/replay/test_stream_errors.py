"""A stream that fails is HTTP 200: a log with bodies says so to a replay as the inference table does to the gate."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from release_pipeline.replay_log import cells
from release_pipeline.replay_log.log_table import LogTable
from release_pipeline.spec_gate import Metric
from release_pipeline.workspace import metric_sql
from release_pipeline.workspace.inference_table import InferenceTable, MetricPlan, Window
from tests.conftest import RunningWorkspace
from tests.pipeline.payload_tables import Logged, create, insert, moment, stream, warehouse
from tests.replay.conftest import START, Replay, make_log, spec_of

FAILED = {"databricks_output": {"trace": {}, "error": {"error_code": "BAD_REQUEST", "message": "x"}}}
FINE = {"databricks_output": {"trace": {"data": {"spans": [{"error": {"a": 1}}]}}}}
QUOTED = 'why {"databricks_output": {"error": {"a": 1}}}?\ndata: {"databricks_output": {"error": {"a": 1}}}'
BODIES = (
    None,
    "",
    "{}",
    "no JSON at all",
    json.dumps(FAILED),
    json.dumps(FAILED, indent=1),
    json.dumps(FINE),
    json.dumps({"databricks_output": {"error": None}}),
    json.dumps({"text": QUOTED}),
    json.dumps([{"delta": "a"}, FAILED]),
    json.dumps([{"delta": "a"}, FINE]),
    "databricks_output is mentioned, error too",
    '{"databricks_output": {"error": ',
    stream({"delta": "a"}, FAILED),
    stream({"delta": "a"}, FAILED) + "data: [DONE]\n\n",
    stream({"delta": "a"}, FINE) + "data: [DONE]\n\n",
    stream(FAILED, {"delta": "went on"}),
    stream({"delta": QUOTED}),
)


def judged(log: LogTable) -> list[float]:
    """Badness of every row by the number in its id."""
    rows = log.rows(log.releases[0])
    by_time = sorted(zip(rows.requested.tolist(), rows.values["errors"].tolist(), strict=True))
    return [value for _, value in by_time]


def frame(**more: Any) -> pd.DataFrame:
    numbers = range(len(BODIES))
    columns: dict[str, Any] = {
        "request_id": [f"r{number}" for number in numbers],
        "request_time": [START + number for number in numbers],
        "arrived_at": [START + number for number in numbers],
        "arm": "champion",
        "status_code": 200,
        "response": BODIES,
    }
    return pd.DataFrame({**columns, **more})


def live(rows: Sequence[Logged] | None = None) -> list[float]:
    """The badness that the gate counts, row by row in a bucket of its own; NaN for a row that is unjudged."""
    name = create(warehouse(), "gateway")
    rows = rows or [Logged(f"r{number}", 60.0 * number, response=body) for number, body in enumerate(BODIES)]
    insert(warehouse(), name, "gateway", rows)
    table, plan = InferenceTable(warehouse(), name), MetricPlan(Metric(name="errors", kind="errors"), 60)
    latest = table.latest()
    assert latest is not None
    delta = table.changes(0, latest, first_version=1, windows=[Window(0, moment(0), None)], plans=[plan])
    found = {
        int(group.bucket_start - moment(0).timestamp()) // 60: math.nan if group.unjudged else float(group.counts[1])
        for group in delta.groups
    }
    return [found[number] for number in range(len(rows))]


def test_every_form_of_a_body_is_judged_as_live(workspace: RunningWorkspace, tmp_path: Path) -> None:
    expected = live()
    assert {0.0, 1.0} == set(expected)
    spec = spec_of()
    frame().to_parquet(tmp_path / "log.parquet")
    frame().to_csv(tmp_path / "log.csv", index=False)
    for name in ("log.parquet", "log.csv"):
        assert judged(LogTable(str(tmp_path / name), spec, {})) == expected, name


def test_a_table_in_the_workspace_is_judged_without_taking_its_bodies_out(workspace: RunningWorkspace) -> None:
    expected = live()
    name = f"{create(warehouse(), 'gateway')}_log"
    values = {f"body_{number}": body for number, body in enumerate(BODIES)}
    rows = ", ".join(
        f"('r{number}', TIMESTAMP '2026-03-02 10:00:{number:02}', TIMESTAMP '2026-03-02 10:00:{number:02}', "
        f"'champion', 200, :body_{number})"
        for number in range(len(BODIES))
    )
    warehouse().execute(
        f"CREATE TABLE {name} (request_id STRING, request_time TIMESTAMP, arrived_at TIMESTAMP, arm STRING, "
        "status_code INT, Response STRING)"
    )
    warehouse().execute(f"INSERT INTO {name} VALUES {rows}", values)
    log = LogTable(name, spec_of(), {})
    assert judged(log) == expected
    kept = {row[0] for row in log._connection.execute('SELECT "Response" FROM copied').fetchall()}
    assert kept == {None, cells.STREAM_ERROR}


LONG = ("MAX_RESPONSE_SIZE_EXCEEDED",)
WITH_CODES = (
    Logged("r0", 0.0, 200, response=None, codes=LONG),
    Logged("r1", 60.0, 500, response=None, codes=LONG),
    Logged("r2", 120.0, 200, response=None, codes=("MAX_REQUEST_SIZE_EXCEEDED",)),
    Logged("r3", 180.0, 200, response=None),
    Logged("r4", 240.0, 200, response=stream(FAILED), codes=LONG),
    Logged("r5", 300.0, 200, response="{}", codes=("MAX_REQUEST_SIZE_EXCEEDED", *LONG)),
)


def test_an_answer_that_was_too_long_to_be_logged_is_unjudged_and_never_good(
    workspace: RunningWorkspace, tmp_path: Path
) -> None:
    expected = live(WITH_CODES)
    assert [*map(str, expected)] == ["nan", "1.0", "0.0", "0.0", "1.0", "nan"]
    log = frame().head(len(WITH_CODES))
    for column in ("status", "response", "codes"):
        values = [getattr(row, column) for row in WITH_CODES]
        name = {"status": "status_code", "codes": "logging_error_codes"}.get(column, column)
        log[name] = [list(value) if isinstance(value, tuple) else value for value in values]
    log.to_parquet(tmp_path / "log.parquet")
    log.to_csv(tmp_path / "log.csv", index=False)
    for file in ("log.parquet", "log.csv"):
        assert [*map(str, judged(LogTable(str(tmp_path / file), spec_of(), {})))] == [*map(str, expected)], file
    name = f"{create(warehouse(), 'gateway')}_log"
    warehouse().execute(
        f"CREATE TABLE {name} (request_id STRING, request_time TIMESTAMP, arrived_at TIMESTAMP, arm STRING, "
        "status_code INT, response STRING, logging_error_codes ARRAY<STRING>)"
    )
    rows = ", ".join(
        f"('{row.id}', TIMESTAMP '2026-03-02 10:00:0{number}', TIMESTAMP '2026-03-02 10:00:0{number}', 'champion', "
        f"{row.status}, :body_{number}, array({', '.join(map(repr, row.codes))}))"
        for number, row in enumerate(WITH_CODES)
        if row.codes
    )
    bodies = {f"body_{number}": row.response for number, row in enumerate(WITH_CODES) if row.codes}
    warehouse().execute(f"INSERT INTO {name} VALUES {rows}", bodies)
    coded = [str(value) for value, row in zip(expected, WITH_CODES, strict=True) if row.codes]
    assert [*map(str, judged(LogTable(name, spec_of(), {})))] == coded


@pytest.mark.parametrize("several", [False, True], ids=["objects", "lists"])
def test_bodies_that_are_no_text_are_judged_as_the_json_that_they_are(several: bool, tmp_path: Path) -> None:
    errors = [{"error_code": "BAD_REQUEST"}, None] * 2
    bodies: list[Any] = [{"databricks_output": {"error": error}} for error in errors]
    log = frame().head(len(bodies))
    log["response"] = pd.Series([[{"databricks_output": None}, body] for body in bodies] if several else bodies)
    log.to_parquet(tmp_path / "log.parquet")
    assert judged(LogTable(str(tmp_path / "log.parquet"), spec_of(), {})) == [1.0, 0.0, 1.0, 0.0]


def test_what_a_replay_looks_for_is_what_the_gate_looks_for() -> None:
    assert metric_sql.BODIES["response"] == cells.TOO_LONG
    assert metric_sql.PATTERNS == {"last_event": cells.LAST_EVENT, "loose_error": cells.LOOSE_ERROR}


def test_a_column_of_the_metrics_own_name_still_wins_and_bodies_alone_are_no_status(tmp_path: Path) -> None:
    frame(errors=0.0).to_parquet(tmp_path / "own.parquet")
    assert set(judged(LogTable(str(tmp_path / "own.parquet"), spec_of(), {}))) == {0.0}
    unknown = frame(status_code=[None] * len(BODIES))
    unknown.to_parquet(tmp_path / "unknown.parquet")
    found = judged(LogTable(str(tmp_path / "unknown.parquet"), spec_of(), {}))
    assert all(value != value for value in found), "without a status nothing is judged, as live"


@pytest.mark.parametrize("bodies", [True, False])
def test_streams_that_fail_roll_a_release_back(bodies: bool, replay: Replay) -> None:
    log = make_log(challenger=0.3)
    failed = log["status_code"] == 500
    log["status_code"] = 200
    if bodies:
        log["response"] = [stream({"delta": "a"}, FAILED if bad else FINE) for bad in failed]
    (release,) = replay(log, spec_of()).releases
    assert (release["verdict"] == "ROLL_BACK") is bodies
