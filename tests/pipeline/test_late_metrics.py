"""A whole look at a release whose metrics come late: people, a judge and labels, beside the errors."""

import uuid
from collections.abc import Callable, Mapping

import mlflow
import pytest
from mlflow.entities import AssessmentSource

from release_pipeline.assets.context import ModelContext
from release_pipeline.automation.judge import judge_release
from release_pipeline.errors import StatementFailed
from release_pipeline.gate.verdict import Action, HoldReason
from release_pipeline.report.metadata import report
from release_pipeline.rollout.evidence_fold import so_far
from release_pipeline.rollout.observer import Observed
from release_pipeline.workspace.sql.warehouse import Row, Value, Warehouse, quoted
from tests.pipeline.conftest import MODELS, Model, eventually, look

ERRORS = {"name": "errors", "kind": "errors", "margin": 0.3, "bound": 0.3, "required": False}
PERSON = AssessmentSource(source_type="HUMAN", source_id="reader@example.com")


def gate(*metrics: dict[str, object]) -> dict[str, object]:
    return {"bucket_seconds": 1, "min_block_rows": 5, "metrics": [ERRORS, *metrics]}


def in_ramp(model: Model) -> str:
    model.champion()
    model.deploy(release := model.release(), model.register("second"))
    model.step(release)
    look(model, release)
    return release


def ids(model: Model) -> dict[str, str]:
    """Version by request id, of all requests of users so far."""
    mapping = model.parts().observer.evidence.mapping()
    rows = model.parts().workspace.warehouse.execute(
        f"SELECT databricks_request_id AS id, served_entity_id AS entity FROM {model.spec.payload_table} "
        "WHERE client_request_id IS NULL"
    )
    return {str(row["id"]): mapping[str(row["entity"])] for row in rows}


def ask(model: Model, release: str, count: int, text: str = "hello") -> Observed:
    before = model.counted(model.parts())
    model.ask(count, text)
    model.rows(before + count)
    return look(model, release)


