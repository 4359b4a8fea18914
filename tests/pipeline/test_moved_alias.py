"""An alias that another tool moves during a release: told as drift, and never written over in silence."""

from typing import Any

import pytest

from release_pipeline.errors import NotAllowed, NotVerified
from release_pipeline.rollout.drift import Kind
from release_pipeline.rollout.ledger import Action
from release_pipeline.rollout.mending import look_for_drift, mend
from release_pipeline.rollout.state import Stage
from release_pipeline.workspace.endpoint import Endpoint
from release_pipeline.workspace.registry import Registry
from tests.pipeline.checkpoint import World
from tests.pipeline.conftest import Model, next_tick


def named(model: Model) -> str | None:
    return model.parts().registry.version_of_alias("champion")


@pytest.mark.slow
def test_of_a_first_release_an_alias_that_comes_from_elsewhere_holds_the_promotion(model: Model) -> None:
    version, stray, release = model.register("first"), model.register("second"), model.release()
    model.deploy(release, version)
    parts = model.parts()
    assert look_for_drift(parts, model.spec).findings == ()
    parts.registry.set_alias("champion", stray)
    (found,) = look_for_drift(parts, model.spec).findings
    assert (found.kind, found.right) == (Kind.ALIAS_MOVED, "ledger")
    assert f"alias champion names version {stray}, but the ledger says no version" in found.sentence
    before = parts.ledger.read()
    with pytest.raises(NotAllowed, match=f"names version {stray}, but named nothing .* another tool changed it"):
        model.promote(release)
    assert (named(model), parts.ledger.read()) == (stray, before), "nothing was written, nor meant to be"
    mend(parts, model.spec, release)
    assert named(model) is None
    assert model.promote(release).stage is Stage.PROMOTED
    assert named(model) == version


def test_of_a_later_release_too_and_a_rollback_leaves_it_to_whoever_moved_it(deployed: tuple[Model, str]) -> None:
    model, release = deployed
    model.step(release)
    stray = model.register("second")
    model.parts().registry.set_alias("champion", stray)
    with pytest.raises(NotAllowed, match=f"names version {stray}, but named version 1 when release {release} began"):
        model.promote(release)
    assert World.of(model).shares == {"1": 75, "2": 25}
    model.parts().rollout.roll_back(release, reason="by the test")
    assert named(model) == stray
    assert [each.kind for each in look_for_drift(model.parts(), model.spec).findings] == [Kind.ALIAS_MOVED]
    model.parts().registry.delete_alias("champion")


def test_an_alias_that_is_moved_in_the_midst_of_a_promotion_keeps_it_open_until_it_is_set_right(
    deployed: tuple[Model, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, release = deployed
    model.step(release)
    stray = model.register("second")
    update = Endpoint.update

    def moved(self: Endpoint, *asked: Any) -> None:
        update(self, *asked)
        model.parts().registry.set_alias("champion", stray)

    with monkeypatch.context() as patch:
        patch.setattr(Endpoint, "update", moved)
        with pytest.raises(NotVerified, match=f"names version {stray}, which another tool changed in the midst"):
            model.promote(release)
    state = model.parts().rollout.state(release)
    assert state is not None
    assert state.open_intent is not None
    assert (state.open_intent.action, named(model)) == (Action.PROMOTE, stray)
    with pytest.raises(NotVerified):
        next_tick(model, release)
    Registry(model.parts().workspace, model.spec.model.registered_name).set_alias("champion", "1")
    assert next_tick(model, release)
    world = World.of(model)
    assert (world.alias, world.shares) == ("2", {"2": 100})
