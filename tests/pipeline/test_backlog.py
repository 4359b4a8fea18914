"""What a slow warehouse cannot read at once is read in pieces: each look gets further, and says what is left."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from release_pipeline.automation.next_run import next_run
from release_pipeline.errors import OutOfTime
from release_pipeline.gate.verdict import Action, GoReason, HoldReason, Verdict
from release_pipeline.rollout.evidence_fold import so_far
from release_pipeline.rollout.ingest import brought, watermark_after
from release_pipeline.rollout.observer import Observed, _held_where_busy
from release_pipeline.rollout.state import ReleaseState, Stage, StepWindow
from release_pipeline.rollout.table_reads import PIECES, TRACER_SECONDS, Findings, read_payload
from release_pipeline.spec import ReleaseSpec
from release_pipeline.workspace.counts import Cursor
from release_pipeline.workspace.inference_table import LEAST_SECONDS, InferenceTable, Window
from release_pipeline.workspace.sql.warehouse import Row, Value, Warehouse
from release_pipeline.workspace.tracer import tracer_id
from release_pipeline.workspace.tracer_rows import Shown, together
from tests.conftest import RunningWorkspace
from tests.pipeline.conftest import Model, look
from tests.pipeline.payload_tables import Logged, create, insert, moment, warehouse

pytestmark = pytest.mark.slow

MOST = 2
"""So many commits can be counted in one statement, as the test has it."""
_RANGE = re.compile(r"table_changes\('[^']*_payload', (\d+), (\d+)\)")


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The warehouse has no time to count more than two commits of an inference table; tracers it can find."""
    real = Warehouse.execute

    def execute(self: Warehouse, statement: str, parameters: Mapping[str, Value] | None = None) -> list[Row]:
        found = _RANGE.search(statement)
        if found and int(found[2]) - int(found[1]) >= MOST:
            raise OutOfTime("SQL warehouse w did not finish a statement within 16 s; it was cancelled.")
        return real(self, statement, parameters)

    with monkeypatch.context() as patch:
        patch.setattr(Warehouse, "execute", execute)
        yield patch


def rows_of(observed: Observed) -> int:
    total = observed.evidence.metric("errors").total()
    return total.champion_n + total.challenger_n


def write(model: Model, ids: list[str], entity: str, *, client: str = "NULL") -> None:
    """One commit with these requests."""
    values = ", ".join(f"('{each}', {client}, current_timestamp(), 200, '{entity}', '{{}}')" for each in ids)
    model.parts().workspace.warehouse.execute(
        f"INSERT INTO {model.spec.payload_table} "
        "(databricks_request_id, client_request_id, request_time, status_code, served_entity_id, response) "
        f"VALUES {values}"
    )


def test_every_look_gets_further_and_no_row_is_lost_or_counted_twice(
    deployed: tuple[Model, str], slow: pytest.MonkeyPatch
) -> None:
    model, release = deployed
    state = model.step(release)
    assert state.challenger_version is not None
    while (before := look(model, release)).verdict.reason == HoldReason.WAREHOUSE_BUSY:
        pass
    parts = model.parts()
    # The tracer of a new entity is the last that is logged: its rows must not wait for it.
    sent = tracer_id(state.challenger_version)
    parts.observer.evidence.note_tracers(release, {sent: state.challenger_version}, parts.observer.clock.now())
    for commit in range(6):
        write(model, [f"{release}-{commit}-{number}" for number in range(5)], "new")
    parts.workspace.warehouse.execute(  # delivered again
        f"INSERT INTO {model.spec.payload_table} SELECT * FROM {model.spec.payload_table} "
        f"WHERE databricks_request_id LIKE '{release}-%-4'"
    )
    write(model, [f"{release}-t"], "new", client=f"'{sent}'")
    looks = []
    for _ in range(40):
        looks.append(look(model, release))
        if looks[-1].verdict.reason not in (HoldReason.WAREHOUSE_BUSY, HoldReason.MAPPING_UNKNOWN):
            break  # a busy machine may have had no time to look for the tracer
    assert len(looks) > 3
    counted = [rows_of(each) - rows_of(before) for each in looks]
    assert counted[-1] == 30, counted
    assert counted == sorted(counted)
    ingests = [each.ingests for each in looks]
    assert ingests == sorted(ingests)
    assert len(set(ingests)) > 3, "look by look it gets further; one that a busy machine stops is made up for"
    first = looks[0]
    assert (first.verdict.action, first.verdict.reason) == (Action.HOLD, HoldReason.WAREHOUSE_BUSY)
    assert "the warehouse is too slow to read at once what is new in" in first.verdict.sentence
    assert re.search(r"\d of \d+ commits were read in this look", first.verdict.sentence)
    assert looks[-1].duplicates - before.duplicates == 6