def test_labels_roll_back_a_version_that_they_prove_wrong(make_model: Callable[..., Model]) -> None:
    truth = f"main.default.truth_{uuid.uuid4().hex[:8]}"
    label = {
        "name": "wrong", "kind": "label", "table": truth, "badness": "CAST(label.wrong AS DOUBLE)", "margin": 0.2,
        "settle_minutes": 0,
    }  # fmt: skip
    model = make_model(gate=gate(label), ramp={"steps": [50]})
    release = in_ramp(model)
    seen = ask(model, release, 5)
    assert (seen.verdict.action, seen.verdict.reason) == (Action.HOLD, HoldReason.TABLE_MISSING)
    assert truth in seen.verdict.sentence
    warehouse = model.parts().workspace.warehouse
    warehouse.execute(f"CREATE TABLE {truth} (request_id STRING, wrong BOOLEAN)")
    labelled: set[str] = set()
    for _ in range(12):
        ask(model, release, 30)
        for request, version in ids(model).items():
            if request not in labelled:
                wrong = "true" if version == seen.release.challenger_version else "false"
                warehouse.execute(f"INSERT INTO {truth} VALUES ('{request}', {wrong})")
                labelled.add(request)
        seen = look(model, release)
        if seen.verdict.action is Action.ROLL_BACK:
            break
    assert seen.verdict.action is Action.ROLL_BACK, seen.verdict.sentence
    assert "wrong is 100 % of" in seen.verdict.sentence
    total = seen.evidence.metric("wrong").total()
    assert total.champion[20] == 0
    assert total.challenger[0] == 0
    assert total.champion_n + total.challenger_n == len(labelled), "every label counts once"


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["column", "permission"])
def test_labels_that_cannot_be_read_take_no_guard_with_them(
    fault: str, make_model: Callable[..., Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = f"main.default.truth_{uuid.uuid4().hex[:8]}"
    label = {
        "name": "wrong", "kind": "label", "table": truth, "badness": "CAST(label.wrong AS DOUBLE)", "margin": 0.2,
        "settle_minutes": 0,
    }  # fmt: skip
    model = make_model(gate=gate(label), ramp={"steps": [50]})
    column = "request" if fault == "column" else "request_id"
    model.parts().workspace.warehouse.execute(f"CREATE TABLE {truth} ({column} STRING, wrong BOOLEAN)")
    execute = Warehouse.execute

    def refused(self: Warehouse, statement: str, parameters: Mapping[str, Value] | None = None) -> list[Row]:
        if fault == "permission" and quoted(truth) in statement:
            raise StatementFailed("SQL warehouse w: [INSUFFICIENT_PERMISSIONS] User does not have SELECT.")
        return execute(self, statement, parameters)

    monkeypatch.setattr(Warehouse, "execute", refused)
    model.champion()
    model.deploy(release := model.release(), model.register("raising"))
    model.step(release)
    seen = look(model, release)
    assert seen.verdict.reason == HoldReason.TABLE_UNREADABLE, "the first look, which freezes the levels, survives it"
    assert truth in seen.verdict.sentence
    for _ in range(8):
        seen = ask(model, release, 20, "a question")
        if seen.verdict.action is Action.ROLL_BACK:
            break
    assert seen.verdict.action is Action.ROLL_BACK, seen.verdict.sentence
    rows = model.parts().observer.evidence.read(release)
    assert [row.ingest for row in rows if row.kind == "ingest"] == list(range(seen.ingests + 1))


@pytest.mark.slow
def test_what_is_only_watched_holds_nothing_and_is_told(make_model: Callable[..., Model]) -> None:
    truth = f"main.default.truth_{uuid.uuid4().hex[:8]}"
    label = {"name": "wrong", "kind": "label", "table": truth, "badness": "0", "margin": 0.2, "muted": True}
    short = {"name": "short", "kind": "expression", "badness": "CAST(response AS INT)", "margin": 0.2, "muted": True}
    metrics = [{**ERRORS, "required": True}, label, short]
    model = make_model(gate={**gate(), "metrics": metrics}, ramp={"steps": [50]})
    release = in_ramp(model)
    told = report(seen := ask(model, release, 20), seen.release)
    assert (seen.signals.missing_tables, seen.signals.unreadable) == ((), "")
    assert len(seen.notes) == 2
    assert "SQL of metric short failed" in told
    assert "does not exist" in told
    for _ in range(12):
        if seen.verdict.action is Action.PROMOTE:
            break
        seen = ask(model, release, 30)
    assert seen.verdict.action is Action.PROMOTE, seen.verdict.sentence


@pytest.mark.slow
def test_a_judge_advances_a_version_that_it_finds_as_good(make_model: Callable[..., Model]) -> None:
    judge = {
        "name": "private",
        "kind": "judge",
        "scorer": "PIIDetection",
        "sample": 1.0,
        "margin": 0.4,
        "settle_minutes": 0,
    }
    model = make_model(gate=gate(judge), ramp={"steps": [50]})
    release = in_ramp(model)
    context = ModelContext(model.spec, MODELS)
    for _ in range(12):
        ask(model, release, 40)
        judge_release(model.parts(), context, progress=lambda line: None)
        seen = look(model, release)
        if seen.verdict.action is Action.PROMOTE:
            break
    assert seen.verdict.action is Action.PROMOTE, seen.verdict.sentence
    assert "private is 0 % of" in seen.verdict.sentence


@pytest.mark.slow
def test_feedback_of_people_counts_for_the_version_that_answered(make_model: Callable[..., Model]) -> None:
    feedback = {"name": "helpful", "kind": "feedback", "assessment": "helpful", "margin": 0.3, "settle_minutes": 0}
    model = make_model(gate=gate(feedback), ramp={"steps": [50]}, endpoint={"tracing": True})
    release = in_ramp(model)
    seen = ask(model, release, 40)
    versions = ids(model)
    experiment = model.logged("first").experiment_id

    def found() -> dict[str, str]:
        traces = mlflow.search_traces(locations=[experiment], return_type="list", include_spans=False, max_results=500)
        traced = {str(each.info.client_request_id): str(each.info.trace_id) for each in traces}
        return traced if versions.keys() <= traced.keys() else {}

    traces = eventually(found)
    for request, version in versions.items():
        helpful = version != seen.release.challenger_version
        mlflow.log_feedback(trace_id=traces[request], name="helpful", value=helpful, source=PERSON)
    seen = look(model, release)
    total = seen.evidence.metric("helpful").total()
    assert (total.champion[0], total.challenger[20]) == (total.champion_n, total.challenger_n)
    assert total.champion_n + total.challenger_n == 40
    rows = model.parts().observer.evidence.read(release)
    assert so_far(rows, model.spec.gate).state == seen.evidence
    assert look(model, release).evidence.metric("helpful").total() == total, "nothing is counted again"
