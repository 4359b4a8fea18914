"""Content that was rejected: asked where it is logged and again where it is deployed, and forced by name only."""

from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest

from release_pipeline.build import build_release
from release_pipeline.errors import Quarantined
from release_pipeline.rollout.ledger import Action, Phase
from release_pipeline.rollout.quarantine import refuse_rejected
from release_pipeline.rollout.state import Stage, queued
from release_pipeline.workspace.registry import REJECTED, TAG_DIGEST, TAG_FORCED, TAG_REASON, TAG_STATUS
from tests.pipeline.conftest import MODELS, Model
from tests.pipeline.test_assets import why


def materialise(model: Model, release: str, *assets: str, **config: Any) -> dg.ExecuteInProcessResult:
    """Assets of the release job, as a person materialises them; ``config`` is that of logged_model."""
    name = model.spec.name
    job = build_release(model.spec, MODELS).resolve_job_def(f"{name}_release")
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(f"{name}_releases", [release])
        return job.execute_in_process(
            partition_key=release,
            instance=instance,
            asset_selection=[dg.AssetKey([name, asset]) for asset in assets],
            run_config={"ops": {f"{name}__logged_model": {"config": config}}} if config else None,
            raise_on_error=False,
        )


def test_a_version_whose_like_was_rejected_is_refused_until_it_is_forced_past_that_one(
    deployed: tuple[Model, str],
) -> None:
    model, release = deployed
    registry = model.parts().registry
    bad, same, other = (model.register("second") for _ in range(3))
    for version in (bad, same):
        registry.tag(version, {TAG_DIGEST: "0123456789abcdef"})
    registry.tag(other, {TAG_DIGEST: "another"})
    refuse_rejected(registry, release, same)
    model.parts().rollout.roll_back(release, reason="not this one")
    registry.tag(bad, {TAG_STATUS: REJECTED, TAG_REASON: "Wrong prices."})
    with pytest.raises(Quarantined) as refused:
        model.parts().rollout.deploy("20270101-000000", same, model.entity(same), table_version=0)
    assert f"rejected as version {bad}: Wrong prices. Change the model, or materialise logged_model" in str(
        refused.value
    )
    assert "of release 20270101-000000 again with `force: true`" in str(refused.value)
    assert model.parts().rollout.state("20270101-000000") is None, "nothing was begun"
    refuse_rejected(registry, release, other)
    registry.tag(same, {TAG_FORCED: f"99,{bad}"})
    refuse_rejected(registry, release, same)
    again = model.register("second")
    registry.tag(again, {TAG_DIGEST: "0123456789abcdef", TAG_STATUS: REJECTED})
    with pytest.raises(Quarantined, match=f"rejected as version {again}: no reason recorded"):
        refuse_rejected(registry, release, same)  # of that one, who forced it did not know


@pytest.mark.slow
def test_a_queued_release_whose_like_is_rejected_meanwhile_leaves_the_queue_unless_it_is_forced(
    make_model: Callable[..., Model],
) -> None:
    model = make_model(ramp={"second_release": "queue"})
    model.champion()
    rollout = model.parts().rollout
    rollout.retire(model.parts().ledger.read()[0].release)
    first, second = model.release(), model.release()
    for release in (first, second):
        done = materialise(model, release, "logged_model", "registered_version", "deployed_endpoint")
        assert done.success, why(done)
    assert queued(model.parts().ledger.read()) == [second]
    rollout.roll_back(first, reason="Wrong prices.")

    refused = why(materialise(model, second, "deployed_endpoint"))
    assert "were rejected as version 2: Wrong prices." in refused
    entries = model.parts().ledger.read()
    assert queued(entries) == [], "those behind it do not wait for a person"
    assert (entries[-1].action, entries[-1].phase) == (Action.QUEUE, Phase.FAILED)
    assert "were rejected as version 2" in entries[-1].reason
    assert "were rejected as version 2" in why(materialise(model, second, "logged_model"))

    assert materialise(model, second, "logged_model", force=True).success
    assert materialise(model, second, "logged_model").success, "it is remembered"
    assert materialise(model, second, "deployed_endpoint").success
    state = rollout.state(second)
    assert state is not None
    assert (state.stage, state.challenger_version) == (Stage.DEPLOYED, "3")
