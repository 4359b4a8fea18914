"""The planner says what the gate then does: its figures against the rule itself on simulated traffic, row by row."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from release_pipeline.gate.betting import harm_increment, log_e_value, noninferiority_increment
from release_pipeline.gate.decision import decide
from release_pipeline.gate.evidence import EvidenceState
from release_pipeline.gate.observations import Baseline, Observation
from release_pipeline.gate.planner import adjusted, plan, usual_traffic
from release_pipeline.gate.power_plan import Plan, SeriesStep, Traffic, hours_text, requests_text
from release_pipeline.gate.power_simulation import RELEASES
from release_pipeline.gate.verdict import Action, Signals
from release_pipeline.spec import ReleaseSpec
from release_pipeline.spec_gate import Metric

ERRORS = Metric(name="errors", kind="errors", margin=0.02)
SLOW = Metric(name="slow", kind="slow", margin=0.05)
THUMBS = Metric(name="thumbs", kind="feedback", assessment="thumbs", margin=0.2)
MakeSpec = Callable[..., ReleaseSpec]


def traffic(spec: ReleaseSpec, per_second: float, *, lag: float = 0.0, **levels: float) -> Traffic:
    return adjusted(usual_traffic(spec.gate, per_second, {}), levels=levels, rows={}, lag_seconds=lag)


def first(planned: Plan, name: str = "errors") -> SeriesStep:
    return next(each for each in planned.series if each.metric == name)


def requests_until(
    bet: Callable[..., np.ndarray], shift: float, *, champion: float, challenger: float, share: float, looks: int
) -> np.ndarray:
    """Challenger requests when the e-value first reached 20, in 400 releases with a look every 300 requests."""
    rng = np.random.default_rng(3)
    rows = rng.poisson(300, (400, looks))
    new = rng.binomial(rows, share)
    old = rows - new
    bad_old, bad_new = rng.binomial(old, champion), rng.binomial(new, challenger)
    olds, news = np.stack([old - bad_old, bad_old], -1), np.stack([new - bad_new, bad_new], -1)
    ended = np.full(400, np.inf)
    for release in range(400):
        shown = log_e_value(bet(olds[release], news[release], champion, shift).cumsum(axis=0)) >= math.log(20)
        if shown.any():
            ended[release] = new[release, : shown.argmax() + 1].sum()
    return ended


class Live:
    """Releases that are looked at tick by tick and decided by the gate, with rows that come `lag` after their event."""

    def __init__(self, spec: ReleaseSpec, planned: Plan, rates: dict[str, tuple[float, float]], seed: int) -> None:
        self.spec, self.rates, self.rng = spec, rates, np.random.default_rng(seed)
        self.per_second, self.lag = planned.traffic.requests_per_second, planned.traffic.lag_seconds
        self.buckets = {each.metric: each.bucket_seconds for each in planned.series}

    def hours(self) -> tuple[Action, float]:
        """How one release ended, and when."""
        gate, tick = self.spec.gate, self.spec.automation.tick_seconds
        baselines = [Baseline(name, 1, 0, None, rates[0]) for name, rates in self.rates.items()]
        state = EvidenceState.start(baselines, gate, buckets=self.buckets)
        begun = float(self.rng.uniform(0, 7200))
        starts, now, waiting = [begun], begun, list[Observation]()
        while now < begun + 3600 * self.spec.ramp.deadline_hours:
            now += tick
            share = self.spec.ramp.steps[len(starts) - 1] / 100
            waiting += [self.observed(name, len(starts) - 1, now - tick, share) for name in self.rates]
            came = [row for row in waiting if row.watermark <= now]
            waiting = [row for row in waiting if row.watermark > now]
            state = state.add(self.summed(came, round((now - begun) / tick), now - self.lag))
            signals = Signals(configured_share=share, now=now, step_started_at=starts[-1], ramp_started_at=begun)
            verdict = decide(state, signals, self.spec, len(starts) - 1)
            if verdict.action in (Action.ROLL_BACK, Action.PROMOTE):
                return verdict.action, (now - begun) / 3600
            if verdict.action is Action.ADVANCE:
                starts.append(now)
        return Action.HOLD, math.inf

    def observed(self, name: str, step: int, at: float, share: float) -> Observation:
        """What is asked within one tick; its watermark is when the rows come."""
        tick = self.spec.automation.tick_seconds
        rows = self.rng.poisson([self.per_second * tick * each for each in (1 - share, share)])
        bad = self.rng.binomial(rows, self.rates[name])
        bucket = at // self.buckets[name] * self.buckets[name]
        return Observation(
            ingest=0, step=step, bucket_start=bucket, metric=name, from_version=0, to_version=0,
            champion=(int(rows[0] - bad[0]), int(bad[0])), challenger=(int(rows[1] - bad[1]), int(bad[1])),
            watermark=at + tick + self.lag,
        )  # fmt: skip

    def summed(self, rows: list[Observation], ingest: int, watermark: float) -> list[Observation]:
        return [
            Observation(
                ingest=ingest, step=row.step, bucket_start=row.bucket_start, metric=row.metric, from_version=ingest,
                to_version=ingest, champion=row.champion, challenger=row.challenger, watermark=watermark,
            )
            for row in rows
        ]  # fmt: skip


@pytest.fixture
def everyday(make_spec: MakeSpec) -> ReleaseSpec:
    spec = make_spec(ERRORS, SLOW, ramp={"min_step_seconds": 600, "deadline_hours": 24})
    return spec.model_copy(update={"automation": spec.automation.model_copy(update={"tick_seconds": 60})})


def test_the_ramp_of_an_equal_version_takes_as_long_as_planned(everyday: ReleaseSpec) -> None:
    planned = plan(everyday, traffic(everyday, 5.0, lag=600, errors=0.01, slow=0.05))
    live = Live(everyday, planned, {"errors": (0.01, 0.01), "slow": (0.05, 0.05)}, seed=5)
    ended = [live.hours() for _ in range(60)]
    promoted = [hours for action, hours in ended if action is Action.PROMOTE]
    assert len(promoted) >= 55
    assert planned.problems == ()
    assert planned.hours == pytest.approx(np.median(promoted), rel=0.2)
    assert planned.hours_90 == pytest.approx(np.quantile(promoted, 0.9), rel=0.2)


def test_a_regression_is_rolled_back_as_soon_as_planned(everyday: ReleaseSpec) -> None:
    planned = plan(everyday, traffic(everyday, 5.0, lag=600, errors=0.01, slow=0.05))
    (five_times,) = [one for one in first(planned).regressions if one.name == "5 times"]
    live = Live(everyday, planned, {"errors": (0.01, 0.05), "slow": (0.05, 0.05)}, seed=6)
    ended = [live.hours() for _ in range(80)]
    assert {action for action, _ in ended} == {Action.ROLL_BACK}
    hours = np.array([hours for _, hours in ended])
    assert five_times.wait.hours == pytest.approx(np.median(hours), rel=0.2)
    assert five_times.wait.hours_90 == pytest.approx(np.quantile(hours, 0.9), rel=0.2)


@pytest.mark.parametrize(("share", "mean", "looks"), [(5, 0.05, 200), (5, 0.02, 1000), (50, 0.02, 200)])
def test_requests_of_a_rollback_are_those_of_the_rule(make_spec: MakeSpec, share: int, mean: float, looks: int) -> None:
    spec = make_spec(ERRORS, ramp={"steps": [share]})
    planned = plan(spec, traffic(spec, 10.0))
    wait = next(one.wait for one in first(planned).regressions if one.mean == pytest.approx(mean))
    seen = requests_until(harm_increment, 0.0, champion=0.01, challenger=mean, share=share / 100, looks=looks)
    assert wait.requests == pytest.approx(np.median(seen), rel=0.2)
    assert wait.requests_90 == pytest.approx(np.quantile(seen, 0.9), rel=0.2)


@pytest.mark.parametrize(("margin", "share"), [(0.01, 5), (0.02, 5), (0.01, 25)])
def test_requests_of_an_advance_are_those_of_the_rule(make_spec: MakeSpec, margin: float, share: int) -> None:
    spec = make_spec(
        ERRORS.model_copy(update={"margin": margin}),
        bucket_seconds=30,
        ramp={"steps": [share], "min_step_seconds": 0},
    )
    wait = first(plan(spec, traffic(spec, 10.0))).advance
    assert wait is not None
    seen = requests_until(
        noninferiority_increment, margin, champion=0.01, challenger=0.01, share=share / 100, looks=600
    )
    assert wait.requests == pytest.approx(np.median(seen), rel=0.2)
    assert wait.requests_90 == pytest.approx(np.quantile(seen, 0.9), rel=0.2)


def test_requests_are_near_the_floor_of_a_sequential_test(make_spec: MakeSpec) -> None:
    """Wald: ln(1 / alpha) / KL(bad || good), had the champion's rate been known."""
    spec = make_spec(ERRORS, bucket_seconds=30, ramp={"steps": [5], "min_step_seconds": 0})
    wait = first(plan(spec, traffic(spec, 10.0))).advance
    floor = math.log(20) / (0.99 * math.log(0.99 / 0.97) + 0.01 * math.log(0.01 / 0.03))
    assert wait is not None
    assert 0.9 < wait.requests / floor < 1.6


