"""From real requests to evidence to verdicts, and from stored evidence to the same verdicts again."""

import itertools
import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from release_pipeline.gate.evidence import Bet, EvidenceState
from release_pipeline.gate.replay import replay
from release_pipeline.gate.verdict import Action, HoldReason
from release_pipeline.rollout.evidence_fold import observation, so_far
from release_pipeline.rollout.ingest import watermark_after
from release_pipeline.rollout.observer import Observed
from release_pipeline.spec import ReleaseSpec, parse_spec
from release_pipeline.workspace import tracking
from release_pipeline.workspace.client import connect
from release_pipeline.workspace.counts import Delta
from release_pipeline.workspace.evidence_table import SNAPSHOT_EVERY, EvidenceRow
from release_pipeline.workspace.tracer import PREFIX
from tests.conftest import RunningWorkspace
from tests.pipeline.conftest import MODELS, Model, attributes, eventually, look, next_tick, together
from tests.pipeline.tracing import trace

CHUNK = 30


def counts(observed: Observed) -> tuple[int, int, int, int]:
    """Rows and bad rows of the champion, then of the challenger, over all steps."""
    total = observed.evidence.metric("errors").total()
    champion, challenger = total.champion or (0, 0), total.challenger or (0, 0)
    return sum(champion), champion[1], sum(challenger), challenger[1]


def in_ramp(model: Model, config: str) -> str:
    """A release of one configuration at its first step, beside a champion; its key."""
    model.champion()
    model.deploy(release := model.release(), model.register(config))
    model.step(release)
    return release


@pytest.fixture
def ramping(deployed: tuple[Model, str]) -> tuple[Model, str]:
    """A release at its first step."""
    model, release = deployed
    model.step(release)
    return deployed


def tracers(model: Model) -> int:
    """Rows of tracers in the inference table."""
    found = model.parts().workspace.warehouse.execute(
        f"SELECT count(*) AS n FROM {model.spec.payload_table} WHERE client_request_id LIKE '{PREFIX}%'"
    )
    return int(found[0]["n"] or 0)


def ask_and_look(model: Model, release: str, count: int = CHUNK) -> Observed:
    """Ask, wait for the rows, and look."""
    before = model.counted(model.parts())
    model.ask(count, "a question")
    model.rows(before + count)
    return look(model, release)


def stored(model: Model, release: str) -> list[EvidenceRow]:
    """All evidence of a release."""
    return model.parts().observer.evidence.read(release)


def running_capitals(state: EvidenceState, row: EvidenceRow) -> dict[str, list[str]]:
    """What the evidence table must hold beside a block, to the last bit: harm over all steps, the rest by step."""
    accounts = state.metric(row.metric).accounts
    return {
        bet.value: [value.hex() for value in (account.carried() if bet is Bet.HARM else account.at(row.step))]
        for bet, account in accounts.items()
    }


def comes_out_again(rows: Sequence[EvidenceRow], live: Sequence[Observed], spec: ReleaseSpec) -> None:
    """The rule over the stored rows gives the state, the stored log-capitals and the verdict of every live look."""
    blocks = [row for row in rows if row.kind == "block"]
    frozen = so_far([row for row in rows if row.ingest == 0], spec.gate)
    looks = replay(
        map(observation, blocks),
        frozen.baselines,
        spec,
        buckets=frozen.state.buckets,
        step_starts=[step.started_at.timestamp() for step in live[-1].release.steps],
        looked_at={row.ingest: row.at.timestamp() for row in rows if row.kind == "ingest" and row.ingest},
    )
    assert [look.verdict for look in looks] == [observed.verdict for observed in live]
    assert [look.state for look in looks] == [observed.evidence for observed in live]
    states = {look.ingest: look.state for look in looks}
    for row in blocks:
        stored = {bet: [float(value).hex() for value in values] for bet, values in row.log_capitals.items()}
        assert stored == running_capitals(states[row.ingest], row)
    assert any(value for row in blocks for value in row.log_capitals["harm"]), "something was bet"


