"""The cells in which the time until a row is logged depends on its outcome (goal G5)."""

from functools import partial
from typing import Final

from benchmarks.gate_blocks import SLOT_SECONDS, BlockBet, Blocks, Lateness, Pooled, Watcher, ever_decided
from benchmarks.gate_results import OURS, Cell
from benchmarks.gate_rules import growthbook_like, naive_z
from benchmarks.gate_traffic import Floats
from release_pipeline.gate.betting import harm_increment, noninferiority_increment
from release_pipeline.gate.observations import bucket_seconds_for
from release_pipeline.spec_gate import GatePart, Metric

LEVEL: Final = 0.01
_GATE: Final = GatePart(metrics=(Metric(name="errors", kind="errors"),))
_RAMP: Final = (0.05, 0.25, 0.50)
#: Errors are logged at once and all else 20 minutes later, by both versions.
_LATE: Final = 40
_EARLY_ERRORS: Final = ((_LATE, 0), (_LATE, 0))


#: Variants of this project's rule that lack a part of it.
_BY_INGEST: Final = "blocks keyed by ingest alone"
_EAGER: Final = "blocks closed as rows come"
_NO_WATERMARK: Final = "without the watermark"
_BY_CHAMPION: Final = "blocks closed as rows come, by the champion's alone"


def harm(champion: Floats, challenger: Floats) -> Floats:
    """The bet that these cells roll back on."""
    return harm_increment(champion, challenger, LEVEL)


def _bucket(lateness: Lateness) -> int:
    """What the gate takes by itself at this traffic."""
    return bucket_seconds_for(_GATE, lateness.rows / SLOT_SECONDS * (1 - max(lateness.weights)))


def _harm_bet(releases: int, bucket: float, *, eager: bool = False, by_ingest: bool = False) -> BlockBet:
    return BlockBet(Blocks(releases, harm, bucket, _GATE.min_block_rows, eager=eager), by_ingest=by_ingest)


def _compare(cell: Cell, column: str, rule: str, events: int, releases: int) -> None:
    """Note a rate; a variant of this project's rule gets a line of its own."""
    variant = rule in (_BY_INGEST, _EAGER, _NO_WATERMARK, _BY_CHAMPION)
    cell.compare(f"{column}: {rule}" if variant else column, OURS if variant else rule, events, releases)


def late_ramp(releases: int, seed: int) -> Cell:
    """Identical versions, errors logged early, 30 minutes at each of 5, 25 and 50 %."""
    lateness = Lateness(LEVEL, LEVEL, _RAMP, 60, _EARLY_ERRORS)
    bucket = _bucket(lateness)
    watchers: dict[str, Watcher] = {
        OURS: _harm_bet(releases, bucket),
        _BY_INGEST: _harm_bet(releases, bucket, eager=True, by_ingest=True),
        "naive z": Pooled(naive_z()(releases)),
        "GrowthBook-like": Pooled(growthbook_like()(releases)),
    }
    cell = Cell()
    for rule, decided in ever_decided(lateness, watchers, releases, bucket, seed).items():
        _compare(cell, "A/A, errors logged early across a ramp", rule, int(decided.sum()), releases)
        if rule == OURS:
            what = f"false rollback, errors logged 20 min early across a ramp, buckets of {bucket} s"
            cell.rate("G5", "late-ramp", what, int(decided.sum()), releases, 0.05)
    return cell


def late_swing(releases: int, seed: int) -> Cell:
    """Identical versions, errors logged early, weights that swing 0.6 to 1.6 times within steps of two hours."""
    cell = Cell()
    for minutes in (10, 20, 40):
        for late in (4, _LATE):
            swing_slots = minutes * 60 // SLOT_SECONDS
            lateness = Lateness(LEVEL, LEVEL, _RAMP, 240, ((late, 0), (late, 0)), swing_slots=swing_slots)
            bucket = _bucket(lateness)
            watchers: dict[str, Watcher] = {
                OURS: _harm_bet(releases, bucket),
                "naive z": Pooled(naive_z()(releases)),
                "GrowthBook-like": Pooled(growthbook_like()(releases)),
            }
            for rule, decided in ever_decided(lateness, watchers, releases, bucket, seed).items():
                events = int(decided.sum())
                if rule == OURS:
                    what = (
                        f"false rollback, weight swings in {minutes} min, errors logged {late // 2} min early, "
                        f"buckets of {bucket} s"
                    )
                    cell.rate("G5", "late-swing", what, events, releases, 0.05)
                if (minutes, late) == (20, _LATE):
                    cell.compare("A/A, weight swings in 20 min, errors logged early", rule, events, releases)
    return cell


def late_blocks(releases: int, seed: int) -> Cell:
    """Identical versions, a tenth of the rows bad and logged early: about as many in a bucket as close a block.

    The table is written every five minutes, so the good rows of a bucket come together.
    """
    cell = Cell()
    for weight in (0.05, 0.25, 0.50):
        level, bucket = 0.1, 300
        lateness = Lateness(level, level, (weight,), 2_880, ((_LATE, 0), (_LATE, 0)), 0, 20 / (1 - weight), 10)
        bet = partial(harm_increment, level=level)
        watchers: dict[str, Watcher] = {
            OURS: BlockBet(Blocks(releases, bet, bucket, _GATE.min_block_rows)),
            _EAGER: BlockBet(Blocks(releases, bet, bucket, _GATE.min_block_rows, eager=True)),
            _BY_CHAMPION: BlockBet(
                Blocks(releases, bet, bucket, _GATE.min_block_rows // 2, eager=True, by_champion=True)
            ),
        }
        for rule, decided in ever_decided(lateness, watchers, releases, bucket, seed).items():
            events = int(decided.sum())
            if rule == OURS:
                what = f"false rollback, a tenth of the rows bad and logged 20 min early, weight {weight:.0%}"
                cell.rate("G5", "late-blocks", what, events, releases, 0.05)
            if weight == 0.25:
                _compare(cell, "A/A, early bad rows about fill a block", rule, events, releases)
    return cell


def advance_late(releases: int, seed: int) -> Cell:
    """Exactly at a margin of 1 point for eight hours; the challenger's errors are logged 20 minutes late.

    The release has seen such a lag before, or `settle_minutes` covers it.
    """
    margin = 0.01
    bet = partial(noninferiority_increment, level=LEVEL, margin=margin)
    lateness = Lateness(LEVEL, LEVEL + margin, (0.05,), 960, ((0, 0), (0, _LATE)), known_slots=_LATE + 1)
    bucket = _bucket(lateness)
    watchers: dict[str, Watcher] = {
        OURS: BlockBet(Blocks(releases, bet, bucket, _GATE.min_block_rows, whole=True)),
        _NO_WATERMARK: BlockBet(Blocks(releases, bet, bucket, _GATE.min_block_rows, eager=True)),
        "naive z": Pooled(naive_z(margin)(releases)),
        "GrowthBook-like": Pooled(growthbook_like(margin)(releases)),
    }
    cell = Cell()
    for rule, decided in ever_decided(lateness, watchers, releases, bucket, seed).items():
        _compare(cell, "advanced at the margin, challenger's errors late", rule, int(decided.sum()), releases)
        if rule == OURS:
            what = f"false advance at the margin, challenger's errors 20 min late, buckets of {bucket} s"
            cell.rate("G5", "late-advance", what, int(decided.sum()), releases, 0.05)
    return cell
