"""The evaluation's findings as tables for the terminal and the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from catalograph.diagnosis_tables import diagnosis_tables
from catalograph.report.data import Interval, MetricRow, MetricTable

DESCRIPTIONS = {
    "retrieved": "the retriever's own order",
    "fused_without_llm": "linear ListNet on the retrievers' scores and ranks, weights from validation",
    "lambdamart": "gradient-boosted trees on the same lists and numbers, tuned on validation",
    "llm_only": "the language model's scores alone",
    "reranked": "the same fusion with the language model's scores added",
    "gated": "in each group of users what the gate chose on held-out validation lists",
}
ORACLE = "best order"


def tables(found: Mapping[str, Any]) -> list[MetricTable]:
    """All tables of `catalograph.evaluation.read_metrics`, the short ones first."""
    columns = list(next(iter(found["lists"].values())))
    grouped = [_group_table(name, groups, columns) for name, groups in found["groups"].items()]
    return [
        _main_table(found, columns),
        *([_claims_table(found)] if found["comparisons"] else []),
        _conditional_table(found, columns),
        *(diagnosis_tables(found["diagnosis"], columns) if found["diagnosis"] else []),
        _statistics_table(found),
        *grouped,
    ]


def _main_table(found: Mapping[str, Any], columns: list[str]) -> MetricTable:
    differences: dict[str, dict[str, Interval]] = {}
    for row in found["comparisons"]:
        if row["a"] == "retrieved":
            differences.setdefault(row["b"], {})[row["metric"]] = _gap(row)
    rows = [
        MetricRow(name, _values(values), differences.get(name, {}), DESCRIPTIONS.get(name, "baseline"))
        for name, values in found["lists"].items()
    ]
    best = {column: Interval(value) for column, value in found["oracle"].items()}
    rows.append(MetricRow(ORACLE, best, {}, "the retrieved candidates, truths first: no reranker exceeds it"))
    return MetricTable(
        f"Test split, {found['users']:,} users", columns, rows, "retrieved",
        "Means over users with 95 % bootstrap intervals; ties by score, then item id.",
    )  # fmt: skip


def _claims_table(found: Mapping[str, Any]) -> MetricTable:
    pairs = list(dict.fromkeys((row["a"], row["b"]) for row in found["comparisons"]))
    columns = list(dict.fromkeys(row["metric"] for row in found["comparisons"]))
    rows = [
        MetricRow(
            f"{b} − {a}",
            {row["metric"]: _gap(row) for row in found["comparisons"] if (row["a"], row["b"]) == (a, b)},
        )
        for a, b in pairs
    ]
    return MetricTable(
        "Paired differences", columns, rows, None,
        "p: paired permutation test, corrected over all differences of this table (Holm). "
        "The intervals are not corrected.",
    )  # fmt: skip


def _conditional_table(found: Mapping[str, Any], columns: list[str]) -> MetricTable:
    conditional = found["conditional"]
    rows = [
        MetricRow(name, {c: Interval(v) for c, v in values.items()}, {}, DESCRIPTIONS[name])
        for name, values in conditional["lists"].items()
    ]
    return MetricTable(
        f"Only the {conditional['users']:,} users whose held-out item was retrieved", columns, rows, None,
        "The rest cannot be helped by any reranker.",
    )  # fmt: skip


def _statistics_table(found: Mapping[str, Any]) -> MetricTable:
    statistics: Mapping[str, Mapping[str, float | None]] = found["statistics"]
    columns = [
        c for c in next(iter(statistics.values())) if any(row[c] is not None for row in statistics.values())
    ]
    rows = [
        MetricRow(name, {c: Interval(v) for c, v in row.items() if v is not None})
        for name, row in statistics.items()
    ]
    return MetricTable(
        "What the lists are like", columns, rows, None,
        "coverage: share of the catalogue that is shown to anybody; gini: 0 if all items are shown alike, "
        "near 1 if few take all; novelty: bits of surprise, by train choices; popularity_lift: 0 if lists "
        "are as popular as histories; diversity: mean of 1 − cosine of two items of a list.",
        detail=True,
    )  # fmt: skip


def _group_table(name: str, groups: Mapping[str, Any], columns: list[str]) -> MetricTable:
    rows = [
        MetricRow(f"{group}: {listed}", _values(values), {}, f"{entry['users']:,} users")
        for group, entry in groups.items()
        for listed, values in entry["lists"].items()
    ]
    return MetricTable(
        f"By {name.replace('*', ' and ')}", columns, rows, None,
        "For a group of items only truths in the group count, among lists of all items.",
        detail=True,
    )  # fmt: skip


def _values(row: Mapping[str, Mapping[str, float]]) -> dict[str, Interval]:
    return {column: Interval(v["mean"], v["low"], v["high"]) for column, v in row.items()}


def _gap(row: Mapping[str, Any]) -> Interval:
    return Interval(row["difference"], row["low"], row["high"], row["p_holm"])