@pytest.mark.parametrize(("config", "end"), [("second", Action.ADVANCE), ("raising", Action.ROLL_BACK)])
def test_traffic_becomes_evidence_and_a_verdict_that_the_stored_rows_give_again(
    config: str, end: Action, model: Model
) -> None:
    release = in_ramp(model, config)
    looks: list[Observed] = []
    while not looks or looks[-1].verdict.action is Action.HOLD:
        assert len(looks) < 20, looks[-1].verdict.sentence
        looks.append(ask_and_look(model, release))
    last = looks[-1]
    assert last.verdict.action is end
    n, bad, challenger_n, challenger_bad = counts(last)
    assert n + challenger_n == CHUNK * len(looks), "tracers and requests before the step are no evidence"
    assert (bad, challenger_bad) == (0, challenger_n if config == "raising" else 0)
    assert [observed.ingests for observed in looks] == list(range(1, len(looks) + 1))
    rows = stored(model, release)
    assert so_far(rows, model.spec.gate).digest == last.evidence_digest
    comes_out_again(rows, looks, model.spec)
    idle = look(model, release, ingest=False)
    assert (idle.evidence, idle.evidence_digest, idle.verdict) == (last.evidence, last.evidence_digest, last.verdict)


def test_a_release_goes_on_from_stored_evidence_at_its_next_step(ramping: tuple[Model, str]) -> None:
    model, release = ramping
    first = ask_and_look(model, release)
    model.step(release, 1)
    second = ask_and_look(model, release)
    assert [step.step for step in second.release.steps] == [0, 1]
    evidence = second.evidence.metric("errors")
    assert sum(evidence.seen(0).champion) + sum(evidence.seen(0).challenger) == CHUNK
    assert sum(evidence.seen(1).champion) + sum(evidence.seen(1).challenger) == CHUNK
    assert evidence.seen(0) == first.evidence.metric("errors").seen(0)
    assert second.verdict.metrics[0].champion_n == sum(evidence.seen(1).champion), "a step is judged by its own rows"


def test_without_new_rows_nothing_is_written(ramping: tuple[Model, str]) -> None:
    model, release = ramping
    ask_and_look(model, release)
    before = stored(model, release)
    look(model, release)
    assert stored(model, release) == before


def test_rows_of_an_unknown_entity_hold_the_release_and_are_counted_once_a_tracer_came(model: Model) -> None:
    model.champion()
    version = model.register("second")
    parts, release = model.parts(), model.release()
    # Killed before the tracers of the deployment were sent: nothing says which entity is the new version's.
    latest = parts.payload.latest()
    assert latest is not None
    parts.rollout.deploy(release, version, model.entity(version), table_version=latest[0])
    model.step(release)
    held = ask_and_look(model, release)
    assert held.verdict.reason == HoldReason.MAPPING_UNKNOWN
    assert held.verdict.action is Action.HOLD
    assert [row for row in stored(model, release) if row.kind == "block"] == [], (
        "what is not understood is not stored in part"
    )
    assert counts(held)[2:] == (0, 0)
    for _ in range(2):
        ask_and_look(model, release)
        model.clock.advance(3 * 3600)
    assert look(model, release).verdict.reason == HoldReason.MAPPING_UNKNOWN, "rows that came are no silence"
    endpoint = parts.endpoint.read()
    assert endpoint is not None
    trace(parts, release, *endpoint.entities)
    eventually(lambda: tracers(model) >= 3)
    seen = look(model, release)
    assert seen.verdict.reason != HoldReason.MAPPING_UNKNOWN
    n, _, challenger_n, _ = counts(seen)
    assert n + challenger_n == 3 * CHUNK
    assert min(n, challenger_n) > 0


def test_rows_of_an_entity_that_is_neither_arms_are_outside_once_both_arms_are_known(
    ramping: tuple[Model, str],
) -> None:
    model, release = ramping
    first = ask_and_look(model, release)
    parts = model.parts()
    parts.workspace.warehouse.execute(
        f"INSERT INTO {model.spec.payload_table} "
        "(databricks_request_id, request_time, status_code, served_entity_id, response) "
        "SELECT uuid(), current_timestamp(), 500, 'somebody', '{}' FROM range(40)"
    )
    held = look(model, release)
    assert held.verdict.reason == HoldReason.MAPPING_UNKNOWN
    assert (held.signals.unmapped_rows, held.ingests) == (40, first.ingests)
    endpoint = parts.endpoint.read()
    assert endpoint is not None
    before = tracers(model)
    trace(parts, release, endpoint.entities[0])
    eventually(lambda: tracers(model) == before + 1)
    assert look(model, release).signals.unmapped_rows == 40, "the other version's tracer may still come"
    trace(parts, release, *endpoint.entities)
    eventually(lambda: tracers(model) >= before + 3)
    seen = look(model, release)
    assert (seen.signals.unmapped_rows, seen.ingests) == (0, first.ingests + 1)
    assert counts(seen) == counts(first)
    assert [row for row in stored(model, release) if row.kind == "ingest"][-1].detail["outside"] == 40


