"""Values as a person reads them: filters of the page's template, and of what the verbs print."""

from __future__ import annotations

import json
import math

from catalograph.report.data import Interval, ListedItem, StageRow


def number(value: float | int | None) -> str:
    """A count with separators, a measure with four decimals, a dash where there is none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def signed(value: float | None) -> str:
    """A difference with its sign, four decimals."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:+.4f}".replace("-", "−")


def percent(share: float) -> str:
    """A relative change with its sign."""
    return f"{share:+.1%}".replace("-", "−").replace("%", " %")


def size(n_bytes: int | None) -> str:
    """Bytes as a person says them."""
    if n_bytes is None:
        return "–"
    value, units = float(n_bytes), iter(("B", "kB", "MB", "GB"))
    unit = next(units)
    for larger in units:
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"


def plain(value: object) -> str:
    """A setting as a person reads it in YAML: true, null, a list in brackets; a dash where there is none."""
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def rate(stage: StageRow) -> str:
    """Rows per second of a stage: two digits, or whole numbers with separators."""
    if not stage.n_ok or not stage.seconds:
        return "–"
    value = stage.n_ok / stage.seconds
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def pulled(item: ListedItem) -> list[tuple[str, float, float]]:
    """The sources' parts of an item's fused score, largest first: source, part, share of the largest part."""
    ordered = sorted(item.pulls.items(), key=lambda pull: -abs(pull[1]))
    top = max((abs(part) for _, part in ordered), default=0.0)
    return [(source, part, abs(part) / top if top else 0.0) for source, part in ordered]


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def moved(item: ListedItem) -> int:
    """Places gained by reranking; 0 where there is nothing to compare with."""
    return 0 if item.rank_before is None else item.rank_before - item.rank


def verdict(difference: Interval) -> str:
    """``better``, ``worse`` or ``open``: whether the interval of a difference excludes 0."""
    if difference.low is not None and difference.low > 0:
        return "better"
    return "worse" if difference.high is not None and difference.high < 0 else "open"


WORDS = (number, signed, percent, size, plain, rate, pulled, duration, moved, verdict)
"""Filters of the template, by their names."""
