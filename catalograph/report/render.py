"""ReportData to one HTML file that needs nothing else: no script, no font, no address outside itself."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from catalograph.report.charts import interval_mark, line_chart
from catalograph.report.data import Interval, ListedItem, MetricTable, ReportData, StageRow
from extract.store import write_atomic

if TYPE_CHECKING:
    from PIL.Image import Image

_PICTURE = "data:image/jpeg;base64,"


def render_report(data: ReportData) -> str:
    """The page as text."""
    # Titles, captions and ids come from a catalogue that may be hostile: everything is escaped, and
    # attributes that could carry an address take only pictures made by `picture_uri`.
    environment = Environment(
        loader=PackageLoader("catalograph.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "signed": signed,
        "duration": duration,
        "picture": safe_picture,
        "moved": moved,
        "percent": percent,
        "pulled": pulled,
        "rate": rate,
        "size": size,
        "verdict": verdict,
    }
    environment.globals |= {"line_chart": line_chart, "interval_mark": _mark}
    return environment.get_template("page.html.j2").render(report=data)


def write_report(data: ReportData, path: Path) -> Path:
    """Write the page to `path`, atomically; its folder is made if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, render_report(data).encode("utf-8", "replace"))
    return path


def picture_uri(image: Image, size: int = 160) -> str:
    """A thumbnail of an RGB picture, at most `size` pixels a side, as a data URI."""
    small = image.convert("RGB")
    small.thumbnail((size, size))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80, optimize=True)
    return _PICTURE + base64.b64encode(buffer.getvalue()).decode()


def safe_picture(uri: str | None) -> str | None:
    """The URI if it is one of ours, else None."""
    if uri is None or not uri.startswith(_PICTURE):
        return None
    rest = uri[len(_PICTURE) :].rstrip("=")
    return uri if rest.isascii() and rest.replace("+", "").replace("/", "").isalnum() else None


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


def _mark(value: Interval, table: MetricTable, column: str) -> Markup:
    shown: Sequence[Interval] = [row.values[column] for row in table.rows if column in row.values]
    ends = [end for v in shown for end in (v.mean, v.low, v.high) if end is not None and math.isfinite(end)]
    return interval_mark(value, max(ends, default=1.0))
