"""The queue of releases: who was there first goes first, and who cannot begin makes way."""

from collections.abc import Callable

import dagster as dg
import pytest

from release_pipeline.errors import Queued
from release_pipeline.report.news import news_of
from release_pipeline.rollout.beginning import make_way
from release_pipeline.rollout.ledger import Action, Phase
from release_pipeline.rollout.state import queued
from release_pipeline.workspace import tracking
from release_pipeline.workspace.client import connect
from tests.pipeline.conftest import MODELS, Model
from tests.pipeline.test_assets import why
from tests.pipeline.test_preflight import materialise
from tests.pipeline.test_sensor import request, sentence, tick

pytestmark = pytest.mark.slow

NOWHERE = {"resources": [{"type": "table", "name": "main.default.none"}]}


def test_a_release_that_is_started_by_hand_waits_behind_those_that_wait(make_model: Callable[..., Model]) -> None:
    model = make_model(ramp={"second_release": "queue"})
    version, events = model.register("first"), model.parts().events
    first, second, by_hand = (model.release() for _ in range(3))
    events.queue(first, "another was under way")
    events.queue(second, "another was under way")
    for _ in range(2):
        with pytest.raises(Queued, match=f"release {first} of .* has waited longer; release {by_hand} waits behind it"):
            model.deploy(by_hand, version)
    with pytest.raises(Queued, match=f"withdraw {model.spec.name} --release {first}$"):
        model.deploy(second, version)
    assert queued(model.parts().ledger.read()) == [first, second, by_hand]
    assert model.parts().endpoint.read() is None
    events.withdraw(first, "not needed")
    assert make_way(model.parts().rollout, second, version, model.entity(version)) == model.parts().ledger.read(), (
        "it may begin"
    )


def test_a_queued_release_that_fails_its_preflight_makes_way_for_the_next(
    make_model: Callable[..., Model], instance: dg.DagsterInstance
) -> None:
    model = make_model(ramp={"second_release": "queue"}, model=NOWHERE)
    first, second, events = model.release(), model.release(), model.parts().events
    source, config = MODELS / "agent.py", MODELS / "first.yaml"
    run = tracking.log_model(connect(), model.spec, first, source=source, config=config, folder=MODELS)
    tracking.tag_run(connect(), run.run_id, tracking.TAG_VERSION, model.register("first"))
    for release in (first, second):
        events.queue(release, "another was under way")
    assert request(tick(model.spec, instance)).partition_key == first
    told = why(materialise(model, first))
    assert "table main.default.none does not exist" in told
    entries = model.parts().ledger.read()
    assert (entries[-1].release, entries[-1].action, entries[-1].phase) == (first, Action.QUEUE, Phase.FAILED)
    assert "table main.default.none does not exist" in entries[-1].reason
    (news,) = news_of(entries, entries[-2].sequence, model.spec)
    assert f"{first}: waits in the queue no longer" in news.text
    assert request(tick(model.spec, instance)).partition_key == second
    assert "does not exist" in why(materialise(model, first)), "by hand it is asked again"
    assert queued(model.parts().ledger.read()) == [second]
    events.withdraw(second, "not needed")
    assert "no release of" in sentence(tick(model.spec, instance))
