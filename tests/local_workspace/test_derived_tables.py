"""Request logs and assessment logs: derived later from what is logged, fed by the feedback entity."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from databricks.sdk import WorkspaceClient

from release_pipeline.local_workspace.serving.derived_rows import derived_rows
from release_pipeline.local_workspace.serving.inference_log import TableLog
from release_pipeline.local_workspace.settings import Faults
from release_pipeline.local_workspace.sql.derived_tables import ASSESSMENT_LOGS, REQUEST_LOGS
from release_pipeline.local_workspace.sql.engine import SqlEngine
from tests.conftest import RunningWorkspace
from tests.local_workspace.conftest import AGENT, create, entity, inference_table, say, wait_for

TABLE = "main.default.agent_payload"
NOW = 1_800_000_000.0
RECORD = {
    "source": {"id": "user@company.com", "type": "human"},
    "request_id": "r-1",
    "text_assessments": [
        {"ratings": {"answer_correct": {"value": "positive"}, "accurate": {"value": "negative", "rationale": "no"}},
         "free_text_comment": "about tables"}
    ],
    "retrieval_assessments": [{"ratings": {"groundedness": {"value": "positive"}}}],
}  # fmt: skip


def logged(name: str, request: Any, response: Any = None, ended: float = NOW, entity_name: str = "a") -> dict[str, Any]:
    return {
        "databricks_request_id": name,
        "client_request_id": None,
        "request_ms": int(ended * 1000),
        "status_code": 200,
        "sampling_fraction": 1.0,
        "execution_duration_ms": 5,
        "request": json.dumps(request),
        "response": json.dumps(response),
        "logging_error_codes": [],
        "served_entity_id": "0" * 32,
        "requester": "me",
        "endpoint_name": "e",
        "entity_name": entity_name,
        "model_name": "main.default.agent",
        "model_version": "4",
        "ended": ended,
    }


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SqlEngine]:
    engine = SqlEngine(tmp_path / "data", ("main",))
    engine.create_inference_table(TABLE)
    yield engine
    engine.close()


def ids(engine: SqlEngine) -> list[str]:
    rows = engine.execute(f"SELECT databricks_request_id FROM {TABLE}_request_logs ORDER BY 1").rows
    return [str(row[0]) for row in rows]


def test_they_follow_after_their_delay_once_over_restarts(tmp_path: Path, engine: SqlEngine) -> None:
    faults = Faults(inference_lag_seconds=10, derived_tables=100)

    def reopened() -> TableLog:
        return TableLog(tmp_path / "log", TABLE, engine, faults)

    log = reopened()
    for name, ended in (("a", NOW), ("b", NOW + 50)):
        log.append(logged(name, say("hello"), ended=ended))
    assert log.flush(NOW + 109) == 2
    assert engine.table(f"{TABLE}_request_logs") is None
    assert log.pending
    log.flush(NOW + 110)
    assert ids(engine) == ["a"]
    log.close()
    log = reopened()
    assert log.pending
    log.flush(NOW + 160)
    assert ids(engine) == ["a", "b"]
    assert not log.pending
    log.close()
    log = reopened()
    log.flush(NOW + 1000)
    assert ids(engine) == ["a", "b"]
    log.close()


def test_switched_off_they_stay_and_switched_on_they_go_on_from_then(tmp_path: Path, engine: SqlEngine) -> None:
    faults = Faults()
    log = TableLog(tmp_path / "log", TABLE, engine, faults)
    for name, setting in (("before", None), ("while", 0), ("frozen", None), ("again", 0)):
        faults.change({"derived_tables": setting})
        log.flush(NOW)
        log.append(logged(name, say("hello")))
        log.flush(NOW)
    assert ids(engine) == ["again", "while"]
    assert engine.execute(f"SELECT count(*) FROM {TABLE}").rows == [["4"]]
    log.close()


def test_segments_wait_for_the_derived_tables(
    tmp_path: Path, engine: SqlEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("release_pipeline.local_workspace.serving.inference_log.SEGMENT_BYTES", 1000)
    faults = Faults(derived_tables=100)
    log = TableLog(tmp_path / "log", TABLE, engine, faults)
    names = [f"{number:03d}" for number in range(20)]
    for name in names:
        log.append(logged(name, say("hello")))
    for _ in range(40):
        log.flush(NOW)
    assert len(list((tmp_path / "log").glob("*.jsonl"))) > 3
    while log.pending:
        log.flush(NOW + 100)
    assert ids(engine) == names
    assert len(list((tmp_path / "log").glob("*.jsonl"))) == 1
    log.close()


@pytest.mark.parametrize(
    ("request_body", "response", "question", "answer"),
    [
        (
            say("why"),
            {"output": [{"type": "message", "content": [{"type": "output_text", "text": "so"}]}]},
            "why",
            "so",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text", "text": "one"}]}, {"role": "assistant"}]},
            [
                {"type": "response.output_text.delta", "delta": "s"},
                {"type": "response.output_item.done", "item": {"content": [{"text": "so"}]}},
            ],
            "one",
            "so",
        ),
        (
            {"messages": [{"role": "user", "content": "why"}, {"role": "user", "content": "how"}]},
            {"messages": [{"role": "assistant", "content": "so"}]},
            "how",
            "so",
        ),
        ({"messages": []}, {"choices": [{"message": {"content": "so"}}]}, None, "so"),
        ({"input": "why"}, [{"delta": {"content": "s"}}, {"delta": {"content": "o"}}, {"error": 1}], "why", "so"),
        ({"dataframe_records": [{"x": 1}]}, {"predictions": [2]}, None, None),
        ([1], "text", None, None),
        ({"input": [{"role": "user", "content": {"a": 1}}, 5]}, {"output": [3, {"content": 4}]}, None, None),
    ],
)
def test_requests_are_taken_apart(request_body: Any, response: Any, question: str | None, answer: str | None) -> None:
    (row,) = derived_rows([logged("r", request_body, response)])[REQUEST_LOGS]
    assert (row["last_question"], row["last_answer"]) == (question, answer)


def test_a_body_that_was_not_kept_leaves_nulls() -> None:
    (row,) = derived_rows([{**logged("r", {}), "request": None, "response": "data: no json"}])[REQUEST_LOGS]
    assert (row["last_question"], row["last_answer"], row["trace"], row["conversation_id"]) == (None, None, None, None)


@pytest.mark.parametrize(
    ("record", "number"),
    [
        (RECORD, 2),
        # Clients that call the entity as a model send the parts as text.
        ({**RECORD, **{k: json.dumps(RECORD[k]) for k in ("source", "text_assessments", "retrieval_assessments")}}, 2),
        ({**RECORD, "retrieval_assessments": None}, 1),
        ({**RECORD, "text_assessments": "not json", "retrieval_assessments": [7, "x"]}, 0),
        ({**RECORD, "source": None}, 0),
        ({**RECORD, "request_id": 7}, 0),
        ("record", 0),
        ({**RECORD, "text_assessments": [{"ratings": {"a\ud800": {"value": "\ud800\u0000"}, "b": 3}}]}, 2),
        ({**RECORD, "text_assessments": [{"ratings": [], "free_text_comment": {"a": 1}}]}, 2),
        ({**RECORD, "retrieval_assessments": [{"position": 2**40, "step_id": 4}]}, 2),
    ],
)
def test_every_feedback_is_taken_and_what_can_be_read_is_stored(
    tmp_path: Path, engine: SqlEngine, record: Any, number: int
) -> None:
    log = TableLog(tmp_path / "log", TABLE, engine, Faults(derived_tables=0))
    log.append(logged("f", {"dataframe_records": [record]}, {}, entity_name="feedback"))
    log.flush(NOW)
    rows = engine.execute(f"SELECT request_id, source.id FROM {TABLE}_assessment_logs").rows
    assert rows == [["r-1", "user@company.com"]] * number
    assert ids(engine) == []
    assert not log.pending
    log.close()


def test_feedback_reaches_the_assessment_logs(
    workspace: RunningWorkspace,
    client: WorkspaceClient,
    endpoint_name: str,
    set_faults: Callable[..., requests.Response],
) -> None:
    prefix = endpoint_name.replace("-", "_")
    table = f"main.default.{prefix}_payload"
    headers = {"Authorization": f"Bearer {workspace.token}"}
    base = f"{workspace.url}/serving-endpoints/{endpoint_name}"

    def post(path: str, body: Any) -> requests.Response:
        return requests.post(base + path, json=body, headers=headers, timeout=60)

    def rows(statement: str) -> list[dict[str, Any]]:
        answer = client.statement_execution.execute_statement(statement, "local", wait_timeout="30s")
        assert answer.result is not None, answer.status
        names = [column.name for column in answer.manifest.schema.columns]
        return [dict(zip(names, values, strict=True)) for values in answer.result.data_array or []]

    set_faults(derived_tables=0)
    create(client, endpoint_name, entity("a", version="2"), ai_gateway=inference_table(prefix))
    # Both tables are there before the first request, without a change feed.
    assert [rows(f"SELECT * FROM {table}{suffix}") for suffix in (REQUEST_LOGS, ASSESSMENT_LOGS)] == [[], []]
    asked = post("/invocations", say("why", databricks_options={"return_trace": True, "conversation_id": "t-1"}))
    request_id = asked.json()["databricks_output"]["databricks_request_id"]
    assert request_id == asked.headers["x-request-id"]
    feedback = "/served-models/feedback/invocations"
    assert post(feedback, {"dataframe_records": [{**RECORD, "request_id": request_id}]}).status_code == 200
    assert post(feedback, {"dataframe_records": "nonsense"}).status_code == 200
    assert requests.post(base + feedback, data=b"{", headers=headers, timeout=60).status_code == 200

    def assessments() -> list[dict[str, Any]] | None:
        found = rows(f"SELECT * FROM {table}{ASSESSMENT_LOGS} ORDER BY text_assessment IS NULL")
        return found if len(found) >= 2 else None

    text, retrieval = wait_for(assessments)
    assert (text["request_id"], json.loads(text["source"])) == (request_id, RECORD["source"])
    assert json.loads(text["text_assessment"]) == {
        "ratings": {
            "answer_correct": {"value": "positive", "rationale": None},
            "accurate": {"value": "negative", "rationale": "no"},
        },
        "free_text_comment": "about tables",
        "suggested_output": None,
    }
    assert text["retrieval_assessment"] is retrieval["text_assessment"] is None
    assert json.loads(retrieval["retrieval_assessment"])["ratings"] == {
        "groundedness": {"value": "positive", "rationale": None}
    }
    (log,) = rows(f"SELECT * FROM {table}{REQUEST_LOGS}")
    assert (log["databricks_request_id"], log["request"], log["response"]) == (request_id, "why", "echo: why")
    assert (log["conversation_id"], log["status_code"], log["schema_version"]) == ("t-1", "200", "1")
    assert json.loads(log["request_metadata"]) == {
        "endpoint_name": endpoint_name, "model_name": AGENT, "model_version": "2",
    }  # fmt: skip
    assert json.loads(log["response_raw"]) == asked.json()
    # The version that answered, joined to what people say of it.
    joined = rows(
        f"SELECT r.request_metadata['model_version'] AS version, count_if(a.text_assessment.ratings['accurate'].value "
        f"= 'negative') AS bad FROM {table}{REQUEST_LOGS} AS r JOIN {table}{ASSESSMENT_LOGS} AS a "
        "ON a.request_id = r.databricks_request_id GROUP BY 1"
    )
    assert joined == [{"version": "2", "bad": "1"}]

    # Feedback is in the inference table, too, as a request of an entity that no configuration lists.
    def logged() -> list[dict[str, Any]] | None:
        found = rows(f"SELECT served_entity_id, count(*) AS n FROM {table} GROUP BY 1 ORDER BY n")
        return found if sum(int(row["n"]) for row in found) >= 4 else None

    raw = wait_for(logged)
    assert [row["n"] for row in raw] == ["1", "3"]
    listed = client.serving_endpoints.get(endpoint_name).config.served_entities
    assert [each.name for each in listed] == ["a"]
    set_faults(derived_tables=None)
    assert post(feedback, {}).status_code == 404
