"""Rows of a served entity that nobody knows keep a read from being stored; what is known of it can only roll back."""

import uuid
from collections.abc import Callable
from dataclasses import replace

import pytest

from release_pipeline.assets.deployed_endpoint import send_tracers, served_entity
from release_pipeline.gate.evidence import Bet
from release_pipeline.gate.verdict import Action, HoldReason
from release_pipeline.workspace.tracer import PREFIX
from tests.pipeline.conftest import Model, eventually, look

TOLERANT = {"name": "errors", "kind": "errors", "margin": 0.3, "bound": 0.3}


def with_strangers(model: Model) -> str:
    """A release whose challenger fails at every question, and rows of somebody else."""
    model.champion()
    model.deploy(release := model.release(), model.register("raising"))
    model.step(release)
    table = model.spec.payload_table
    traced = f"SELECT count(*) AS n FROM {table} WHERE client_request_id LIKE '{PREFIX}%'"
    eventually(lambda: int(model.parts().workspace.warehouse.execute(traced)[0]["n"] or 0) >= 3)
    look(model, release)
    model.parts().workspace.warehouse.execute(
        f"INSERT INTO {table} "
        "(databricks_request_id, request_time, status_code, served_entity_id, response) "
        f"SELECT uuid(), current_timestamp(), 200, 'somebody {uuid.uuid4().hex}', '{{}}' FROM range(40)"
    )
    return release


def ask(model: Model, count: int) -> None:
    before = model.counted(model.parts())
    model.ask(count, "a question")
    model.rows(before + count)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "traced", "who"),
    [
        ("3", 3, "version 3, which is neither the champion nor the challenger"),
        ("2", 2, "a served entity that no tracer mapped"),  # a tracer would make it the challenger
    ],
)
def test_rows_of_an_entity_that_somebody_added_are_no_evidence(
    version: str, traced: int, who: str, model: Model
) -> None:
    model.champion()
    model.deploy(release := model.release(), model.register("second"))
    model.step(release)
    assert model.register("second") == "3"
    parts, added = model.parts(), replace(served_entity(model.spec, version, "0"), name="added")
    now = parts.endpoint.read()
    assert now is not None
    parts.endpoint.update((*now.entities, added), {**dict.fromkeys(now.routes, 0), added.name: 100})
    parts.endpoint.wait(timeout_seconds=60, progress=model.said.append)
    state = parts.rollout.state(release)
    assert state is not None
    assert send_tracers(parts, model.spec, state) == traced
    ask(model, 20)
    eventually(lambda: any(f"rows were answered by {who}: left out" in note for note in look(model, release).notes))
    seen = look(model, release)
    assert (seen.signals.unmapped_rows, seen.evidence.metric("errors").total().challenger_n) == (0, 0)


@pytest.mark.slow
def test_a_known_version_that_fails_is_rolled_back_while_rows_of_another_wait(make_model: Callable[..., Model]) -> None:
    model = make_model(gate={"bucket_seconds": 1, "min_block_rows": 5, "metrics": [TOLERANT]}, ramp={"steps": [50]})
    release = with_strangers(model)
    before = look(model, release)
    for _ in range(12):
        ask(model, 20)
        seen = look(model, release)
        assert (seen.signals.unmapped_rows, seen.ingests) == (40, before.ingests), "nothing of it is stored"
        if seen.verdict.action is not Action.HOLD:
            break
        assert seen.verdict.reason == HoldReason.MAPPING_UNKNOWN
    assert seen.verdict.action is Action.ROLL_BACK


@pytest.mark.slow
def test_a_bucket_that_still_fills_is_not_bet_anew_at_each_look(make_model: Callable[..., Model]) -> None:
    model = make_model(gate={"bucket_seconds": 86400, "min_block_rows": 5, "metrics": [TOLERANT]}, ramp={"steps": [50]})
    release = with_strangers(model)
    for _ in range(3):
        ask(model, 20)
        seen = look(model, release)
        assert (seen.verdict.action, seen.verdict.reason) == (Action.HOLD, HoldReason.MAPPING_UNKNOWN)
        assert not seen.evidence.metric("errors").account(Bet.HARM).capitals
