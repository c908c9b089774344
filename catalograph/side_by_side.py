"""Several runs against the first of them: one list each on the same users, and what differs between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from catalograph.comparison import per_user
from catalograph.config_keys import flatten, redact
from catalograph.evaluation import DELIVERED
from catalograph.headlines import difference_headline
from catalograph.integrity import read_json, read_sealed, stage_folders, stored_config
from catalograph.report.data import Headline, Interval, MetricRow, MetricTable, ReportData, SideBySide
from catalograph.report.words import duration
from extract.errors import InvalidData
from recsys.significance import bootstrap_means, holm, permutation_tests

OTHER_SPLIT = "These runs hold out different choices, or do not say which: differences are also due to that."


def compare_side_by_side(runs: Sequence[Path], listed: str | None = None, *, seed: int = 0) -> dict[str, Any]:
    """Every run's means, and its paired differences to the first run, with intervals and p-values.

    Lists are held against each other on the users that all runs evaluated. The p-values are those of paired
    permutations over users, and the same corrected over all runs and metrics (Holm).

    Args:
        runs: two or more run folders whose stage evaluate is done; the first is the reference.
        listed: the list of each run; None: the one it delivers.
        seed: of the resamples.

    Raises:
        InvalidData: D208, fewer than two runs, an unknown list, or no common user or metric.
        MissingPrerequisite: P102, a run has no evaluation.
    """
    if len(runs) < 2:
        raise InvalidData("D208", "a comparison takes two runs or more", next_step="compare A B")
    tables = [per_user(run) for run in runs]
    lists = [_list_of(run, table, listed) for run, table in zip(runs, tables, strict=True)]
    metrics = _common_metrics(tables, lists)
    users = sorted(set.intersection(*(set(table["user_id"].to_pylist()) for table in tables)))
    if not users or not metrics:
        raise InvalidData("D208", "the runs have no test user and metric in common", where=str(runs[0]))
    values = np.stack([_values(t, users, n, metrics) for t, n in zip(tables, lists, strict=True)])
    gaps = np.concatenate(list(values[1:] - values[0]), axis=1)
    p_values = permutation_tests(gaps, seed=seed)
    tested = iter(zip(bootstrap_means(gaps, seed=seed), p_values, holm(p_values), strict=True))
    found: list[dict[str, Any]] = []
    for name, folder, own, one in zip(_names(runs), runs, lists, values, strict=True):
        row: dict[str, Any] = {"run": name, "folder": str(folder), "list": own, "metrics": {}}
        for metric, mean in zip(metrics, bootstrap_means(one, seed=seed), strict=True):
            row["metrics"][metric] = {"mean": mean.estimate, "low": mean.low, "high": mean.high}
        if found:
            row["differences"] = {
                m: {
                    "difference": gap.estimate, "low": gap.low, "high": gap.high, "p": float(p),
                    "p_holm": float(h),
                }
                for m, (gap, p, h) in zip(metrics, tested, strict=False)
            }  # fmt: skip
        found.append(row)
    return {
        "users": len(users),
        "users_of_each": [len(table) for table in tables],
        "same_split": _same([_output_hash(run, "10-prepare", "test.parquet") for run in runs]),
        "runs": found,
        "settings": _differing([flatten(redact(dict(stored_config(run)))) for run in runs]),
        "environment": _differing([flatten(read_json(run / "env.json") or {}) for run in runs]),
        "seconds": _differing([_seconds(run) for run in runs]),
    }


def side_by_side_tables(found: Mapping[str, Any]) -> list[MetricTable]:
    """Means of the runs, and their differences to the first."""
    first, *others = found["runs"]
    columns = list(first["metrics"])
    means = [
        MetricRow(row["run"], _intervals(row["metrics"], "mean"), {}, f"list {row['list']}")
        for row in found["runs"]
    ]
    gaps = [
        MetricRow(f"{row['run']} − {first['run']}", _intervals(row["differences"], "difference"))
        for row in others
    ]
    return [
        MetricTable(
            f"{found['users']:,} users that all runs evaluated", columns, means, None,
            "Means with 95 % bootstrap intervals over users.",
        ),
        MetricTable(
            "Paired differences", columns, gaps, None,
            "p: paired permutation test over users, corrected over all differences of this table (Holm). "
            "The intervals are not corrected.",
        ),
    ]  # fmt: skip


def _intervals(row: Mapping[str, Mapping[str, float]], key: str) -> dict[str, Interval]:
    return {m: Interval(v[key], v["low"], v["high"], v.get("p_holm")) for m, v in row.items()}


def comparison_page(found: Mapping[str, Any]) -> ReportData:
    """The comparison as a page of the report's kind."""
    names = [row["run"] for row in found["runs"]]
    notes = [f"{name}: {row['folder']}" for name, row in zip(names, found["runs"], strict=True)]
    if set(found["users_of_each"]) != {found["users"]}:
        sizes = ", ".join(f"{n} {count:,}" for n, count in zip(names, found["users_of_each"], strict=True))
        notes.append(f"Users evaluated: {sizes}. The others are left out.")
    seconds = {
        key: [None if v is None else duration(v) for v in values] for key, values in found["seconds"].items()
    }
    return ReportData(
        title=f"{names[0]} and {', '.join(names[1:])}",
        notice="" if found["same_split"] else OTHER_SPLIT,
        notes=notes,
        headlines=_headlines(found),
        metrics=side_by_side_tables(found),
        differing=[
            SideBySide(
                "Settings that differ", names, found["settings"],
                "A value unlike the first run's is marked. Settings not named here are equal.",
                marked=True,
            ),
            SideBySide("Environments that differ", names, found["environment"], marked=True),
            SideBySide("Seconds by stage", names, seconds, "Of the process that did the work."),
        ],
    )  # fmt: skip


