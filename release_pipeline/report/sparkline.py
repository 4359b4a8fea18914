"""E-values as lines in a small SVG picture in a data URI, short enough that Dagster shows it inline."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

WIDTH, HEIGHT, MARGIN = 220, 48, 4
#: Points of a line; two lines with more would be hidden behind a link.
MOST_POINTS: Final = 20
#: What is drawn: from the inverse of the limit to its square.
_LOWEST, _HIGHEST = -1.0, 2.0


@dataclass(frozen=True, slots=True)
class Line:
    """E-values in order, as natural logarithms, and the limit that they are held against."""

    log_values: Sequence[float]
    limit: float
    colour: str


def sparkline(lines: Sequence[Line]) -> str:
    """Markdown of a picture of ``lines``; the limit of each is the dashed line that all share.

    The scale is logarithmic and always the same, so that two pictures can be compared. Every line begins at 1, where
    nothing is known, and ends in a dot.

    Returns:
        Markdown, or an empty string where there are no values.
    """
    drawn = [_drawn(line) for line in lines if any(not math.isnan(value) for value in line.log_values)]
    if not drawn:
        return ""
    at = _y(1.0)
    svg = (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{HEIGHT}' fill='none' stroke-width='2'>"
        f"<path d='M0 {at}H{WIDTH}' stroke='#888' stroke-width='1' stroke-dasharray='4'/>{''.join(drawn)}</svg>"
    )
    address = quote(svg, safe="=:/,'")
    return f"![trend](data:image/svg+xml,{address})"


def _drawn(line: Line) -> str:
    values = [0.0, *(value for value in line.log_values if not math.isnan(value))]
    if len(values) > MOST_POINTS:
        values = [values[round(i * (len(values) - 1) / (MOST_POINTS - 1))] for i in range(MOST_POINTS)]
    spots = [
        (round(MARGIN + index * (WIDTH - 2 * MARGIN) / (len(values) - 1)), _y(value / math.log(line.limit)))
        for index, value in enumerate(values)
    ]
    points = ",".join(f"{x},{y}" for x, y in spots)
    x, y = spots[-1]
    return (
        f"<g stroke='{line.colour}'><polyline points='{points}'/><circle cx='{x}' cy='{y}' r='3' "
        f"fill='{line.colour}'/></g>"
    )


def _y(share: float) -> int:
    """Height of an e-value that is the limit to the power of ``share``."""
    inside = min(max(share, _LOWEST), _HIGHEST)
    return round(HEIGHT - MARGIN - (inside - _LOWEST) / (_HIGHEST - _LOWEST) * (HEIGHT - 2 * MARGIN))
