"""What a look tells beside its verdict: what was left out, what others sent, and what nobody could check."""

from dataclasses import replace

from release_pipeline.gate.verdict import Action, Verdict
from release_pipeline.rollout.evidence_fold import EvidenceSoFar
from release_pipeline.rollout.state import ReleaseState

#: The verdict's own words where the endpoint's counters were never read.
UNCHECKED = (
    "The endpoint's own counters could not be read in all of this release, so failures that are answered and never "
    "logged would not have been seen."
)


def unchecked(found: EvidenceSoFar) -> bool:
    """Whether errors have a say, and nothing could tell whether all of them are in the table."""
    judged = any(metric.kind == "errors" and (metric.guards or metric.requires) for metric in found.gate.metrics)
    return judged and found.ingest > 0 and found.reconciliation.last is None


def with_doubt(verdict: Verdict, found: EvidenceSoFar) -> Verdict:
    """The verdict; one that goes forward says so where failures that were never logged could not be looked for."""
    if verdict.action not in (Action.ADVANCE, Action.PROMOTE) or not unchecked(found):
        return verdict
    return replace(verdict, sentence=f"{verdict.sentence} {UNCHECKED}")


def standing_notes(state: ReleaseState, found: EvidenceSoFar, table: str) -> list[str]:
    """What is known of the whole release and holds nothing, a part of a sentence each."""
    notes = []
    for version, rows in found.others.items():
        who = f"version {version}, which is neither the champion nor the challenger" if version else "a served entity"
        notes.append(f"{rows} rows were answered by {who}{'' if version else ' that no tracer mapped'}: left out")
    if found.forged:
        notes.append(
            f"{found.forged} rows call themselves tracers and were not sent by this pipeline: they count as users' rows"
        )
    refusals = found.reconciliation.unlogged_refusals()
    if refusals:
        notes.append(
            f"the endpoint has counted {refusals} refusals (4xx) of version {state.challenger_version} that {table} "
            "lacks, as platforms log no 401, 403 or 429: nothing is held for them"
        )
    if unchecked(found):
        notes.append(
            "the endpoint's own counters were never readable, so failures that are not logged would not be seen; "
            "CAN_VIEW on the endpoint is needed for them"
        )
    return notes
