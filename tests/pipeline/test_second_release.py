"""A second release of a model while one is under way: refused, queued or in its place, and never two at once."""

from collections.abc import Callable
from dataclasses import replace

import dagster as dg
import pytest

from release_pipeline.automation.jobs import ACTION_TAG
from release_pipeline.errors import NotAllowed, Queued, ReleaseError, Superseded
from release_pipeline.rollout.ledger import Action, Phase
from release_pipeline.rollout.state import ReleaseState, Stage, current_release, queued
from release_pipeline.workspace.registry import SUPERSEDED, TAG_REASON, TAG_STATUS
from tests.pipeline.conftest import Model, together
from tests.pipeline.test_sensor import request, sentence, tick


def baked(make_model: Callable[..., Model], policy: str) -> Model:
    """A champion whose bake has ended: one that is in it counts as under way for who queues."""
    model = make_model(ramp={"second_release": policy})
    model.champion()
    newest = model.parts().rollout.state()
    assert newest is not None
    model.parts().rollout.retire(newest.release)
    return model


def under_way(make_model: Callable[..., Model], policy: str) -> tuple[Model, str, str]:
    """A champion, a release on its first step, and the version of a second release."""
    model = baked(make_model, policy)
    model.deploy(release := model.release(), model.register("second"))
    model.step(release)
    return model, release, model.register("first")


def stage(model: Model, release: str) -> Stage:
    state = model.parts().rollout.state(release)
    assert state is not None
    return state.stage


def test_it_is_refused(make_model: Callable[..., Model]) -> None:
    model, first, version = under_way(make_model, "refuse")
    with pytest.raises(NotAllowed, match=f"release {first}.*still under way"):
        model.deploy(model.release(), version)
    assert stage(model, first) is Stage.RAMPING


@pytest.mark.slow
def test_it_takes_the_place_of_the_first_whose_version_may_come_again(make_model: Callable[..., Model]) -> None:
    model, first, version = under_way(make_model, "replace")
    second = model.release()
    model.deploy(second, version)
    assert stage(model, first) is Stage.ROLLED_BACK
    assert stage(model, second) is Stage.DEPLOYED
    parts = model.parts()
    replaced = parts.registry.get("2")
    assert replaced is not None
    assert replaced.tags[TAG_STATUS] == SUPERSEDED, "it was not found to be bad"
    assert replaced.tags[TAG_REASON] == f"replaced by release {second}"
    endpoint = parts.endpoint.read()
    assert endpoint is not None
    assert {entity.version for entity in endpoint.entities} == {"1", version}


@pytest.mark.slow
def test_it_waits_for_the_end_of_the_first_and_the_sensor_begins_it(
    make_model: Callable[..., Model], instance: dg.DagsterInstance
) -> None:
    model, first, version = under_way(make_model, "queue")
    second = model.release()
    for _ in range(2):
        with pytest.raises(Queued, match=f"release {first}.*{second} waits"):
            model.deploy(second, version)
    parts = model.parts()
    assert [entry.action for entry in parts.ledger.read()][-1] is Action.QUEUE
    assert queued(parts.ledger.read()) == [second]
    assert tick(model.spec, instance).run_requests == [], "the first is under way"
    parts.rollout.roll_back(first, reason="worse")
    wanted = request(tick(model.spec, instance))
    assert (wanted.job_name, wanted.partition_key) == (f"{model.spec.name}_deploy", second)
    assert wanted.tags[ACTION_TAG] == "deploy"
    parts.events.pause("not today")
    assert "PAUSED" in sentence(tick(model.spec, instance))
    parts.events.unpause("go on")
    model.deploy(second, version)
    assert stage(model, second) is Stage.DEPLOYED
    assert queued(parts.ledger.read()) == []


@pytest.mark.slow
def test_a_release_that_was_withdrawn_from_the_queue_does_not_begin(
    make_model: Callable[..., Model], instance: dg.DagsterInstance
) -> None:
    model, first, version = under_way(make_model, "queue")
    with pytest.raises(Queued):
        model.deploy(second := model.release(), version)
    events = model.parts().events
    assert events.withdraw(second, "not needed") is not None
    assert events.withdraw(second, "not needed") is None, "once is enough"
    model.parts().rollout.roll_back(first, reason="worse")
    assert "no release under way" in sentence(tick(model.spec, instance))


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["refuse", "queue", "replace"])
def test_of_releases_that_begin_at_the_same_moment_one_at_a_time_is_on_the_endpoint(
    policy: str, make_model: Callable[..., Model]
) -> None:
    model = baked(make_model, policy)
    versions = [model.register("second"), model.register("first")]
    releases = [model.release() for _ in versions]
    results = together(
        *(lambda release=release, version=version: model.deploy(release, version)  # type: ignore[misc]
          for release, version in zip(releases, versions, strict=True))
    )  # fmt: skip
    entries = model.parts().ledger.read()
    begun = [entry.release for entry in entries if entry.action is Action.DEPLOY and entry.phase is Phase.INTENT]
    active = [
        state.release
        for release in releases
        if (state := current_release(entries, release)) is not None and state.active
    ]
    assert len(active) <= 1
    assert all(isinstance(result, ReleaseState | ReleaseError) for result in results), results
    endpoint = model.parts().endpoint.read()
    assert endpoint is not None
    assert {entity.version for entity in endpoint.entities} - {"1"} <= set(versions)
    assert len(endpoint.entities) <= 2
    if policy == "refuse":
        assert len(begun) == 2, "the first release's own, and one of the two"
        assert any(isinstance(result, NotAllowed | Superseded) for result in results)
    if policy == "queue":
        assert len(queued(entries)) == 1


@pytest.mark.slow
def test_one_that_looks_while_another_takes_the_first_ones_place_finds_that_one_under_way(
    make_model: Callable[..., Model],
) -> None:
    model, first, version = under_way(make_model, "replace")
    overtaking, slow = model.release(), model.release()
    slows = model.register("second")
    overtaken: list[ReleaseState] = []

    def look(release: str) -> str:
        """The look for harm, which takes seconds; meanwhile another release begins."""
        if release == first:
            overtaken.append(model.deploy(overtaking, version))
        return ""

    rollout = replace(model.parts().rollout, shown_harm=look)
    state = rollout.deploy(slow, slows, model.entity(slows), table_version=0)
    assert [each.stage for each in overtaken] == [Stage.DEPLOYED]
    assert (state.stage, stage(model, overtaking), stage(model, first)) == (
        Stage.DEPLOYED,
        Stage.ROLLED_BACK,
        Stage.ROLLED_BACK,
    )
    entries = model.parts().ledger.read()
    known = [current_release(entries, release) for release in (first, overtaking, slow)]
    assert [each is not None and each.open_intent for each in known] == [None] * 3
    endpoint = model.parts().endpoint.read()
    assert endpoint is not None
    assert {entity.version for entity in endpoint.entities} == {"1", slows}


def test_a_first_release_that_serves_everybody_makes_way_for_none(make_model: Callable[..., Model]) -> None:
    model = make_model(ramp={"second_release": "replace"})
    model.deploy(first := model.release(), model.register("first"))
    with pytest.raises(NotAllowed, match="serves everybody as the first release"):
        model.deploy(model.release(), model.register("second"))
    assert stage(model, first) is Stage.RAMPING
    assert set(model.ask(3)) == {200}
