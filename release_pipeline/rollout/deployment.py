"""What a deployment, and a rollback, is to bring about, from what the endpoint and the alias say."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from release_pipeline.errors import EndpointHidden, NotAllowed
from release_pipeline.rollout.ledger import Action, Entry
from release_pipeline.rollout.state import ReleaseState, Stage
from release_pipeline.spec import ReleaseSpec
from release_pipeline.workspace.endpoint import Endpoint, EndpointState, ServedEntity

#: The setting of a served entity that lets it stop while nobody asks.
SCALE: Final = "scale_to_zero_enabled"


def planned(
    spec: ReleaseSpec, now: EndpointState | None, champion: str | None, version: str, entity: ServedEntity
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is, and what is to be, as the ledger's intent holds them.

    Args:
        spec: The release's YAML.
        now: The endpoint, None where there is none yet.
        champion: The version that the alias names, if any.
        version: The version to deploy.
        entity: How it is to be served.

    Raises:
        NotAllowed: Endpoint and alias do not agree on a champion that serves everything, or ``version`` is that one.
    """
    model, alias, names = spec.model.registered_name, spec.promotion.alias, {"challenger": entity.name}
    way_back: dict[str, Any] = {}
    if now is None or not now.entities:
        if now is not None:
            raise NotAllowed(
                f"endpoint {spec.endpoint_name} exists but serves nothing; delete it, then materialise again."
            )
        if champion is not None:
            raise NotAllowed(
                f"alias {alias} of {model} names version {champion}, but endpoint {spec.endpoint_name} does not exist; "
                "serve that version there again, or delete the alias to begin anew without a champion."
            )
    else:
        serving = [served for served in now.entities if now.routes.get(served.name, 0) == 100]
        if not serving or (champion is not None and serving[0].version != champion):
            raise NotAllowed(
                f"alias {alias} of {model} names version {champion or 'nothing'}, but endpoint {spec.endpoint_name} "
                f"routes {dict(now.routes)}; make the champion serve 100 % before a release."
            )
        champion, names["champion"] = serving[0].version, serving[0].name
        # Should it be gone when it is needed, as after a change by hand, a rollback brings it back.
        way_back = {"champion_entity": _written(serving[0])}
        if champion == version:
            raise NotAllowed(f"version {version} of {model} is the champion already.")
    return {"champion_version": champion}, {
        "challenger_version": version,
        "champion_version": champion,
        "entities": names,
        "routes": {names["champion"]: 100, entity.name: 0} if champion else {entity.name: 100},
        "add": _written(entity),
        **way_back,
    }


def other_endpoint(entries: Sequence[Entry], endpoint: Endpoint) -> str:
    """Why the model's releases are not ``endpoint``'s, empty where they are: alias and ledger serve one endpoint.

    Args:
        entries: Rows of the ledger, oldest first.
        endpoint: The endpoint of the YAML.

    Raises:
        WorkspaceError: Whether another endpoint is still there cannot be told.
    """
    begun = [row.after.get("endpoint", "") for row in entries if row.action is Action.DEPLOY]
    name = str(next((each for each in reversed(begun) if each), endpoint.name))
    if name == endpoint.name:
        return ""
    with suppress(EndpointHidden):  # one that may not be seen is there
        if endpoint.named(name).read() is None:
            return ""
    return (
        f"the ledger and the alias of this model belong to endpoint {name}, not to {endpoint.name}: give the model of "
        f"endpoint {endpoint.name} a model.registered_name of its own, or delete endpoint {name} to move the model."
    )


def planned_rollback(spec: ReleaseSpec, state: ReleaseState, status: str) -> dict[str, Any]:
    """What a rollback is to bring about: the champion at 100 %, on the endpoint even if it has left it."""
    names, champion = state.entities, state.champion_version
    after: dict[str, Any] = {
        "traffic_percent": 0,
        "routes": {names["champion"]: 100, names["challenger"]: 0} if champion is not None else {},
        "alias": {spec.promotion.alias: champion},
        "remove": [names["challenger"]],
        "rejected": state.challenger_version,
        "status": status,
    }
    if state.champion_entity is not None:
        after["champion_entity"] = dict(state.champion_entity)
    begun = state.open_intent is not None and state.open_intent.action is Action.PROMOTE
    # After a rollback, too: a late write of the promotion may have come behind it.
    if sleeps_in_bake(spec, state) and (begun or state.stage in (Stage.PROMOTED, Stage.ROLLED_BACK)):
        after["settings"] = {names["champion"]: {SCALE: spec.endpoint.scale_to_zero}}
    return after


def planned_promotion(
    spec: ReleaseSpec, state: ReleaseState, approved_by: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is, and what a promotion is to bring about: the challenger at 100 %, then the alias."""
    names, alias = state.entities, spec.promotion.alias
    after: dict[str, Any] = {
        "routes": {names["challenger"]: 100, **({names["champion"]: 0} if state.champion_version is not None else {})},
        "traffic_percent": 100,
        "alias": {alias: state.challenger_version},
    }
    if approved_by:
        after["approved_by"] = approved_by
    if sleeps_in_bake(spec, state):
        after["settings"] = {names["champion"]: {SCALE: True}}
    return {"traffic_percent": state.traffic_percent, "alias": {alias: state.champion_version}}, after


def sleeps_in_bake(spec: ReleaseSpec, state: ReleaseState) -> bool:
    """Whether the old champion scales to zero during the bake, and only then."""
    return spec.promotion.bake_scale_to_zero and not spec.endpoint.scale_to_zero and state.champion_version is not None


def _written(entity: ServedEntity) -> dict[str, Any]:
    return {
        "name": entity.name,
        "model": entity.model,
        "version": entity.version,
        "settings": dict(entity.settings),
    }