def test_commits_without_rows_move_neither_the_watermark_nor_the_newest_row(ramping: tuple[Model, str]) -> None:
    model, release = ramping
    before = ask_and_look(model, release)
    table = model.spec.payload_table
    model.parts().workspace.warehouse.execute(f"ALTER TABLE {table} SET TBLPROPERTIES ('owner' = 'maintenance')")
    after = look(model, release)
    assert after.ingests == before.ingests + 1
    rows = stored(model, release)
    earlier, later = (
        so_far([row for row in rows if row.ingest <= last], model.spec.gate) for last in (before.ingests, 99)
    )
    assert later.cursors[table] > earlier.cursors[table]
    assert (later.watermark, later.newest, later.lags) == (earlier.watermark, earlier.newest, earlier.lags)
    assert later.watermark > 0


@pytest.mark.slow
def test_one_straggler_does_not_stop_the_watermark_for_its_own_lag(ramping: tuple[Model, str]) -> None:
    model, release = ramping
    ask_and_look(model, release)
    found = so_far(stored(model, release), model.spec.gate)
    at = datetime.fromtimestamp(found.newest + 1000, tz=UTC)
    delta = Delta(9, 9, (), {}, {}, 86_400.0, at, rows=1)
    most = 60 * found.gate.max_lag_minutes
    assert watermark_after(found, delta) == max(found.watermark, found.newest + 1000 - most)
    assert watermark_after(replace(found, longest_lag=86_400.0), replace(delta, lag_seconds=1.0, committed_at=at)) == (
        max(found.watermark, found.newest + 1000 - most)
    )
    behind = replace(delta, lag_seconds=3600.0, lag_measured=False)
    assert watermark_after(replace(found, watermark=0.0), behind) == found.newest + 1000 - 3600


def test_tracers_and_refused_requests_are_no_evidence(ramping: tuple[Model, str]) -> None:
    model, release = ramping
    parts = model.parts()
    endpoint = parts.endpoint.read()
    assert endpoint is not None
    before = tracers(model)
    for _ in range(5):
        trace(parts, release, *endpoint.entities)
    eventually(lambda: tracers(model) >= before + 10)
    seen = look(model, release)
    assert counts(seen) == (0, 0, 0, 0)
    assert seen.verdict.reason == HoldReason.NO_DATA


def test_rows_of_no_entity_are_counted_outside_and_never_judged(ramping: tuple[Model, str]) -> None:
    model, release = ramping
    first = ask_and_look(model, release)
    # The gateway answered these itself, so no version is to blame; nobody can say which one they belong to.
    model.parts().workspace.warehouse.execute(
        f"INSERT INTO {model.spec.payload_table} (databricks_request_id, request_time, status_code) "
        "SELECT uuid(), current_timestamp(), 500 FROM range(40)"
    )
    seen = look(model, release)
    assert seen.ingests == first.ingests + 1
    assert counts(seen) == counts(first)
    assert seen.verdict.reason != HoldReason.MAPPING_UNKNOWN
    assert seen.verdict.action is not Action.ROLL_BACK
    outside = [row.detail["outside"] for row in stored(model, release) if row.kind == "ingest" and row.ingest]
    assert outside == [*[0] * (len(outside) - 1), 40]


def test_a_table_that_is_gone_holds_the_release(model: Model) -> None:
    model.deploy(release := model.release(), model.register("first"))
    model.parts().workspace.warehouse.execute(f"DROP TABLE {model.spec.payload_table}")
    held = look(model, release)
    assert held.verdict.reason == HoldReason.TABLE_MISSING
    assert model.spec.payload_table in held.verdict.sentence


def test_two_observers_at_once_do_not_count_twice(ramping: tuple[Model, str]) -> None:
    model, release = ramping
    asked = 0
    for _ in range(4):
        before = model.counted(model.parts())
        model.ask(10, "a question")
        asked += 10
        model.rows(before + 10)
        seen = together(*[lambda: look(model, release)] * 2)
        assert [type(result) for result in seen] == [Observed, Observed], seen
        now = look(model, release)
        n, _, challenger_n, _ = counts(now)
        assert n + challenger_n == asked
        rows = stored(model, release)
        assert so_far(rows, model.spec.gate).state == now.evidence
        assert [row.ingest for row in rows if row.kind == "ingest"] == list(range(now.ingests + 1))
        reads = sorted((row.from_version, row.to_version) for row in rows if row.kind == "ingest" and row.ingest)
        for earlier, later in itertools.pairwise(reads):
            assert later[0] == earlier[1] + 1, "every commit is read once"


