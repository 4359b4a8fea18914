"""Drift made by hand with the SDK in the real workspace: found, told, and mended by one act."""

from collections.abc import Callable
from dataclasses import replace

import mlflow
import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.service.serving import (
    AiGatewayInferenceTableConfig,
    AiGatewayRateLimit,
    AiGatewayRateLimitRenewalPeriod,
    EndpointTag,
    Route,
    ServedEntityInput,
    TrafficConfig,
)

from release_pipeline.errors import NotAllowed, Superseded
from release_pipeline.rollout.drift import Kind, drift
from release_pipeline.rollout.expected import expected
from release_pipeline.rollout.ledger import Action, Phase
from release_pipeline.rollout.mending import DriftLook, look_for_drift, mend, telemetry
from release_pipeline.rollout.parts import connect_parts
from release_pipeline.rollout.state import ReleaseState, Stage
from release_pipeline.spec_endpoint import Permission, RateLimit
from tests.pipeline.checkpoint import World
from tests.pipeline.conftest import Model


def look(model: Model) -> DriftLook:
    return look_for_drift(model.parts("onlooker"), model.spec)


def kinds(seen: DriftLook) -> set[Kind]:
    assert not seen.not_looked
    return {finding.kind for finding in seen.findings}


def state_of(model: Model, release: str) -> ReleaseState:
    state = model.parts().rollout.state(release)
    assert state is not None
    return state


def by_hand(model: Model, client: WorkspaceClient, routes: dict[str, int], **changed: ServedEntityInput | None) -> None:
    """What another tool does: all entities of now, some changed, added, or (None) taken away; and routes."""
    now = model.parts().endpoint.read()
    assert now is not None
    entities: dict[str, ServedEntityInput | None] = {
        entity.name: ServedEntityInput.from_dict(
            {**entity.settings, "name": entity.name, "entity_name": entity.model, "entity_version": entity.version}
        )
        for entity in now.entities
    }
    entities.update({name.replace("__", "-"): entity for name, entity in changed.items()})
    client.serving_endpoints.update_config(
        model.spec.endpoint_name,
        served_entities=[entity for entity in entities.values() if entity is not None],
        traffic_config=TrafficConfig(
            routes=[
                Route(served_model_name=name, served_entity_name=name, traffic_percentage=share)
                for name, share in routes.items()
            ]
        ),
    )
    model.parts().endpoint.wait(timeout_seconds=60, progress=model.said.append)


def alias_moved(model: Model, client: WorkspaceClient) -> None:
    mlflow.MlflowClient().set_registered_model_alias(model.spec.model.registered_name, "champion", "2")


def alias_deleted(model: Model, client: WorkspaceClient) -> None:
    mlflow.MlflowClient().delete_registered_model_alias(model.spec.model.registered_name, "champion")


def weights_moved(model: Model, client: WorkspaceClient) -> None:
    names = {entity.version: entity.name for entity in World.of(model).endpoint.entities}  # type: ignore[union-attr]
    by_hand(model, client, {names["1"]: 70, names["2"]: 30})


def entity_added(model: Model, client: WorkspaceClient) -> None:
    name = model.spec.model.registered_name
    stranger = ServedEntityInput(
        name="stranger", entity_name=name, entity_version="1", workload_size="Small", scale_to_zero_enabled=False
    )
    names = {entity.version: entity.name for entity in World.of(model).endpoint.entities}  # type: ignore[union-attr]
    by_hand(model, client, {names["1"]: 100, names["2"]: 0, "stranger": 0}, stranger=stranger)


def settings_changed(model: Model, client: WorkspaceClient) -> None:
    now = World.of(model).endpoint
    assert now is not None
    (entity,) = [entity for entity in now.entities if entity.version == "2"]
    settings = {**entity.settings, "scale_to_zero_enabled": True}
    changed = ServedEntityInput.from_dict(
        {**settings, "name": entity.name, "entity_name": entity.model, "entity_version": entity.version}
    )
    by_hand(model, client, dict(now.routes), **{entity.name.replace("-", "__"): changed})


def table_off(model: Model, client: WorkspaceClient) -> None:
    client.serving_endpoints.put_ai_gateway(
        model.spec.endpoint_name,
        inference_table_config=AiGatewayInferenceTableConfig(enabled=False),
        rate_limits=[AiGatewayRateLimit(calls=900_000, renewal_period=AiGatewayRateLimitRenewalPeriod.MINUTE)],
    )


def tag_changed(model: Model, client: WorkspaceClient) -> None:
    tag = EndpointTag(key="release_pipeline", value="somebody else")
    client.serving_endpoints.patch(model.spec.endpoint_name, add_tags=[tag])


