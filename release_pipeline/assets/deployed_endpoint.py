"""The fifth link: the challenger beside the champion at 0 %, ready, logged and mapped by tracers."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from release_pipeline.assets.context import ModelContext, failure, refused
from release_pipeline.errors import (
    EndpointError,
    NotAllowed,
    NotAsked,
    Quarantined,
    Queued,
    ReleaseError,
    ReleasePipelineError,
    first_sentence,
)
from release_pipeline.report.metadata import link_metadata
from release_pipeline.report.preflight_table import preflight_metadata
from release_pipeline.rollout.parts import Parts
from release_pipeline.rollout.preflight import await_update, preflight
from release_pipeline.rollout.state import ReleaseState, Stage
from release_pipeline.spec import ReleaseSpec
from release_pipeline.workspace.endpoint import ServedEntity
from release_pipeline.workspace.links import endpoint_links, table_page
from release_pipeline.workspace.tracer import send_tracer, tracer_id

ENTITY_NAME_LIMIT = 63
TRACER_ATTEMPTS = 3


def build(model: ModelContext) -> dg.AssetsDefinition:
    """The asset ``deployed_endpoint`` of one model."""
    spec = model.spec

    @dg.asset(
        key=model.key("deployed_endpoint"),
        deps=[model.key("registered_version")],
        partitions_def=model.partitions,
        group_name=spec.name,
        owners=list(spec.owners),
        kinds={"databricks"},
        pool=f"endpoint_{spec.endpoint_name}",
        output_required=False,  # a release that waits in the queue is not deployed, and nothing after it runs
        description=f"The version on endpoint {spec.endpoint_name}, without traffic beside a champion.",
    )
    def deployed_endpoint(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult]:
        from release_pipeline.workspace.tracking import need_run

        release = context.partition_key
        try:
            parts = model.parts(context)
            run = need_run(parts.workspace, spec, release)
            if run.version is None:
                raise ReleaseError(
                    f"release {release} has no registered version; materialise registered_version first."
                )
            await_update(parts, spec, release)
            checked = preflight(parts, spec, release)
            if checked is not None:
                if checked.failed:
                    leave_queue(context, parts, str(checked))
                    raise refused(checked)
                context.log.info(str(checked))
            latest = parts.payload.latest()
            entity = served_entity(spec, run.version, run.experiment_id)
            before = parts.rollout.state(release)
            state = parts.rollout.deploy(release, run.version, entity, table_version=latest.version if latest else 0)
            # Once it has users, an example that is not answered is for the gate to see.
            untried = before is None or before.stage in (Stage.STARTING, Stage.DEPLOYED, Stage.FAILED)
            traced = prove_challenger(parts, spec, state) if untried else send_tracers(parts, spec, state)
        except Queued as queued:
            context.log.info(str(queued))
            return
        except ReleasePipelineError as error:
            if isinstance(error, NotAllowed | Quarantined):
                leave_queue(context, parts, str(error))
            raise failure(error) from error
        links = endpoint_links(parts.workspace, spec.endpoint_name, run.experiment_id, spec.gate.metrics)
        yield dg.MaterializeResult(
            metadata={
                **link_metadata(links),
                "version": run.version,
                "served_entity": entity.name,
                "champion_version": state.champion_version or "none",
                "traffic_percent": state.traffic_percent,
                "inference_table": spec.payload_table,
                "table": dg.MetadataValue.url(table_page(parts.workspace, spec.payload_table)),
                "tracers": traced,
                **preflight_metadata(checked),
                **power_metadata(parts, spec, state),
            }
        )

    return deployed_endpoint


def leave_queue(context: dg.AssetExecutionContext, parts: Parts, reason: str) -> None:
    """Take a release out of the queue that a person has to help first: those behind it do not wait for that."""
    try:
        if parts.events.withdraw(context.partition_key, reason) is not None:
            context.log.warning(f"release {context.partition_key} leaves the queue; once mended, materialise it again")
    except ReleasePipelineError as error:  # the sensor withdraws it after automation.most_attempts
        context.log.warning(f"release {context.partition_key} could not leave the queue: {error}")


def power_metadata(parts: Parts, spec: ReleaseSpec, state: ReleaseState) -> dict[str, Any]:
    """What the ramp can show at the endpoint's traffic of the last days; nothing for a release without a champion.

    It is news for people, so whatever goes wrong with it is a sentence, and the release goes on.
    """
    if state.champion_version is None:
        return {}
    try:
        from release_pipeline.gate.planner import plan
        from release_pipeline.report import power_report
        from release_pipeline.rollout.traffic import measured_traffic

        now = parts.observer.clock.now()
        planned = plan(
            spec,
            measured_traffic(
                spec, parts.payload, parts.observer.sources_of(spec.gate.metrics), now, spec.gate.baseline_days
            ),
        )
        metadata = power_report.power_metadata(planned)
    except Exception as error:
        metadata = {"power_sentence": f"How long the ramp takes is not known: {first_sentence(error)}."}
    return metadata


def served_entity(spec: ReleaseSpec, version: str, experiment_id: str) -> ServedEntity:
    """The entity that serves ``version``, with the settings that agents.deploy would give it."""
    environment = {
        "ENABLE_MLFLOW_TRACING": str(spec.endpoint.tracing).lower(),
        "ENABLE_LANGCHAIN_STREAMING": "true",
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


def prove_challenger(parts: Parts, spec: ReleaseSpec, state: ReleaseState) -> int:
    """Send tracers before anybody is served; a challenger that does not answer its example is rolled back.

    Raises:
        NotAsked: It was not asked, as where others have used up a rate limit; whoever takes the first step asks again.
        ReleaseError: It did not answer, and was rolled back.
    """
    try:
        return send_tracers(parts, spec, state, strict=True)
    except NotAsked as error:
        raise NotAsked(
            f"{error} That says nothing of the challenger, which stays at 0 %: materialise canary_traffic to try again."
        ) from error
    except EndpointError as error:
        parts.rollout.roll_back(state.release, reason=f"the challenger does not answer its example request: {error}")
        raise ReleaseError(f"release {state.release} was rolled back before it had any traffic: {error}") from error


def send_tracers(parts: Parts, spec: ReleaseSpec, state: ReleaseState, *, strict: bool = False) -> int:
    """Send one tracer to every entity of the release; how many were answered.

    Also to one of a third version that somebody else put there: its rows are left out once it is known, and would be
    waited for until then. A second entity of the champion's or the challenger's version is not asked: its rows would be
    taken for theirs. The tracers' ids are noted in the evidence table first: a row counts as a tracer's only if its id
    is there.

    Raises:
        EndpointError: Only if ``strict``: the challenger, which is ready, did not answer, tried three times.
        StatementFailed: The tracers could not be noted; none was sent.
    """
    now = parts.endpoint.read()
    entities = [entity for entity in now.entities if _is_traced(entity, spec, state)] if now else []
    challenger = state.entities.get("challenger")
    tries = {
        entity: [
            tracer_id(entity.version) for _ in range(TRACER_ATTEMPTS if strict and entity.name == challenger else 1)
        ]
        for entity in entities
    }
    if not entities:
        return 0
    noted = {tracer: entity.version for entity, tracers in tries.items() for tracer in tracers}
    parts.observer.evidence.note_tracers(state.release, noted, parts.observer.clock.now())
    answered = 0
    for entity, tracers in tries.items():
        must = strict and entity.name == challenger
        for attempt, tracer in enumerate(tracers):
            try:
                send_tracer(parts.endpoint, entity, spec.model.input_example, tracer)
                answered += 1
                break
            except EndpointError:
                # A champion that fails on one example is for the gate to see; a failing tracer is logged all the same.
                if must and attempt == TRACER_ATTEMPTS - 1:
                    raise
    return answered


def _is_traced(entity: ServedEntity, spec: ReleaseSpec, state: ReleaseState) -> bool:
    arms = (state.champion_version, state.challenger_version)
    ours = entity.serves(spec.model.registered_name, entity.version)
    return entity.name in state.entities.values() or (ours and entity.version not in arms)
