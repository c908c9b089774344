"""From candidates to the lists a reranker sees: shown history, shuffled candidates, relevance."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.candidates import Candidates
from recsys.interactions import Interactions
from rerank.inputs import ItemVectors


@dataclass(frozen=True, slots=True)
class RankingList:
    """One person's candidates as the reranker sees them.

    Attributes:
        user_id: whose list.
        history: H item ids, oldest first.
        candidates: K item ids in shuffled order.
        places: [K] the place of each shown candidate in the incoming order; undoes the shuffle.
        relevance: [K] 1.0 for a held-out truth, else 0.0.
        inputs: [K, S] numbers known of each shown candidate, see `rerank.inputs`; None for text alone.
        vectors: what is known of the items, shared by the lists of one fold; None for text alone.
        ordered: whether the order of the history means time.
        query: what was searched for, in plain search; else nothing.
    """

    user_id: str
    history: tuple[str, ...]
    candidates: tuple[str, ...]
    places: NDArray[np.int64]
    relevance: NDArray[np.float32]
    inputs: NDArray[np.float32] | None = None
    vectors: ItemVectors | None = None
    ordered: bool = True
    query: str = ""

    def best_first(self) -> list[int]:
        """Shown places in the order to learn: truths first, then the incoming order."""
        return sorted(
            range(len(self.candidates)), key=lambda place: (-self.relevance[place], self.places[place])
        )


def shown_histories(
    known: Interactions, users: Sequence[str], *, length: int, seed: int
) -> dict[str, tuple[str, ...]]:
    """The `length` latest items of each user, oldest first; without timestamps a sample by seed and user."""
    rows = np.searchsorted(known.user_ids, np.asarray(users))
    shown: dict[str, tuple[str, ...]] = {}
    for user, items in zip(users, known.history(rows), strict=True):
        if known.timestamps is None and len(items) > length:
            items = np.sort(_generator(seed, user).choice(items, length, replace=False))
        shown[user] = tuple(str(known.item_ids[item]) for item in items[max(0, len(items) - length) :])
    return shown


def ranking_lists(
    candidates: Candidates,
    histories: Mapping[str, tuple[str, ...]],
    truth: Interactions | None,
    *,
    seed: int,
    inputs: NDArray[np.float32] | None = None,
    vectors: ItemVectors | None = None,
    ordered: bool = True,
) -> list[RankingList]:
    """One list per user, shuffled by `seed` and user id, so that a list never depends on the others.

    `inputs` [U, K, S] are in the candidates' order.
    """
    wanted = truths_of(truth)
    lists = []
    for row, user in enumerate(candidates.user_ids):
        items = [str(item) for item in candidates.items[row] if item]
        places = _generator(seed, str(user)).permutation(len(items))
        shuffled = tuple(items[place] for place in places)
        true_items = wanted.get(str(user), frozenset())
        relevance = np.array([item in true_items for item in shuffled], np.float32)
        shown = None if inputs is None else inputs[row][places]
        history = histories[str(user)]
        lists.append(RankingList(str(user), history, shuffled, places, relevance, shown, vectors, ordered))
    return lists


def truths_of(truth: Interactions | None) -> dict[str, frozenset[str]]:
    """By user, the items that were held out."""
    if truth is None:
        return {}
    collected: dict[str, set[str]] = {}
    for user, item in zip(truth.user_ids[truth.user_rows], truth.item_ids[truth.item_rows], strict=True):
        collected.setdefault(str(user), set()).add(str(item))
    return {user: frozenset(items) for user, items in collected.items()}


def _generator(seed: int, user: str) -> np.random.Generator:
    return np.random.default_rng([seed, int.from_bytes(hashlib.sha256(user.encode()).digest()[:8], "big")])


def reshuffled(entry: RankingList, *, seed: Sequence[int]) -> RankingList:
    """The same list with its candidates shown in another order."""
    return taken(entry, np.random.default_rng(list(seed)).permutation(len(entry.candidates)))


def taken(entry: RankingList, order: NDArray[np.integer[Any]]) -> RankingList:
    """The list of some of the candidates, by their shown places, in that order."""
    return replace(
        entry,
        candidates=tuple(entry.candidates[place] for place in order),
        places=entry.places[order],
        relevance=entry.relevance[order],
        inputs=None if entry.inputs is None else entry.inputs[order],
    )


def in_one_window(entry: RankingList, window: int | None, *, seed: int) -> RankingList:
    """The part of a list that a window over its incoming order shows, at a drawn place that holds a truth."""
    count = len(entry.candidates)
    if window is None or count <= window:
        return entry
    draw = _generator(seed, entry.user_id)
    truths = entry.places[entry.relevance > 0]
    truth = int(draw.choice(truths)) if len(truths) else int(draw.integers(count))
    start = int(draw.integers(max(0, truth - window + 1), min(truth, count - window) + 1))
    part = taken(entry, np.flatnonzero((entry.places >= start) & (entry.places < start + window)))
    return replace(part, places=part.places - start)