@pytest.fixture
def doubling_workspace(workspace: RunningWorkspace, tmp_path: Path) -> Iterator[RunningWorkspace]:
    """A workspace of its own that delivers every row twice, in later commits."""
    running = RunningWorkspace(tmp_path, "--duplicate-fraction", "1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABRICKS_HOST", running.url)
        patch.setenv("DATABRICKS_TOKEN", running.token)
        connect()
        yield running
    running.stop()


@pytest.mark.slow
def test_rows_that_are_delivered_twice_are_counted_once(doubling_workspace: RunningWorkspace) -> None:
    spec = parse_spec(attributes("doubled"), file=MODELS / "defs.yaml")

    def log(config: str) -> tracking.ReleaseRun:
        return tracking.log_model(
            connect(), spec, config, source=MODELS / "agent.py", config=MODELS / f"{config}.yaml", folder=MODELS
        )

    model = Model(spec, log)
    release = in_ramp(model, "second")
    for asked in (10, 20, 30):
        before = model.counted(model.parts())
        model.ask(10, "a question")
        model.rows(before + 10)
        look(model, release)
        n, _, challenger_n, _ = counts(look(model, release))
        assert n + challenger_n <= asked
    model.rows(2 * 30)
    n, _, challenger_n, _ = counts(look(model, release))
    assert n + challenger_n == 30


def test_evidence_holds_counts_and_no_text_of_any_request(ramping: tuple[Model, str]) -> None:
    model, release = ramping
    before = model.counted(model.parts())
    model.ask(10, "a question about Caesar's private matters")
    model.rows(before + 10)
    look(model, release)
    warehouse = model.parts().workspace.warehouse
    for table in (model.spec.evidence_table, model.spec.ledger_table):
        text = json.dumps(warehouse.execute(f"SELECT * FROM {table}"))
        assert release in text
        assert "Caesar" not in text


def test_a_tick_has_nothing_to_finish_where_nothing_is_open(ramping: tuple[Model, str]) -> None:
    model, release = ramping
    assert not next_tick(model, release)


@pytest.mark.slow
def test_a_long_release_is_read_from_its_snapshot_and_comes_out_the_same(make_model: Callable[..., Model]) -> None:
    truth = f"main.default.truth_{uuid.uuid4().hex[:8]}"
    late = {"table": truth, "badness": "label.wrong", "settle_minutes": 0}
    metrics = [
        {"name": "slow", "kind": "slow", "margin": 0.3, "threshold_ms": 1, "segments": "substr(request_id, 1, 1)"},
        {"name": "errors", "kind": "errors", "margin": 0.3, "bound": 0.3},
        {"name": "wrong", "kind": "label", "margin": 0.3} | late,
    ]
    model = make_model(gate={"metrics": metrics})
    warehouse = model.parts().workspace.warehouse
    warehouse.execute(f"CREATE TABLE {truth} (request_id STRING, wrong DOUBLE)")
    model.champion()
    model.ask(10)
    model.rows(10)
    model.deploy(release := model.release(), model.register("second"))
    model.step(release)
    seen = look(model, release)
    while seen.ingests <= SNAPSHOT_EVERY + 2:
        warehouse.execute(
            f"INSERT INTO {truth} SELECT databricks_request_id, 0.5 FROM {model.spec.payload_table} "
            f"WHERE databricks_request_id NOT IN (SELECT request_id FROM {truth})"
        )
        seen = ask_and_look(model, release, 2)
    table = model.parts().observer.evidence
    whole, newest = table.read(release), table.read_newest(release)
    assert {row.ingest for row in newest} == {0, *range(SNAPSHOT_EVERY, seen.ingests + 1)}
    assert len({row.ingest for row in whole}) == seen.ingests + 1
    assert so_far(newest, model.spec.gate) == so_far(whole, model.spec.gate)
    assert so_far(newest, model.spec.gate).state == seen.evidence
    assert seen.evidence.metric("wrong").total().champion_n > 0
    assert len(seen.evidence.segments("slow")) > 1
    shuffled = sorted(whole, key=lambda row: (row.ingest, row.kind == "snapshot", row.metric[::-1], -row.bucket_start))
    assert so_far(shuffled, model.spec.gate).digest == seen.evidence_digest


def test_an_edit_of_the_gate_counts_from_the_next_release(ramping: tuple[Model, str]) -> None:
    model, release = ramping
    before = ask_and_look(model, release)
    spec, edit = model.spec, {"alpha": 0.4, "min_block_rows": 1}
    edited = spec.model_copy(update={"gate": spec.gate.model_copy(update=edit)})
    after = replace(model.parts().observer, spec=edited).look(release)
    assert after is not None
    assert (after.evidence, after.verdict) == (before.evidence, before.verdict)