BY_HAND: dict[str, tuple[Callable[[Model, WorkspaceClient], None], Kind, str, str]] = {
    "alias moved": (alias_moved, Kind.ALIAS_MOVED, "endpoint", "names version 2, but the ledger says version 1"),
    "alias deleted": (alias_deleted, Kind.ALIAS_MOVED, "endpoint", "names no version"),
    "weights": (weights_moved, Kind.WEIGHTS_MOVED, "ledger", "70 % to version 1 and 30 % to version 2"),
    "entity added": (entity_added, Kind.ENTITY_UNKNOWN, "ledger", "served entity stranger of version 1 has 0 %"),
    "settings": (settings_changed, Kind.CONFIG_CHANGED, "ledger", "scale_to_zero_enabled of entity"),
    "inference table": (table_off, Kind.INFERENCE_TABLE_OFF, "YAML", "has its inference table switched off"),
    "tags": (tag_changed, Kind.TAGS_CHANGED, "YAML", "release_pipeline: somebody else"),
}


@pytest.mark.parametrize(("change", "kind", "right", "told"), BY_HAND.values(), ids=BY_HAND.keys())
def test_what_was_changed_by_hand_is_found_told_and_mended(
    change: Callable[[Model, WorkspaceClient], None],
    kind: Kind,
    right: str,
    told: str,
    deployed: tuple[Model, str],
    client: WorkspaceClient,
) -> None:
    model, release = deployed
    assert kinds(look(model)) == set()
    world, state = World.of(model), state_of(model, release)
    change(model, client)
    seen = look(model)
    (finding,) = seen.findings
    assert (finding.kind, finding.right) == (kind, right)
    assert told in finding.sentence
    assert f"{model.spec.name}_mend" in finding.remedy

    before, after = mend(model.parts("run:mend"), model.spec, release)
    assert before.findings == seen.findings
    assert (after.findings, after.not_looked) == ((), "")
    now = World.of(model)
    assert (now.shares, now.versions, now.alias) == (world.shares, world.versions, world.alias)
    intent, outcome = now.entries[-2:]
    assert [(row.action, row.phase, row.release, row.actor) for row in (intent, outcome)] == [
        (Action.MEND, Phase.INTENT, release, "run:mend"),
        (Action.MEND, Phase.DONE, release, "run:mend"),
    ]
    assert finding.sentence in intent.reason
    assert replace(state_of(model, release), last_sequence=state.last_sequence) == state, "a mend moves no release"


@pytest.mark.slow
def test_another_model_under_the_champions_name_is_found_and_mended(
    deployed: tuple[Model, str], client: WorkspaceClient
) -> None:
    model, release = deployed
    ours = model.spec.model.registered_name
    source = mlflow.MlflowClient().get_model_version(ours, "1").source
    other = mlflow.register_model(source, f"{ours}_of_others")
    assert other.version == "1", "only the model differs"
    served = {entity.version: entity for entity in World.of(model).endpoint.entities}  # type: ignore[union-attr]
    names = {version: entity.name for version, entity in served.items()}
    swapped = ServedEntityInput.from_dict(
        {**served["1"].settings, "name": names["1"], "entity_name": other.name, "entity_version": "1"}
    )
    by_hand(model, client, {names["1"]: 100, names["2"]: 0}, **{names["1"].replace("-", "__"): swapped})
    seen = look(model)
    assert kinds(seen) == {Kind.ENTITY_UNKNOWN, Kind.ENTITY_MISSING}
    assert f"served entity {names['1']} of version 1 of {other.name} has 100 %" in seen.findings[0].sentence
    _, after = mend(model.parts(), model.spec, release)
    assert (after.findings, after.not_looked) == ((), "")
    assert {entity.model for entity in World.of(model).endpoint.entities} == {ours}  # type: ignore[union-attr]


def test_a_mend_of_the_inference_table_leaves_the_rest_of_the_gateway(
    deployed: tuple[Model, str], client: WorkspaceClient
) -> None:
    model, release = deployed
    table_off(model, client)
    mend(model.parts(), model.spec, release)
    gateway = client.serving_endpoints.get(model.spec.endpoint_name).ai_gateway
    assert gateway is not None
    assert [limit.calls for limit in gateway.rate_limits or []] == [900_000]


