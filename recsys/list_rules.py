"""Rules that lists of recommendations keep: which items may be shown, and how many of one category."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.candidates import Candidates
from recsys.interactions import Interactions
from recsys.ranking import NO_ITEM, Recommender

Lists = Callable[[Mapping[str, Recommender], Sequence[str], int], Candidates]
"""Models, users and K to the candidates of those users."""


@dataclass(frozen=True, slots=True, eq=False)
class ListRules:
    """What every list keeps, on one item axis [I]."""

    allowed: NDArray[np.bool_] | None = None
    """True [I] where an item may be shown; None: all."""
    categories: NDArray[np.int32] | None = None
    """Categories [I, C] of each item, NO_ITEM where it has fewer; None: no cap."""
    cap: int = 0
    """Items of one category in a list at most."""


class Allowed:
    """A recommender that keeps some items out of every list."""

    def __init__(self, model: Recommender, allowed: NDArray[np.bool_]) -> None:
        self._model, self._refused = model, np.flatnonzero(~allowed)

    def score(self, user_rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """The model's scores [B, I], -inf for the items kept out."""
        scores = np.array(self._model.score(user_rows), dtype=np.float32)
        scores[:, self._refused] = -np.inf
        return scores


def category_rows(labels: Sequence[Sequence[str]]) -> NDArray[np.int32]:
    """Labels per item as numbers [I, C], padded with NO_ITEM."""
    number: dict[str, int] = {}
    rows = [[number.setdefault(label, len(number)) for label in dict.fromkeys(own)] for own in labels]
    table = np.full((len(rows), max(map(len, rows), default=0)), NO_ITEM, dtype=np.int32)
    for place, own in enumerate(rows):
        table[place, : len(own)] = own
    return table


def ruled_lists(
    make: Lists,
    models: Mapping[str, Recommender],
    seen: Interactions,
    users: Sequence[str],
    k: int,
    rules: ListRules,
) -> Candidates:
    """The candidates that `make` gives under the rules.

    An item joins a list if all its categories have room, best first, so a capped list is what a walk down the
    full ranking gives: where K deep lists run out, deeper ones are made, for those users alone.
    """
    if rules.allowed is not None:
        models = {name: Allowed(model, rules.allowed) for name, model in models.items()}
    if rules.categories is None:
        return make(models, users, k)
    depth = min(2 * k, seen.n_items)
    lists = _capped(make(models, users, depth), seen, k, rules)
    while depth < seen.n_items and (short := np.flatnonzero(~lists.mask.all(axis=1))).size:
        depth = min(4 * depth, seen.n_items)
        deeper = _capped(make(models, lists.user_ids[short].tolist(), depth), seen, k, rules)
        lists = _replaced(lists, short, deeper)
    return lists


def _capped(lists: Candidates, seen: Interactions, k: int, rules: ListRules) -> Candidates:
    """The first k items of each list whose categories have room."""
    if rules.categories is None:
        return lists.head(k)
    mask = lists.mask
    items = np.full(mask.shape, NO_ITEM, dtype=np.int64)
    items[mask] = seen.item_rows_of(lists.items[mask])
    everyone = np.arange(len(lists))[:, None]
    # One column more, for padding to be counted in: it never fills.
    counts = np.zeros((len(lists), int(rules.categories.max(initial=NO_ITEM)) + 2), dtype=np.int64)
    kept = np.zeros(mask.shape, dtype=np.bool_)
    for place in range(lists.k):
        own = rules.categories[items[:, place]]
        room = (counts[everyone, own] < rules.cap) | (own == NO_ITEM)
        kept[:, place] = room.all(axis=1) & mask[:, place] & (kept.sum(axis=1) < k)
        np.add.at(counts, (np.broadcast_to(everyone, own.shape), own), kept[:, place, None])
    order = np.argsort(~kept, axis=1, kind="stable")[:, :k]
    there = np.take_along_axis(kept, order, axis=1)

    def taken(values: NDArray[Any], empty: float | str) -> NDArray[Any]:
        found: NDArray[Any] = np.where(there, np.take_along_axis(values, order, axis=1), empty)
        return found.astype(values.dtype)

    return Candidates(
        lists.user_ids,
        taken(lists.items, ""),
        {name: taken(values, np.nan) for name, values in lists.scores.items()},
        {name: taken(values, 0) for name, values in lists.ranks.items()},
        taken(lists.final, np.nan),
    )


def _replaced(lists: Candidates, rows: NDArray[np.int64], others: Candidates) -> Candidates:
    """The lists with those of some users exchanged."""

    def joined(old: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
        both = old.astype(np.result_type(old, new))
        both[rows] = new
        return both

    return Candidates(
        lists.user_ids,
        joined(lists.items, others.items),
        {name: joined(values, others.scores[name]) for name, values in lists.scores.items()},
        {name: joined(values, others.ranks[name]) for name, values in lists.ranks.items()},
        joined(lists.final, others.final),
    )
