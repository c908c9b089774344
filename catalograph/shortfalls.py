"""Where the delivered lists fall short: held-out items not found, items missed most, weak groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from catalograph.delivered import Delivered
from catalograph.examples import SHOWN
from catalograph.item_cards import ItemCards
from catalograph.report.data import Interval, MetricRow, MetricTable, MissedItem, Outcome, Shortfalls
from catalograph.road import Road
from rerank.diagnosis import first_places

MISSED, WEAKEST = 8, 6
"""Items and groups that are shown."""


def shortfalls(road: Road, lists: Delivered, cards: ItemCards, found: Mapping[str, Any]) -> Shortfalls:
    """What the report's section on failures shows; `found` are the evaluation's findings."""
    wanted, known = _wanted(lists), road.known
    counts = np.bincount(known.item_rows, minlength=known.n_items)
    choices: dict[str, int] = dict(zip(known.item_ids.tolist(), counts.tolist(), strict=True))
    return Shortfalls(
        outcomes(lists),
        [
            MissedItem(cards[item], *wanted[item], choices.get(item, 0))
            for item in sorted(wanted, key=lambda item: (-wanted[item][1], item))[:MISSED]
            if wanted[item][1]
        ],
        _cold_note(lists, wanted, choices),
        weakest(found, lists.name),
    )


def outcomes(lists: Delivered) -> list[Outcome]:
    """How many users find what they chose next among the first places, further down, or not at all."""
    judged = np.array([bool(lists.truths.get(str(user))) for user in lists.after.user_ids], dtype=bool)
    places, users, k = first_places(lists.after, lists.truths)[judged], int(judged.sum()), lists.after.k
    first = min(SHOWN, k)
    top, found = int(((places > 0) & (places <= first)).sum()), int((places > 0).sum())
    rows = [(f"among the first {first}", top, "served")]
    if k > first:
        below = f"at places {first + 1} to {k}"
        rows.append((below, found - top, "retrieved, and another order could show it"))
    lost = f"not among the {k} candidates"
    rows.append((lost, users - found, "lost by retrieval: no order of the candidates helps"))
    return [Outcome(name, count, count / max(users, 1), meaning) for name, count, meaning in rows]


def weakest(found: Mapping[str, Any], listed: str) -> MetricTable | None:
    """The groups with the lowest first metric of a list; None where no groups were told apart."""
    columns = list(found["lists"][listed])
    rows = [
        MetricRow(
            f"{name.replace('*', ' and ')}: {group}",
            {c: Interval(v["mean"], v["low"], v["high"]) for c, v in entry["lists"][listed].items()},
            {}, f"{entry['users']:,} users",
        )
        for name, groups in found["groups"].items()
        for group, entry in groups.items()
        if listed in entry["lists"] and entry["users"] < found["users"]
    ]  # fmt: skip
    if not rows:
        return None
    rows.sort(key=lambda row: row.values[columns[0]].mean)
    whole = MetricRow(
        "everybody", {c: Interval(v["mean"], v["low"], v["high"]) for c, v in found["lists"][listed].items()},
        {}, f"{found['users']:,} users",
    )  # fmt: skip
    return MetricTable(
        f"Weakest groups, list {listed}", columns, [*rows[:WEAKEST], whole], None,
        "Users by activity or as given; popularity and warmth of the held-out items, by choices in train.",
    )  # fmt: skip


def _wanted(lists: Delivered) -> dict[str, tuple[int, int]]:
    """By item, how many users chose it next, and how many of them lack it among their candidates."""
    found: dict[str, tuple[int, int]] = {}
    for user, items in zip(lists.before.user_ids.tolist(), lists.before.items.tolist(), strict=True):
        for item in lists.truths.get(user, ()):
            wanted, absent = found.get(item, (0, 0))
            found[item] = wanted + 1, absent + (item not in items)
    return found


def _cold_note(lists: Delivered, wanted: Mapping[str, tuple[int, int]], choices: Mapping[str, int]) -> str:
    cold = {item for item, count in choices.items() if not count}
    if not cold:
        return "Every item of the catalogue was chosen before the test split."
    shown = set(np.unique(lists.after.items[:, :SHOWN]).tolist()) & cold
    asked, lacking = (sum(wanted.get(item, (0, 0))[part] for item in cold) for part in (0, 1))
    return (
        f"{len(cold):,} of {len(choices):,} items were never chosen before the test split; {len(shown):,} "
        f"of them are among anybody's first {SHOWN}. Of {asked:,} held-out choices of such items "
        f"{asked - lacking:,} are among the candidates."
    )