def test_rate_limits_and_permissions_that_the_yaml_names_are_found_and_given_again(
    deployed: tuple[Model, str], client: WorkspaceClient
) -> None:
    model, release = deployed
    wanted = {
        "rate_limits": (RateLimit(calls=800_000),),
        "permissions": (Permission(group="callers", level="CAN_QUERY"),),
    }
    spec = model.spec.model_copy(update={"endpoint": model.spec.endpoint.model_copy(update=wanted)})
    parts = connect_parts(spec, actor="run:mend", progress=model.said.append)
    seen = look_for_drift(parts, spec)
    found = {finding.kind: finding for finding in seen.findings}
    assert found.keys() == {Kind.RATE_LIMITS_CHANGED, Kind.PERMISSIONS_CHANGED}
    assert {finding.right for finding in seen.findings} == {"YAML"}
    assert "lacks 800000 calls a minute for endpoint" in found[Kind.RATE_LIMITS_CHANGED].sentence
    assert "lacks CAN_QUERY for callers" in found[Kind.PERMISSIONS_CHANGED].sentence
    assert mend(parts, spec, release)[1].findings == ()
    endpoint = client.serving_endpoints.get(spec.endpoint_name)
    assert endpoint.ai_gateway is not None
    assert [limit.calls for limit in endpoint.ai_gateway.rate_limits or []] == [800_000]
    access = client.serving_endpoints.get_permissions(str(endpoint.id)).access_control_list or []
    assert "callers" in [each.group_name for each in access]
    intent = parts.ledger.read()[-2]
    assert intent.after["rate_limits"] == [{"calls": 800_000}]
    assert intent.after["permissions"] == [{"group": "callers", "level": "CAN_QUERY"}]


def test_a_step_goes_on_through_a_mend_of_its_weights(deployed: tuple[Model, str], client: WorkspaceClient) -> None:
    model, release = deployed
    model.step(release)
    weights_moved(model, client)
    assert kinds(look(model)) == {Kind.WEIGHTS_MOVED}
    mend(model.parts(), model.spec, release)
    state = state_of(model, release)
    assert (state.stage, state.traffic_percent) == (Stage.RAMPING, 25)
    assert [(step.step, step.ended_at) for step in state.steps] == [(0, None)]
    assert World.of(model).shares == {"1": 75, "2": 25}
    assert model.step(release, 1).traffic_percent == 50


def test_all_kinds_at_once_are_mended_by_one_act(deployed: tuple[Model, str], client: WorkspaceClient) -> None:
    model, release = deployed
    rows = len(model.parts().ledger.read())
    for change in (alias_moved, weights_moved, table_off, tag_changed):
        change(model, client)
    seen = look(model)
    found = {finding.kind: finding for finding in seen.findings}
    assert found.keys() == {Kind.ALIAS_MOVED, Kind.WEIGHTS_MOVED, Kind.INFERENCE_TABLE_OFF, Kind.TAGS_CHANGED}
    assert found[Kind.ALIAS_MOVED].right == "ledger", "the endpoint is wrong as well"
    assert mend(model.parts(), model.spec, release)[1].findings == ()
    assert len(model.parts().ledger.read()) == rows + 2


def test_nothing_is_compared_while_an_act_is_under_way(deployed: tuple[Model, str], client: WorkspaceClient) -> None:
    model, release = deployed
    alias_moved(model, client)
    parts = model.parts()
    parts.ledger.append(
        parts.ledger.read(),
        release=release,
        actor="test",
        action=Action.SET_TRAFFIC,
        phase=Phase.INTENT,
        after={"step": 0, "traffic_percent": 25},
    )
    seen = look(model)
    assert seen.findings == ()
    assert "in the middle of set_traffic" in seen.not_looked
    with pytest.raises(NotAllowed, match="in the middle of set_traffic"):
        mend(parts, model.spec, release)


def test_a_mend_that_was_killed_is_finished(deployed: tuple[Model, str], client: WorkspaceClient) -> None:
    model, release = deployed
    alias_moved(model, client)
    killed_mend(model, release, {"champion": "1"})
    assert "in the middle of mend" in look(model).not_looked
    assert mend(model.parts(), model.spec, release)[1].findings == ()
    assert World.of(model).alias == "1"
    assert state_of(model, release).open_intent is None


def killed_mend(model: Model, release: str, alias: dict[str, str]) -> None:
    """What a run leaves that is killed behind its intent."""
    ledger = model.parts().ledger
    ledger.append(
        ledger.read(), release=release, actor="k", action=Action.MEND, phase=Phase.INTENT, after={"alias": alias}
    )


def test_nothing_to_mend_and_a_release_that_is_not_the_newest_are_refused(
    deployed: tuple[Model, str], client: WorkspaceClient
) -> None:
    model, release = deployed
    with pytest.raises(NotAllowed, match="nothing to mend"):
        mend(model.parts(), model.spec, release)
    with pytest.raises(NotAllowed, match="newest release"):
        mend(model.parts(), model.spec, "19990101-000000")


