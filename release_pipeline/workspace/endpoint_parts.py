"""The parts of an endpoint with writes of their own, apart from its configuration: tags, AI Gateway, permissions."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from release_pipeline.errors import EndpointError, WorkspaceError, first_sentence
from release_pipeline.spec_endpoint import Permission, RateLimit
from release_pipeline.workspace.client import Workspace
from release_pipeline.workspace.endpoint_refusals import refused_change, unsure

if TYPE_CHECKING:
    from collections.abc import Callable

    from databricks.sdk.service.serving import AiGatewayConfig, AiGatewayRateLimit

#: Serving endpoints, as the permissions API names their kind.
_OBJECTS = "serving-endpoints"


def set_tags(workspace: Workspace, endpoint: str, tags: Mapping[str, str]) -> None:
    """Set tags of an endpoint; its others stay.

    Raises:
        EndpointError: The service refused it.
        WorkspaceError: The service did not answer in time.
    """
    from databricks.sdk.service.serving import EndpointTag

    api = workspace.client.serving_endpoints
    added = [EndpointTag(key=key, value=value) for key, value in tags.items()]
    _write(endpoint, "its tags", lambda: api.patch(endpoint, add_tags=added))


def log_to(workspace: Workspace, endpoint: str, catalog: str, schema: str, prefix: str) -> None:
    """Switch the inference table `<catalog>.<schema>.<prefix>_payload` on.

    The gateway is written as a whole, so everything else of it is sent back as it is, rate limits and guardrails
    included. The service moves an inference table only after the one before was switched off.

    Raises:
        EndpointError: The service refused it.
        WorkspaceError: The service did not answer in time.
    """
    from databricks.sdk.service.serving import AiGatewayInferenceTableConfig

    api = workspace.client.serving_endpoints

    def switch() -> None:
        kept = _gateway_settings(api.get(endpoint).ai_gateway)
        table = kept.pop("inference_table_config", None)
        if table is not None and table.enabled:
            off = AiGatewayInferenceTableConfig(enabled=False)
            api.put_ai_gateway(endpoint, inference_table_config=off, **kept)
        on = AiGatewayInferenceTableConfig(
            catalog_name=catalog, schema_name=schema, table_name_prefix=prefix, enabled=True
        )
        api.put_ai_gateway(endpoint, inference_table_config=on, **kept)

    _write(endpoint, "its inference table", switch)


def limit(workspace: Workspace, endpoint: str, limits: Sequence[RateLimit]) -> None:
    """Set rate limits; those of other principals, and the rest of the gateway with its inference table, stay.

    Raises:
        EndpointError: The service refused it.
        WorkspaceError: The service did not answer in time.
    """
    api = workspace.client.serving_endpoints

    def change() -> None:
        kept = _gateway_settings(api.get(endpoint).ai_gateway)
        there = {(_key(each), each.principal or ""): each for each in kept.pop("rate_limits", None) or []}
        for wanted, new in zip(limits, rate_limit_inputs(limits), strict=True):
            whose = (wanted.key, wanted.principal)
            # One that is there may limit tokens, too.
            there[whose] = replace(there[whose], calls=wanted.calls) if whose in there else new
        api.put_ai_gateway(endpoint, rate_limits=list(there.values()), **kept)

    _write(endpoint, "its rate limits", change)


def rate_limit_inputs(limits: Sequence[RateLimit]) -> "list[AiGatewayRateLimit]":
    """Rate limits as the service takes them."""
    from databricks.sdk.service import serving

    return [
        serving.AiGatewayRateLimit(
            calls=each.calls,
            key=serving.AiGatewayRateLimitKey(each.key),
            principal=each.principal or None,
            renewal_period=serving.AiGatewayRateLimitRenewalPeriod.MINUTE,
        )
        for each in limits
    ]


def calls_allowed(gateway: "AiGatewayConfig | None") -> dict[tuple[str, str], int]:
    """Calls per minute by key and principal, which is empty where the limit is for nobody in particular."""
    limits = (gateway.rate_limits if gateway else None) or []
    return {(_key(each), each.principal or ""): each.calls for each in limits if each.calls is not None}


def levels(workspace: Workspace, endpoint: str, endpoint_id: str) -> dict[tuple[str, str], frozenset[str]]:
    """Permission levels on an endpoint by principal: the field that names one of its kind, and the name.

    Raises:
        WorkspaceError: The service refused to say.
    """
    from databricks.sdk.errors.base import DatabricksError

    try:
        answer = workspace.client.permissions.get(_OBJECTS, endpoint_id)
    except (DatabricksError, TimeoutError) as error:
        raise WorkspaceError(
            f"endpoint {endpoint}: its permissions could not be read: {first_sentence(error)}."
        ) from None
    found: dict[tuple[str, str], frozenset[str]] = {}
    for entry in answer.access_control_list or []:
        given = frozenset(each.permission_level.value for each in entry.all_permissions or [] if each.permission_level)
        for field in ("user_name", "group_name", "service_principal_name"):
            if name := getattr(entry, field):
                found[field, name] = found.get((field, name), frozenset()) | given
    return found


def grant(workspace: Workspace, endpoint: str, endpoint_id: str, permissions: Sequence[Permission]) -> None:
    """Give permissions on an endpoint; what others have stays.

    Raises:
        EndpointError: The service refused it.
        WorkspaceError: The service did not answer in time.
    """
    from databricks.sdk.service.iam import AccessControlRequest

    given = [
        AccessControlRequest.from_dict({each.principal[0]: each.principal[1], "permission_level": each.level})
        for each in permissions
    ]
    api = workspace.client.permissions
    _write(endpoint, "its permissions", lambda: api.update(_OBJECTS, endpoint_id, access_control_list=given))


def _gateway_settings(gateway: "AiGatewayConfig | None") -> dict[str, Any]:
    """Everything of a gateway, as it is sent back: it is written as a whole."""
    if gateway is None:
        return {}
    return {
        "fallback_config": gateway.fallback_config,
        "guardrails": gateway.guardrails,
        "inference_table_config": gateway.inference_table_config,
        "rate_limits": gateway.rate_limits,
        "usage_tracking_config": gateway.usage_tracking_config,
    }


def _key(limit: "AiGatewayRateLimit") -> str:
    return limit.key.value if limit.key else "endpoint"


def _write(endpoint: str, what: str, call: "Callable[[], object]") -> None:
    from databricks.sdk.errors.base import DatabricksError

    try:
        call()
    except unsure() as error:
        raise WorkspaceError(
            f"endpoint {endpoint}: no answer came when {what} was to be set: {first_sentence(error)}."
        ) from None
    except DatabricksError as error:
        raise EndpointError(f"endpoint {endpoint}: {what} could not be set: {refused_change(error)}.") from None
