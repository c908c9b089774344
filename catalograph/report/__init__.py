"""The HTML report: `data` says what is shown, `render` writes it."""

from __future__ import annotations

from catalograph.report.data import (
    Card,
    Chart,
    Headline,
    Interval,
    ListedItem,
    MetricRow,
    MetricTable,
    MissedItem,
    Outcome,
    QuarantineRow,
    ReportData,
    Series,
    Shortfalls,
    SideBySide,
    StageRow,
    UserExample,
)

__all__ = [
    "Card",
    "Chart",
    "Headline",
    "Interval",
    "ListedItem",
    "MetricRow",
    "MetricTable",
    "MissedItem",
    "Outcome",
    "QuarantineRow",
    "ReportData",
    "Series",
    "Shortfalls",
    "SideBySide",
    "StageRow",
    "UserExample",
]