def test_where_there_is_no_time_to_look_for_tracers_new_ones_are_asked_for(
    deployed: tuple[Model, str], slow: pytest.MonkeyPatch
) -> None:
    model, release = deployed
    state = model.step(release)
    while look(model, release).verdict.reason == HoldReason.WAREHOUSE_BUSY:
        pass
    for commit in range(6):
        write(model, [f"{release}-{commit}"], f"new-{release}")  # no other test has sent it a tracer

    def late(*args: object) -> None:
        raise OutOfTime("SQL warehouse w did not finish a statement within 5 s; it was cancelled.")

    with slow.context() as patch:
        patch.setattr(InferenceTable, "shown", late)
        for _ in range(10):  # rows of tracers may come first
            held = look(model, release)
            if held.verdict.reason == HoldReason.MAPPING_UNKNOWN:
                break
    assert (held.verdict.action, held.verdict.reason) == (Action.HOLD, HoldReason.MAPPING_UNKNOWN)
    assert "Besides, the warehouse is too slow" in held.verdict.sentence
    run, _ = next_run(state, held.verdict, model.spec, datetime.now(UTC))
    assert run is not None
    assert run.action == "send_tracers"


def test_a_piece_without_rows_moves_no_watermark_past_commits_that_nobody_has_read(
    workspace: RunningWorkspace, make_spec: Callable[..., ReleaseSpec], slow: pytest.MonkeyPatch
) -> None:
    name, sent = create(warehouse(), "gateway"), tracer_id("2")
    insert(warehouse(), name, "gateway", [Logged("a", 1)])
    table = InferenceTable(warehouse(), name)
    begin = table.latest()
    warehouse().execute(f"ALTER TABLE {name} SET TBLPROPERTIES ('owner' = 'maintenance')")
    for commit in range(4):
        insert(warehouse(), name, "gateway", [Logged(f"{commit}-{n}", 10 * commit + n, entity="new") for n in range(5)])
    insert(warehouse(), name, "gateway", [Logged("t", 50, entity="new", client=sent)])
    latest, seen = table.latest(), Findings()
    assert begin is not None
    assert latest is not None
    found = replace(
        so_far([], make_spec().gate), cursors={name: begin.version}, watermark=moment(0).timestamp(), longest_lag=3.0
    )
    state = ReleaseState(
        "r", Stage.RAMPING, "2", "1", {}, None, (StepWindow(0, 5, moment(0), None),), moment(0), None, 0
    )
    read = read_payload(table, state, found, latest, seen, {sent: moment(49)})
    assert read is not None
    assert (read.delta.rows, brought(read.delta)) == (0, False)
    assert read.delta.to_version < latest.version
    assert watermark_after(found, read.delta) == found.watermark
    assert seen.behind.mapping == {"new": "2"}, "what comes after it is known all the same"
    assert table.piece(begin.version, latest, 0.0).at < moment(0), "and of its own time nothing is"


@pytest.mark.parametrize("reason", [HoldReason.MAPPING_UNKNOWN, HoldReason.MAPPING_CONTRADICTED])
def test_a_backlog_hides_no_hold_that_keeps_the_piece_from_being_stored(reason: HoldReason) -> None:
    backlog = "the warehouse is too slow: 1 of 6 commits were read in this look, and the rest follows."
    held = _held_where_busy(Verdict(Action.HOLD, reason, "Hold: it is not known.", ()), "", backlog)
    assert (held.action, held.reason) == (Action.HOLD, reason)
    assert held.sentence == f"Hold: it is not known. Besides, {backlog}"
    other = _held_where_busy(Verdict(Action.ADVANCE, GoReason.SHOWN, "Advance.", ()), "", backlog)
    assert (other.action, other.reason) == (Action.HOLD, HoldReason.WAREHOUSE_BUSY)


