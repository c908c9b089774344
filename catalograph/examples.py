"""The sample users of the report: whom reranking helped most, whom it hurt most, and some drawn by lot."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from catalograph.delivered import Delivered
from catalograph.item_cards import ItemCards
from catalograph.report.data import ListedItem, UserExample
from catalograph.retrieval import source_names
from catalograph.road import Road
from recsys.candidates import Candidates
from rerank.lists import shown_histories

SHOWN = 10
"""Places of a list, and items of a history, that the report shows."""


def examples(road: Road, lists: Delivered, cards: ItemCards) -> list[UserExample]:
    """As many users as `report.examples` says, with the reason each was chosen."""
    chosen = _chosen(lists, road.config.report.examples, road.config.seed)
    rows = list(chosen)
    users = [str(lists.before.user_ids[row]) for row in rows]
    histories = shown_histories(road.known, users, length=SHOWN, seed=road.config.seed)
    sources = [*source_names(road.config), "reranker", "fused"]
    pulls = lists.pulls(rows) if rows else []
    found = []
    for row, user, own in zip(rows, users, pulls, strict=True):
        old = {str(item): place + 1 for place, item in enumerate(lists.before.items[row]) if item}
        before = _listed(lists, lists.before, row, sources, cards)
        after = _listed(lists, lists.after, row, sources, cards, old, own) if lists.reranked else []
        history = [cards[item] for item in histories[user]]
        found.append(UserExample(user, history, before, after, _note(lists, row, user, old), chosen[row]))
    return found


def _chosen(lists: Delivered, count: int, seed: int) -> dict[int, str]:
    """Rows with the reason for each: at most a third moved best, a third moved worst, others by lot."""
    before, after = lists.before, lists.after
    moved = np.zeros(len(before))
    for row, user in enumerate(before.user_ids):
        for item in lists.truths.get(str(user), ()):
            was, now = np.flatnonzero(before.items[row] == item), np.flatnonzero(after.items[row] == item)
            if len(was) and len(now):
                moved[row] = 1 / (now[0] + 1) - 1 / (was[0] + 1)
    best, worst = (np.argsort(sign * moved, kind="stable")[: count // 3] for sign in (-1, 1))
    chosen = {int(row): "reranking helped most" for row in best if moved[row] > 0}
    chosen |= {int(row): "reranking hurt most" for row in worst if moved[row] < 0}
    for row in np.random.default_rng(seed).permutation(len(before)):
        if len(chosen) >= min(count, len(before)):
            break
        chosen.setdefault(int(row), "drawn by lot")
    return chosen


def _note(lists: Delivered, row: int, user: str, old: Mapping[str, int]) -> str:
    found = [item for item in sorted(lists.truths.get(user, ())) if item in old]
    if not found:
        return "What this person chose next is not among the candidates."
    new = [str(item) for item in lists.after.items[row] if item]
    moves = "; ".join(f"from place {old[item]} to place {new.index(item) + 1}" for item in found)
    return f"What this person chose next went {moves}."


def _listed(
    lists: Delivered,
    candidates: Candidates,
    row: int,
    sources: list[str],
    cards: ItemCards,
    old: Mapping[str, int] | None = None,
    pulls: Mapping[str, NDArray[np.float64]] | None = None,
) -> list[ListedItem]:
    known = [name for name in sources if name in candidates.scores]
    wanted, listed = lists.truths.get(str(candidates.user_ids[row]), frozenset()), []
    for place, item in enumerate(candidates.items[row][:SHOWN]):
        if not item:
            continue
        scores = {name: float(candidates.scores[name][row, place]) for name in known}
        listed.append(
            ListedItem(
                cards[str(item)],
                place + 1,
                (old or {}).get(str(item)),
                {name: value for name, value in scores.items() if np.isfinite(value)},
                str(item) in wanted,
                {name: float(values[place]) for name, values in (pulls or {}).items()},
            )
        )
    return listed
