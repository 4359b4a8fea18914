"""What the ledger says should be, and what counts as drift: pure functions of rows, without a workspace."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from release_pipeline.errors import NotAllowed
from release_pipeline.rollout.drift import Kind, drift
from release_pipeline.rollout.expected import Expected, expected
from release_pipeline.rollout.ledger import Action, Entry, Phase
from release_pipeline.rollout.mending import mend_plan
from release_pipeline.rollout.state import current_release
from release_pipeline.spec import ReleaseSpec, parse_spec
from release_pipeline.workspace.endpoint import EndpointState, ServedEntity
from tests.pipeline.conftest import MODELS, attributes

START = datetime(2026, 1, 1, tzinfo=UTC)
MODEL = "main.default.m"
SETTINGS = {"workload_size": "Small"}


@pytest.fixture
def spec() -> ReleaseSpec:
    return parse_spec(attributes("m"), file=MODELS / "defs.yaml")


class Rows:
    """A ledger that is written row by row."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def act(self, action: Action, after: Mapping[str, Any], phase: Phase = Phase.DONE, release: str = "r") -> "Rows":
        for each in (Phase.INTENT, phase):
            sequence = len(self.entries) + 1
            row = Entry(release, sequence, START + timedelta(minutes=sequence), "test", action, each, after=after)
            self.entries.append(replace(row, config_version=sequence, entry_id=str(sequence), reason=f"row {sequence}"))
        return self

    def deploy(self, version: str, champion: str | None, phase: Phase = Phase.DONE, release: str = "r") -> "Rows":
        names = {"challenger": f"e{version}"} | ({"champion": f"e{champion}"} if champion else {})
        routes = {f"e{champion}": 100, f"e{version}": 0} if champion else {f"e{version}": 100}
        add = {"name": f"e{version}", "model": MODEL, "version": version, "settings": SETTINGS}
        after = {"challenger_version": version, "champion_version": champion, "entities": names}
        return self.act(Action.DEPLOY, {**after, "routes": routes, "add": add}, phase, release)

    def promote(self, version: str, champion: str | None, **more: Any) -> "Rows":
        routes = {f"e{version}": 100} | ({f"e{champion}": 0} if champion else {})
        return self.act(Action.PROMOTE, {"routes": routes, "alias": {"champion": version}, **more})

    @property
    def should(self) -> Expected:
        found = expected(self.entries)
        assert found is not None
        return found


def served(should: Expected, **changed: Any) -> EndpointState:
    """An endpoint that is just what should be, but for what is changed."""
    state = EndpointState(
        name="m",
        id="1",
        ready=True,
        updating=False,
        update_failed=False,
        config_version=should.config_version,
        entities=tuple(ServedEntity(name, MODEL, version, SETTINGS) for name, version in should.versions.items()),
        routes=should.routes,
        inference_table=f"{MODEL}_payload",
        tags={"release_pipeline": "m"},
        permission_level="CAN_MANAGE",
    )
    return replace(state, **changed)


def test_every_act_is_followed(spec: ReleaseSpec) -> None:
    rows = Rows().deploy("1", None)
    assert (rows.should.routes, rows.should.alias) == ({"e1": 100}, None)
    assert rows.promote("1", None).should.alias == "1"
    rows.deploy("2", "1").act(Action.SET_TRAFFIC, {"step": 0, "traffic_percent": 25, "routes": {"e1": 75, "e2": 25}})
    assert (rows.should.routes, rows.should.alias) == ({"e1": 75, "e2": 25}, "1")
    rows.promote("2", "1", settings={"e1": {"scale_to_zero_enabled": True}})
    assert (rows.should.routes, rows.should.versions) == ({"e2": 100, "e1": 0}, {"e1": "1", "e2": "2"})
    assert rows.should.entities["e1"].settings == {**SETTINGS, "scale_to_zero_enabled": True}
    rows.act(Action.RETIRE, {"routes": {"e2": 100}, "remove": ["e1"]})
    assert (rows.should.routes, rows.should.versions, rows.should.alias) == ({"e2": 100}, {"e2": "2"}, "2")
    assert drift(spec, rows.should, served(rows.should), "2") == ()


def test_a_rollback_brings_back_routes_and_alias_and_rejects(spec: ReleaseSpec) -> None:
    rows = Rows().deploy("1", None).promote("1", None).deploy("2", "1").promote("2", "1")
    back = {"routes": {"e1": 100, "e2": 0}, "alias": {"champion": "1"}, "remove": ["e2"], "rejected": "2"}
    should = rows.act(Action.ROLL_BACK, back).should
    assert (should.routes, should.versions, should.alias, should.rejected) == (
        {"e1": 100},
        {"e1": "1"},
        "1",
        frozenset("2"),
    )
    again = served(should, entities=(*served(should).entities, ServedEntity("again", MODEL, "2")))
    (finding,) = drift(spec, should, again, "1")
    assert "version 2 was rolled back as rejected" in finding.why