def test_what_is_hopeless_is_said_first_and_the_advice_does(make_spec: MakeSpec) -> None:
    spec = make_spec(ERRORS, SLOW)
    planned = plan(spec, traffic(spec, 1 / 60))
    assert planned.by_deadline < 0.5
    assert planned.sentence.startswith("Hopeless: at 1 request/min the ramp 5/25/50 %")
    assert "With ramp.steps [25, 50] it takes" in planned.sentence
    heavier = spec.model_copy(update={"ramp": spec.ramp.model_copy(update={"steps": (25, 50)})})
    assert plan(heavier, traffic(heavier, 1 / 60)).by_deadline >= 0.9


def test_a_wider_margin_is_advised_where_it_does(make_spec: MakeSpec) -> None:
    narrow = ERRORS.model_copy(update={"margin": 0.005})
    spec = make_spec(narrow, SLOW, ramp={"steps": [50], "deadline_hours": 12})
    planned = plan(spec, traffic(spec, 0.2))
    assert planned.problems[0].startswith("Hopeless")
    (advice,) = planned.suggestions
    assert "and a margin of 0.01 for errors it takes" in advice
    wide = make_spec(ERRORS.model_copy(update={"margin": 0.01}), SLOW, ramp={"steps": [50], "deadline_hours": 12})
    assert plan(wide, traffic(wide, 0.2)).by_deadline >= 0.9


