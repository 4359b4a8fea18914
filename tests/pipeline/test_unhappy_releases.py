"""Releases that meet a failing example, a dying challenger, a changed or lost endpoint, late evidence, a faster run."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.service.serving import ServingEndpointAccessControlRequest, ServingEndpointPermissionLevel
from mlflow import MlflowClient

from release_pipeline.assets.canary_traffic import take_step
from release_pipeline.assets.deployed_endpoint import prove_challenger
from release_pipeline.assets.promoted_alias import promote
from release_pipeline.errors import NotAllowed, NotAsked, ReleaseError, Superseded
from release_pipeline.gate.verdict import Action, HoldReason
from release_pipeline.rollout.ledger import Entry
from release_pipeline.rollout.state import Stage
from release_pipeline.rollout.verified_write import VerifiedWrite
from release_pipeline.workspace.client import connect
from release_pipeline.workspace.endpoint import Endpoint, ServedEntity
from tests.pipeline.checkpoint import World
from tests.pipeline.conftest import Model, eventually

pytestmark = pytest.mark.slow

BY_TIME = {"bucket_seconds": 1, "metrics": [{"name": "errors", "kind": "errors", "margin": 0.3, "required": False}]}


def routes(model: Model) -> dict[str, int]:
    state = model.parts().endpoint.read()
    assert state is not None
    return {entity.version: state.routes.get(entity.name, 0) for entity in state.entities}


def ask(model: Model, count: int, text: str = "hello") -> None:
    before = model.counted(model.parts())
    model.ask(count, text)
    model.rows(before + count)


def asked(model: Model, release: str) -> Action:
    """The verdict after some more requests."""
    ask(model, 30)
    observed = model.parts().observer.look(release)
    assert observed is not None
    return observed.verdict.action


def test_a_challenger_that_fails_its_example_is_rolled_back_before_it_has_traffic(
    make_model: Callable[..., Model],
) -> None:
    example = {"input": [{"role": "user", "content": "a question"}]}
    model = make_model(model={"input_example": example})
    champion = model.champion()
    model.deploy(release := model.release(), version := model.register("raising"))
    parts = model.parts()
    state = parts.rollout.state(release)
    assert state is not None
    with pytest.raises(ReleaseError, match="rolled back before it had any traffic"):
        prove_challenger(parts, model.spec, state)
    state = parts.rollout.state(release)
    assert state is not None
    assert state.stage is Stage.ROLLED_BACK
    assert routes(model) == {champion: 100}
    found = parts.registry.get(version)
    assert found is not None
    assert found.tags["release_pipeline.status"] == "rejected"
    assert "does not answer its example request" in found.tags["release_pipeline.reason"]


def test_a_challenger_that_could_not_be_asked_is_not_rolled_back_for_it(
    model: Model, client: WorkspaceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.champion()
    version, release = model.register("second"), model.release()
    parts = model.parts()
    state = parts.rollout.deploy(release, version, model.entity(version), table_version=0)
    somebody = client.service_principals_v2.create(display_name="may only look")
    now, name = parts.endpoint.read(), str(somebody.application_id)
    assert now is not None
    level = ServingEndpointPermissionLevel.CAN_VIEW
    given = ServingEndpointAccessControlRequest(service_principal_name=name, permission_level=level)
    client.serving_endpoints.update_permissions(now.id, access_control_list=[given])
    with monkeypatch.context() as patch:
        patch.setenv("DATABRICKS_TOKEN", str(client.token_management.create_obo_token(name).token_value))
        refused = Endpoint(connect(), model.spec.endpoint_name)
    with pytest.raises(NotAsked, match="says nothing of the challenger, which stays at 0 %"):
        prove_challenger(replace(parts, endpoint=refused), model.spec, state)
    after = parts.rollout.state(release)
    assert after is not None
    assert (after.stage, after.open_intent) == (Stage.DEPLOYED, None)
    found = parts.registry.get(version)
    assert found is not None
    assert "release_pipeline.status" not in found.tags
    assert prove_challenger(parts, model.spec, state) == 2, "asked again, it answers"


def kill_for_good(model: Model, entity: str, alive: Path) -> None:
    """End the scoring process of an entity, which cannot load its model again."""
    alive.unlink()
    # Without the SDK, which would ask again and again.
    answer = requests.post(
        model.parts().endpoint.query_url.replace("/invocations", f"/served-models/{entity}/invocations"),
        json={"input": [{"role": "user", "content": "a question"}]},
        headers={"Authorization": f"Bearer {os.environ['DATABRICKS_TOKEN']}"},
        timeout=60,
    )
    assert answer.status_code == 503

    def recovering() -> bool:
        now = model.parts().endpoint.read()
        assert now is not None
        return "DEPLOYMENT_RECOVERING" in [served.state for served in now.entities if served.name == entity]

    eventually(recovering)


@pytest.mark.parametrize("anew", [False, True], ids=["it is left running", "every update starts it anew"])
def test_a_challenger_whose_process_keeps_dying_is_rolled_back_and_taken_off(
    anew: bool, make_model: Callable[..., Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (alive := tmp_path / "alive").touch()
    model = make_model(endpoint={"environment": {"ALIVE_FILE": str(alive)}})
    champion = model.champion()
    model.deploy(release := model.release(), version := model.register("dying"))
    state = model.step(release)
    kill_for_good(model, state.entities["challenger"], alive)
    if anew:
        update = Endpoint.update

        def start_anew(self: Endpoint, entities: tuple[ServedEntity, ...], routes: Mapping[str, int]) -> None:
            """As a service would that goes on with no process: an entity with another environment is a new one."""
            changed = {"environment_vars": {"ALIVE_FILE": str(alive), "STARTED": "anew"}}
            dying = [entity.version == version for entity in entities]
            update(
                self,
                tuple(
                    replace(entity, settings={**entity.settings, **changed}) if dies else entity
                    for entity, dies in zip(entities, dying, strict=True)
                ),
                routes,
            )

        monkeypatch.setattr(Endpoint, "update", start_anew)
    state = model.parts().rollout.roll_back(release, reason="by the test")
    assert (state.stage, state.open_intent) == (Stage.ROLLED_BACK, None)
    went_on = [line for line in model.said if line.endswith("Going on without the challenger.")]
    assert len(went_on) == anew, "the update that still names the challenger fails only where it has to start it"
    now = World.of(model)
    assert (now.shares, now.versions, now.alias, now.challenger_alias) == ({champion: 100}, {champion}, champion, None)
    assert now.endpoint is not None
    assert (now.endpoint.ready, now.endpoint.update_failed, now.endpoint.routes) == (
        True,
        False,
        {state.entities["champion"]: 100},
    )
    found = model.parts().registry.get(version)
    assert found is not None
    assert found.tags["release_pipeline.status"] == "rejected"
    assert set(model.ask(10)) == {200}


def test_an_endpoint_that_somebody_changed_holds_the_next_step_but_not_the_rollback(
    deployed: tuple[Model, str],
) -> None:
    model, release = deployed
    model.step(release)
    parts = model.parts()
    now = parts.endpoint.read()
    state = parts.rollout.state(release)
    assert now is not None
    assert state is not None
    eventually(lambda: asked(model, release) is Action.ADVANCE)
    names = state.entities
    parts.endpoint.update(now.entities, {names["champion"]: 100, names["challenger"]: 0})
    parts.endpoint.wait(timeout_seconds=60, progress=model.said.append)
    observed = take_step(parts, model.spec, release)
    assert (observed.verdict.action, observed.verdict.reason) == (Action.HOLD, HoldReason.SHARE_MISMATCH)
    assert "somebody changed it" in observed.verdict.sentence
    assert set(routes(model).values()) == {0, 100}
    assert parts.rollout.roll_back(release, reason="by the test").stage is Stage.ROLLED_BACK


def test_a_champion_whose_endpoint_is_gone_is_not_replaced_without_a_gate(make_model: Callable[..., Model]) -> None:
    model = make_model()
    champion = model.champion()
    model.parts().rollout.retire("20260101-000000")
    model.parts().endpoint.delete()
    with pytest.raises(NotAllowed, match=f"names version {champion}, but endpoint .* does not exist"):
        model.deploy(model.release(), model.register("second"))
    assert model.parts().endpoint.read() is None
    assert model.parts().registry.version_of_alias("champion") == champion


def test_a_promotion_reads_the_newest_rows_and_not_only_the_stored_ones(make_model: Callable[..., Model]) -> None:
    model = make_model(gate=BY_TIME, ramp={"steps": [50], "min_step_seconds": 0})
    champion = model.champion()
    model.deploy(release := model.release(), model.register("raising"))
    model.step(release)
    assert asked(model, release) is Action.PROMOTE
    parts = model.parts()
    ask(model, 120, "a question")
    time.sleep(2)
    ask(model, 4)  # with them the time of the others is complete
    with pytest.raises(NotAllowed, match="Roll back"):
        promote(parts, release)
    assert parts.registry.version_of_alias("champion") == champion
    assert set(routes(model).values()) == {50}


def test_a_slow_promotion_writes_nothing_after_a_rollback_that_overtook_it(
    deployed: tuple[Model, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, release = deployed
    model.step(release)
    slow, quick = model.parts("slow"), model.parts("quick")
    fence, overtaken = VerifiedWrite._fence, list[Any]()

    def overtake(self: VerifiedWrite, intent: Entry) -> None:
        if not overtaken:
            overtaken.append(True)
            quick.rollout.roll_back(release, reason="by the test")
        fence(self, intent)

    monkeypatch.setattr(VerifiedWrite, "_fence", overtake)
    with pytest.raises(Superseded, match="roll_back by quick came after this promote"):
        slow.rollout.promote(release, expected_config=model.config(), evidence_digest="", reason="by the test")
    state = slow.rollout.state(release)
    assert state is not None
    assert (state.stage, state.open_intent) == (Stage.ROLLED_BACK, None)
    assert routes(model) == {state.champion_version: 100}
    assert slow.registry.version_of_alias("champion") == state.champion_version


def test_a_challenger_whose_version_was_deleted_is_rolled_back_all_the_same(model: Model) -> None:
    model.champion()  # not a model that other tests share: the version does not come back
    model.deploy(release := model.release(), model.register("second"))
    state = model.step(release)
    MlflowClient().delete_model_version(model.spec.model.registered_name, state.challenger_version)
    state = model.parts().rollout.roll_back(release, reason="by the test")
    assert (state.stage, state.open_intent) == (Stage.ROLLED_BACK, None)
    assert routes(model) == {state.champion_version: 100}