def test_of_an_endpoint_that_the_ledger_deleted_nothing_is_said(spec: ReleaseSpec) -> None:
    first = {"routes": {}, "alias": {"champion": None}, "remove": ["e1"], "rejected": "1"}
    should = Rows().deploy("1", None).act(Action.ROLL_BACK, first).should
    assert not should.exists
    assert drift(spec, should, None, None) == ()


def test_what_failed_and_what_is_open_changes_nothing() -> None:
    rows = Rows().deploy("1", None).promote("1", None)
    before = rows.should
    rows.deploy("2", "1", Phase.FAILED)
    assert replace(rows.should, entities={}) == replace(before, entities={})
    rows.entries.append(replace(rows.entries[-1], phase=Phase.INTENT, action=Action.SET_TRAFFIC, after={}))
    assert replace(rows.should, entities={}) == replace(before, entities={})
    assert expected(Rows().deploy("1", None, Phase.FAILED).entries) is None
    assert expected([]) is None


def test_settings_count_only_in_a_configuration_that_the_ledger_did_not_make(spec: ReleaseSpec) -> None:
    should = Rows().deploy("1", None).promote("1", None).should
    large = (ServedEntity("e1", MODEL, "1", {"workload_size": "Large"}),)
    assert drift(spec, should, served(should, entities=large), "1") == ()
    newer = served(should, config_version=should.config_version + 1)
    assert drift(spec, should, newer, "1") == (), "the same settings, written by whomever"
    (finding,) = drift(spec, should, replace(newer, entities=large), "1")
    assert finding.kind is Kind.CONFIG_CHANGED
    plan = mend_plan(spec, should, replace(newer, entities=large), (finding,))
    assert plan["settings"] == {"e1": {"workload_size": "Small"}}


def test_a_champion_that_no_release_brought_cannot_be_brought_back(spec: ReleaseSpec) -> None:
    should = Rows().deploy("2", "1").should
    lost = served(should, entities=(ServedEntity("e2", MODEL, "2", SETTINGS),), routes={"e2": 100})
    found = drift(spec, should, lost, "1")
    assert {finding.kind: finding.mends for finding in found} == {Kind.ENTITY_MISSING: False, Kind.WEIGHTS_MOVED: False}
    with pytest.raises(NotAllowed, match="by hand"):
        mend_plan(spec, should, lost, found)
    assert [finding.mends for finding in drift(spec, should, None, "1")] == [False]


def test_a_lost_permission_is_told_and_not_mended(spec: ReleaseSpec) -> None:
    should = Rows().deploy("1", None).promote("1", None).should
    found = drift(spec, should, served(should, permission_level="CAN_QUERY"), "1")
    assert [(finding.kind, finding.mends) for finding in found] == [(Kind.PERMISSION_LOST, False)]
    assert "preflight" in found[0].remedy
    with pytest.raises(NotAllowed, match="nothing to mend"):
        mend_plan(spec, should, served(should), found)


def test_another_version_under_the_name_of_a_known_entity_makes_way(spec: ReleaseSpec) -> None:
    should = Rows().deploy("1", None).promote("1", None).should
    swapped = served(should, entities=(ServedEntity("e1", MODEL, "9", SETTINGS),))
    found = drift(spec, should, swapped, "1")
    assert {finding.kind for finding in found} == {Kind.ENTITY_UNKNOWN, Kind.ENTITY_MISSING}
    plan = mend_plan(spec, should, swapped, found)
    assert [(entity["name"], entity["version"]) for entity in plan["entities"]] == [("e1", "1")]
    assert plan["remove"] == []


def test_tags_of_the_yaml_are_wanted_and_others_are_let_be() -> None:
    spec = parse_spec(attributes("m", endpoint={"tags": {"team": "search"}}), file=MODELS / "defs.yaml")
    should = Rows().deploy("1", None).promote("1", None).should
    (finding,) = drift(spec, should, served(should, tags={"release_pipeline": "m", "own": "x"}), "1")
    assert (finding.kind, finding.found) == (Kind.TAGS_CHANGED, "endpoint m has no team")


@given(st.integers(0, 8), st.sampled_from([Phase.DONE, Phase.FAILED]))
def test_a_mend_moves_no_release_wherever_it_stands(place: int, phase: Phase) -> None:
    rows = Rows().deploy("1", None).deploy("2", "1", release="s")
    step = {"step": 0, "traffic_percent": 25, "routes": {"e1": 75, "e2": 25}}
    rows.act(Action.SET_TRAFFIC, step, release="s")
    rows.entries += [replace(row, release="s") for row in Rows().promote("2", "1").entries]
    whole = rows.entries[: len(rows.entries) - place]
    mend = Rows().act(Action.MEND, {"alias": {"champion": "1"}}, phase, whole[-1].release if whole else "s").entries
    if not whole or whole[-1].phase is Phase.INTENT:
        return  # a mend begins only where nothing is open
    before, after = current_release(whole), current_release([*whole, *mend])
    assert before is not None
    assert after is not None
    assert replace(after, last_sequence=before.last_sequence) == before
    under_way = current_release([*whole, mend[0]])
    assert under_way is not None
    assert under_way.open_intent is mend[0]
    assert replace(under_way, open_intent=None, last_sequence=before.last_sequence) == before
