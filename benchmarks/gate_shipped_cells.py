"""Cells that go through the gate's own `EvidenceState`, such as those of versions that differ in how long they take."""

from functools import partial
from typing import Final

import numpy as np

from benchmarks.gate_blocks import Blocks, Key
from benchmarks.gate_results import OURS, Cell
from benchmarks.gate_rules import LIMIT, Make, argo_like, flagger_like, growthbook_like, kayenta_like, naive_z
from benchmarks.gate_shipped import Endpoint, Ingest, by_commit, decided_at
from benchmarks.gate_traffic import Bools, Firsts, Floats
from release_pipeline.gate.betting import harm_increment, log_e_value
from release_pipeline.gate.evidence import Bet
from release_pipeline.gate.observations import Series

_EAGER: Final = "blocks closed as rows come"
_BATCH: Final = 100
_OTHERS: Final[dict[str, Make]] = {
    "naive z": naive_z(),
    "GrowthBook-like": growthbook_like(),
    "Flagger-like": flagger_like(),
    "Argo-like": argo_like(),
    "Kayenta-like": kayenta_like(),
}


def _busy(challenger: float, hours: float, lag_seconds: float = 0.0) -> Endpoint:
    """10 requests a second, and a table that is written every minute."""
    return Endpoint(0.01, challenger, 0.05, hours, lag_seconds=lag_seconds, commit_seconds=60.0)


def _quiet(challenger: float) -> Endpoint:
    """10 requests a minute, and a table that is written every five; a day."""
    return Endpoint(0.01, challenger, 0.25, 24, per_second=1 / 6, commit_seconds=300.0)


def uneven(releases: int, seed: int) -> Cell:
    """Equal rates of errors, and a challenger that answers sooner or later than the champion, for two hours.

    Where errors are time-outs, the sooner one's good answers are in the table before them; where errors come at once,
    they are there before the slower one's good answers.
    """
    cell = Cell()
    for name, good_seconds, bad_seconds in (
        ("faster, errors are time-outs", (8.0, 3.0), 30.0),
        ("slower, errors come at once", (3.0, 8.0), 0.1),
    ):
        for weight in (0.05, 0.25):
            for lag, commit in ((0.0, 30.0), (600.0, 300.0)):
                endpoint = Endpoint(0.02, 0.02, weight, 2, good_seconds, bad_seconds, lag, commit)
                what = f"{name}, weight {weight:.0%}, lag {lag / 60:g} min"
                _false_rollbacks(cell, endpoint, what, f"A/A, {name}", weight == 0.25 and not lag, releases, seed)
    return cell


def _false_rollbacks(
    cell: Cell, endpoint: Endpoint, what: str, column: str, compares: bool, releases: int, seed: int
) -> None:
    events: dict[str, int] = {}
    for batch, begin in enumerate(range(0, releases, _BATCH)):
        size = min(_BATCH, releases - begin)
        rng = np.random.default_rng([seed, batch])
        ingests = [endpoint.release(rng)[0] for _ in range(size)]
        start = endpoint.start()
        found: dict[str, Bools] = {
            OURS: np.array([decided_at(start, each, Bet.HARM, np.exp(LIMIT)) < np.inf for each in ingests])
        }
        if compares:
            found[_EAGER] = _eager(endpoint, ingests)
            commits = round(endpoint.hours * 3600 / endpoint.commit_seconds)
            rows = np.stack([by_commit(each, commits, endpoint.commit_seconds) for each in ingests], axis=1)
            for rule, make in _OTHERS.items():
                found[rule] = np.asarray(make(size).hits(rows[0], rows[1]).any(axis=1))
        for rule, decided in found.items():
            events[rule] = events.get(rule, 0) + int(decided.sum())
    cell.rate("G5", "uneven", f"false rollback, {what}", events[OURS], releases, 0.05)
    for rule, number in events.items() if compares else ():
        variant = rule == _EAGER
        cell.compare(f"{column}: {rule}" if variant else column, OURS if variant else rule, number, releases)


