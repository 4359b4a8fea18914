"""Rows of neither arm are left out, and told once: other tables hold values of the same requests."""

from collections.abc import Callable

from release_pipeline.rollout.evidence_fold import so_far
from release_pipeline.rollout.ingest import TableRead, ingest_rows, nothing_new
from release_pipeline.rollout.observed_notes import standing_notes
from release_pipeline.rollout.reconciliation import Reconciliation
from release_pipeline.rollout.state import ReleaseState, Stage
from release_pipeline.spec import ReleaseSpec
from release_pipeline.workspace.counts import Cursor, Delta
from tests.pipeline.payload_tables import START


def test_a_request_of_neither_arm_is_told_once_however_many_tables_judge_it(
    make_spec: Callable[..., ReleaseSpec],
) -> None:
    spec = make_spec()
    state = ReleaseState("r", Stage.RAMPING, "2", "1", {}, None, (), START, None, 0)
    found, mapping = so_far([], spec.gate), {"a": "1", "b": "2", "c": "7"}
    entities = {"a": 5, "b": 4, "c": 3, "d": 2}
    payload = Delta(1, 1, (), entities, {}, 0.0, START, outside=1, rows=15)
    beside = Delta(1, 1, (), entities, {}, 0.0, START)
    nothing, counters = nothing_new(Cursor(1, START)), Reconciliation()
    read = TableRead("payload", spec.gate.metrics, payload)
    rows = ingest_rows(state, found, [read], mapping, payload=payload, counters=counters, at=START)
    assert (rows[-1].detail["others"], rows[-1].detail["outside"]) == ({"": 2, "7": 3}, 6)
    found = found.add(rows)
    for table in ("labels", "scores"):
        read = TableRead(table, spec.gate.metrics, beside)
        rows = ingest_rows(state, found, [read], mapping, payload=nothing, counters=counters, at=START)
        found = found.add(rows)
    assert found.others == {"": 2, "7": 3}
    notes = standing_notes(state, found, "payload")
    assert [note.partition(" rows were answered by")[0] for note in notes[:2]] == ["2", "3"]
