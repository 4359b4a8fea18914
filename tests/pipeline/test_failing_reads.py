"""Statements that fail in the middle of a look: what can be read is stored, and what cannot is said and tried again."""

import time
from collections.abc import Callable, Mapping

import pytest

from release_pipeline.errors import OutOfTime, StatementFailed
from release_pipeline.gate.verdict import Action, HoldReason
from release_pipeline.rollout.evidence_fold import so_far
from release_pipeline.workspace.endpoint import Endpoint
from release_pipeline.workspace.endpoint_counters import Counters, MetricsPage
from release_pipeline.workspace.evidence_table import EvidenceRow
from release_pipeline.workspace.inference_table import InferenceTable
from release_pipeline.workspace.sql.warehouse import _DEADLINE, Row, Value, Warehouse, within
from tests.pipeline.conftest import Model, eventually, look

pytestmark = pytest.mark.slow

TOLERANT = {"name": "errors", "kind": "errors", "margin": 0.3, "bound": 0.3}


def gate(*metrics: dict[str, object], **more: object) -> dict[str, object]:
    return {"bucket_seconds": 1, "min_block_rows": 5, "metrics": [TOLERANT, *metrics], **more}


def in_ramp(model: Model) -> str:
    model.champion()
    before = model.counted(model.parts())
    model.ask(10)
    model.rows(before + 10)
    model.deploy(release := model.release(), model.register("second"))
    model.step(release)
    return release


def ask(model: Model, count: int) -> None:
    before = model.counted(model.parts())
    model.ask(count)
    model.rows(before + count)


def stored(model: Model, release: str) -> list[EvidenceRow]:
    return model.parts().observer.evidence.read(release)


def failing(*args: object, **kwargs: object) -> None:
    raise StatementFailed("statement 1 failed: [SOME_CONDITION] about a row that says secret")


@pytest.fixture
def counted_failures(monkeypatch: pytest.MonkeyPatch) -> Callable[[Model, str], None]:
    """Says what the endpoint has counted: 30 failures of the challenger in a minute long before the ramp."""

    def say(model: Model, release: str) -> None:
        state = model.parts().rollout.state(release)
        assert state is not None
        page = MetricsPage({state.entities["challenger"]: Counters(50, 30)}, state.started_at.timestamp() - 4000)
        monkeypatch.setattr(Endpoint, "counters", lambda endpoint: page)

    return say


def test_counters_that_cannot_be_compared_hold_and_take_no_evidence_with_them(
    make_model: Callable[..., Model],
    monkeypatch: pytest.MonkeyPatch,
    counted_failures: Callable[[Model, str], None],
) -> None:
    model = make_model(gate=gate())
    release = in_ramp(model)
    counted_failures(model, release)
    with monkeypatch.context() as patch:
        patch.setattr(InferenceTable, "failures_logged", failing)
        look(model, release)
        ask(model, 20)
        held = look(model, release)
        total = held.evidence.metric("errors").total()
        assert total.champion_n + total.challenger_n == 20
        assert (held.verdict.action, held.verdict.reason) == (Action.HOLD, HoldReason.TABLE_UNREADABLE)
        assert "cannot be compared with the endpoint's own counters: SOME_CONDITION" in held.verdict.sentence
        assert "secret" not in held.verdict.sentence
        again = look(model, release)
        assert again.verdict.reason == HoldReason.TABLE_UNREADABLE, "what is owed stays owed without new rows"
        assert (again.ingests, again.evidence) == (held.ingests, held.evidence)
    after = look(model, release)
    assert after.signals.unreadable == ""
    assert after.signals.unlogged_errors == 30, "the reading has waited"


def test_counters_that_take_all_the_time_there_is_leave_enough_to_store_what_was_read(
    make_model: Callable[..., Model],
    monkeypatch: pytest.MonkeyPatch,
    counted_failures: Callable[[Model, str], None],
) -> None:
    model = make_model(gate=gate())
    release = in_ramp(model)
    counted_failures(model, release)
    real, left = Warehouse.execute, list[float]()

    def execute(self: Warehouse, statement: str, parameters: Mapping[str, Value] | None = None) -> list[Row]:
        if ":done_since" in statement:
            left.append(_DEADLINE.get() - time.monotonic())
            raise OutOfTime("SQL warehouse w did not finish a statement within 5 s; it was cancelled.")
        return real(self, statement, parameters)

    monkeypatch.setattr(Warehouse, "execute", execute)
    look(model, release)
    ask(model, 20)
    with within(60):
        held = look(model, release)
    total = held.evidence.metric("errors").total()
    assert total.champion_n + total.challenger_n == 20
    assert "the endpoint's own counters: the warehouse is too slow; failures" in held.verdict.sentence
    assert 0 < max(left) <= 5, "a statement that compares has a time of its own"
    with within(8), within(50, sparing=5):
        assert _DEADLINE.get() - time.monotonic() <= 3, "and none of what storing needs"


