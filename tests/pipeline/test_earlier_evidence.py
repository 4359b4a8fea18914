"""An evidence table that an earlier version of the package made is read, and gets the columns that it lacks."""

from datetime import UTC, datetime

from release_pipeline.rollout.evidence_fold import so_far
from release_pipeline.workspace.evidence_table import EvidenceRow
from tests.pipeline.conftest import Model


def test_tracers_are_noted_in_a_table_that_lacks_columns(model: Model) -> None:
    # The run that deploys notes them before the release's first look.
    table, warehouse = model.parts().observer.evidence, model.parts().workspace.warehouse
    old = "release STRING, ingest BIGINT, kind STRING, at TIMESTAMP, metric STRING, to_version BIGINT, detail STRING"
    warehouse.execute(f"CREATE TABLE {table.name} ({old})")
    at = datetime(2026, 1, 1, tzinfo=UTC)
    table.note_tracers("r", {"x": "1"}, at)
    assert table.known("r").tracers == {"x": at}


def test_evidence_of_an_earlier_version_of_the_package_is_read_as_far_as_it_goes(model: Model) -> None:
    table = model.parts().observer.evidence
    warehouse = model.parts().workspace.warehouse
    old = (
        "release STRING, ingest BIGINT, kind STRING, at TIMESTAMP, metric STRING, champion STRING, to_version BIGINT, "
    )
    warehouse.execute(f"CREATE TABLE {table.name} ({old} detail STRING)")
    written = [
        "('r', 0, 'baseline', current_timestamp(), 'errors', '[90, 10]', 7, '{\"threshold_ms\": null}')",
        "('r', 0, 'ingest', current_timestamp(), NULL, NULL, 7, '{\"bucket_seconds\": 60}')",
    ]
    warehouse.execute(f"INSERT INTO {table.name} VALUES {', '.join(written)}")
    found = so_far(table.read("r"), model.spec.gate)
    assert [(level.n, level.bad) for level in found.baselines] == [(100, 10)]
    assert (found.gate, dict(found.cursors), found.state.buckets) == (model.spec.gate, {"": 7}, {"errors": 60.0})
    table.create()
    table.create()
    table.append([EvidenceRow("r", 1, "ingest", datetime(2026, 1, 1, tzinfo=UTC), segment="x", writer="me")])
    assert [(row.ingest, row.segment) for row in table.read("r")][-1] == (1, "x")