def test_a_release_that_moved_since_the_look_is_not_mended(
    deployed: tuple[Model, str], client: WorkspaceClient
) -> None:
    model, release = deployed
    seen = state_of(model, release)
    model.step(release)
    with pytest.raises(Superseded, match="moved since"):
        model.parts().rollout.mend(seen, {}, {"alias": {"champion": "2"}}, config=model.config(), reason="old")
    assert World.of(model).alias == "1"


@pytest.mark.slow
def test_the_old_champion_that_was_removed_in_the_bake_comes_back_and_a_rollback_outranks_a_mend(
    model: Model, client: WorkspaceClient
) -> None:
    model.champion()
    model.deploy(release := model.release(), model.register("second"))
    model.step(release)
    model.promote(release)
    names = {entity.version: entity.name for entity in World.of(model).endpoint.entities}  # type: ignore[union-attr]
    by_hand(model, client, {names["2"]: 100}, **{names["1"].replace("-", "__"): None})
    (finding,) = look(model).findings
    assert (finding.kind, finding.found) == (Kind.ENTITY_MISSING, "version 1 is not on the endpoint")
    mend(model.parts(), model.spec, release)
    world = World.of(model)
    assert (world.shares, world.versions, world.alias) == ({"2": 100}, {"1", "2"}, "2")
    killed_mend(model, release, {"champion": "2"})
    assert model.parts().rollout.roll_back(release, reason="asked for").stage is Stage.ROLLED_BACK
    world = World.of(model)
    assert (world.shares, world.versions, world.alias) == ({"1": 100}, {"1"}, "1")
    assert kinds(look(model)) == set()


@pytest.mark.slow
def test_an_endpoint_that_was_deleted_by_hand_is_made_again(
    make_model: Callable[..., Model], client: WorkspaceClient
) -> None:
    group = {"group": "users", "level": "CAN_QUERY"}
    model = make_model(endpoint={"permissions": [group]})
    model.champion()
    client.serving_endpoints.delete(model.spec.endpoint_name)
    (finding,) = look(model).findings
    assert finding.kind is Kind.ENDPOINT_GONE
    state = model.parts().rollout.state()
    assert state is not None
    assert mend(model.parts(), model.spec, state.release)[1].findings == ()
    assert World.of(model).shares == {"1": 100}
    assert set(model.ask(5)) == {200}
    made = model.parts().endpoint.read()
    assert made is not None
    given = client.serving_endpoints.get_permissions(made.id).access_control_list or []
    assert "users" in [each.group_name for each in given], "what the YAML gives is given again"


@pytest.mark.slow
def test_endpoint_and_alias_that_agree_on_a_version_nobody_released_are_told_so(
    model: Model, client: WorkspaceClient
) -> None:
    model.champion()
    version = model.register("second")
    now = World.of(model).endpoint
    assert now is not None
    name, (old,) = model.spec.model.registered_name, now.entities
    other = ServedEntityInput(
        name="other", entity_name=name, entity_version=version, workload_size="Small", scale_to_zero_enabled=False
    )
    by_hand(model, client, {"other": 100}, other=other, **{old.name.replace("-", "__"): None})
    alias_moved(model, client)
    found = {finding.kind: finding for finding in look(model).findings}
    assert found.keys() == {Kind.ENTITY_UNKNOWN, Kind.ENTITY_MISSING, Kind.WEIGHTS_MOVED, Kind.ALIAS_MOVED}
    assert "agree on version 2, but no release promoted it" in found[Kind.WEIGHTS_MOVED].why
    state = model.parts().rollout.state()
    assert state is not None
    assert mend(model.parts(), model.spec, state.release)[1].findings == ()
    assert World.of(model).versions == {"1"}


def test_a_table_that_telemetry_writes_is_not_switched_off(model: Model, client: WorkspaceClient) -> None:
    """For an endpoint that was there before the first release, and has never named a table."""
    model.champion()
    model.ask(1)
    model.rows(1)
    state = model.parts().rollout.state()
    now = World.of(model).endpoint
    assert state is not None
    assert now is not None
    should = expected(model.parts().ledger.read_all())
    assert should is not None
    unnamed = replace(now, inference_table=None, logging_off=False)
    (found,) = drift(model.spec, should, unnamed, "1")
    assert found.kind is Kind.INFERENCE_TABLE_OFF
    assert drift(model.spec, should, unnamed, "1", telemetry=True) == ()
    entries = model.parts().ledger.read_all()
    assert not telemetry(model.parts(), entries, unnamed), "a release made it, and gave it the setting"
    adopted = [replace(each, after={**each.after, "champion_version": "0"}) for each in entries]
    assert telemetry(model.parts(), adopted, unnamed)
    assert not telemetry(model.parts(), adopted, replace(unnamed, logging_off=True)), "somebody switched it off"
