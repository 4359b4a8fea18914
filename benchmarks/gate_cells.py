"""The cells of `benchmarks.gate`: what is simulated in each, and which goal it has to keep.

Rates are of 10 requests a second, 5 % for the challenger, and a look every 30 seconds unless a cell says otherwise.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np

from benchmarks.gate_late_cells import advance_late, late_blocks, late_ramp, late_swing
from benchmarks.gate_results import OURS, Cell, wald_floor
from benchmarks.gate_rules import (
    Make,
    argo_like,
    bet,
    flagger_like,
    growthbook_like,
    kayenta_like,
    naive_z,
)
from benchmarks.gate_shipped_cells import shipped_aa, shipped_caught, shipped_equal, uneven
from benchmarks.gate_tick import tick
from benchmarks.gate_traffic import Floats, Traffic, always, bad, in_turn, scores, there_and_back, watch
from release_pipeline.gate.betting import harm_increment, noninferiority_increment

_HOUR, _DAY, _WEEK = 120, 2_880, 20_160
_FIVE_PERCENT: Final = always(0.05)

#: Spread of the simulated latencies: the standard deviation of their logarithm.
LATENCY_SPREAD: Final = 0.6
#: Of the simulated scores' beta distribution; their standard deviation is 0.2 at a mean badness of 0.2.
SCORE_CONCENTRATION: Final = 3.0


@dataclass(frozen=True)
class Plan:
    """One cell to run."""

    releases: int
    run: Callable[[int, int], Cell]
    """From a number of releases and a seed."""
    about: str


def _rollback_rules() -> dict[str, Make]:
    """Every rule as it rolls back, this project's with a level of 1 % of errors."""
    return {
        OURS: bet(harm_increment, 0.01),
        "naive z": naive_z(),
        "GrowthBook-like": growthbook_like(),
        "Flagger-like": flagger_like(),
        "Argo-like": argo_like(),
        "Kayenta-like": kayenta_like(),
    }


def _advance_rules(level: float, margin: float, every: int = 1) -> dict[str, Make]:
    """Every rule as it advances."""
    return {
        OURS: bet(noninferiority_increment, level, margin, every),
        "naive z": naive_z(margin),
        "GrowthBook-like": growthbook_like(margin),
        "Flagger-like": flagger_like(promotes=True),
        "Argo-like": argo_like(promotes=True),
        "Kayenta-like": kayenta_like(promotes=True),
    }


def aa_plain(releases: int, seed: int) -> Cell:
    """Identical versions with 1 % of errors, for a day."""
    cell = Cell(firsts=watch(Traffic(_DAY, bad(0.01), bad(0.01), _FIVE_PERCENT), _rollback_rules(), releases, seed))
    for rule, first in cell.firsts.items():
        cell.compare("A/A, 1 h", rule, first.decided_by(_HOUR), releases)
        cell.compare("A/A, 24 h", rule, first.decided, releases)
    ours = cell.firsts[OURS]
    cell.rate("G1", "aa-plain", "false rollback, 1 % of errors, 2,880 looks", ours.decided, releases, 0.05)
    return cell


def _drifting(looks: int) -> Traffic:
    """Identical versions, 1 to 10 to 1 % of errors, true weights 8/25/50 where 5/25/50 was configured."""
    rates = there_and_back(0.01, 0.10, looks)
    return Traffic(looks, rates, rates, in_turn([0.08, 0.25, 0.50], looks))


def aa_day(releases: int, seed: int) -> Cell:
    """Identical versions while rates and weights drift, for a day."""
    cell = Cell(firsts=watch(_drifting(_DAY), _rollback_rules(), releases, seed))
    for rule, first in cell.firsts.items():
        cell.compare("A/A, drifting, 24 h", rule, first.decided, releases)
    what = "false rollback, rates and weights drifting, 2,880 looks"
    cell.rate("G1", "aa-day", what, cell.firsts[OURS].decided, releases, 0.05)
    return cell


def aa_week(releases: int, seed: int) -> Cell:
    """The same for a week, and without the rules that are lost after a day."""
    rules = {name: rule for name, rule in _rollback_rules().items() if name in (OURS, "naive z", "GrowthBook-like")}
    cell = Cell(firsts=watch(_drifting(_WEEK), rules, releases, seed))
    for rule, first in cell.firsts.items():
        cell.compare("A/A, drifting, 7 d", rule, first.decided, releases)
    what = "false rollback, rates and weights drifting, 20,160 looks"
    cell.rate("G1", "aa-week", what, cell.firsts[OURS].decided, releases, 0.05)
    return cell


def _at_the_margin(name: str, champion: float, margin: float, releases: int, seed: int) -> Cell:
    traffic = Traffic(_DAY, bad(champion), bad(champion + margin), _FIVE_PERCENT)
    cell = Cell(firsts=watch(traffic, _advance_rules(champion, margin), releases, seed))
    text = f"{100 * champion:g} -> {100 * (champion + margin):g} %"
    for rule, first in cell.firsts.items():
        cell.compare(f"advanced at the margin, {text}", rule, first.decided, releases)
    what = f"false advance exactly at the margin, errors {text}, 2,880 looks"
    cell.rate("G2", name, what, cell.firsts[OURS].decided, releases, 0.05)
    return cell


def margin_usual(releases: int, seed: int) -> Cell:
    """A challenger exactly at a margin of 1 point."""
    return _at_the_margin("margin-usual", 0.01, 0.01, releases, seed)


def margin_rare(releases: int, seed: int) -> Cell:
    """The same with rare errors."""
    return _at_the_margin("margin-rare", 0.002, 0.005, releases, seed)


