"""One list of several runs (seeds) against another: means, differences and intervals over seeds and users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from catalograph.report.data import Interval, MetricRow, MetricTable
from extract.errors import InvalidData, MissingPrerequisite
from recsys.significance import bootstrap_seeds, holm, permutation_tests


@dataclass(frozen=True)
class _Measured:
    """Values by metric [S, N] of one list in S runs, on the same N users."""

    user_ids: list[str]
    values: dict[str, NDArray[np.float64]]


def compare_runs(runs: Sequence[Path], listed: str, against: Sequence[Path], other: str) -> dict[str, Any]:
    """By metric: both means, the difference with its interval, and p-values.

    Seeds of one side are not paired with those of the other, so each side's seeds are averaged per user: the
    interval of the difference resamples users, and the seeds of both sides where there is more than one. The
    p-values are those of a paired permutation over users, and the same corrected over the metrics (Holm).
    Runs must have the same test users and metrics, or InvalidData D208.
    """
    ours, theirs = _measured(runs, listed), _measured(against, other)
    metrics = [name for name in ours.values if name in theirs.values]
    if ours.user_ids != theirs.user_ids or not metrics:
        raise InvalidData(
            "D208",
            "the runs were evaluated on other users or with other metrics",
            why=f"{len(ours.user_ids)} against {len(theirs.user_ids)} users, common metrics: {metrics}",
        )
    gaps = np.stack([ours.values[m].mean(axis=0) - theirs.values[m].mean(axis=0) for m in metrics], axis=1)
    p_values = permutation_tests(gaps)
    rows = {}
    for name, p, corrected in zip(metrics, p_values, holm(p_values), strict=True):
        a, b = theirs.values[name], ours.values[name]
        found = bootstrap_seeds(b, a)
        rows[name] = {
            "mean": float(b.mean()), "against": float(a.mean()), "difference": found.estimate,
            "low": found.low, "high": found.high, "p": float(p), "p_holm": float(corrected),
            "seed_deviation": float(b.mean(axis=1).std(ddof=1)) if len(b) > 1 else None,
        }  # fmt: skip
    return {
        "list": listed, "against": other, "seeds": [len(runs), len(against)],
        "users": len(ours.user_ids), "metrics": rows,
    }  # fmt: skip


def comparison_table(found: dict[str, Any]) -> MetricTable:
    """The findings for a terminal."""
    ours: dict[str, Interval] = {}
    theirs: dict[str, Interval] = {}
    gap: dict[str, Interval] = {}
    for name, row in found["metrics"].items():
        ours[name], theirs[name] = Interval(row["mean"]), Interval(row["against"])
        gap[name] = Interval(row["difference"], row["low"], row["high"], row["p_holm"])
    seeds = " against ".join(str(n) for n in found["seeds"])
    return MetricTable(
        f"{found['users']:,} users, {seeds} seeds",
        list(found["metrics"]),
        [
            MetricRow(found["list"], ours),
            MetricRow(f"against {found['against']}", theirs),
            MetricRow("difference", gap),
        ],
    )


def _measured(runs: Sequence[Path], listed: str) -> _Measured:
    tables = [per_user(run) for run in runs]
    users = [table["user_id"].to_pylist() for table in tables]
    names = [c for c in tables[0].column_names if c.startswith(f"{listed}/")]
    if not names:
        known = sorted({c.rpartition("/")[0] for c in tables[0].column_names if "/" in c})
        raise InvalidData("D208", f"no list is called `{listed}`", why=f"lists: {', '.join(known)}")
    lacking = [
        run
        for run, t, u in zip(runs, tables, users, strict=True)
        if u != users[0] or not set(names) <= set(t.column_names)
    ]
    if lacking:
        raise InvalidData(
            "D208", "runs of one side differ in test users, lists or metrics", where=str(lacking[0])
        )
    values = {n.rpartition("/")[2]: np.stack([t[n].to_numpy() for t in tables]) for n in names}
    return _Measured(users[0], values)


def per_user(run: Path) -> pa.Table:
    """What the stage evaluate measured, one row per user: `user_id`, and `LIST/METRIC` columns.

    Raises:
        MissingPrerequisite: P102, the stage is not done.
    """
    path = run / "stages" / "80-evaluate" / "per_user.parquet"
    if not path.is_file():
        raise MissingPrerequisite(
            "P102",
            "the stage evaluate of this run is not done",
            where=str(run),
            next_step=f"run `catalograph evaluate --run-dir {run}` first",
        )
    return pq.read_table(path)
