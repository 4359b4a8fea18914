"""The endpoint's real counters beside its table: hangs, refusals, and counters that nobody may read."""

import threading
from collections.abc import Callable

import pytest
import requests

from release_pipeline.gate.verdict import Action, HoldReason
from release_pipeline.rollout.observed_notes import UNCHECKED
from release_pipeline.rollout.observer import Observed
from release_pipeline.workspace.endpoint import Endpoint
from tests.pipeline.conftest import Model, eventually, look

TOLERANT = {"name": "errors", "kind": "errors", "margin": 0.3, "bound": 0.3}
GATE = {"bucket_seconds": 1, "min_block_rows": 5, "metrics": [TOLERANT]}


def ask_and_look(model: Model, release: str, count: int = 4) -> Observed:
    before = model.counted(model.parts())
    model.ask(count)
    eventually(lambda: model.counted(model.parts()) >= before + count)
    return look(model, release)


@pytest.mark.slow
def test_a_hang_of_both_versions_leaves_no_doubt_once_it_is_over(make_model: Callable[..., Model]) -> None:
    model = make_model(gate=GATE, ramp={"steps": [50]})
    model.champion("hanging")
    model.deploy(release := model.release(), model.register("hanging"))
    model.step(release)
    ask_and_look(model, release)
    statuses: list[int] = []
    hanging = [threading.Thread(target=lambda: statuses.extend(model.ask(2, "a question"))) for _ in range(6)]
    for thread in hanging:
        thread.start()
    while any(thread.is_alive() for thread in hanging):  # readings and comparisons go on meanwhile
        ask_and_look(model, release)
    assert statuses == [500] * 12

    def settled() -> Observed | None:
        """All failures are in the table, and a reading that is younger than all of them was compared."""
        seen = ask_and_look(model, release)
        total = seen.evidence.metric("errors").total()
        return seen if total.champion[1] + total.challenger[1] == 12 and not seen.signals.unlogged_errors else None

    last = eventually(settled)
    for _ in range(3):
        last = ask_and_look(model, release)
        assert last.signals.unlogged_errors == 0
    assert last.verdict.reason != HoldReason.UNLOGGED_ERRORS


@pytest.mark.slow
def test_refusals_that_are_never_logged_are_told_and_hold_nothing(
    make_model: Callable[..., Model], set_faults: Callable[..., requests.Response]
) -> None:
    model = make_model(gate=GATE, ramp={"steps": [50]})
    model.champion()
    model.deploy(release := model.release(), model.register("raising"))
    model.step(release)
    look(model, release)
    set_faults(unlogged_statuses=[400])
    refused = model.ask(30, "a question").count(400)
    assert refused > 5
    told = f"the endpoint has counted {refused} refusals (4xx) of version 2 that {model.spec.payload_table} lacks"

    def found() -> Observed | None:
        seen = ask_and_look(model, release)
        return seen if any(note.startswith(told) for note in seen.notes) else None

    seen = eventually(found)
    assert (seen.signals.unlogged_errors, seen.evidence.metric("errors").total().challenger[1]) == (0, 0)
    assert seen.verdict.reason != HoldReason.UNLOGGED_ERRORS


def test_counters_that_were_never_readable_are_told_and_block_nothing(
    deployed: tuple[Model, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, release = deployed
    monkeypatch.setattr(Endpoint, "counters", lambda endpoint: None)
    model.step(release)
    for _ in range(12):
        seen = ask_and_look(model, release, 30)
        if seen.verdict.action is not Action.HOLD:
            break
        assert UNCHECKED not in seen.verdict.sentence
    assert seen.verdict.action is Action.ADVANCE, "nobody is blocked for a permission that is missing"
    assert seen.verdict.sentence.endswith(UNCHECKED), "and nobody is told that all was checked"
    assert any("counters were never readable" in note for note in seen.notes)


def test_counters_that_can_be_read_are_no_news(deployed: tuple[Model, str]) -> None:
    model, release = deployed
    model.step(release)
    seen = ask_and_look(model, release)
    assert seen.notes == ()