def _caught(
    name: str, what: str, champion: Floats, challenger: Floats, rows: float, most: float, releases: int, seed: int
) -> Cell:
    """A regression that is to be rolled back; bins from good to bad."""
    level = float(champion @ np.linspace(0, 1, len(champion)))
    traffic = Traffic(_DAY, always(champion), always(challenger), _FIVE_PERCENT, rows)
    first = watch(traffic, {what: bet(harm_increment, level)}, releases, seed)
    cell = Cell(firsts=first)
    cell.median("G3", name, f"to roll back {what}", first[what], wald_floor(challenger, champion), most)
    cell.rate("G3", name, f"never rolled back, {what}", releases - first[what].decided, releases, 0.0)
    return cell


def errors_1_5(releases: int, seed: int) -> Cell:
    """Errors rise fivefold."""
    return _caught("errors-1-5", "errors 1 -> 5 %", _two(0.01), _two(0.05), 300, 115, releases, seed)


def errors_1_2(releases: int, seed: int) -> Cell:
    """Errors double."""
    return _caught("errors-1-2", "errors 1 -> 2 %", _two(0.01), _two(0.02), 300, 1080, releases, seed)


def latency(releases: int, seed: int) -> Cell:
    """Every answer takes 30 % longer; slow is what is slower than the champion's p95."""
    normal = NormalDist()
    slow = 1 - normal.cdf(normal.inv_cdf(0.95) - math.log(1.3) / LATENCY_SPREAD)
    return _caught("latency", "latency +30 %", _two(0.05), _two(slow), 300, 150, releases, seed)


def judge(releases: int, seed: int) -> Cell:
    """The mean score falls by 0.15, in 21 bins; 2 answers a second are judged."""
    champion, challenger = scores(0.2, SCORE_CONCENTRATION), scores(0.35, SCORE_CONCENTRATION)
    return _caught("judge", "judge -0.15", champion, challenger, 60, 35, releases, seed)


def _equal(name: str, margin: float, most: float, releases: int, seed: int) -> Cell:
    what = f"equal versions, margin {100 * margin:g} pp"
    traffic = Traffic(_DAY, bad(0.01), bad(0.01), _FIVE_PERCENT)
    first = watch(traffic, {what: bet(noninferiority_increment, 0.01, margin)}, releases, seed)
    cell = Cell(firsts=first)
    floor = wald_floor(_two(0.01), _two(0.01 + margin))
    cell.median("G4", name, f"to advance {what}", first[what], floor, most)
    cell.rate("G4", name, f"never advanced, {what}", releases - first[what].decided, releases, 0.05)
    return cell


def equal_2pp(releases: int, seed: int) -> Cell:
    """An equal challenger and a margin of 2 points."""
    return _equal("equal-2pp", 0.02, 390, releases, seed)


def equal_1pp(releases: int, seed: int) -> Cell:
    """An equal challenger and a margin of 1 point."""
    return _equal("equal-1pp", 0.01, 1280, releases, seed)


def quiet(releases: int, seed: int) -> Cell:
    """A regression at 10 requests a minute, watched for an hour."""
    cell = Cell()
    for rate in (0.05, 0.02):
        traffic = Traffic(_HOUR, bad(0.01), bad(rate), _FIVE_PERCENT, rows=5)
        for rule, first in watch(traffic, _advance_rules(0.01, 0.005, every=8), releases, seed).items():
            column = f"advanced within an hour, 1 -> {100 * rate:g} %, 10 requests a minute"
            cell.compare(column, rule, first.decided, releases)
    return cell


def _two(share: float) -> Floats:
    return np.array([1 - share, share])


CELLS: Final[Mapping[str, Plan]] = {
    "aa-plain": Plan(5_000, aa_plain, "identical versions"),
    "aa-day": Plan(5_000, aa_day, "identical versions while rates and weights drift, a day"),
    "aa-week": Plan(5_000, aa_week, "the same, a week: the longest cell"),
    "margin-usual": Plan(5_000, margin_usual, "exactly at a margin of 1 point"),
    "margin-rare": Plan(5_000, margin_rare, "exactly at a margin of 0.5 points, rare errors"),
    "errors-1-5": Plan(2_000, errors_1_5, "errors 1 -> 5 %"),
    "errors-1-2": Plan(2_000, errors_1_2, "errors 1 -> 2 %"),
    "latency": Plan(2_000, latency, "latency +30 %"),
    "judge": Plan(2_000, judge, "judge -0.15"),
    "equal-2pp": Plan(2_000, equal_2pp, "equal versions, margin 2 points"),
    "equal-1pp": Plan(2_000, equal_1pp, "equal versions, margin 1 point"),
    "quiet": Plan(2_000, quiet, "regressions at 10 requests a minute"),
    "late-ramp": Plan(2_000, late_ramp, "errors logged early across a ramp"),
    "late-blocks": Plan(2_000, late_blocks, "early bad rows that are about as many as close a block"),
    "late-swing": Plan(2_000, late_swing, "errors logged early while the weight swings within a step"),
    "late-advance": Plan(2_000, advance_late, "the challenger's errors logged late"),
    "uneven": Plan(2_000, uneven, "versions that differ in how long their answers take"),
    "shipped-aa": Plan(2_000, shipped_aa, "identical versions, row by row through the shipped code"),
    "shipped-caught": Plan(2_000, shipped_caught, "errors 1 -> 5 %, row by row through the shipped code"),
    "shipped-equal": Plan(2_000, shipped_equal, "equal versions, row by row through the shipped code"),
    "tick": Plan(1, tick, "cost of a tick"),
}
