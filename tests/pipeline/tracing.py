"""Tracers as the pipeline sends them, to entities of a test's choice."""

from release_pipeline.rollout.parts import Parts
from release_pipeline.workspace.endpoint import ServedEntity
from release_pipeline.workspace.tracer import send_tracer, tracer_id


def trace(parts: Parts, release: str, *entities: ServedEntity) -> list[str]:
    """Note one tracer per entity, and send them; their ids."""
    ids = [tracer_id(entity.version) for entity in entities]
    noted = {tracer: entity.version for tracer, entity in zip(ids, entities, strict=True)}
    parts.observer.evidence.note_tracers(release, noted, parts.observer.clock.now())
    for tracer, entity in zip(ids, entities, strict=True):
        send_tracer(parts.endpoint, entity, None, tracer)
    return ids
