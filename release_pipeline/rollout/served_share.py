"""Whether the endpoint's traffic is what the ledger says of a release: pure functions."""

from collections.abc import Mapping
from dataclasses import replace

from release_pipeline.gate.verdict import Action, HoldReason, Verdict
from release_pipeline.rollout.state import ReleaseState
from release_pipeline.workspace.endpoint import EndpointState


def told_routes(state: ReleaseState) -> dict[str, int]:
    """Traffic percentage by entity name as last verified, without those that have none."""
    share = state.traffic_percent
    routes = {state.entities["challenger"]: share}
    if state.champion_version is not None:
        routes[state.entities["champion"]] = 100 - share
    return _sharing(routes)


def serves_as_told(state: ReleaseState, endpoint: EndpointState | None) -> bool:
    """Whether the endpoint shares the traffic as the ledger says."""
    return endpoint is not None and _sharing(endpoint.routes) == told_routes(state)


def held_where_moved(verdict: Verdict, state: ReleaseState, endpoint: EndpointState | None) -> Verdict:
    """No step forward on an endpoint that does not serve what the ledger says; a rollback is never held."""
    if verdict.action not in (Action.ADVANCE, Action.PROMOTE) or state.open_intent is not None:
        return verdict
    if not state.entities or serves_as_told(state, endpoint):
        return verdict
    routes = _sharing(endpoint.routes if endpoint else {})
    sentence = (
        f"Hold: the endpoint routes {routes or 'nothing'}, but the ledger says {told_routes(state)}; somebody changed "
        "it: set the routes back, or roll the release back."
    )
    return replace(verdict, action=Action.HOLD, reason=HoldReason.SHARE_MISMATCH, sentence=sentence)


def _sharing(routes: Mapping[str, int]) -> dict[str, int]:
    return {name: percent for name, percent in routes.items() if percent}
