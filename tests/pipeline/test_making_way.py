"""A release that begins ends another one only where it can begin itself, and never hides that the other does harm."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from release_pipeline.errors import NotAllowed
from release_pipeline.rollout.parts import Parts
from release_pipeline.rollout.preflight import Outcome, preflight
from release_pipeline.rollout.state import Stage
from release_pipeline.workspace.registry import TAG_REASON, TAG_STATUS
from tests.pipeline.checkpoint import World
from tests.pipeline.conftest import Model, eventually
from tests.pipeline.test_open_moves import entities, failures

pytestmark = pytest.mark.slow


def harmed(parts: Parts, sentence: str) -> Parts:
    """The same, where the gate has shown harm."""
    return replace(parts, rollout=replace(parts.rollout, shown_harm=lambda release: sentence))


def test_a_release_that_cannot_begin_does_not_end_a_bake(deployed: tuple[Model, str]) -> None:
    model, release = deployed
    model.step(release)
    model.promote(release)
    parts = model.parts()
    before = World.of(model)

    def refused(parts: Parts, version: str, sentence: str) -> None:
        with pytest.raises(NotAllowed, match=sentence):
            parts.rollout.deploy(model.release(), version, model.entity(version), table_version=0)
        state = parts.rollout.state(release)
        assert state is not None
        assert (state.stage, state.open_intent) == (Stage.PROMOTED, None), "its bake goes on"
        assert World.of(model).versions == before.versions == {"1", "2"}

    parts.registry.tag("1", {TAG_STATUS: "rejected", TAG_REASON: "bad"})
    refused(parts, "1", "version 1 of .* was rejected: bad")
    parts.registry.tag("1", {TAG_STATUS: "promoted"})
    refused(parts, "2", "version 2 of .* is the champion already")
    refused(harmed(parts, "errors is 100 %."), "1", "does harm; roll it back first: errors is 100 %")
    parts.events.pause("incident 7")
    try:
        refused(parts, "1", r"paused by test \(incident 7\)")
    finally:
        parts.events.unpause("over")


def shown_harm(model: Model, release: str) -> str:
    """What the gate says of a release whose every request fails, as the endpoint's table has them."""
    ids = entities(model, release)

    def shown() -> str:
        failures(model, ids)
        return model.parts().rollout.shown_harm(release)

    return str(eventually(shown))


@pytest.mark.parametrize("shown", ["frozen", "by a look"])
def test_a_release_that_does_harm_is_rejected_where_another_takes_its_place(
    shown: str, deployed: tuple[Model, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, release = deployed
    model.step(release)
    parts, sentence = model.parts(), "errors is 100 %: shown to be worse"
    if shown == "frozen":
        parts.events.freeze(release, sentence, "0123456789abcdef")
    else:
        sentence = shown_harm(model, release)
        assert "errors is 100 %" in sentence
    ramp = model.spec.ramp.model_copy(update={"second_release": "replace"})
    rollout = replace(parts.rollout, spec=model.spec.model_copy(update={"ramp": ramp}))
    version = model.register("first")
    second = model.release()
    rollout.deploy(second, version, model.entity(version), table_version=0)
    found = parts.registry.get("2")
    assert found is not None
    assert (found.tags[TAG_STATUS], found.tags[TAG_REASON]) == ("rejected", sentence)
    parts.rollout.roll_back(second, reason="to clean up")


def test_what_the_gate_sees_of_a_release_is_what_makes_way(make_model: Callable[..., Model]) -> None:
    model = make_model()
    model.deploy(release := model.release(), model.register("first"))
    assert model.parts().rollout.shown_harm(release) == ""


def test_a_model_has_one_endpoint(make_model: Callable[..., Model]) -> None:
    model = make_model()
    model.champion()
    endpoint = model.spec.endpoint.model_copy(update={"name": f"{model.spec.name}x"})
    other = Model(model.spec.model_copy(update={"endpoint": endpoint}), model.logged)
    parts, sentence = other.parts(), f"belong to endpoint {model.spec.name}, not to {model.spec.name}x"
    with pytest.raises(NotAllowed, match=sentence):
        parts.rollout.deploy("20260101-000009", "1", other.entity("1"), table_version=0)
    checked = preflight(parts, other.spec)
    assert checked is not None
    assert any(sentence in check.sentence for check in checked.of(Outcome.FAILED))
    model.parts().endpoint.delete()
    checked = preflight(parts, other.spec)
    assert checked is not None
    assert not any(sentence in check.sentence for check in checked.checks), "the model may move"