def test_where_nothing_does_the_metrics_to_let_go_are_named(make_spec: MakeSpec) -> None:
    spec = make_spec(ERRORS, THUMBS)
    planned = plan(spec, traffic(spec, 1 / 900))
    assert math.isinf(planned.hours)
    assert "does not end" in planned.problems[0]
    assert "`required: false` for errors, thumbs" in planned.suggestions[0]
    assert planned.to_dict()["hours"] is None


def test_a_bound_that_the_champion_does_not_meet_is_hopeless_at_any_traffic(make_spec: MakeSpec) -> None:
    spec = make_spec(Metric(name="errors", kind="errors", margin=None, bound=0.02))
    planned = plan(spec, traffic(spec, 100.0, errors=0.03))
    assert "errors at 3 % is not below its bound of 2 %" in planned.sentence
    assert plan(spec, traffic(spec, 100.0, errors=0.01)).problems == ()


def test_lag_and_the_shortest_time_of_a_step_are_part_of_the_time(make_spec: MakeSpec) -> None:
    spec = make_spec(ERRORS, ramp={"steps": [50], "min_step_seconds": 7200})
    assert plan(spec, traffic(spec, 10.0)).hours == 2.0
    quick = make_spec(ERRORS, ramp={"steps": [50], "min_step_seconds": 0})
    on_time, late = plan(quick, traffic(quick, 10.0)), plan(quick, traffic(quick, 10.0, lag=3600))
    assert late.hours == pytest.approx(on_time.hours + 1)
    assert first(late).regressions[0].wait.hours == pytest.approx(first(on_time).regressions[0].wait.hours + 1)
    assert first(late).regressions[0].wait.requests == first(on_time).regressions[0].wait.requests


