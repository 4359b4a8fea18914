"""A log in a table of the workspace is read as the same log in a file."""

from pathlib import Path

import pandas as pd
import pytest

from release_pipeline.replay_log import workspace_table
from release_pipeline.workspace.client import connect
from tests.conftest import RunningWorkspace
from tests.replay.conftest import Replay, make_log, spec_of

SPEC = spec_of({"name": "errors", "kind": "errors", "margin": 0.05}, ramp={"steps": [40], "min_step_seconds": 60})
TABLE = "main.default.replayed_log"
TYPES = {"request_id": "STRING", "arm": "STRING", "status_code": "INT", "execution_duration_ms": "DOUBLE"}


@pytest.fixture(scope="module")
def log(workspace: RunningWorkspace) -> pd.DataFrame:
    """The log, and the table with it and with a column that nobody asks for."""
    log = make_log(rows=700, before=150, share=0.4, seed=6)
    times = {name: pd.to_datetime(log[name], unit="s", utc=True) for name in ("arrived_at", "request_time")}
    columns = ", ".join(f"{name} {kind}" for name, kind in TYPES.items())
    warehouse = connect().warehouse
    columns = f"arrived_at TIMESTAMP, request_time TIMESTAMP, {columns}, response STRING"
    warehouse.execute(f"CREATE TABLE {TABLE} ({columns})")
    values = [
        f"('{arrived}', '{requested}', '{row.request_id}', '{row.arm}', {row.status_code:.0f}, "
        f"{row.execution_duration_ms}, 'text')"
        for arrived, requested, row in zip(times["arrived_at"], times["request_time"], log.itertuples(), strict=True)
    ]
    warehouse.execute(f"INSERT INTO {TABLE} VALUES {', '.join(values)}")
    return log


def test_a_table_is_replayed_like_a_file(log: pd.DataFrame, replay: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace_table, "_PAGE", 300)  # several pages
    (found,), (expected,) = replay(TABLE, SPEC).releases, replay(log, SPEC).releases
    assert found["at"] == pytest.approx(expected["at"], abs=1e-3)
    for key in ("verdict", "reason", "sentence", "requests", "rows"):
        assert found[key] == expected[key]


def test_a_table_that_is_not_there_or_no_log_is_a_sentence(log: pd.DataFrame, replay: Replay, tmp_path: Path) -> None:
    missing = replay("main.default.nowhere", SPEC)
    assert (missing.exit_code, missing.stdout) == (2, "")
    assert "there is no table main.default.nowhere" in missing.stderr
    judge = spec_of({"name": "helpful", "kind": "judge", "scorer": "Helpful"})
    assert f"{TABLE} has no column helpful" in replay(TABLE, judge).stderr