def test_tracers_behind_the_piece_that_contradict_each_other_are_told() -> None:
    here, behind = Shown({"a": "1", "b": "2"}, {}), Shown({"a": "2"}, {"c": ("1", "2")})
    assert together(here, behind) == ({"b": "2"}, {"a": ("1", "2"), "c": ("1", "2")})


def test_of_little_that_is_new_no_piece_is_tried_twice(
    workspace: RunningWorkspace, make_spec: Callable[..., ReleaseSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = create(warehouse(), "gateway")
    for commit in range(8):
        insert(warehouse(), name, "gateway", [Logged(f"{commit}", commit)])
    table, tried = InferenceTable(warehouse(), name), list[int]()
    latest = table.latest()
    assert latest is not None

    def stuck(self: InferenceTable, after: int, until: Cursor, **how: object) -> None:
        tried.append(until.version - after)
        raise OutOfTime("SQL warehouse w did not finish a statement within 16 s; it was cancelled.")

    monkeypatch.setattr(InferenceTable, "changes", stuck)
    for after, tries in ((latest.version - 8, [8, 1]), (latest.version - 1, [1])):
        tried.clear()
        state = ReleaseState("r", Stage.RAMPING, "2", "1", {}, None, (), moment(0), None, 0)
        with pytest.raises(OutOfTime):
            read_payload(
                table, state, replace(so_far([], make_spec().gate), cursors={name: after}), latest, Findings(), {}
            )
        assert tried == tries


def test_the_tries_of_one_look_leave_time_for_the_rest_of_a_tick() -> None:
    assert sum(seconds for _, seconds in PIECES) + TRACER_SECONDS <= 45
    assert PIECES[0][0] == 1.0, "all at once, where that can be"
    assert PIECES[-1][0] == 0.0, "and at last the least that there is"


@pytest.mark.parametrize("feed", [True, False], ids=["change feed", "watermark"])
def test_pieces_together_are_the_whole(feed: bool, workspace: RunningWorkspace) -> None:
    name = create(warehouse(), "gateway", feed=feed)
    for commit in range(4):
        rows = [Logged(f"{commit}-{number}", 400 * commit + number) for number in range(5)]
        insert(warehouse(), name, "gateway", rows)
    table = InferenceTable(warehouse(), name, hold_back_seconds=3)
    latest = table.latest()
    assert latest is not None
    begin = 0 if feed else int(moment(0).timestamp()) - 1
    assert table.piece(begin, latest, 1.0) == latest
    windows, after, found, times = [Window(0, moment(0), None)], begin, dict[str, int](), list[datetime]()
    while after < latest.version:
        until = table.piece(after, latest, 0.3)
        delta = table.changes(after, until, first_version=1, windows=windows, plans=[])
        found["m/1"] = found.get("m/1", 0) + delta.entities.get("m/1", 0)
        times.append(delta.committed_at)
        assert after < until.version <= latest.version
        after = until.version
    whole = table.changes(begin, latest, first_version=1, windows=windows, plans=[])
    assert found == whole.entities == {"m/1": 20 if feed else 16}
    assert times == sorted(times)
    assert times[0] < times[-1], "a piece is complete up to its own end, and not to the table's"
    assert times[0] < datetime.now(UTC)
    assert isinstance(table.piece(begin, latest, 0.0), Cursor)
    least = 1 if feed else LEAST_SECONDS
    assert table.piece(begin, latest, 0.0).version == begin + least
    assert table.piece(begin, latest._replace(version=begin + least), 0.0).version == begin + least
    assert least == 1 or least >= 4 * 30, "no less than the time of some ticks, or a backlog would grow"
