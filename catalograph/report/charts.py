"""Small inline SVG drawings. Colours are classes of the page's style sheet: they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

from catalograph.report.data import Chart, Interval

_WIDTH, _HEIGHT = 520, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 12, 40


def line_chart(chart: Chart) -> Markup:
    """The chart as SVG with axes, ticks and one line per series; an empty string where no point is finite."""
    series = [
        (s.name, [p for p in s.points if math.isfinite(p[0]) and math.isfinite(p[1])]) for s in chart.series
    ]
    points = [p for _, line in series for p in line]
    if not points:
        return Markup("")
    x_ticks = ticks(min(p[0] for p in points), max(p[0] for p in points), 6)
    y_ticks = ticks(min(p[1] for p in points), max(p[1] for p in points), 5)

    def across(x: float) -> float:
        return _scale(x, x_ticks[0], x_ticks[-1], _LEFT, _WIDTH - _RIGHT)

    def down(y: float) -> float:
        return _scale(y, y_ticks[0], y_ticks[-1], _HEIGHT - _BOTTOM, _TOP)

    # What the eye takes from the lines, in words: where each starts and ends.
    told = "; ".join(
        f"{name} from {line[0][1]:.4g} at {line[0][0]:g} to {line[-1][1]:.4g} at {line[-1][0]:g}"
        for name, line in series
        if line
    )
    label = escape(f"{chart.title}, by {chart.x_label}: {told}")
    parts = [f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">']
    for tick in y_ticks:
        y = down(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        parts.append(
            f'<text x="{across(tick):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{tick:g}</text>'
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text x="{middle:.0f}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(chart.x_label)}</text>'
    )
    for index, (name, line) in enumerate(series):
        if not line:
            continue
        where = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in line)
        parts.append(f'<g class="s{index % 6}"><title>{escape(name)}</title><polyline points="{where}"/>')
        x, y = line[-1]
        parts.append(f'<circle cx="{across(x):.1f}" cy="{down(y):.1f}" r="3.5"/></g>')
    return Markup("".join([*parts, "</svg>"]))


def interval_mark(value: Interval, top: float) -> Markup:
    """A bar from 0 to the mean with a whisker over the interval, on a scale from 0 to `top`."""
    width, reach = 96.0, max(top, 1e-12)

    def at(x: float) -> float:
        return max(0.0, min(x / reach, 1.0)) * width

    if not math.isfinite(value.mean):
        return Markup("")
    whisker = ""
    if value.low is not None and value.high is not None:
        low, high = at(value.low), at(value.high)
        whisker = f'<line class="whisker" x1="{low:.1f}" x2="{high:.1f}" y1="5" y2="5"/>'
    bar = f'<rect class="bar" width="{at(value.mean):.1f}" height="6" y="2" rx="3"/>'
    return Markup(f'<svg class="mark" viewBox="0 0 {width:.0f} 10" aria-hidden="true">{bar}{whisker}</svg>')


def ticks(low: float, high: float, about: int) -> Sequence[float]:
    """Round numbers from at or below `low` to at or above `high`, steps of 1, 2 or 5 times a power of ten."""
    if high <= low:
        low, high = low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
    raw = (high - low) / max(about - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def _scale(value: float, low: float, high: float, start: float, end: float) -> float:
    return start + (value - low) / (high - low) * (end - start)
