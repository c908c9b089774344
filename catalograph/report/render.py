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
from catalograph.report.data import Interval, MetricTable, ReportData
from catalograph.report.words import WORDS
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
    environment.filters |= {"picture": safe_picture} | {word.__name__: word for word in WORDS}
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


def _mark(value: Interval, table: MetricTable, column: str) -> Markup:
    shown: Sequence[Interval] = [row.values[column] for row in table.rows if column in row.values]
    ends = [end for v in shown for end in (v.mean, v.low, v.high) if end is not None and math.isfinite(end)]
    return interval_mark(value, max(ends, default=1.0))
