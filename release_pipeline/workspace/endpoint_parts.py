"""The parts of an endpoint that have writes of their own, apart from its configuration: tags and the AI Gateway."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from release_pipeline.errors import EndpointError, WorkspaceError, first_sentence
from release_pipeline.workspace.client import Workspace

if TYPE_CHECKING:
    from collections.abc import Callable


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
        gateway = api.get(endpoint).ai_gateway
        kept: dict[str, Any] = {}
        if gateway is not None:
            kept = {
                "fallback_config": gateway.fallback_config,
                "guardrails": gateway.guardrails,
                "rate_limits": gateway.rate_limits,
                "usage_tracking_config": gateway.usage_tracking_config,
            }
        table = gateway.inference_table_config if gateway else None
        if table is not None and table.enabled:
            off = AiGatewayInferenceTableConfig(enabled=False)
            api.put_ai_gateway(endpoint, inference_table_config=off, **kept)
        on = AiGatewayInferenceTableConfig(
            catalog_name=catalog, schema_name=schema, table_name_prefix=prefix, enabled=True
        )
        api.put_ai_gateway(endpoint, inference_table_config=on, **kept)

    _write(endpoint, "its inference table", switch)


def _write(endpoint: str, what: str, call: "Callable[[], object]") -> None:
    from databricks.sdk.errors.base import DatabricksError

    try:
        call()
    except TimeoutError as error:
        raise WorkspaceError(
            f"endpoint {endpoint}: {what} was to be set, and no answer came: {first_sentence(error)}."
        ) from None
    except DatabricksError as error:
        raise EndpointError(f"endpoint {endpoint}: {what} could not be set: {first_sentence(error)}.") from None
