"""A plan as a picture: requests against the size of a regression, and hours per step. SVG, without a library.

The same in small shows only the left panel, in so few characters that Dagster shows it without being asked.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Final
from urllib.parse import quote

from release_pipeline.gate.power_plan import Plan, SeriesStep, hours_text
from release_pipeline.report.markdown import INLINE, literal

_WIDTH: Final = 920
_HEIGHT: Final = 360
_TOP: Final = 44
_BOTTOM: Final = 300
_LEFT_PANEL: Final = (64, 440)
_RIGHT_PANEL: Final = (540, 900)
_COLOURS: Final = ("#2563eb", "#d97706", "#059669", "#9333ea", "#dc2626", "#0891b2", "#65a30d", "#db2777")
#: Sizes and requests outside of these are not drawn.
_SIZES: Final = (0.001, 1.0)
_SMALL: Final = (260, 96)
_SMALL_COLOURS: Final = ("blue", "orange", "green", "purple")
_INK: Final = "#334155"
_GRID: Final = "#e2e8f0"


def power_plot(plan: Plan) -> str:
    """An SVG with two panels; at most eight series, the others are only in the table.

    Left: challenger requests until half of all releases have rolled back a regression, on the first step, both axes
    logarithmic. Right: hours until an equal version is shown on each step, a bar per series (the median) with a line up
    to the 90th percentile, and the deadline where it is near.
    """
    titles = list(dict.fromkeys(each.title for each in plan.series))[: len(_COLOURS)]
    colours = dict(zip(titles, _COLOURS, strict=False))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12" fill="{_INK}">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        *_requests(plan, colours),
        *_hours(plan, colours),
        *_legend(colours),
        "</svg>",
    ]
    return "".join(parts)


def _requests(plan: Plan, colours: dict[str, str]) -> Iterable[str]:
    left, right = _LEFT_PANEL
    yield _text(left, 20, f"Challenger requests until a regression is rolled back, at {plan.ramp[0]} %", bold=True)
    lines = {each.title: _points(each) for each in plan.series if each.step == 0 and each.title in colours}
    values = [requests for points in lines.values() for _, requests in points]
    if not values:
        yield _text((left + right) / 2, 170, "no guard finds anything before the deadline", anchor="middle")
        return
    x = _scale(*_SIZES, left, right)
    low = 10 ** math.floor(math.log10(max(1.0, min(values))))
    high = 10 ** math.ceil(math.log10(max(max(values), 10 * low)))
    y = _scale(low, high, _BOTTOM, _TOP)
    for exponent in range(-3, 1):
        size = 10.0**exponent
        yield _line(x(size), _TOP, x(size), _BOTTOM)
        yield _text(x(size), _BOTTOM + 16, f"{100 * size:g} pp", anchor="middle")
    yield _text((left + right) / 2, _BOTTOM + 33, "worse than the champion by", anchor="middle")
    for exponent in range(round(math.log10(low)), round(math.log10(high)) + 1):
        yield _line(left, y(10.0**exponent), right, y(10.0**exponent))
        yield _text(left - 6, y(10.0**exponent) + 4, _short(10**exponent), anchor="end")
    for title, points in lines.items():
        path = " ".join(f"{x(size):.1f},{y(requests):.1f}" for size, requests in points)
        yield f'<polyline points="{path}" fill="none" stroke="{colours[title]}" stroke-width="2"/>'
        for size, requests in points:
            yield f'<circle cx="{x(size):.1f}" cy="{y(requests):.1f}" r="2.5" fill="{colours[title]}"/>'


def _points(series: SeriesStep) -> list[tuple[float, float]]:
    """Size and median requests of what is found before the deadline."""
    found = [(each.mean - series.level, each.wait.requests) for each in series.curve]
    return [
        (size, requests)
        for size, requests in found
        if _SIZES[0] <= size <= _SIZES[1] and math.isfinite(requests) and requests >= 1
    ]


def _hours(plan: Plan, colours: dict[str, str]) -> Iterable[str]:
    left, right = _RIGHT_PANEL
    bars = [each for each in plan.series if each.advance is not None and each.title in colours]
    ends = [hours for each in bars if each.advance for hours in (each.advance.hours, each.advance.hours_90)]
    top = max([hours for hours in ends if math.isfinite(hours)], default=0.0)
    if plan.problems or not top:
        top = max(top, plan.deadline_hours)
    top *= 1.08
    dashed = f" (dashed: the deadline, {hours_text(plan.deadline_hours)})" if plan.deadline_hours <= top else ""
    yield _text(left, 20, f"Time until an equal version advances{dashed}", bold=True)
    ticks = _ticks(top)

    def y(hours: float) -> float:
        return _BOTTOM - min(hours / top, 1.0) * (_BOTTOM - _TOP)

    for hours in ticks:
        yield _line(left, y(hours), right, y(hours))
        yield _text(left - 6, y(hours) + 4, hours_text(hours) if hours else "0", anchor="end")
    group = (right - left) / len(plan.ramp)
    for step, percent in enumerate(plan.ramp):
        middle = left + group * (step + 0.5)
        yield _text(middle, _BOTTOM + 16, f"{percent} %", anchor="middle")
        here = [each for each in bars if each.step == step]
        width = min(36.0, 0.8 * group / max(len(here), 1))
        for place, each in enumerate(here):
            assert each.advance is not None
            start = middle + (place - len(here) / 2) * width
            yield _bar(start, width, each.advance.hours, each.advance.hours_90, y, colours[each.title])
    yield _text((left + right) / 2, _BOTTOM + 33, "step of the ramp; bar: median, line: 90 %", anchor="middle")
    if plan.deadline_hours <= top:
        at = y(plan.deadline_hours)
        yield f'<path d="M{left} {at:.1f}H{right}" stroke="#dc2626" stroke-width="1.5" stroke-dasharray="5 4"/>'


def _bar(start: float, width: float, hours: float, most: float, y: Callable[[float], float], colour: str) -> str:
    """A bar up to the median and a line up to the 90th percentile; what does not end reaches the top, striped."""
    top, middle = y(hours), start + width / 2
    looks = f'fill="{colour}"' if math.isfinite(hours) else f'fill="#fff" stroke="{colour}" stroke-dasharray="3 3"'
    bar = f'<rect x="{start + 2:.1f}" y="{top:.1f}" width="{width - 4:.1f}" height="{_BOTTOM - top:.1f}" {looks}/>'
    return f'{bar}<path d="M{middle:.1f} {top:.1f}V{y(most):.1f}" stroke="{_INK}" stroke-width="1.5"/>'


def _legend(colours: dict[str, str]) -> Iterable[str]:
    at = float(_LEFT_PANEL[0])
    for title, colour in colours.items():
        yield f'<rect x="{at:.0f}" y="{_HEIGHT - 17}" width="10" height="10" fill="{colour}"/>'
        yield _text(at + 15, _HEIGHT - 8, title)
        at += 32 + 6.5 * len(title)


def small_plot(plan: Plan) -> str:
    """Markdown of the left panel in small, with a caption that names the lines; empty where nothing is found.

    Metrics that would make it too long to be shown inline are left out; so are all segments but the first of each.
    """
    firsts = {each.metric: each for each in reversed(plan.series) if each.step == 0 and _points(each)}
    lines = {each.title: _points(each) for each in plan.series if firsts.get(each.metric) is each}
    for count in range(min(len(lines), len(_SMALL_COLOURS)), 0, -1):
        drawn = dict(list(lines.items())[:count])
        caption = "; ".join(f"{colour}: {literal(title)}" for colour, title in zip(_SMALL_COLOURS, drawn, strict=False))
        if len(lines) > count:
            caption += "; others are in `power_metrics`"
        address = quote(_small_picture(list(drawn.values())), safe="=:/,'")
        markdown = (
            f"![power](data:image/svg+xml,{address})\n\n"
            f"challenger requests until a regression is rolled back at {plan.ramp[0]} %, by its size; {caption}"
        )
        if len(markdown) <= INLINE:
            return markdown
    return ""


def _small_picture(lines: Sequence[Sequence[tuple[float, float]]]) -> str:
    width, height = _SMALL
    bottom = height - 16
    requests = [count for points in lines for _, count in points]
    low = 10 ** math.floor(math.log10(min(requests)))
    high = 10 ** math.ceil(math.log10(max(max(requests), 10 * low)))
    x, y = _scale(*_SIZES, 34, width - 34), _scale(low, high, bottom, 8)
    parts = [
        f"<path d='M34 8V{bottom}H{width}' stroke='#999'/>",
        "<g stroke='none' fill='#777' font-size='11' font-family='sans-serif'>",
        *(f"<text x='{x(size):.0f}' y='{height - 3}'>{100 * size:g} pp</text>" for size in (0.001, 0.01, 0.1, 1.0)),
        *(f"<text y='{y(count) + 4:.0f}'>{_short(count)}</text>" for count in (low, high)),
        "</g>",
    ]
    for colour, points in zip(_SMALL_COLOURS, lines, strict=False):
        path = ",".join(f"{x(size):.0f},{y(count):.0f}" for size, count in points)
        parts.append(f"<polyline points='{path}' stroke='{colour}'/>")
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' fill='none' stroke-width='2'>"
        f"{''.join(parts)}</svg>"
    )


def _ticks(top: float) -> Sequence[float]:
    """Four to eight round times up to ``top`` hours."""
    steps = (
        1 / 3600,
        2 / 3600,
        5 / 3600,
        10 / 3600,
        20 / 3600,
        1 / 60,
        1 / 30,
        1 / 12,
        1 / 6,
        1 / 4,
        0.5,
        1,
        2,
        4,
        6,
        12,
        24,
        48,
        96,
        168,
        336,
        720,
    )
    step = next((each for each in steps if top / each <= 7), 10 ** math.ceil(math.log10(top / 7)))
    return [index * step for index in range(int(top / step) + 1)]


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    span = math.log10(high) - math.log10(low)
    return lambda value: start + (math.log10(value) - math.log10(low)) / span * (end - start)


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{_GRID}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'


def _short(number: int) -> str:
    return f"{number // 1_000_000}M" if number >= 1_000_000 else f"{number // 1000}k" if number >= 1000 else str(number)
