"""The fifth link: the challenger beside the champion at 0 %, ready, logged and mapped by tracers."""

from typing import Any

import dagster as dg

from release_pipeline.assets.context import ModelContext, failure
from release_pipeline.errors import EndpointError, ReleaseError, ReleasePipelineError
from release_pipeline.rollout.parts import Parts
from release_pipeline.rollout.state import ReleaseState
from release_pipeline.spec import ReleaseSpec
from release_pipeline.workspace.endpoint import ServedEntity
from release_pipeline.workspace.tracer import send_tracer

ENTITY_NAME_LIMIT = 63


def build(model: ModelContext) -> dg.AssetsDefinition:
    """The asset ``deployed_endpoint`` of one model."""
    spec = model.spec

    @dg.asset(
        key=model.key("deployed_endpoint"),
        deps=[model.key("registered_version")],
        partitions_def=model.partitions,
        group_name=spec.name,
        kinds={"databricks"},
        pool=f"endpoint_{spec.endpoint_name}",
        description=f"The version on endpoint {spec.endpoint_name}, without traffic beside a champion.",
    )
    def deployed_endpoint(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        from release_pipeline.workspace.tracking import need_run

        release = context.partition_key
        try:
            parts = model.parts(context)
            run = need_run(parts.workspace, spec, release)
            if run.version is None:
                raise ReleaseError(
                    f"release {release} has no registered version; materialise registered_version first."
                )
            latest = parts.payload.latest()
            entity = served_entity(spec, run.version, run.experiment_id)
            state = parts.rollout.deploy(release, run.version, entity, table_version=latest[0] if latest else 0)
            traced = send_tracers(parts, spec, state)
        except ReleasePipelineError as error:
            raise failure(error) from error
        host = parts.workspace.host
        return dg.MaterializeResult(
            metadata={
                "endpoint": dg.MetadataValue.url(f"{host}/ml/endpoints/{spec.endpoint_name}"),
                "query_url": parts.endpoint.query_url,
                "version": run.version,
                "served_entity": entity.name,
                "champion_version": state.champion_version or "none",
                "traffic_percent": state.traffic_percent,
                "inference_table": spec.payload_table,
                "tracers": traced,
            }
        )

    return deployed_endpoint


def served_entity(spec: ReleaseSpec, version: str, experiment_id: str) -> ServedEntity:
    """The entity that serves ``version``, with the settings that agents.deploy would give it."""
    environment = {
        "ENABLE_MLFLOW_TRACING": str(spec.endpoint.tracing).lower(),
        "MLFLOW_EXPERIMENT_ID": experiment_id,
        "RETURN_REQUEST_ID_IN_RESPONSE": "true",
        **spec.endpoint.environment,
    }
    name = f"{spec.model.registered_name.replace('.', '-')}_{version}"[-ENTITY_NAME_LIMIT:].lstrip("-_")
    settings: dict[str, Any] = {
        "workload_size": spec.endpoint.workload_size,
        "scale_to_zero_enabled": spec.endpoint.scale_to_zero,
        "environment_vars": environment,
    }
    return ServedEntity(name=name, model=spec.model.registered_name, version=version, settings=settings)


def send_tracers(parts: Parts, spec: ReleaseSpec, state: ReleaseState) -> int:
    """Send one tracer to every entity of the release; how many were answered.

    Raises:
        EndpointError: The challenger, which is ready, does not answer its example request.
    """
    now = parts.endpoint.read()
    answered = 0
    for name in state.entities.values():
        entity = next((served for served in now.entities if served.name == name), None) if now else None
        if entity is None:
            continue
        try:
            send_tracer(parts.endpoint, entity, spec.model.input_example)
            answered += 1
        except EndpointError:
            # A champion that fails on one example is for the gate to see; a failing tracer is logged all the same.
            if name == state.entities.get("challenger") and not state.steps:
                raise
    return answered
