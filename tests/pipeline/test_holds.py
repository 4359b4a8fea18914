"""What cannot be judged holds a release by name, with numbers: each with the real fault in the real workspace."""

from collections.abc import Callable

import pytest
import requests

from release_pipeline.gate.verdict import Action, HoldReason
from release_pipeline.rollout.evidence_fold import so_far
from release_pipeline.rollout.observer import Observed
from release_pipeline.workspace.endpoint import Endpoint
from release_pipeline.workspace.endpoint_counters import Counters, MetricsPage
from tests.pipeline.conftest import Model, eventually, look

pytestmark = pytest.mark.slow

TOLERANT = {"name": "errors", "kind": "errors", "margin": 0.3, "bound": 0.3}
Faults = Callable[..., requests.Response]


def gate(**more: object) -> dict[str, object]:
    return {"bucket_seconds": 1, "min_block_rows": 5, "metrics": [TOLERANT], **more}


def in_ramp(model: Model, config: str) -> str:
    model.champion()
    model.deploy(release := model.release(), model.register(config))
    model.step(release)
    look(model, release)  # as the run that takes the step does
    return release


def ask_and_look(model: Model, release: str, count: int, text: str = "hello") -> Observed:
    before = model.counted(model.parts())
    model.ask(count, text)
    model.rows(before + count)
    return look(model, release)


def test_a_table_that_nobody_writes_to_any_more_holds(make_model: Callable[..., Model], set_faults: Faults) -> None:
    model = make_model(gate=gate(max_lag_minutes=1))
    release = in_ramp(model, "second")
    assert ask_and_look(model, release, 10).signals.frozen is None
    set_faults(freeze_inference_tables=True)
    model.clock.advance(30)
    look(model, release)  # a reading after the newest row
    model.ask(12, "nobody will know")
    model.clock.advance(30)
    assert look(model, release).verdict.reason != HoldReason.TABLE_FROZEN, "they may still come"
    model.clock.advance(61)
    held = look(model, release)
    assert (held.verdict.action, held.verdict.reason) == (Action.HOLD, HoldReason.TABLE_FROZEN)
    assert "has answered 12 requests since that should be in it" in held.verdict.sentence


def test_without_requests_an_old_table_is_not_frozen(make_model: Callable[..., Model]) -> None:
    model = make_model(gate=gate(max_lag_minutes=1))
    release = in_ramp(model, "second")
    ask_and_look(model, release, 10)
    for _ in range(6):
        model.clock.advance(60)
        assert look(model, release).signals.frozen is None


def test_failures_that_the_endpoint_counts_and_never_logs_hold_a_release_that_looks_well(
    make_model: Callable[..., Model], set_faults: Faults
) -> None:
    model = make_model(gate=gate(), ramp={"steps": [50]})
    release = in_ramp(model, "failing")
    set_faults(unlogged_statuses=[500])
    failed = 0
    for _ in range(12):
        before = model.counted(model.parts())
        statuses = model.ask(10, "hello") + model.ask(10, "a question")
        failed += statuses.count(500)
        model.rows(before + len(statuses) - statuses.count(500))
        seen = look(model, release)
    assert failed > 20
    errors = seen.evidence.metric("errors").total()
    assert errors.challenger[1] == 0, "the table alone is blind"
    # The newest failures are compared when the table has rows that are younger.
    last = eventually(lambda: (now := ask_and_look(model, release, 4)).signals.unlogged_errors == failed and now)
    assert last.verdict.action is Action.HOLD
    assert last.verdict.reason == HoldReason.UNLOGGED_ERRORS
    assert f"counted {failed} failures of the challenger that are not in the inference table" in last.verdict.sentence


def test_logged_failures_are_not_unlogged(make_model: Callable[..., Model]) -> None:
    model = make_model(gate=gate())
    release = in_ramp(model, "failing")
    for _ in range(4):
        seen = ask_and_look(model, release, 20, "a question")
    assert seen.evidence.metric("errors").total().challenger[1] > 0
    assert look(model, release).signals.unlogged_errors == 0
    assert seen.verdict.action is Action.ROLL_BACK


def test_rows_that_are_delivered_again_are_counted_and_dropped(
    make_model: Callable[..., Model], set_faults: Faults
) -> None:
    model = make_model(gate=gate())
    release = in_ramp(model, "second")
    set_faults(duplicate_fraction=1.0)
    model.ask(20)
    model.rows(40)
    seen = eventually(lambda: (now := look(model, release)).duplicates >= 20 and now)
    total = seen.evidence.metric("errors").total()
    assert total.champion_n + total.challenger_n == 20


def test_a_sampled_table_is_evidence_of_what_it_has_and_says_so(
    make_model: Callable[..., Model], set_faults: Faults
) -> None:
    model = make_model(gate=gate())
    release = in_ramp(model, "second")
    set_faults(sampling_fraction=0.5)
    model.ask(80)
    seen = eventually(lambda: (now := look(model, release)).sampling_fraction == 0.5 and now)
    assert seen.signals.unlogged_errors == 0


