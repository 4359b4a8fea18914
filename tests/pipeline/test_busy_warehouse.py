"""A warehouse that fails a look holds by name, and what is stored still rolls back."""

from collections.abc import Callable

import pytest

from release_pipeline.errors import OutOfTime, StatementFailed
from release_pipeline.gate.verdict import Action, HoldReason
from release_pipeline.workspace.inference_table import InferenceTable
from tests.pipeline.conftest import Model, look

ERRORS = {"name": "errors", "kind": "errors", "margin": 0.3, "bound": 0.3}
GATE = {"bucket_seconds": 1, "min_block_rows": 5, "metrics": [ERRORS]}


def ask(model: Model, count: int, text: str = "hello") -> None:
    before = model.counted(model.parts())
    model.ask(count, text)
    model.rows(before + count)


def failing(*args: object, **kwargs: object) -> None:
    raise StatementFailed("SQL warehouse w: [SOME_CONDITION] about a row that says secret")


def test_maintenance_does_no_harm_until_it_takes_what_was_not_read(deployed: tuple[Model, str]) -> None:
    model, release = deployed
    table = model.spec.payload_table

    def maintain() -> None:
        for statement in (f"OPTIMIZE {table}", f"VACUUM {table} RETAIN 0 HOURS"):
            model.parts().workspace.warehouse.execute(statement)

    model.step(release)
    ask(model, 20)
    look(model, release)
    maintain()
    ask(model, 10)
    before = look(model, release)
    total = before.evidence.metric("errors").total()
    assert total.champion_n + total.challenger_n == 30
    ask(model, 10)
    maintain()
    held = look(model, release)
    assert (held.verdict.action, held.verdict.reason) == (Action.HOLD, HoldReason.WAREHOUSE_BUSY)
    assert "[DELTA_CHANGE_DATA_FILE_NOT_FOUND]" in held.verdict.sentence
    assert "the stored evidence does not roll back" in held.verdict.sentence
    assert (held.evidence, held.evidence_digest) == (before.evidence, before.evidence_digest)
    assert held.verdict.metrics, "people see what is known"


@pytest.mark.slow
def test_stored_evidence_rolls_back_although_the_warehouse_fails(
    make_model: Callable[..., Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(gate=GATE, ramp={"steps": [50]})
    model.champion()
    model.deploy(release := model.release(), model.register("raising"))
    model.step(release)
    for _ in range(20):
        ask(model, 20, "a question")
        seen = look(model, release)
        if seen.verdict.action is Action.ROLL_BACK:
            break
    ask(model, 10)
    for what in ("latest", "changes"):
        with monkeypatch.context() as patch:
            patch.setattr(InferenceTable, what, failing)
            again = look(model, release)
        assert (again.verdict.action, again.verdict.reason) == (Action.ROLL_BACK, seen.verdict.reason)
        assert again.verdict.sentence.startswith(seen.verdict.sentence)
        assert "That is stored evidence; nothing newer was read" in again.verdict.sentence
        assert "[SOME_CONDITION]" in again.verdict.sentence
        assert "secret" not in again.verdict.sentence


def test_no_ramp_begins_while_the_warehouse_does_not_answer(
    deployed: tuple[Model, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, release = deployed

    def slow(table: InferenceTable) -> None:
        raise OutOfTime("SQL warehouse w did not finish a statement within 45 s; it was cancelled.")

    with monkeypatch.context() as patch:
        patch.setattr(InferenceTable, "latest", slow)
        held = look(model, release)
    assert (held.verdict.action, held.verdict.reason) == (Action.HOLD, HoldReason.WAREHOUSE_BUSY)
    assert "within 45 s" in held.verdict.sentence
    assert look(model, release).verdict.action is Action.ADVANCE
