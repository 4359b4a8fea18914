"""What rows of the old champion tell of its rate, once it answers nobody any more.

The bounds are those of bets on its rows, so they hold at every look at once, also while late rows of the ramp come in.
"""

from functools import lru_cache
from typing import Final, NamedTuple

from release_pipeline.gate.betting import above_increment, below_increment, bin_values, e_value
from release_pipeline.gate.evidence import EvidenceState, MetricEvidence
from release_pipeline.gate.observations import Arms, Counts, Series

#: Halvings by which a bound is found: to about a millionth.
_HALVINGS: Final = 20


class Champion(NamedTuple):
    """What is known of the old champion's rate in one series."""

    rows: int
    bad: float
    least: float
    """Its mean badness was shown to be at least this."""
    most: float
    """And at most this, with the confidence that the guard's alpha asks for; 1 without rows."""


def champion_before(state: EvidenceState, series: Series, step: int, alpha: float) -> Champion:
    """What rows from before the release and of the ramp's steps before ``step`` tell of the old champion.

    Rows of different steps are one rate's, so they may be added up; nothing is compared within them. ``most`` is the
    upper bound of all rows, or what the ramp's rows alone show that it is at least, where that is more: a rate that has
    risen since.

    Args:
        state: The evidence.
        series: The metric, or one segment of it.
        step: The first step that is not the ramp's.
        alpha: Probability, at most, that its rate is ever above ``most``, however often rows are added.
    """
    known = state.level_rows.get(series, 0)
    before = (known, state.levels[series] * (known + 1) - 0.5 if known else 0.0)  # undoes Baseline.freeze
    ramp = rows_and_badness(rows_of_ramp(state.metric(*series), step).champion)
    rows, bad = before[0] + ramp[0], min(max(before[1] + ramp[1], 0.0), before[0] + ramp[0])
    return Champion(rows, bad, _at_least(rows, bad, alpha), max(_at_most(rows, bad, alpha), _at_least(*ramp, alpha)))


def rows_of_ramp(evidence: MetricEvidence, step: int) -> Arms:
    """Rows of all steps before ``step``."""
    return sum((evidence.rows[at] for at in sorted(evidence.rows) if at < step), Arms())


def rows_and_badness(counts: Counts) -> tuple[int, float]:
    """Number of rows, and the sum of their badness."""
    return (sum(counts), float(bin_values(len(counts)) @ counts)) if counts else (0, 0.0)


@lru_cache(maxsize=4096)
def _at_most(rows: int, bad: float, alpha: float) -> float:
    """The mean that no more than ``alpha`` of all champions are ever above: every higher one is shown to be too high.

    The rows are bet on as if each were good or bad. Scores of the same mean vary less, so for them it is on the safe
    side: the payoff's logarithm is concave.
    """
    kept, refused = bad / rows if rows else 1.0, 1.0
    for _ in range(_HALVINGS if kept < refused else 0):
        middle = (kept + refused) / 2
        if e_value(below_increment([rows - bad, bad], middle).tolist()) >= 1 / alpha:
            refused = middle
        else:
            kept = middle
    return refused


@lru_cache(maxsize=4096)
def _at_least(rows: int, bad: float, alpha: float) -> float:
    """The same on the other side; 0 without rows."""
    kept, refused = bad / rows if rows else 0.0, 0.0
    for _ in range(_HALVINGS if kept > refused else 0):
        middle = (kept + refused) / 2
        if e_value(above_increment([rows - bad, bad], middle).tolist()) >= 1 / alpha:
            refused = middle
        else:
            kept = middle
    return refused
