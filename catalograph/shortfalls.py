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
    return Shortfalls(
        outcomes(lists), missed(road, lists, cards), _cold_note(road, lists), weakest(found, lists.name)
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


def missed(road: Road, lists: Delivered, cards: ItemCards) -> list[MissedItem]:
    """The items that most users chose next without having them among their candidates."""
    wanted, absent = _wanted(lists)
    choices = _choices(road)
    worst = sorted((item for item in absent if absent[item]), key=lambda item: (-absent[item], item))[:MISSED]
    return [MissedItem(cards[item], wanted[item], absent[item], choices.get(item, 0)) for item in worst]


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


def _wanted(lists: Delivered) -> tuple[dict[str, int], dict[str, int]]:
    """By item, how many users chose it next, and how many of them lack it among their candidates."""
    wanted: dict[str, int] = {}
    absent: dict[str, int] = {}
    for user, items in zip(lists.before.user_ids, lists.before.items, strict=True):
        truths = lists.truths.get(str(user))
        for item in truths or ():
            wanted[item] = wanted.get(item, 0) + 1
            absent[item] = absent.get(item, 0) + int(item not in items)
    return wanted, absent


def _choices(road: Road) -> dict[str, int]:
    known = road.known
    counts = np.bincount(known.item_rows, minlength=known.n_items)
    return dict(zip(known.item_ids.tolist(), counts.tolist(), strict=True))


def _cold_note(road: Road, lists: Delivered) -> str:
    wanted, absent = _wanted(lists)
    choices = _choices(road)
    cold = {item for item, count in choices.items() if not count}
    if not cold:
        return "Every item of the catalogue was chosen before the test split."
    shown = {str(item) for item in np.unique(lists.after.items[:, :SHOWN])} & cold
    asked = sum(wanted.get(item, 0) for item in cold)
    reached = asked - sum(absent.get(item, 0) for item in cold)
    return (
        f"{len(cold):,} of {len(choices):,} items were never chosen before the test split; {len(shown):,} "
        f"of them are among anybody's first {SHOWN}. Of {asked:,} held-out choices of such items "
        f"{reached:,} are among the candidates."
    )