def test_buckets_without_enough_champion_rows_show_nothing(make_spec: MakeSpec) -> None:
    small = make_spec(ERRORS, ramp={"steps": [50]}, bucket_seconds=5)
    assert math.isinf(plan(small, traffic(small, 1.0)).hours)
    large = make_spec(ERRORS, ramp={"steps": [50]}, bucket_seconds=300)
    assert plan(large, traffic(large, 1.0)).hours < 24


def test_segments_share_alpha_and_rows_and_the_worst_one_decides(make_spec: MakeSpec) -> None:
    whole, split = make_spec(ERRORS), make_spec(ERRORS.model_copy(update={"segments": "region"}))
    one = plan(whole, traffic(whole, 2.0))
    three = plan(split, usual_traffic(split.gate, 2.0, {"errors": 3}))
    assert three.false_rollback[0].at_most == pytest.approx(0.05 * 3 / 4)  # the fourth is `other`
    assert first(three).title == "errors (each of 3 segments)"
    assert three.hours > 2 * one.hours
    assert first(three).regressions[0].wait.requests > 2.5 * first(one).regressions[0].wait.requests


def test_alpha_is_split_over_the_guards_and_muted_metrics_have_no_part(make_spec: MakeSpec) -> None:
    spec, muted = make_spec(ERRORS, SLOW), make_spec(ERRORS, SLOW, THUMBS.model_copy(update={"muted": True}))
    planned = plan(spec, traffic(spec, 10.0))
    assert [each.at_most for each in planned.false_rollback] == [0.025, 0.025]
    assert 0 < planned.false_rollback_in_all <= 0.05
    assert plan(muted, traffic(muted, 10.0)) == planned


def test_what_is_simulated_is_what_was_counted_even_above_what_is_proven(make_spec: MakeSpec) -> None:
    spec = make_spec(ERRORS.model_copy(update={"margin": 0.05}), ramp={"steps": [50]}, alpha=0.003)
    planned = plan(spec, traffic(spec, 4.0))
    (false,) = planned.false_rollback
    assert false.at_most == 0.003
    # Of 320 releases one was, in both directions: more than 0.3 %.
    assert false.simulated == planned.false_rollback_in_all == pytest.approx(1 / RELEASES)
    assert first(planned).false_advance == 1 / RELEASES
    assert planned.problems or "simulated 0.313 %, proven at most 0.3 %" in planned.sentence


def test_what_is_found_is_smaller_the_longer_it_takes(make_spec: MakeSpec) -> None:
    spec = make_spec(ERRORS)
    each = first(plan(spec, traffic(spec, 10.0)))
    assert each.found_in_step is not None
    assert each.found_in_ramp is not None
    assert each.level < each.found_in_ramp < each.found_in_step
    waits = [one.wait.requests for one in each.curve]
    assert waits == sorted(waits, reverse=True)
    sizes = [one.mean - each.level for one in each.curve]
    assert sizes[0] <= 0.002, "a tenth of the margin"
    assert sizes[-1] > 0.4


def test_a_metric_that_is_next_to_never_bad_has_sizes_that_it_finds(make_spec: MakeSpec) -> None:
    spec = make_spec(ERRORS)
    for rate in (10.0, 1 / 60):
        seen = adjusted(traffic(spec, rate), levels={"errors": 0.00005}, rows={}, lag_seconds=None)
        planned = plan(spec, seen)
        for each in planned.series:
            assert each.found_in_step is not None, "a regression of some size is rolled back within the step"
            assert each.found_in_ramp is not None
            assert each.found_in_ramp < each.found_in_step < 0.5
            assert each.curve[-1].mean > 0.25


@pytest.mark.parametrize(
    ("hours", "text"),
    [(0.01, "36 s"), (0.5, "30 min"), (3.21, "3.2 h"), (408, "17 days"), (math.inf, "never")],
)  # fmt: skip
def test_times_are_written_for_people(hours: float, text: str) -> None:
    assert hours_text(hours) == text


@pytest.mark.parametrize(
    ("rate", "text"), [(10, "10 requests/s"), (1 / 60, "1 request/min"), (11 / 3600, "11 requests/h")]
)  # fmt: skip
def test_rates_are_written_for_people(rate: float, text: str) -> None:
    assert requests_text(rate) == text
