"""The rule: what wins over what, and that every verdict says why in numbers."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from release_pipeline.gate.decision import decide, decide_first_release
from release_pipeline.gate.evidence import EvidenceState, fold
from release_pipeline.gate.observations import Baseline
from release_pipeline.gate.verdict import Action, Frozen, GoReason, HoldReason, MetricState
from release_pipeline.spec import RampPart, ReleaseSpec
from release_pipeline.spec_gate import GatePart, Metric
from tests.gate.conftest import every

DOCS = Path(__file__).parents[2] / "docs" / "how-the-gate-decides.md"
ERRORS = Metric(name="errors", kind="errors")
SLOW = Metric(name="slow", kind="slow", margin=0.05)

GOOD = ((19_000, 190), (1_000, 10))
BAD = ((1_900, 19), (100, 30))
THIN = ((950, 9), (50, 1))


@pytest.fixture
def state_of(observe):
    """The state after one ingest with (champion, challenger) per metric, all complete."""

    def make(spec: ReleaseSpec, step: int = 0, **metrics) -> EvidenceState:
        rows = [observe(*arms, metric=name, step=step, bucket=1200.0) for name, arms in metrics.items()]
        return fold(rows, (), spec.gate, buckets=every(spec.gate))

    return make


FROZEN = Frozen("ml.agents.questions_payload", newest=2000.0, requests=7)
HEALTH = [
    ({"missing_tables": ("ml.agents.questions_payload",)}, HoldReason.TABLE_MISSING, "does not exist"),
    ({"missing_tables": ("ml.agents.truth",)}, HoldReason.TABLE_MISSING, "take its metric out of the gate"),
    ({"unreadable": "it has no column status_code."}, HoldReason.TABLE_UNREADABLE, "no column status_code"),
    ({"frozen": FROZEN}, HoldReason.TABLE_FROZEN, "50 min old, and the endpoint has answered 7 requests since"),
    ({"update_in_progress": True}, HoldReason.UPDATE_IN_PROGRESS, "being updated"),
    ({"unmapped_rows": 3}, HoldReason.MAPPING_UNKNOWN, "3 rows"),
    ({"lag_seconds": 7_260.0}, HoldReason.LAGGING, "121 min behind"),
    ({"configured_share": 0.5}, HoldReason.SHARE_MISMATCH, "5 % of 20000 requests where 50 %"),
]


@pytest.mark.parametrize(("changed", "reason", "words"), HEALTH, ids=[reason for _, reason, _ in HEALTH])
def test_a_fault_holds_what_would_advance_and_does_not_stop_a_rollback(
    changed, reason, words, make_spec, make_signals, state_of
):
    spec = make_spec()
    good, bad = state_of(spec, errors=GOOD), state_of(spec, errors=BAD)
    assert decide(good, make_signals(), spec, 0).action is Action.ADVANCE
    held = decide(good, make_signals(**changed), spec, 0)
    assert (held.action, held.reason) == (Action.HOLD, reason)
    assert words in held.sentence
    assert decide(bad, make_signals(**changed), spec, 0).action is Action.ROLL_BACK


def test_faults_are_named_in_the_order_in_which_they_explain_each_other(make_spec, make_signals, state_of):
    spec = make_spec()
    state = state_of(spec, errors=GOOD)
    changes: dict = {}
    for changed, reason, _ in reversed(HEALTH):
        changes |= changed
        assert decide(state, make_signals(**changes), spec, 0).reason == reason


def test_rolls_back_with_rates_rows_and_limits_in_the_sentence(make_spec, make_signals, state_of):
    spec = make_spec(ERRORS, SLOW)
    verdict = decide(state_of(spec, errors=BAD, slow=THIN), make_signals(), spec, 0)
    assert (verdict.action, verdict.reason) == (Action.ROLL_BACK, GoReason.GUARD)
    errors, slow = verdict.metrics
    assert (errors.state, slow.state) == (MetricState.WORSE, MetricState.UNDECIDED)
    assert errors.harm_limit == pytest.approx(40)  # two guards share alpha
    assert errors.noninferiority_limit == pytest.approx(20)  # all must be shown, so none shares
    assert (errors.champion_rate, errors.challenger_rate) == (0.01, 0.3)
    assert "step 1 of 3 (5 %): errors is 30 % of 100 challenger requests, champion 1 % of 1900" in verdict.sentence
    assert "limit 40" in verdict.sentence


def test_advances_and_promotes_at_the_last_step(make_spec, make_signals, state_of):
    spec = make_spec(ramp={"steps": (5, 50)})
    first = decide(state_of(spec, errors=GOOD), make_signals(), spec, 0)
    assert (first.action, first.reason) == (Action.ADVANCE, GoReason.SHOWN)
    assert first.sentence.startswith("Advance from step 1 of 2 (5 %): errors is 1 % of 1000 challenger requests")
    assert "within 2 pp" in first.sentence
    last = decide(state_of(spec, 1, errors=GOOD), make_signals(), spec, 1)
    assert (last.action, last.reason) == (Action.PROMOTE, GoReason.SHOWN)


def test_evidence_of_an_earlier_step_does_not_advance_a_later_one(make_spec, make_signals, state_of):
    spec = make_spec()
    verdict = decide(state_of(spec, errors=GOOD), make_signals(), spec, 1)
    assert (verdict.action, verdict.reason) == (Action.HOLD, HoldReason.NO_DATA)


def test_every_required_metric_must_be_shown(make_spec, make_signals, state_of):
    spec = make_spec(ERRORS, SLOW)
    verdict = decide(state_of(spec, errors=GOOD, slow=THIN), make_signals(), spec, 0)
    assert (verdict.action, verdict.reason) == (Action.HOLD, HoldReason.NOT_ENOUGH)
    assert "slow is 2 % of 50 challenger requests" in verdict.sentence
    assert "errors" not in verdict.sentence
    assert verdict.metrics[1].requests_left is not None
    assert f"About {verdict.metrics[1].requests_left} more challenger requests" in verdict.sentence
    assert verdict.metrics[0].requests_left is None
    unseen = decide(state_of(spec, errors=GOOD), make_signals(), spec, 0)
    assert unseen.reason == HoldReason.NOT_ENOUGH
    assert "slow has no challenger requests" in unseen.sentence


def test_a_step_lasts_its_shortest_time_and_is_complete_beyond_its_start(make_spec, make_signals, state_of, observe):
    spec = make_spec(ramp={"min_step_seconds": 600})
    state = state_of(spec, errors=GOOD)
    early = decide(state, make_signals(now=1599.0), spec, 0)
    assert (early.action, early.reason) == (Action.HOLD, HoldReason.NOT_ENOUGH)
    assert "1 s of its shortest time of 600 s" in early.sentence
    assert decide(state, make_signals(now=1600.0), spec, 0).action is Action.ADVANCE
    # Rows dated before the step began, as a wrong clock would date them.
    behind = fold([observe(*GOOD, bucket=600.0, watermark=1000.0)], (), spec.gate, buckets=every(spec.gate))
    held = decide(behind, make_signals(now=1600.0), spec, 0)
    assert (held.action, held.reason) == (Action.HOLD, HoldReason.NOT_ENOUGH)
    assert "complete only up to a time before the start" in held.sentence


def test_rows_beyond_the_watermark_do_not_advance(make_spec, make_signals, observe):
    spec = make_spec()
    state = fold([observe(*GOOD, bucket=1200.0, watermark=1499.0)], (), spec.gate, buckets=every(spec.gate))
    verdict = decide(state, make_signals(), spec, 0)
    assert (verdict.action, verdict.reason) == (Action.HOLD, HoldReason.NOT_ENOUGH)
    assert "1000 wait for more champion rows or for late ones" in verdict.sentence


def test_a_deadline_calls_a_person_and_never_ships(make_spec, make_signals, state_of):
    spec = make_spec(ramp={"deadline_hours": 1.0})
    late = make_signals(now=1000.0 + 3601.0)
    verdict = decide(state_of(spec, errors=THIN), late, spec, 2)
    assert (verdict.action, verdict.reason) == (Action.HOLD, HoldReason.NO_DATA)
    verdict = decide(state_of(spec, 2, errors=THIN), late, spec, 2)
    assert (verdict.action, verdict.reason) == (Action.HOLD, HoldReason.INCONCLUSIVE)
    assert "A person must decide" in verdict.sentence
    on_time = decide(state_of(spec, 2, errors=THIN), make_signals(now=1000.0 + 3600.0), spec, 2)
    assert on_time.reason == HoldReason.NOT_ENOUGH


def test_worse_within_the_margin_advances_unless_it_guards(make_spec, make_signals, state_of):
    worse_but_tolerable = ((190_000, 1_900), (10_000, 200))
    for guard, action in ((False, Action.ADVANCE), (True, Action.ROLL_BACK)):
        spec = make_spec(ERRORS.model_copy(update={"margin": 0.03, "guard": guard}))
        verdict = decide(state_of(spec, errors=worse_but_tolerable), make_signals(), spec, 0)
        assert verdict.action is action
        assert verdict.metrics[0].harmful
        assert verdict.metrics[0].shown
    tolerant = make_spec(ERRORS.model_copy(update={"margin": 0.03, "tolerance": 0.015}))
    assert decide(state_of(tolerant, errors=worse_but_tolerable), make_signals(), tolerant, 0).action is Action.ADVANCE


def test_without_required_metrics_time_decides_and_the_sentence_says_so(make_spec, make_signals, state_of):
    spec = make_spec(ERRORS.model_copy(update={"required": False}))
    state = state_of(spec, errors=THIN)
    verdict = decide(state, make_signals(), spec, 0)
    assert (verdict.action, verdict.reason) == (Action.ADVANCE, GoReason.NOTHING_REQUIRED)
    assert "nothing was proven" in verdict.sentence
    assert decide(state, make_signals(now=1001.0), spec, 0).reason == HoldReason.NOT_ENOUGH
    assert decide(state_of(spec, errors=BAD), make_signals(), spec, 0).action is Action.ROLL_BACK


@settings(max_examples=40, deadline=None)
@given(
    errors=st.tuples(st.integers(0, 40), st.integers(0, 60)),
    slow=st.tuples(st.integers(0, 900), st.integers(0, 200)),
)
def test_a_muted_metric_never_changes_the_verdict(errors, slow, make_spec, make_signals, observe):
    muted = SLOW.model_copy(update={"muted": True})
    with_it, alone = make_spec(ERRORS, muted), make_spec(ERRORS)
    rows = [
        observe((3_800, errors[0]), (200, errors[1])),
        observe((3_800, slow[0]), (200, slow[1]), metric="slow"),
    ]
    one = decide(fold(rows, (), with_it.gate, buckets=every(with_it.gate)), make_signals(), with_it, 0)
    two = decide(fold(rows, (), alone.gate, buckets=every(alone.gate)), make_signals(), alone, 0)
    assert (one.action, one.reason, one.sentence) == (two.action, two.reason, two.sentence)
    assert one.metrics[0] == two.metrics[0]


BOUNDED = ERRORS.model_copy(update={"bound": 0.05})
FIRST = {"configured_share": 1.0}


@pytest.mark.parametrize(
    ("challenger", "action", "reason", "words"),
    [
        (
            (600, 4),
            Action.PROMOTE,
            GoReason.SHOWN,
            "errors is 0.667 % of 600 challenger requests, shown to be below 5 %",
        ),
        ((60, 20), Action.ROLL_BACK, GoReason.GUARD, "shown to be above 5 % over 60 challenger requests"),
        ((30, 1), Action.HOLD, HoldReason.NOT_ENOUGH, "not shown to be below 5 %"),
        ((0, 0), Action.HOLD, HoldReason.NO_DATA, "no challenger rows of the first release"),
    ],
)
def test_a_first_release_is_held_against_its_bounds(
    challenger, action, reason, words, make_spec, make_signals, state_of
):
    spec = make_spec(BOUNDED, SLOW)
    verdict = decide_first_release(state_of(spec, errors=((0, 0), challenger)), make_signals(**FIRST), spec)
    assert (verdict.action, verdict.reason) == (action, reason)
    assert words in verdict.sentence
    assert verdict.metrics[0].bound == 0.05
    assert verdict.metrics[1].bound is None


def test_rows_whose_time_is_not_complete_are_told_apart_where_all_together_look_too_bad(
    make_spec, make_signals, observe
):
    spec = make_spec(BOUNDED)
    rows = [
        observe((0, 0), (600, 4), bucket=0.0, watermark=1200.0),
        observe((0, 0), (100, 60), bucket=1200.0, watermark=1200.0),
    ]
    state = fold(rows, [], spec.gate, buckets=every(spec.gate))
    verdict = decide_first_release(state, make_signals(**FIRST), spec)
    assert verdict.action is Action.PROMOTE
    words = "errors is 9.14 % of 700 challenger requests, shown to be below 5 % by the 600 whose time is complete"
    assert words in verdict.sentence


def test_a_first_release_without_bounds_is_promoted_and_says_that_nothing_was_proven(make_spec, make_signals, state_of):
    spec = make_spec()
    verdict = decide_first_release(state_of(spec), make_signals(**FIRST), spec)
    assert (verdict.action, verdict.reason) == (Action.PROMOTE, GoReason.NO_BOUNDS)
    assert "nothing was proven" in verdict.sentence
    busy = decide_first_release(state_of(spec), make_signals(update_in_progress=True, **FIRST), spec)
    assert busy.reason == HoldReason.UPDATE_IN_PROGRESS


def test_a_first_release_is_held_by_faults_and_by_its_deadline(make_spec, make_signals, state_of):
    spec = make_spec(BOUNDED, ramp={"deadline_hours": 1.0})
    good, thin = (state_of(spec, errors=((0, 0), rows)) for rows in ((600, 4), (30, 1)))
    assert decide_first_release(good, make_signals(frozen=FROZEN, **FIRST), spec).reason == HoldReason.TABLE_FROZEN
    assert decide_first_release(thin, make_signals(now=9e5, **FIRST), spec).reason == HoldReason.INCONCLUSIVE


def test_every_hold_reason_and_every_go_reason_is_explained_in_the_documentation():
    headings = re.findall(r"^#### `(\w+)`$", DOCS.read_text(), flags=re.MULTILINE)
    assert sorted(headings) == sorted([*HoldReason, *GoReason])


def test_the_documentations_sentence_is_what_the_gate_says(make_spec, make_signals, observe):
    spec = make_spec()
    rows = [observe((4750, 48), (250, 3), bucket=1200.0)]
    state = fold(rows, [Baseline.freeze(ERRORS, 9_999, 99)], spec.gate, buckets=every(spec.gate))
    assert f"> {decide(state, make_signals(), spec, 0).sentence}\n" in DOCS.read_text()


def test_the_documentations_yaml_is_valid():
    (text,) = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    parts = yaml.safe_load(text)
    gate = GatePart(**parts["gate"])
    assert [metric.name for metric in gate.guards] == ["errors", "slow"]
    assert len(gate.metrics[0].margin) == len(RampPart(**parts["ramp"]).steps)
