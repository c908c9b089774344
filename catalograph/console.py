"""What the verbs print on stdout for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from catalograph.doctor import Check
from catalograph.report.data import MetricTable
from catalograph.report.words import plain

if TYPE_CHECKING:
    from extract.probe import Probe

# Characters of the column of names, and of a column with an interval, with their padding.
_NAME, _CELL = 20, 15
_SETTINGS = 20
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
    """Metrics by list over their intervals, and where the report is; the report's path is the last line.

    As many metrics as fit in the width are shown; the report has them all. Before there are any, the stages
    and the run folder are shown instead.
    """
    console = Console()
    if not tables:
        print_stages(result["stages"])
    print_tables(tables, console)
    # Not through rich, which would break a long path into two lines.
    if result.get("lists"):
        console.file.write(f"\nranked lists: {result['lists']}\n")
    console.file.write(f"{result.get('report') or result['run_dir']}\n")


def print_tables(tables: Sequence[MetricTable], console: Console | None = None) -> None:
    """The short tables, as many columns as fit."""
    console = console or Console()
    fitting = max(1, (console.width - _NAME) // _CELL)
    for metrics in (table for table in tables if not table.detail):
        table = Table(
            box=SIMPLE_HEAD,
            title=f"\n{_plain(metrics.caption)}",
            title_justify="left",
            show_edge=False,
            pad_edge=False,
        )
        table.add_column("list", overflow="fold", max_width=_NAME - 2)
        for column in metrics.columns[:fitting]:
            table.add_column(_plain(column), justify="right", no_wrap=True)
        for row in metrics.rows:
            cells = [_interval(row.values.get(column)) for column in metrics.columns[:fitting]]
            table.add_row(_plain(row.name), *cells)
        console.print(table)
    if any(len(metrics.columns) > fitting for metrics in tables):
        console.print("\nIntervals are 95 %; the other metrics are in the report.", style="dim")


def print_stages(stages: Mapping[str, Mapping[str, Any]]) -> None:
    """One line per stage: how many items, and how long."""
    for name, row in stages.items():
        Console().print(_stage(name, row), highlight=False)


def print_estimate(result: Mapping[str, Any]) -> None:
    """What an extraction will take, one line per stage and the totals."""
    table = Table(box=SIMPLE_HEAD)
    for heading in ("stage", "items", "sampled", "items/s", "load s", "hours", "disk MB"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for name, row in result["stages"].items():
        rate, load = f"{row['items_per_second']:,.2f}", f"{row['load_seconds']:,.1f}"
        hours, disk = f"{row['seconds'] / 3600:,.3f}", f"{row['disk_bytes'] / 2**20:,.1f}"
        table.add_row(_plain(name), f"{row['items']:,}", f"{row['sampled']:,}", rate, load, hours, disk)
    console = Console()
    console.print(table)
    memory = f"{result['memory_bytes'] / 2**30:.2f} GB memory"
    if result["accelerator_bytes"]:
        memory += f", {result['accelerator_bytes'] / 2**30:.2f} GB on the accelerator"
    cost = "" if result["cost"] is None else f", cost {result['cost']:,.2f}"
    disk = f"{result['disk_bytes'] / 2**30:.2f} GB disk"
    console.print(f"{result['hours']:,.3f} hours, {memory}, {disk}{cost}", highlight=False)


def print_settings(rows: Mapping[str, Sequence[Any]]) -> None:
    """Settings that differ between runs, one line each; the rest of a long list is counted."""
    console = Console()
    for key, values in list(rows.items())[:_SETTINGS]:
        console.print(f"{_plain(key)}: {_plain(' | '.join(plain(v) for v in values))}", highlight=False)
    if len(rows) > _SETTINGS:
        console.print(f"and {len(rows) - _SETTINGS} more: --page, --json", style="dim")


def print_worth(result: Mapping[str, Any]) -> None:
    """What captions gained over each control, by stratum, what they cost, and the answer on the last line."""
    console, sample = Console(), result["sample"]
    title = (
        f"\n{result['metric']} of {_plain(result['retriever'])} with captions, less that of others: "
        f"{sample['items']:,} items, {sample['users']:,} users, {sample['seeds']} seeds"
    )
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", show_edge=False, pad_edge=False)
    # The rest is in worth.json: more columns would not fit.
    others = list(result["strata"]["all"]["gain_over"])[:2]
    for heading in ("test choices of", "users", "captions", *(f"- {name}" for name in others), "worth it"):
        table.add_column(heading, justify="left" if heading == "test choices of" else "right")
    for name, row in result["strata"].items():
        gains = [row["gain_over"][other] for other in others]
        cells = [f"{g['gain']:+.4f} [dim]{g['low']:+.4f} {g['high']:+.4f}[/]" for g in gains]
        mean = f"{row['means']['captions']:.4f}"
        table.add_row(_plain(name), f"{row['users']:,}", mean, *cells, row["answer"])
    console.print(table)
    cost, money = result["whole_catalogue"], ""
    if cost["cost"] is not None:
        money = f", cost {cost['cost']:,.2f}"
    console.print(
        f"\nIntervals are 95 %, over users and seeds. Captions and vectors of all {cost['items']:,} items: "
        f"{cost['hours']:,.3f} hours, {cost['disk_bytes'] / 2**30:.2f} GB{money}.",
        highlight=False,
    )
    console.file.write(f"{result['answer']}\n")


def print_probes(attribute: str, probes: Mapping[str, Probe]) -> None:
    """How well each feature predicts an attribute, one table per feature."""
    console = Console()
    for name, found in probes.items():
        title = (
            f"\n{_plain(name)} predicts {_plain(attribute)}: {found.n_items:,} items of {len(found.classes)} "
            f"classes, learned from {found.train_items:,} in each of {found.folds} folds"
        )
        table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", show_edge=False, pad_edge=False)
        for heading in ("predictor", "accuracy", "above the commonest class", "balanced accuracy"):
            table.add_column(heading, justify="left" if heading == "predictor" else "right")
        for predictor, score in found.scores.items():
            table.add_row(
                predictor.replace("_", " "),
                f"{score.accuracy:.4f} [dim]{_short(score.low)} {_short(score.high)}[/]",
                f"{score.gain:+.4f} [dim]{score.gain_low:+.4f} {score.gain_high:+.4f}[/]",
                f"{score.balanced_accuracy:.4f}",
            )
        console.print(table)
        left_out = {"without a vector": found.n_absent, "without a value": found.n_unlabelled,
                    "of rare classes": found.n_rare}  # fmt: skip
        named = ", ".join(f"{count:,} {why}" for why, count in left_out.items() if count)
        console.print(f"Intervals are 95 %. Left out: {named or 'none'}.", style="dim", highlight=False)


def _stage(name: str, row: Mapping[str, Any]) -> str:
    done = "reused" if row.get("reused") else f"{row['seconds']:.1f} s"
    done += f" from {_plain(row['from'])}" if row.get("from") else ""
    done += f", {row['anew']:,} anew" if "anew" in row and not row.get("reused") else ""
    quarantined = f", {row['quarantined']:,} quarantined" if row.get("quarantined") else ""
    return f"{name}: {row['ok']:,} of {row['in']:,} ok{quarantined} ({done})"


def _interval(value: Any) -> str:
    if value is None:
        return "-"
    if value.low is None or value.high is None:
        return f"{value.mean:.4f}"
    return f"{value.mean:.4f}\n[dim]{_short(value.low)} {_short(value.high)}[/]"


def _short(share: float) -> str:
    return f"{share:.4f}".replace("0.", ".", 1)


def _plain(text: str) -> str:
    return text.replace("[", "\\[")
