"""Anybody can call a request a tracer: only what the pipeline has sent maps entities, and no row is hidden by it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pytest

from release_pipeline.assets import canary_traffic
from release_pipeline.assets.canary_traffic import renew_tracers, take_step
from release_pipeline.errors import EndpointError, StatementFailed
from release_pipeline.gate.verdict import Action, HoldReason
from release_pipeline.rollout.observer import Observed
from release_pipeline.spec_gate import Metric
from release_pipeline.workspace.endpoint import Endpoint
from release_pipeline.workspace.evidence_table import EvidenceRow, EvidenceTable
from release_pipeline.workspace.inference_table import Delta, InferenceTable, MetricPlan, Window
from release_pipeline.workspace.tracer import PREFIX, send_tracer, tracer_id
from release_pipeline.workspace.tracer_rows import times_around
from tests.conftest import RunningWorkspace
from tests.pipeline.conftest import Model, eventually, look
from tests.pipeline.payload_tables import Logged, create, insert, moment, warehouse
from tests.pipeline.tracing import trace

pytestmark = pytest.mark.slow

ERRORS = MetricPlan(Metric(name="errors", kind="errors"), 60)
SENT = (tracer_id("1"), tracer_id("2"), tracer_id("2"))
ROWS = (
    Logged("t1", 1, entity="a", client=SENT[0]),
    Logged("t2", 2, entity="b", client=SENT[1]),
    Logged("forged", 3, 500, entity="a", client=f"{PREFIX}2/x"),
    Logged("nearly", 4, 500, entity="a", client=f"{SENT[1]}x"),
    Logged("empty", 5, 200, entity="a", client=PREFIX),
    Logged("user", 6, 200, entity="b", client="mine"),
)


def failing(*args: object) -> None:
    raise StatementFailed("SQL warehouse w refused a statement.")


def rows_of(observed: Observed) -> int:
    total = observed.evidence.metric("errors").total()
    return total.champion_n + total.challenger_n


def tracers_logged(model: Model) -> int:
    found = model.parts().workspace.warehouse.execute(
        f"SELECT count(*) AS n FROM {model.spec.payload_table} WHERE client_request_id LIKE '{PREFIX}%'"
    )
    return int(found[0]["n"] or 0)


def read(table: InferenceTable, *tracers: str) -> Delta:
    latest = table.latest()
    assert latest is not None
    return table.changes(
        0, latest, first_version=1, windows=[Window(0, moment(0), None)], plans=[ERRORS], tracers=tracers
    )


@pytest.fixture
def table(workspace: RunningWorkspace) -> InferenceTable:
    name = create(warehouse(), "gateway")
    insert(warehouse(), name, "gateway", ROWS)
    return InferenceTable(warehouse(), name)


def test_a_row_that_calls_itself_a_tracer_is_a_users_row(table: InferenceTable) -> None:
    delta = read(table, *SENT)
    assert delta.mapping == {"a": "1", "b": "2"}
    assert delta.contradictions == {}
    assert delta.entities == {"a": 3, "b": 1}, "what others forge is not hidden"
    assert {group.served_entity_id: group.counts for group in delta.groups} == {"a": (1, 2), "b": (1, 0)}
    assert (delta.forged, delta.rows) == (3, 4)


def test_without_a_tracer_of_its_own_nothing_is_mapped(table: InferenceTable) -> None:
    delta = read(table)
    assert (dict(delta.mapping), delta.entities, delta.forged) == ({}, {"a": 4, "b": 2}, 5)


def test_genuine_tracers_that_contradict_each_other_map_nothing(table: InferenceTable) -> None:
    insert(warehouse(), table.name, "gateway", [Logged("again", 9, entity="a", client=SENT[2])])
    delta = read(table, *SENT)
    assert delta.mapping == {"b": "2"}
    assert delta.contradictions == {"a": ("1", "2")}
    shown = table.shown(dict.fromkeys(SENT, moment(0)))
    assert (shown.mapping, shown.contradictions) == ({"b": "2"}, {"a": ("1", "2")})


def test_tracers_are_looked_for_around_the_times_at_which_they_were_noted(table: InferenceTable) -> None:
    insert(warehouse(), table.name, "gateway", [Logged("later", 9000, entity="c", client=SENT[2])])
    assert table.shown(dict.fromkeys(SENT, moment(0))).mapping == {"a": "1", "b": "2"}
    assert table.shown(dict.fromkeys(SENT, moment(9000))).mapping == {"c": "2"}
    both = {SENT[0]: moment(0), SENT[2]: moment(9000)}
    assert table.shown(both).mapping == {"a": "1", "c": "2"}
    assert table.shown(dict.fromkeys(SENT, moment(4000))) == table.shown({}) == ({}, {})


def test_of_many_times_the_newest_are_looked_at_and_those_that_touch_are_one() -> None:
    close = times_around(moment(60 * number) for number in range(100))
    assert close == [(moment(-300), moment(99 * 60 + 900))]
    apart = times_around(moment(3600 * number) for number in range(100))
    assert len(apart) < 20
    assert apart[0] == (moment(99 * 3600 - 300), moment(99 * 3600 + 900))


def test_what_others_send_moves_no_mapping_and_is_evidence(deployed: tuple[Model, str]) -> None:
    model, release = deployed
    state, parts = model.step(release), model.parts()
    look(model, release)
    before = model.parts().observer.evidence.mapping()
    champion, challenger = state.entities["champion"], state.entities["challenger"]
    logged = tracers_logged(model)
    for number in range(8):  # everybody who may ask the endpoint may do this
        for entity, version in ((champion, state.challenger_version), (challenger, state.champion_version)):
            body = {
                "input": [{"role": "user", "content": "hello"}],
                "client_request_id": f"{PREFIX}{version}/{number}",
            }
            parts.endpoint.query_entity(entity, body)
    eventually(lambda: tracers_logged(model) >= logged + 16)
    seen = look(model, release)
    assert rows_of(seen) == 16, "what they forge is counted, for those who answered"
    total = seen.evidence.metric("errors").total()
    assert (total.champion_n, total.challenger_n) == (8, 8)
    assert seen.verdict.reason not in (HoldReason.MAPPING_UNKNOWN, HoldReason.MAPPING_CONTRADICTED)
    after = parts.observer.evidence.mapping()
    assert before.items() <= after.items()
    assert any("16 rows call themselves tracers and were not sent by this pipeline" in note for note in seen.notes)


def test_an_entity_that_is_shown_to_be_two_versions_holds_by_name(deployed: tuple[Model, str]) -> None:
    model, release = deployed
    state, parts = model.step(release), model.parts()
    first = look(model, release)
    endpoint = parts.endpoint.read()
    assert endpoint is not None
    entities = {entity.name: entity for entity in endpoint.entities}
    champion, challenger = entities[state.entities["champion"]], entities[state.entities["challenger"]]
    logged, counted = tracers_logged(model), model.counted(parts)
    (known,) = trace(parts, release, challenger)
    send_tracer(parts.endpoint, champion, None, known)  # who may read the table can send it again
    model.ask(20)
    eventually(lambda: tracers_logged(model) >= logged + 2)
    model.rows(counted + 20)
    for _ in range(2):
        held = look(model, release)
        assert (held.verdict.action, held.verdict.reason) == (Action.HOLD, HoldReason.MAPPING_CONTRADICTED)
        assert held.ingests == first.ingests, "nothing of it is stored, so that every look finds it again"
        (found,) = held.signals.contradictions
        assert found.versions == tuple(sorted(("1", "2")))
        assert held.signals.unmapped_rows == 0
        assert f"so its {found.rows} rows belong to neither" in held.verdict.sentence
        assert 0 < found.rows <= 20


def test_rows_of_a_third_version_are_left_out_and_told(deployed: tuple[Model, str]) -> None:
    model, release = deployed
    model.step(release)
    parts = model.parts()
    look(model, release)
    at = parts.observer.clock.now()
    earlier = [
        EvidenceRow("an earlier release", 1, "mapping", at, detail={"served_entity_id": "old", "version": "7"}),
        EvidenceRow("an earlier release", 1, "ingest", at),
    ]
    parts.observer.evidence.append(earlier)
    parts.workspace.warehouse.execute(
        f"INSERT INTO {model.spec.payload_table} "
        "(databricks_request_id, request_time, status_code, served_entity_id, response) "
        "SELECT uuid(), current_timestamp(), 500, 'old', '{}' FROM range(40)"
    )
    seen = look(model, release)
    assert rows_of(seen) == 0
    assert seen.verdict.reason == HoldReason.NO_DATA, "they hold nothing"
    assert (
        "40 rows were answered by version 7, which is neither the champion nor the challenger: left out" in seen.notes
    )
    last = [row for row in parts.observer.evidence.read(release) if row.kind == "ingest"][-1]
    assert (last.detail["outside"], last.detail["others"]) == (40, {"7": 40})


def test_a_tracer_that_cannot_be_noted_is_not_sent(
    deployed: tuple[Model, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, release = deployed
    parts = model.parts()
    endpoint = parts.endpoint.read()
    assert endpoint is not None
    seen = list[Mapping[str, datetime]]()

    def query(self: Endpoint, entity: str, body: Mapping[str, Any]) -> None:
        seen.append(parts.observer.evidence.known(release).tracers)
        raise EndpointError("killed here")

    monkeypatch.setattr(Endpoint, "query_entity", query)
    with pytest.raises(EndpointError):
        trace(parts, release, *endpoint.entities)
    assert len(seen) == 1
    before = parts.observer.evidence.known(release).tracers
    assert seen[0] == before, "it was known before it was sent"
    monkeypatch.setattr(EvidenceTable, "append", failing)
    with pytest.raises(StatementFailed):
        trace(parts, release, *endpoint.entities)
    assert len(seen) == 1


def test_a_step_that_is_done_does_not_fail_for_tracers_that_cannot_be_noted(
    deployed: tuple[Model, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, release = deployed
    parts = model.parts()
    before = take_step(parts, model.spec, release)
    after = canary_traffic.look(parts, release)
    assert after.release.step != before.release.step
    with monkeypatch.context() as patch:
        patch.setattr(EvidenceTable, "append", failing)
        warning = renew_tracers(parts, model.spec, before, after)
    assert warning.startswith("No tracers were sent: SQL warehouse w refused a statement.")
    noted = len(parts.observer.evidence.known(release).tracers)
    assert renew_tracers(parts, model.spec, after, after) == ""
    assert len(parts.observer.evidence.known(release).tracers) == noted, "no step, and nobody unknown"
    assert renew_tracers(parts, model.spec, before, after) == ""
    assert len(parts.observer.evidence.known(release).tracers) == noted + 2
