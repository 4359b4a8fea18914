"""Inference tables: every request a row, once, whatever happens to the server."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from databricks.sdk import WorkspaceClient

from release_pipeline.local_workspace.serving.endpoint import Endpoint
from release_pipeline.local_workspace.serving.inference_log import InferenceLog, TableLog
from release_pipeline.local_workspace.serving.metrics import RequestCounters
from release_pipeline.local_workspace.serving.router import Exchange
from release_pipeline.local_workspace.settings import Faults, Settings
from release_pipeline.local_workspace.sql.engine import SqlEngine
from release_pipeline.local_workspace.state.endpoint_configuration import ServedEntity
from release_pipeline.local_workspace.state.endpoints import EndpointRecord
from tests.conftest import RunningWorkspace
from tests.local_workspace.conftest import create, entity, inference_table, say, traffic, wait_for

TABLE = "main.default.agent_payload"
NOW = 1_800_000_000.0


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SqlEngine]:
    engine = SqlEngine(tmp_path / "data", ("main",))
    engine.create_inference_table(TABLE)
    yield engine
    engine.close()


def row(request_id: str, ended: float = NOW) -> dict[str, Any]:
    return {
        "databricks_request_id": request_id,
        "client_request_id": None,
        "request_ms": int(ended * 1000),
        "status_code": 200,
        "sampling_fraction": 1.0,
        "execution_duration_ms": 5,
        "request": "{}",
        "response": "{}",
        "logging_error_codes": [],
        "served_entity_id": "0" * 32,
        "requester": "me",
        "ended": ended,
    }


def ids(engine: SqlEngine) -> list[str]:
    answer = engine.execute(f"SELECT databricks_request_id FROM {TABLE} ORDER BY 1")
    return [str(values[0]) for values in answer.rows]


def open_log(tmp_path: Path, engine: SqlEngine, **faults: Any) -> TableLog:
    return TableLog(tmp_path / "log", TABLE, engine, Faults(**faults))


def test_rows_reach_the_table_once_over_restarts(tmp_path: Path, engine: SqlEngine) -> None:
    log = open_log(tmp_path, engine)
    for name in "ab":
        log.append(row(name))
    assert log.flush(NOW) == 2
    log.append(row("c"))
    log.close()  # as after a kill: nothing tells the log that it ends
    again = open_log(tmp_path, engine)
    assert again.pending
    assert again.flush(NOW) == 1
    assert not again.pending
    assert again.flush(NOW) == 0
    again.close()
    assert ids(engine) == ["a", "b", "c"]


def test_a_line_that_a_kill_left_half_written_is_dropped(tmp_path: Path, engine: SqlEngine) -> None:
    log = open_log(tmp_path, engine)
    log.append(row("a"))
    log.close()
    (segment,) = (tmp_path / "log").glob("*.jsonl")
    with segment.open("ab") as file:
        file.write(json.dumps(row("torn")).encode()[:40])
    log = open_log(tmp_path, engine)
    log.append(row("b"))
    log.flush(NOW)
    log.close()
    assert ids(engine) == ["a", "b"]


def test_rows_wait_for_the_lag(tmp_path: Path, engine: SqlEngine) -> None:
    log = open_log(tmp_path, engine, inference_lag_seconds=600.0)
    log.append(row("a", ended=NOW))
    log.append(row("b", ended=NOW + 60))
    assert [log.flush(NOW + seconds) for seconds in (0, 599, 600, 659, 660)] == [0, 0, 1, 0, 1]
    log.close()


def test_a_frozen_table_keeps_rows_waiting(tmp_path: Path, engine: SqlEngine) -> None:
    faults = Faults(freeze_inference_tables=True, duplicate_fraction=1.0)
    log = TableLog(tmp_path / "log", TABLE, engine, faults)
    log.append(row("a"))
    assert (log.flush(NOW), log.pending, ids(engine)) == (0, True, [])
    faults.change({"freeze_inference_tables": False})
    assert log.flush(NOW) == 1
    faults.change({"freeze_inference_tables": True})
    assert (log.flush(NOW), ids(engine)) == (0, ["a"])
    faults.change({"freeze_inference_tables": False})
    log.flush(NOW)
    assert ids(engine) == ["a", "a"]
    log.close()


def test_rows_that_come_twice_come_in_a_later_commit(tmp_path: Path, engine: SqlEngine) -> None:
    log = open_log(tmp_path, engine, duplicate_fraction=0.5)
    names = [f"{number:03d}" for number in range(100)]
    for name in names:
        log.append(row(name))
    log.flush(NOW)
    assert ids(engine) == names
    assert log.pending
    log.flush(NOW)
    counts = Counter(ids(engine))
    assert set(counts) == set(names)
    assert 20 < sum(count == 2 for count in counts.values()) < 80
    assert not log.pending
    log.close()


def test_segments_are_deleted_once_consumed(tmp_path: Path, engine: SqlEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("release_pipeline.local_workspace.serving.inference_log.SEGMENT_BYTES", 1000)
    log = open_log(tmp_path, engine)
    names = [f"{number:03d}" for number in range(20)]
    for name in names:
        log.append(row(name))
    before = len(list((tmp_path / "log").glob("*.jsonl")))
    while log.pending:
        log.flush(NOW)
    log.close()
    assert before > 3
    assert len(list((tmp_path / "log").glob("*.jsonl"))) == 1
    assert ids(engine) == names
    again = open_log(tmp_path, engine)
    again.append(row("after"))
    again.flush(NOW)
    again.close()
    assert ids(engine)[-1] == "after"


def test_a_table_that_refuses_rows_does_not_lose_them(tmp_path: Path, engine: SqlEngine) -> None:
    log = InferenceLog(tmp_path / "logs", engine, Faults())
    table = log.table("main.default.missing_payload")
    table.append(row("a", ended=time.time() - 1))
    log._flush_due()
    assert table.pending
    engine.create_inference_table("main.default.missing_payload")
    log._flush_due()
    assert not table.pending
    table.close()


def test_statuses_that_are_not_logged(tmp_path: Path, engine: SqlEngine) -> None:
    settings = Settings(tmp_path, "token", faults=Faults(unlogged_statuses=(400,)))
    served = ServedEntity("0" * 32, "a", "main.default.echo", "1", "Small", "CPU", True, {}, "me", 0)
    endpoint = Endpoint(EndpointRecord("e", "me", 0, 0))
    endpoint.counters["a"] = RequestCounters()
    endpoint.log = open_log(tmp_path, engine)
    for status in (200, 400):
        exchange = Exchange(endpoint, served, settings, b"{}", "application/json", str(status), NOW, 0.0, "me")
        exchange.finish(status, b"{}")
    endpoint.log.flush(time.time())
    endpoint.log.close()
    assert ids(engine) == ["200"]
    # The counters know better than the table: that is how a gate finds the gap.
    assert (endpoint.counters["a"].total.requests, endpoint.counters["a"].total.client_errors) == (2, 1)


def rows_of(client: WorkspaceClient, table: str, number: int) -> list[dict[str, Any]]:
    """The rows of a table, once there are as many."""
    statement = f"SELECT * FROM {table} ORDER BY request_time, databricks_request_id"

    def read() -> list[dict[str, Any]]:
        answer = client.statement_execution.execute_statement(statement, "local", wait_timeout="30s")
        assert answer.result is not None, answer.status
        columns = [column.name for column in answer.manifest.schema.columns]
        found = [dict(zip(columns, values, strict=True)) for values in answer.result.data_array or []]
        return found if len(found) >= number else []

    return wait_for(read)


def test_what_a_row_holds(
    workspace: RunningWorkspace, client: WorkspaceClient, endpoint_name: str, tmp_path: Path
) -> None:
    prefix = endpoint_name.replace("-", "_")
    pair = [entity("a"), entity("b", version="2")]
    created = create(client, endpoint_name, *pair, traffic=traffic(a=100, b=0), ai_gateway=inference_table(prefix))
    bodies = [
        say("hello", client_request_id="c-1"),
        say("fail"),
        say("one break", stream=True),
        say("x" * (1 << 20)),
    ]
    answers = [
        requests.post(
            f"{workspace.url}/serving-endpoints/{endpoint_name}{path}/invocations",
            json=body,
            headers={"Authorization": f"Bearer {workspace.token}"},
            timeout=60,
        )
        for path, body in [*(("", body) for body in bodies), ("/served-models/b", say("tracer"))]
    ]
    with requests.post(
        f"{workspace.url}/serving-endpoints/{endpoint_name}/invocations",
        json=say(f"one {tmp_path / 'go'}", stream=True),
        headers={"Authorization": f"Bearer {workspace.token}"},
        stream=True,
        timeout=60,
    ) as left:
        next(left.iter_lines())
    answers.append(left)
    by_id = {found["databricks_request_id"]: found for found in rows_of(client, f"main.default.{prefix}_payload", 6)}
    # Not before the row is there: a stream that goes on may reach its end before the router hears of the client.
    (tmp_path / "go").touch()
    assert set(by_id) == {answer.headers["x-request-id"] for answer in answers}
    hello, fail, stream, large, tracer, gone = (by_id[answer.headers["x-request-id"]] for answer in answers)
    assert (hello["client_request_id"], hello["status_code"], hello["requester"]) == (
        "c-1",
        "200",
        client.current_user.me().user_name,
    )
    assert (json.loads(hello["request"]), json.loads(hello["response"])) == (bodies[0], answers[0].json())
    assert hello["sampling_fraction"] in ("1.0", "1")
    assert json.loads(hello["logging_error_codes"] or "[]") == []
    assert hello["request_time"].startswith(hello["request_date"])
    assert int(hello["execution_duration_ms"]) >= 0
    assert (fail["status_code"], json.loads(fail["response"])["error_code"]) == ("400", "BAD_REQUEST")
    # A stream that broke is a 200 whose last event says so.
    assert stream["status_code"] == "200"
    assert json.loads(stream["response"])[-1]["databricks_output"]["error"]["error_code"] == "BAD_REQUEST"
    # A client that leaves a stream is its own status: neither an answer nor the model's mistake.
    assert (gone["status_code"], json.loads(gone["response"])[0]["delta"]) == ("499", "echo:")
    assert (large["request"], large["response"]) == (None, None)
    assert json.loads(large["logging_error_codes"]) == ["MAX_REQUEST_SIZE_EXCEEDED", "MAX_RESPONSE_SIZE_EXCEEDED"]
    # The entity's id is in the table and nowhere else; a tracer tells which entity it is.
    assert hello["served_entity_id"] == fail["served_entity_id"] != tracer["served_entity_id"]
    assert len(tracer["served_entity_id"]) == 32
    shown = json.dumps(client.api_client.do("GET", f"/api/2.0/serving-endpoints/{endpoint_name}"))
    assert tracer["served_entity_id"] not in shown
    assert created.id != hello["served_entity_id"]


def test_a_kill_under_load_loses_no_answered_request_and_doubles_none(
    workspace: RunningWorkspace, client: WorkspaceClient, endpoint_name: str
) -> None:
    prefix = endpoint_name.replace("-", "_")
    create(client, endpoint_name, entity("a"), ai_gateway=inference_table(prefix))
    acknowledged: list[str] = []

    def load() -> None:
        with requests.Session() as session:
            session.headers["Authorization"] = f"Bearer {workspace.token}"
            while True:
                try:
                    answer = session.post(
                        f"{workspace.url}/serving-endpoints/{endpoint_name}/invocations",
                        json=say("hello"),
                        timeout=60,
                    )
                except requests.RequestException:
                    return
                if answer.status_code == 200:
                    acknowledged.append(answer.headers["x-request-id"])

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(acknowledged) > 300)
    workspace.kill()
    for thread in threads:
        thread.join()
    workspace.restart()
    counts = Counter(
        found["databricks_request_id"] for found in rows_of(client, f"main.default.{prefix}_payload", len(acknowledged))
    )
    assert set(acknowledged) <= set(counts)
    assert set(counts.values()) == {1}
    # At most the requests in flight at the kill were written and not answered.
    assert len(counts) - len(acknowledged) <= len(threads)