def test_sql_that_fails_in_the_warehouse_holds_and_takes_no_other_metric_with_it(
    make_model: Callable[..., Model],
) -> None:
    wrong = {"name": "short", "kind": "expression", "badness": "no_such_column + 1", "margin": 0.3}
    model = make_model(gate=gate(metrics=[TOLERANT, wrong]))
    release = in_ramp(model, "second")
    seen = ask_and_look(model, release, 20)
    assert seen.verdict.reason == HoldReason.TABLE_UNREADABLE
    assert "short" in seen.verdict.sentence
    assert seen.evidence.metric("errors").total().champion_n > 0


def test_rows_that_a_metrics_sql_fails_on_are_doubted_for_the_rest_of_the_step(
    make_model: Callable[..., Model],
) -> None:
    odd = "CASE WHEN request LIKE '%odd%' THEN CAST(request AS INT) ELSE 0 END"
    fails = {"name": "short", "kind": "expression", "badness": odd, "margin": 0.3}
    model = make_model(gate=gate(metrics=[TOLERANT, fails]), ramp={"steps": [50]})
    release = in_ramp(model, "second")
    failed = ask_and_look(model, release, 60, "odd")
    assert failed.verdict.reason == HoldReason.TABLE_UNREADABLE
    unjudged = failed.evidence.metric("short").unjudged[0]
    assert unjudged == (0, failed.evidence.metric("errors").total().challenger_n), (
        "none of the champion's explains them"
    )
    assert unjudged[1] > 10
    for _ in range(12):
        seen = ask_and_look(model, release, 30)
        assert seen.signals.unreadable == ""
        assert seen.verdict.action is Action.HOLD, seen.verdict.sentence
        if seen.verdict.reason == HoldReason.UNJUDGED_ROWS:
            break
    assert seen.verdict.reason == HoldReason.UNJUDGED_ROWS, "the rest alone would have shown it"
    assert f"{unjudged[1]} of its challenger rows cannot be judged" in seen.verdict.sentence


def test_every_minute_of_the_counters_is_kept_though_no_row_comes(
    make_model: Callable[..., Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(gate=gate(max_lag_minutes=600))
    release = in_ramp(model, "second")
    first = ask_and_look(model, release, 4)
    ends = [6000 + model.clock.now().timestamp() // 60 * 60]

    def minute(endpoint: Endpoint) -> MetricsPage:
        return MetricsPage({first.release.entities["challenger"]: Counters(7, 2)}, ends[-1])

    monkeypatch.setattr(Endpoint, "counters", minute)
    for number in range(3):
        ends.append(ends[-1] + 60)
        assert look(model, release).ingests == first.ingests + number + 1
        assert look(model, release).ingests == first.ingests + number + 1, "the same minute is kept once"
    found = so_far(model.parts().observer.evidence.read(release), model.spec.gate)
    assert [reading.at for reading in found.reconciliation.waiting[-3:]] == ends[1:]
    assert found.state.metric("errors").total() == first.evidence.metric("errors").total()


def test_a_table_of_another_shape_holds_and_says_what_it_lacks(model: Model) -> None:
    model.deploy(release := model.release(), model.register("first"))
    warehouse = model.parts().workspace.warehouse
    warehouse.execute(f"DROP TABLE {model.spec.payload_table}")
    warehouse.execute(f"CREATE TABLE {model.spec.payload_table} (question STRING, answer STRING)")
    held = look(model, release)
    assert held.verdict.reason == HoldReason.TABLE_UNREADABLE
    assert "is in no shape of a payload table" in held.verdict.sentence


def test_an_expression_judges_the_answer_and_its_segments(make_model: Callable[..., Model]) -> None:
    says = {
        "name": "wording",
        "kind": "expression",
        "badness": "CASE WHEN response LIKE '%first%' THEN 0.0 WHEN response LIKE '%broken%' THEN 0.5 END",
        "segments": "CASE WHEN request LIKE '%bonjour%' THEN 'fr' ELSE 'en' END",
        "margin": 0.3,
    }
    model = make_model(gate=gate(metrics=[TOLERANT, says]), ramp={"steps": [50]})
    model.champion()
    before = model.counted(model.parts())
    model.ask(20, "hello")
    model.ask(10, "bonjour")
    model.rows(before + 30)
    model.deploy(release := model.release(), model.register("raising"))
    model.step(release)
    before = model.counted(model.parts())
    model.ask(20, "hello")
    model.ask(20, "bonjour")
    model.rows(before + 40)
    seen = look(model, release)
    assert seen.evidence.segments("wording") == ("en", "fr", "other")
    verdicts = {metric.title: metric for metric in seen.verdict.metrics}
    for segment in ("en", "fr"):
        metric = verdicts[f"wording of {segment}"]
        assert metric.champion_n + metric.challenger_n == 20
        assert metric.champion_bad == 0
        assert metric.challenger_bad == 0.5 * metric.challenger_n > 0
    assert verdicts["wording of other"].champion_n == 0
