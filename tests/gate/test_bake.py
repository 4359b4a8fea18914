"""After a promotion: one arm against the old champion's rate and against bounds, and how often that is wrong."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from release_pipeline.gate.bake import LEVEL_SHARE, decide_bake
from release_pipeline.gate.betting import above_increment, log_e_value
from release_pipeline.gate.champion_rate import champion_before
from release_pipeline.gate.evidence import EvidenceState
from release_pipeline.gate.observations import OTHER, Baseline, Observation, Series
from release_pipeline.gate.state_json import state_from_dict, state_to_dict
from release_pipeline.gate.verdict import Action, Frozen, GoReason, HoldReason, MetricState, Signals, Verdict
from release_pipeline.spec import ReleaseSpec
from release_pipeline.spec_gate import GatePart, Metric
from tests.gate.conftest import every

#: Step of the bake after a ramp of three steps, and of a first release's.
BAKE, FIRST = 3, 1
ERRORS = Series("errors")
ALPHA = 0.05

Observe = Callable[..., Observation]
MakeSpec = Callable[..., ReleaseSpec]


def metric(**fields: Any) -> Metric:
    return Metric(**{"name": "errors", "kind": "errors", **fields})


def after(
    spec: ReleaseSpec, *observations: Observation, before: tuple[int, float] = (10_000, 100), segment: str = ""
) -> EvidenceState:
    """Evidence with one level, from ``before`` (rows, bad), and observations, an ingest each."""
    (first, *_) = spec.gate.metrics
    state = EvidenceState.start(
        [Baseline.freeze(first, *before, segment=segment)], spec.gate, buckets=every(spec.gate, 300)
    )
    for number, observation in enumerate(observations):
        state = state.add([replace(observation, ingest=number)])
    return state


@pytest.fixture
def in_bake(make_signals: Callable[..., Signals]) -> Callable[..., Signals]:
    """Healthy signals of an hour into a bake."""

    def make(**changed: Any) -> Signals:
        return make_signals(**({"configured_share": 1.0, "now": 4600.0, "step_started_at": 1000.0} | changed))

    return make


def ceiling(verdict: Verdict) -> float:
    (found,) = verdict.metrics
    assert found.bound is not None
    return found.bound


def test_a_version_that_is_worse_than_the_champion_and_the_margin_is_taken_back(
    make_spec: MakeSpec, observe: Observe, in_bake: Callable[..., Signals]
) -> None:
    spec = make_spec()
    state = after(spec, observe((2000, 20), (500, 5)), observe((0, 0), (1000, 60), step=BAKE, bucket=600))
    verdict = decide_bake(state, in_bake(), spec, BAKE)
    assert (verdict.action, verdict.reason) == (Action.ROLL_BACK, GoReason.GUARD)
    assert verdict.metrics[0].state is MetricState.WORSE
    assert "during the bake" in verdict.sentence
    assert "6 % of 1000" in verdict.sentence
    assert "1 % of 12000 before" in verdict.sentence
    assert 0.03 < ceiling(verdict) < 0.035, "the rate, what it may be off by, and the margin"
    equal = after(spec, observe((2000, 20), (500, 5)), observe((0, 0), (1000, 25), step=BAKE, bucket=600))
    assert decide_bake(equal, in_bake(), spec, BAKE).reason == HoldReason.BAKING, "within the margin"


@pytest.mark.parametrize(
    ("fields", "low", "high"),
    [
        ({"margin": 0.02}, 0.03, 0.034),
        ({"margin": (0.05, 0.05, 0.01)}, 0.02, 0.024),
        ({"margin": 0.02, "tolerance": 0.04}, 0.05, 0.054),
        ({"margin": None, "bound": 0.005}, 0.005, 0.005),
        ({"margin": 0.02, "bound": 0.015}, 0.015, 0.015),
        ({"margin": 0.02, "bound": 0.2}, 0.03, 0.034),
        # The old champion is above the bound itself: to go back to it would mend nothing.
        ({"margin": 0.02, "bound": 0.005}, 0.03, 0.034),
    ],
)
def test_the_ceiling_is_the_lower_of_the_bound_and_the_champion_with_its_margin(
    fields: dict[str, Any], low: float, high: float, make_spec: MakeSpec, observe: Observe, in_bake: Any
) -> None:
    spec = make_spec(metric(**fields))
    state = after(spec, observe((2000, 20), (500, 5)), observe((0, 0), (10, 0), step=BAKE, bucket=600))
    assert low <= ceiling(decide_bake(state, in_bake(), spec, BAKE)) <= high


def test_fewer_rows_of_the_champion_make_the_ceiling_higher_and_those_of_the_ramp_count(
    make_spec: MakeSpec, observe: Observe, in_bake: Any
) -> None:
    spec = make_spec()
    found = [
        ceiling(decide_bake(after(spec, observe((ramp, ramp // 100), (9, 0)), before=(n, n / 100)), in_bake(), spec, 1))
        for n, ramp in ((100_000, 0), (5_000, 0), (200, 4_800), (200, 300))
    ]
    assert found == sorted(found)
    assert found[1] == pytest.approx(found[2], abs=1e-4), "a row is a row, whenever it came"
    assert found[3] > 0.05, "of 500 rows little is known"


def test_a_rate_that_had_risen_in_the_ramp_already_is_not_held_against_the_new_version(
    make_spec: MakeSpec, observe: Observe, in_bake: Any
) -> None:
    spec, rows = make_spec(), observe((0, 0), (2000, 100), step=1, bucket=600)
    risen = after(spec, observe((4000, 160), (200, 8)), rows, before=(100_000, 1000))
    assert decide_bake(risen, in_bake(), spec, 1).action is Action.HOLD
    steady = after(spec, observe((4000, 40), (200, 2)), rows, before=(100_000, 1000))
    assert decide_bake(steady, in_bake(), spec, 1).action is Action.ROLL_BACK


def test_only_rows_since_the_promotion_count_and_only_complete_ones(
    make_spec: MakeSpec, observe: Observe, in_bake: Any
) -> None:
    spec = make_spec()
    ramp = observe((5000, 50), (500, 5), watermark=300)
    bad = observe((0, 0), (400, 60), step=BAKE, bucket=600, watermark=659)
    waiting = decide_bake(after(spec, ramp, bad), in_bake(), spec, BAKE)
    assert (waiting.action, waiting.metrics[0].harm_e, waiting.metrics[0].challenger_n) == (Action.HOLD, 1.0, 400)
    assert "400 of them not complete yet" in waiting.sentence
    (bad_in_ramp,) = decide_bake(after(spec, observe((5000, 50), (500, 400))), in_bake(), spec, BAKE).metrics
    assert (bad_in_ramp.harm_e, bad_in_ramp.challenger_n) == (1.0, 0)
    complete = replace(bad, watermark=660.0)
    assert decide_bake(after(spec, ramp, complete), in_bake(), spec, BAKE).action is Action.ROLL_BACK
    few = observe((0, 0), (4, 4), step=BAKE, bucket=600)
    assert decide_bake(after(spec, ramp, few), in_bake(), spec, BAKE).metrics[0].harm_e > 5, (
        "rows that are too few for a block of two arms are bet on"
    )


def test_what_is_no_guard_takes_nothing_back_and_what_nothing_is_known_of_is_named(
    make_spec: MakeSpec, observe: Observe, in_bake: Any
) -> None:
    bad = observe((0, 0), (1000, 900), step=BAKE, bucket=600)
    for fields in ({"guard": False}, {"muted": True}):
        spec = make_spec(metric(**fields))
        verdict = decide_bake(after(spec, bad), in_bake(), spec, BAKE)
        assert (verdict.reason, verdict.metrics[0].state) == (HoldReason.BAKING, MetricState.WORSE)
        assert "nothing watches it" in verdict.sentence
    spec = make_spec()
    verdict = decide_bake(after(spec, bad, before=(0, 0)), in_bake(), spec, BAKE)
    assert (verdict.reason, verdict.metrics[0].bound) == (HoldReason.BAKING, None)
    assert "no guard watches errors" in verdict.sentence


def test_segments_share_alpha_and_the_worst_one_decides(make_spec: MakeSpec, observe: Observe, in_bake: Any) -> None:
    spec = make_spec(metric(segments="country"))
    state = after(
        spec,
        observe((4000, 40), (500, 5), segment=OTHER),
        observe((0, 0), (1000, 10), segment="fr", step=BAKE, bucket=600),
        observe((0, 0), (1000, 90), segment=OTHER, step=BAKE, bucket=600),
        segment="fr",
    )
    verdict = decide_bake(state, in_bake(), spec, BAKE)
    assert verdict.action is Action.ROLL_BACK
    assert "errors of other is 9 %" in verdict.sentence
    assert [each.harm_limit for each in verdict.metrics] == pytest.approx([2 / (0.9 * ALPHA)] * 2)


def test_a_first_release_has_bounds_alone_and_calls_a_person(
    make_spec: MakeSpec, observe: Observe, in_bake: Any
) -> None:
    spec = make_spec(metric(bound=0.05))
    state = after(spec, observe((0, 0), (1000, 10)), observe((0, 0), (1000, 200), step=FIRST, bucket=600))
    verdict = decide_bake(state, in_bake(), spec, FIRST, first_release=True)
    assert (verdict.action, verdict.reason) == (Action.HOLD, HoldReason.FROZEN)
    assert "a person must decide" in verdict.sentence
    assert ceiling(verdict) == 0.05
    spec = make_spec()
    blind = decide_bake(after(spec, observe((0, 0), (9, 9))), in_bake(), spec, FIRST, first_release=True)
    assert (blind.reason, blind.metrics[0].bound) == (HoldReason.BAKING, None)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"missing_tables": ("main.default.t",)}, HoldReason.TABLE_MISSING),
        ({"unreadable": "the table cannot be read."}, HoldReason.TABLE_UNREADABLE),
        ({"frozen": Frozen("t", 0.0, 50)}, HoldReason.TABLE_FROZEN),
        ({"update_in_progress": True}, HoldReason.UPDATE_IN_PROGRESS),
        ({"unmapped_rows": 3}, HoldReason.MAPPING_UNKNOWN),
        ({"lag_seconds": 1e6}, HoldReason.LAGGING),
        ({"unlogged_errors": 50}, HoldReason.UNLOGGED_ERRORS),
        ({"unlogged_errors": 2}, HoldReason.BAKING),
    ],
)
def test_a_fault_of_the_data_is_named_and_delays_no_rollback(
    changed: dict[str, Any], reason: HoldReason, make_spec: MakeSpec, observe: Observe, in_bake: Any
) -> None:
    spec, ramp = make_spec(), observe((5000, 50), (500, 5))
    good = after(spec, ramp, observe((0, 0), (500, 5), step=BAKE, bucket=600))
    bad = after(spec, ramp, observe((0, 0), (500, 50), step=BAKE, bucket=600))
    held = decide_bake(good, in_bake(now=1e6, **changed), spec, BAKE)
    assert (held.action, held.reason) == (Action.HOLD, reason)
    assert decide_bake(bad, in_bake(now=1e6, **changed), spec, BAKE).action is Action.ROLL_BACK


def test_rows_that_cannot_be_judged_are_doubted_beyond_the_champions_share(
    make_spec: MakeSpec, observe: Observe, in_bake: Any
) -> None:
    spec = make_spec()

    def reason(champion: int, challenger: int) -> str:
        ramp = observe((5000, 50), (500, 5), unjudged=(champion, 0))
        rows = observe((0, 0), (500, 5), step=BAKE, bucket=600, unjudged=(0, challenger))
        return decide_bake(after(spec, ramp, rows), in_bake(), spec, BAKE).reason

    assert reason(0, 100) == HoldReason.UNJUDGED_ROWS
    assert reason(1000, 100) == HoldReason.BAKING, "the old champion left as many"


def test_time_left_is_told_and_an_end_is_told(make_spec: MakeSpec, observe: Observe, in_bake: Any) -> None:
    spec = make_spec()
    state = after(spec, observe((0, 0), (500, 5), step=BAKE, bucket=600))
    assert "its bake ends in 82800 s" in decide_bake(state, in_bake(), spec, BAKE).sentence
    over = decide_bake(state, in_bake(now=87_400.0), spec, BAKE)
    assert over.reason == HoldReason.BAKING
    assert "its bake is over" in over.sentence


def test_scores_are_watched_as_well(make_spec: MakeSpec, observe: Observe, in_bake: Any) -> None:
    judge = Metric(name="safe", kind="judge", scorer="Safety", margin=0.1)
    spec = make_spec(judge)

    def rows(step: int, champion: int, challenger: int, bin_: int) -> Observation:
        """Scores that are all in one bin."""
        old, new = (tuple(n if at == bin_ else 0 for at in range(21)) for n in (champion, challenger))
        return replace(observe(metric="safe", step=step, bucket=600.0 * step), champion=old, challenger=new)

    good = after(spec, rows(0, 400, 100, 4), rows(BAKE, 0, 200, 5), before=(1000, 200))
    worse = after(spec, rows(0, 400, 100, 4), rows(BAKE, 0, 200, 10), before=(1000, 200))
    assert decide_bake(good, in_bake(), spec, BAKE).action is Action.HOLD
    assert decide_bake(worse, in_bake(), spec, BAKE).action is Action.ROLL_BACK


def test_evidence_of_an_earlier_version_is_watched_by_the_champions_rows_of_the_ramp(
    make_spec: MakeSpec, observe: Observe, in_bake: Any
) -> None:
    spec = make_spec()
    bad = observe((0, 0), (1000, 200), step=BAKE, bucket=600)
    state = after(spec, observe((5000, 50), (500, 5)), bad)
    stored = json.loads(json.dumps(state_to_dict(state)))
    assert state_from_dict(stored, spec.gate) == state
    del stored["level_rows"]
    earlier = decide_bake(state_from_dict(stored, spec.gate), in_bake(), spec, BAKE)
    assert earlier.action is Action.ROLL_BACK
    assert earlier.metrics[0].champion_n == 5000
    assert ceiling(earlier) > ceiling(decide_bake(state, in_bake(), spec, BAKE))


def test_a_level_that_comes_late_brings_its_rows(make_spec: MakeSpec) -> None:
    spec = make_spec()
    state = EvidenceState.start([], spec.gate, buckets=every(spec.gate))
    assert not state.level_rows
    (only,) = spec.gate.metrics
    state = state.freeze([Baseline.freeze(only, 500, 7)], buckets=every(spec.gate))
    found = champion_before(state, ERRORS, 0, 0.01)
    assert found.rows == 500
    assert found.bad == pytest.approx(7)
    assert found.least < 7 / 500 < found.most


def test_a_ceiling_that_rises_makes_every_stake_win_less() -> None:
    rows = [940.0, 60.0]
    won = np.array([above_increment(rows, ceiling, 0.03) for ceiling in np.linspace(0.01, 0.9, 60)])
    assert (np.diff(won, axis=0) < 0).all()
    assert np.allclose(above_increment(rows, 0.03, 0.03), above_increment(rows, 0.03))
    assert np.allclose(above_increment([470, 30], 0.03) * 2, above_increment(rows, 0.03)), "blocks add up"


def taken_back(
    *, before: tuple[int, float], ramp: tuple[int, float], rate: float, margin: float, releases: int = 1000, seed: int
) -> float:
    """Share of bakes of 24 h that are taken back, looked at every five minutes, 30 requests each.

    The champion has ``before`` and ``ramp`` (rows, rate); a limit for two guards, as with the usual gate.
    """
    rng = np.random.default_rng(seed)
    guards = GatePart(metrics=(metric(margin=margin), Metric(name="slow", kind="slow")), alpha=ALPHA)
    share, limit = ALPHA / 2, 2 / (ALPHA * (1 - LEVEL_SHARE))
    back = 0
    for _ in range(releases):
        level = Baseline.freeze(guards.metrics[0], before[0], float(rng.binomial(*before)))
        state = EvidenceState.start([level], guards, buckets=every(guards))
        bad = int(rng.binomial(*ramp))
        rows = Observation(
            ingest=0,
            step=0,
            bucket_start=0,
            metric="errors",
            champion=(ramp[0] - bad, bad),
            challenger=(0, 0),
            from_version=0,
            to_version=0,
            watermark=1e9,
        )
        champion = champion_before(state.add([rows]), ERRORS, BAKE, LEVEL_SHARE * share)
        found = rng.binomial(30, rate, size=288).cumsum()
        total = 30 * np.arange(1, 289)
        stacked = np.stack([total - found, found], axis=1)
        ever = log_e_value(above_increment(stacked, champion.most + margin, level.level + margin))
        back += bool(ever.max() >= np.log(limit))
    return back / releases


#: Rows and rate of the champion before the release and in its ramp: many rows, few, and none from before.
KNOWN = [((50_000, 0.01), (5_000, 0.01)), ((200, 0.01), (400, 0.01)), ((0, 0.01), (300, 0.01))]


@pytest.mark.parametrize(("before", "ramp"), KNOWN)
def test_an_identical_version_and_one_exactly_at_its_margin_are_rarely_taken_back(
    before: tuple[int, float], ramp: tuple[int, float]
) -> None:
    for rate in (0.01, 0.03):
        assert taken_back(before=before, ramp=ramp, rate=rate, margin=0.02, releases=300, seed=1) <= ALPHA / 2


def test_a_champion_whose_rate_rose_before_the_ramp_and_its_equal_are_rarely_taken_back() -> None:
    found = taken_back(before=(50_000, 0.01), ramp=(5_000, 0.04), rate=0.04, margin=0.02, releases=300, seed=2)
    assert found <= ALPHA / 2


@pytest.mark.parametrize(("before", "ramp"), KNOWN[:2])
def test_a_regression_is_taken_back(before: tuple[int, float], ramp: tuple[int, float]) -> None:
    assert taken_back(before=before, ramp=ramp, rate=0.1, margin=0.02, releases=100, seed=3) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("before", "ramp"), KNOWN)
def test_false_rollbacks_stay_below_the_guards_alpha_in_thousands_of_bakes(
    before: tuple[int, float], ramp: tuple[int, float]
) -> None:
    for rate in (0.01, 0.03):
        assert taken_back(before=before, ramp=ramp, rate=rate, margin=0.02, releases=4000, seed=4) <= ALPHA / 2


def test_the_simulated_bet_is_the_one_that_decides(make_spec: MakeSpec, observe: Observe, in_bake: Any) -> None:
    spec = make_spec()
    state = after(spec, observe((5000, 50), (500, 5)), observe((0, 0), (600, 20), step=BAKE, bucket=600))
    (found,) = decide_bake(state, in_bake(), spec, BAKE).metrics
    champion = champion_before(state, ERRORS, BAKE, LEVEL_SHARE * ALPHA)
    won = above_increment([580, 20], champion.most + 0.02, state.levels[ERRORS] + 0.02)
    assert found.harm_e == pytest.approx(float(np.exp(log_e_value(won))))
    assert found.harm_limit == pytest.approx(1 / (ALPHA * (1 - LEVEL_SHARE)))
