"""What reranking changed, as tables for the terminal and the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from catalograph.report.data import Interval, MetricRow, MetricTable


def diagnosis_tables(found: Mapping[str, Any], columns: list[str]) -> list[MetricTable]:
    """Tables of the section `diagnosis` of `metrics.json`."""
    gate = [_gate(found["gate"])] if found.get("gate") else []
    parts = [_gain_parts(found["gain_parts"])] if found.get("gain_parts", {}).get("parts") else []
    return [*gate, *parts, _changes(found, columns), _by_place(found, columns), _by_slot(found)]


def _gate(found: Mapping[str, Any]) -> MetricTable:
    rows, gains = [], {}
    for decision in found["decisions"]:
        gains = {
            f"{name} {kind}": Interval(bound[key])
            for name, bound in decision["bounds"].items()
            for kind, key in (("gain", "gain"), ("at least", "low"))
        }
        values = {"retrieved": Interval(decision["retrieved"]), **gains}
        name = f"{decision['group']}: {decision['chosen']}"
        rows.append(MetricRow(name, values, {}, f"{decision['lists']:,} lists"))
    columns = list(dict.fromkeys(column for row in rows for column in row.values))
    which = ", the later half of them," if found["later_half"] else ""
    return MetricTable(
        f"The gate: {found['metric']} of {found['lists']:,} held-out lists", columns, rows, None,
        f"By group of users, the order its lists are given in: the one with the highest lower bound ("
        f"{found['confidence']:.0%}, all groups and orders together) of its gain over the retrieved order, "
        f"where that is positive. From validation lists{which} on which nothing was fitted or chosen but the "
        f"retrieved order; a group of fewer than {found['least_lists']} keeps it.",
    )  # fmt: skip


def _gain_parts(found: Mapping[str, Any]) -> MetricTable:
    column = found["metric"]
    rows = [
        MetricRow(row["part"], {column: Interval(row["gain"], row["low"], row["high"])})
        for row in found["parts"]
    ]
    return MetricTable(
        f"What the gain is made of, on {found['lists']:,} held-out lists", [column], rows, None,
        "Fusion: the retrievers' scores without the model, over the retrieved order. List context: what the "
        "reranked lists lose when the same weights read each candidate alone. Of others: when they read "
        "histories of other people, or texts, captions or vectors of other items. All of them are more than "
        "the part would add to a model trained without it.",
    )  # fmt: skip


def _changes(found: Mapping[str, Any], columns: list[str]) -> MetricTable:
    kinds = ("before", "after", "put_right", "put_wrong")
    rows = []
    for name, pairs in {"fine-tuning": found["fine_tuning_pairs"], **found["pairs"]}.items():
        values = {f"pairs {kind}".replace("_", " "): Interval(float(pairs[kind])) for kind in kinds}
        closed = found["oracle_gap_closed"].get(name, {})
        values |= {f"gap closed {c}": Interval(closed[c]) for c in columns if closed.get(c) is not None}
        rows.append(MetricRow(name, values))
    shown = list(dict.fromkeys(column for row in rows for column in row.values))
    return MetricTable(
        "What reranking changed", shown, rows, None,
        "Pairs of a held-out item and another candidate: the share in the right order before (as retrieved) "
        "and after, and how many were put right and wrong; fine-tuning: the model's scores before and after "
        "it, on validation. Gap closed: share of the way from the retrieved order to the best order of the "
        "same items.",
        detail=True,
    )  # fmt: skip


def _by_place(found: Mapping[str, Any], columns: list[str]) -> MetricTable:
    rows = [
        MetricRow(
            f"{_span(entry['from'], entry['to'])}: {name}", {c: Interval(v) for c, v in values.items()}, {},
            f"{entry['users']:,} users",
        )
        for entry in found["by_place"]
        for name, values in entry["lists"].items()
    ]  # fmt: skip
    return MetricTable(
        "By the place where the held-out item came in", columns, rows, None,
        "What a reranker can win lies where the item came in late, what it can lose where it came in early.",
        detail=True,
    )  # fmt: skip


def _by_slot(found: Mapping[str, Any]) -> MetricTable:
    rows = [
        MetricRow(
            f"{entry['from']:.0%} to {entry['to']:.0%} of the prompt",
            {"ndcg@10": Interval(entry["mean"])}, {}, f"{entry['lists']:,} lists",
        )
        for entry in found["validation_ndcg@10_by_slot"]
    ]  # fmt: skip
    return MetricTable(
        "By the place of the held-out item in the prompt, validation", ["ndcg@10"], rows, None,
        "Candidates are shown in an order drawn by lot: differences are the model's liking for places.",
        detail=True,
    )  # fmt: skip


def _span(low: int, high: int) -> str:
    return f"place {low}" if low == high else f"places {low} to {high}"
