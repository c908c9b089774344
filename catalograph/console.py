"""What the verbs print on stdout for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from catalograph.doctor import Check
from catalograph.report.data import MetricTable

_STYLES = {"ok": "green", "note": "yellow", "fail": "bold red"}


def print_checks(checks: Sequence[Check]) -> None:
    """The doctor's findings as a table."""
    table = Table(box=SIMPLE_HEAD)
    for heading in ("check", "", "found", "what to do"):
        table.add_column(heading, overflow="fold")
    for check in checks:
        table.add_row(
            check.name,
            f"[{_STYLES[check.status]}]{check.status}[/]",
            _plain(check.found),
            _plain(check.advice),
        )
    Console().print(table)


def print_summary(result: Mapping[str, Any], tables: Sequence[MetricTable]) -> None:
    """Metrics by list with their intervals, and where the report is; the report's path is the last line."""
    console = Console()
    for metrics in tables:
        table = Table(box=SIMPLE_HEAD, title=_plain(metrics.caption), title_justify="left")
        table.add_column("list")
        for column in metrics.columns:
            table.add_column(_plain(column), justify="right")
        for row in metrics.rows:
            cells = [_interval(row.values.get(column)) for column in metrics.columns]
            table.add_row(_plain(row.name), *cells)
        console.print(table)
    if result.get("report"):
        # Not through rich, which would break a long path into two lines.
        console.file.write(f"{result['report']}\n")


def _interval(value: Any) -> str:
    if value is None:
        return "-"
    if value.low is None or value.high is None:
        return f"{value.mean:.4f}"
    return f"{value.mean:.4f} [dim]({value.low:.4f} to {value.high:.4f})[/]"


def _plain(text: str) -> str:
    return text.replace("[", "\\[")
