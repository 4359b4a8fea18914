"""A line of numbers as an SVG picture in a data URI, small enough that Dagster shows it inline."""

import math
from collections.abc import Sequence
from urllib.parse import quote

WIDTH, HEIGHT, MARGIN = 220, 48, 3
MOST_POINTS = 32


def sparkline(values: Sequence[float], *, limit: float | None = None, colour: str = "#3b82f6") -> str:
    """Markdown of a picture of ``values`` in order, with ``limit`` as a dashed line.

    Values are drawn on a logarithmic scale where all are positive and the largest is 20 times the smallest or more,
    as e-values are. The whole is under 900 characters: Dagster hides markdown of 1,000 characters behind a link.

    Returns:
        Markdown, or an empty string where there are no values.
    """
    finite = [min(max(value, -1e12), 1e12) for value in values if not math.isnan(value)]
    if not finite:
        return ""
    if len(finite) > MOST_POINTS:
        finite = [finite[round(i * (len(finite) - 1) / (MOST_POINTS - 1))] for i in range(MOST_POINTS)]
    scaled = [*finite, *([limit] if limit is not None else [])]
    if min(scaled) > 0 and max(scaled) / min(scaled) >= 20:
        scaled = [math.log10(value) for value in scaled]
    low, high = min(scaled), max(scaled)
    span = (high - low) or 1.0

    def y(value: float) -> int:
        return round(HEIGHT - MARGIN - (value - low) / span * (HEIGHT - 2 * MARGIN))

    count = len(finite)
    points = " ".join(
        f"{round(MARGIN + index * (WIDTH - 2 * MARGIN) / max(count - 1, 1))},{y(value)}"
        for index, value in enumerate(scaled[:count])
    )
    dashed = (
        f"<path d='M0 {y(scaled[-1])}H{WIDTH}' stroke='#dc2626' stroke-dasharray='4'/>" if limit is not None else ""
    )
    svg = (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{HEIGHT}'>{dashed}"
        f"<polyline points='{points}' fill='none' stroke='{colour}' stroke-width='2'/></svg>"
    )
    return f"![trend](data:image/svg+xml,{quote(svg, safe='=:/,')})"