def test_counters_that_cannot_be_compared_are_a_note_where_errors_decide_nothing(
    make_model: Callable[..., Model],
    monkeypatch: pytest.MonkeyPatch,
    counted_failures: Callable[[Model, str], None],
) -> None:
    slow = {"name": "slow", "kind": "slow", "margin": 0.3, "threshold_ms": 5000}
    watched = {"name": "errors", "kind": "errors", "muted": True}
    model = make_model(gate={"bucket_seconds": 1, "min_block_rows": 5, "metrics": [slow, watched]})
    release = in_ramp(model)
    counted_failures(model, release)
    monkeypatch.setattr(InferenceTable, "failures_logged", failing)
    look(model, release)
    ask(model, 10)
    seen = look(model, release)
    assert seen.signals.unreadable == ""
    assert any("cannot be compared with the endpoint's own counters" in note for note in seen.notes)


def test_levels_that_cannot_be_read_at_all_freeze_nothing_and_are_read_at_the_next_look(
    make_model: Callable[..., Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(gate=gate())
    release = in_ramp(model)
    ask(model, 20)
    with monkeypatch.context() as patch:
        patch.setattr(InferenceTable, "level", failing)
        held = look(model, release)
    assert (held.verdict.action, held.verdict.reason) == (Action.HOLD, HoldReason.TABLE_UNREADABLE)
    assert "levels before the release cannot be read" in held.verdict.sentence
    assert "secret" not in held.verdict.sentence
    assert stored(model, release) == []
    seen = look(model, release)
    total = seen.evidence.metric("errors").total()
    assert total.champion_n + total.challenger_n == 20, "no row was lost"
    (level,) = [row for row in stored(model, release) if row.kind == "baseline"]
    assert level.detail["rows"] == 10


def test_a_level_that_fails_is_not_frozen_as_unknown_and_is_frozen_once_it_can_be_read(
    make_model: Callable[..., Model],
) -> None:
    weighed = {
        "name": "weight", "kind": "expression", "badness": "coalesce(weight, 0.0)", "margin": 0.3,
        "segments": "CASE WHEN weight IS NULL THEN 'light' ELSE 'heavy' END",
    }  # fmt: skip
    model = make_model(gate=gate(weighed))
    release = in_ramp(model)
    ask(model, 20)
    held = look(model, release)
    assert (held.verdict.action, held.verdict.reason) == (Action.HOLD, HoldReason.TABLE_UNREADABLE)
    assert "The champion's level of weight before the release is not known" in held.verdict.sentence
    assert held.evidence.metric("errors").total().champion_n > 0, "other guards see"
    assert {row.metric for row in stored(model, release) if row.kind == "baseline"} == {"errors"}
    model.clock.advance(60)
    assert look(model, release).signals.unreadable, "it is held for as long as it is not known"
    model.parts().workspace.warehouse.execute(f"ALTER TABLE {model.spec.payload_table} ADD COLUMNS (weight DOUBLE)")
    for _ in range(6):
        model.clock.advance(10 * 60)
        seen = look(model, release)
        if not seen.signals.unreadable:  # a busy warehouse may be too slow for a level at first
            break
    assert seen.signals.unreadable == ""
    assert seen.evidence.segments("weight") == ("light", "other")
    levels = {(row.metric, row.segment): row.detail["rows"] for row in stored(model, release) if row.kind == "baseline"}
    assert levels == {("errors", ""): 10, ("weight", "light"): 10, ("weight", "other"): 0}
    # Of a bucket in which rows had been read before the level nothing counts: on a fast machine it may not be over yet.
    counts_from = so_far(stored(model, release), model.spec.gate).counts_from["weight"]
    eventually(lambda: time.time() > counts_from + 1)
    ask(model, 20)
    counted = look(model, release)
    assert counted.verdict.reason != HoldReason.WAREHOUSE_BUSY, counted.verdict.sentence
    light = counted.evidence.metric("weight", "light").total()
    assert light.champion_n + light.challenger_n == 20, "rows from before are not counted for it"
    rows = stored(model, release)
    found = so_far(rows, model.spec.gate)
    assert found.state == counted.evidence
    # As a snapshot keeps it, which a long release is read from.
    kept = so_far([row for row in rows if row.ingest == 0], model.spec.gate).restored(found.to_dict())
    assert kept == found