def _eager(endpoint: Endpoint, releases: list[list[Ingest]]) -> Bools:
    """Releases that a rule rolls back which bets a bucket's rows as they come."""
    level = endpoint.start().levels[Series("errors")]
    bet = partial(harm_increment, level=level)
    blocks = Blocks(len(releases), bet, endpoint.bucket, endpoint.gate.min_block_rows, eager=True)
    decided: Bools = np.zeros(len(releases), dtype=bool)
    by_time: dict[float, list[tuple[int, Ingest]]] = {}
    for number, ingests in enumerate(releases):
        for ingest in ingests:
            by_time.setdefault(ingest.at, []).append((number, ingest))
    for at in sorted(by_time):
        fresh: dict[Key, Floats] = {}
        for number, ingest in by_time[at]:
            for begin, counts in ingest.cells.items():
                arms = fresh.setdefault((0, begin), np.zeros((2, len(releases), 2)))
                arms[:, number] += np.reshape(counts, (2, 2))
        blocks.ingest(fresh, at)
        decided = decided | (log_e_value(blocks.carried()) >= LIMIT)
    return decided


def shipped_aa(releases: int, seed: int) -> Cell:
    """Identical versions with 1 % of errors: four hours of many requests, a day of few."""
    cell = Cell()
    for name, endpoint in (
        ("10 requests a second, 4 h", _busy(0.01, 4)),
        ("10 requests a minute, a day", _quiet(0.01)),
    ):
        first = _firsts(endpoint, Bet.HARM, releases, seed)
        cell.rate("G1", "shipped-aa", f"false rollback, {name}, as shipped", first.decided, releases, 0.05)
    return cell


def shipped_caught(releases: int, seed: int) -> Cell:
    """Errors 1 -> 5 %: requests that were sent, and minutes that passed, until the rollback."""
    cell = Cell()
    for name, endpoint in (
        ("10 requests a second", _busy(0.05, 1)),
        ("10 requests a second, lag 10 min", _busy(0.05, 1, 600.0)),
        ("10 requests a minute, weight 25 %", _quiet(0.05)),
    ):
        _medians(
            cell, "G3", "shipped-caught", f"to roll back errors 1 -> 5 %, {name}", endpoint, Bet.HARM, releases, seed
        )
    broken = _quiet(1.0)
    what = "to roll back a version that always fails, 10 requests a minute, weight 25 %"
    _medians(cell, "G3", "shipped-caught", what, broken, Bet.HARM, releases, seed)
    return cell


def shipped_equal(releases: int, seed: int) -> Cell:
    """Equal versions and a margin of 2 points."""
    cell = Cell()
    for name, endpoint in (
        ("10 requests a second", _busy(0.01, 2)),
        ("10 requests a minute, weight 25 %", _quiet(0.01)),
    ):
        what = f"to advance equal versions, margin 2 pp, {name}"
        _medians(cell, "G4", "shipped-equal", what, endpoint, Bet.NONINFERIORITY, releases, seed)
    return cell


def _medians(
    cell: Cell, goal: str, name: str, what: str, endpoint: Endpoint, bet: Bet, releases: int, seed: int
) -> None:
    first = _firsts(endpoint, bet, releases, seed)
    cell.median(goal, name, f"{what}, as shipped", first, None, None)
    minutes = Firsts(first.look, first.look / 60)
    cell.median(goal, name, f"the same in minutes: {what}", minutes, None, None, unit="min")


def _firsts(endpoint: Endpoint, bet: Bet, releases: int, seed: int) -> Firsts:
    """When the bet is won, in seconds, and how many requests the challenger had been sent by then."""
    seconds, requests, start = np.full(releases, np.inf), np.full(releases, np.inf), endpoint.start()
    for number in range(releases):
        ingests, sent = endpoint.release(np.random.default_rng([seed, number]))
        seconds[number] = at = decided_at(start, ingests, bet, np.exp(LIMIT))
        if np.isfinite(at):
            requests[number] = np.searchsorted(sent, at)
    return Firsts(seconds, requests)
