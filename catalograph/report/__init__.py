"""The HTML report: `data` says what is shown, `render` writes it."""

from __future__ import annotations

from catalograph.report.data import (
    Card,
    Chart,
    Interval,
    ListedItem,
    MetricRow,
    MetricTable,
    QuarantineRow,
    ReportData,
    Series,
    StageRow,
    UserExample,
)

__all__ = [
    "Card",
    "Chart",
    "Interval",
    "ListedItem",
    "MetricRow",
    "MetricTable",
    "QuarantineRow",
    "ReportData",
    "Series",
    "StageRow",
    "UserExample",
]