def _headlines(found: Mapping[str, Any]) -> list[Headline]:
    """The first metric of every run against the first run."""
    first, *others = found["runs"]
    metric = next(iter(first["metrics"]))
    before = first["metrics"][metric]["mean"]
    return [
        difference_headline(
            f"{row['run']} over {first['run']}", {"metric": metric, **row["differences"][metric]},
            before, row["metrics"][metric]["mean"],
        )
        for row in others
    ]  # fmt: skip


def _names(runs: Sequence[Path]) -> list[str]:
    """Folder names, with their parents where two are the same."""
    short = [run.resolve().name for run in runs]
    if max(Counter(short).values()) == 1:
        return short
    return [f"{run.resolve().parent.name}/{run.resolve().name}" for run in runs]


def _list_of(run: Path, table: pa.Table, asked: str | None) -> str:
    known = sorted({c.rpartition("/")[0] for c in table.column_names if "/" in c})
    chosen = next((name for name in ([asked] if asked else DELIVERED) if name in known), None)
    if chosen is None:
        raise InvalidData(
            "D208", f"no list is called `{asked}`", where=str(run), why=f"lists: {', '.join(known)}"
        )
    return chosen


def _common_metrics(tables: Sequence[pa.Table], lists: Sequence[str]) -> list[str]:
    own = [
        [c.rpartition("/")[2] for c in table.column_names if c.rpartition("/")[0] == name]
        for table, name in zip(tables, lists, strict=True)
    ]
    return [metric for metric in own[0] if all(metric in others for others in own[1:])]


def _values(table: pa.Table, users: Sequence[str], listed: str, metrics: Sequence[str]) -> np.ndarray:
    """Values [N, M] of the asked users, in their order."""
    place = {user: row for row, user in enumerate(table["user_id"].to_pylist())}
    rows = [place[user] for user in users]
    return np.stack([table[f"{listed}/{m}"].to_numpy()[rows] for m in metrics], axis=1)


def _differing(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """By key the value of every run, None where it has none, for the keys whose values are not all equal."""
    keys = dict.fromkeys(key for row in rows for key in row)
    values = {key: [row.get(key) for row in rows] for key in keys}
    return {key: own for key, own in values.items() if any(value != own[0] for value in own)}


def _seconds(run: Path) -> dict[str, float]:
    records = {folder.name: read_sealed(folder / "stage.json") for folder in stage_folders(run)}
    return {name.partition("-")[2]: record["seconds"] for name, record in records.items() if record}


def _same(hashes: Sequence[str | None]) -> bool:
    """Whether all are equal; what is not known is not."""
    return None not in hashes and len(set(hashes)) == 1


def _output_hash(run: Path, stage: str, name: str) -> str | None:
    record = read_sealed(run / "stages" / stage / "stage.json") or {}
    return next((row["sha256"] for row in record.get("outputs", ()) if row["path"] == name), None)
