"""What else may be so before a transition: what somebody did by hand, and what a run before has left behind."""

from dataclasses import replace

from databricks.sdk.service.serving import AiGatewayInferenceTableConfig

from release_pipeline.gate.verdict import Action
from release_pipeline.rollout.ledger import Phase
from release_pipeline.workspace.registry import CHALLENGER_ALIAS, REJECTED, TAG_FORCED, TAG_REASON, TAG_STATUS
from tests.faults.scene import CHALLENGER, CHAMPION, NEXT, Scene, wait_for

#: Rows at a time until the gate sees harm.
FAILURES = 20


def drift_by_hand(scene: Scene, _: str) -> None:
    """Somebody moves weights and the alias, takes the tags away and switches the inference table off."""
    assert scene.observer is not None
    with scene.observer.looking_away():
        scene.observer.changed_by_hand()
        scene.drifted = True
        serving, now = scene.parts.workspace.client.serving_endpoints, scene.parts.endpoint.read()
        assert now is not None
        scene.parts.endpoint.update(now.entities, {name: 100 - share for name, share in now.routes.items()})
        scene.settle()
        scene.parts.registry.set_alias("champion", CHALLENGER)
        serving.patch(scene.name, delete_tags=list(scene.spec.endpoint.tags))
        limits = serving.get(scene.name).ai_gateway
        serving.put_ai_gateway(
            scene.name,
            inference_table_config=AiGatewayInferenceTableConfig(enabled=False),
            rate_limits=limits.rate_limits if limits else None,
        )


def died_in_a_step_then_paused(scene: Scene, release: str) -> None:
    """A run that died between its intent to take the next step and its write, and then a person's pause."""
    _died(scene, release, "step 1", "step 2")
    scene.parts.events.pause("by the test")


def died_in_the_promotion(scene: Scene, release: str) -> None:
    """A run that died between its intent to promote and its first write."""
    _died(scene, release, "step 2", "promoted")


def _died(scene: Scene, release: str, stage: str, following: str) -> None:
    later = scene.recorded[following][2][len(scene.recorded[stage][2]) :]
    (intent,) = [row for row in later if row.phase is Phase.INTENT]
    now = scene.parts.endpoint.read()
    assert now is not None
    scene.append(release, replace(intent, config_version=now.config_version))


def harmed(scene: Scene, release: str) -> None:
    """Rows as the endpoint logs them: the champion's are good, the challenger's failures."""
    ids: dict[str, str] = {}

    def known() -> bool:
        scene.parts.observer.look(release)  # by the tracers
        mapping = scene.parts.observer.evidence.mapping()
        ids.update({mapping[entity]: entity for entity in scene.asked(release) if entity in mapping})
        return {CHAMPION, CHALLENGER} <= ids.keys()

    wait_for(known)

    def seen() -> bool:
        for version, status in ((CHAMPION, 200), (CHALLENGER, 500)):
            scene.parts.workspace.warehouse.execute(
                f"INSERT INTO {scene.spec.payload_table} "
                "(databricks_request_id, request_time, status_code, served_entity_id, response) "
                f"SELECT uuid(), current_timestamp(), {status}, '{ids[version]}', '{{}}' FROM range({FAILURES})"
            )
        observed = scene.parts.observer.look(release)
        return observed is not None and observed.verdict.action is Action.ROLL_BACK

    wait_for(seen)


def failed_before(scene: Scene, release: str) -> None:
    """A deployment of the same release that failed: its rows, the version's tags, no alias, and no entity."""
    for row in scene.recorded["deployed"][2]:
        failed = {} if row.phase is Phase.INTENT else {"phase": Phase.FAILED, "reason": "the update failed"}
        scene.append(release, replace(row, **failed))
    scene.parts.registry.tag(CHALLENGER, {TAG_STATUS: "failed", TAG_REASON: "the update failed"})
    scene.parts.registry.delete_alias(CHALLENGER_ALIAS)


def like_was_rejected(scene: Scene, _: str) -> None:
    """Another version of the same content was rolled back, and nobody has forced this one past it yet."""
    scene.parts.registry.tag(NEXT, {TAG_STATUS: REJECTED, TAG_REASON: "by the test"})
    version = scene.parts.registry.get(CHALLENGER)
    if version is not None and TAG_FORCED in version.tags:
        scene.parts.workspace.mlflow.delete_model_version_tag(scene.spec.model.registered_name, CHALLENGER, TAG_FORCED)
