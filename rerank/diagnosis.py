"""What a reranking changed: pairs put right and wrong, and how it depends on where the truth stood.

Training can lower a ranking loss while hardly any pair changes its order ("Preference Learning Algorithms Do
Not Learn Preference Rankings", Chen et al. 2024), and a listwise model can prefer places of its prompt: both
are invisible in a mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.candidates import Candidates
from rerank.lists import RankingList

Pairs = NDArray[np.bool_]


def flips(pairs: Iterator[tuple[Pairs, Pairs]]) -> dict[str, float]:
    """Pairs of a truth and another candidate: the share in the right order before and after, and the flips.

    Args:
        pairs: by list, whether each pair was in the right order before and is so after.
    """
    table = np.zeros((2, 2), np.int64)
    for before, after in pairs:
        np.add.at(table, (before.astype(int), after.astype(int)), 1)
    total = max(int(table.sum()), 1)
    return {
        "pairs": int(table.sum()),
        "before": int(table[1].sum()) / total, "after": int(table[:, 1].sum()) / total,
        "put_right": int(table[0, 1]), "put_wrong": int(table[1, 0]),
        "stayed_right": int(table[1, 1]), "stayed_wrong": int(table[0, 0]),
    }  # fmt: skip


def score_pairs(
    lists: Sequence[RankingList], before: Sequence[NDArray[Any]], after: Sequence[NDArray[Any]]
) -> Iterator[tuple[Pairs, Pairs]]:
    """Pairs of each list by two models' scores [K] in arriving order; equal scores are not right."""
    for entry, first, second in zip(lists, before, after, strict=True):
        truth = arrived(entry) > 0
        yield _ahead(first, truth), _ahead(second, truth)


def order_pairs(
    before: Candidates, after: Candidates, truths: Mapping[str, frozenset[str]]
) -> Iterator[tuple[Pairs, Pairs]]:
    """Pairs of each user's list by two orders of the same items."""
    for user, first, second in zip(before.user_ids, before.items, after.items, strict=True):
        wanted = truths.get(str(user))
        if not wanted:
            continue
        items = [str(item) for item in first if item]
        truth = np.array([item in wanted for item in items], bool)
        if truth.any():
            places = {str(item): place for place, item in enumerate(second)}
            own = -np.arange(len(items), dtype=float)
            yield _ahead(own, truth), _ahead(-np.array([places[item] for item in items], float), truth)


def _ahead(scores: NDArray[Any], truth: Pairs) -> Pairs:
    found: Pairs = (scores[truth][:, None] > scores[~truth][None, :]).ravel()
    return found


def gap_closed(retrieved: float, reranked: float, oracle: float) -> float | None:
    """Share of the way from the retriever's order to the best order of the same candidates; None: no way."""
    return (reranked - retrieved) / (oracle - retrieved) if oracle > retrieved else None


def first_places(candidates: Candidates, truths: Mapping[str, frozenset[str]]) -> NDArray[np.int64]:
    """The place [U], from 1, where each list's first truth came in; 0 where it has none."""
    found = np.zeros(len(candidates), np.int64)
    for row, user in enumerate(candidates.user_ids):
        wanted = truths.get(str(user), frozenset())
        places = [n for n, item in enumerate(candidates.items[row], start=1) if item and str(item) in wanted]
        found[row] = min(places, default=0)
    return found


def place_bins(most: int) -> list[tuple[int, int]]:
    """Places 1, 2 to 3, 4 to 5, 6 to 10, 11 to 20, 21 to 50 and so on, up to `most`."""
    ends = [1, 3, 5, 10, 20, 50, 100, 200, 500, 1000]
    starts = [1, *(end + 1 for end in ends)]
    return [(low, min(high, most)) for low, high in zip(starts, [*ends, most], strict=False) if low <= most]


def by_slot(lists: Sequence[RankingList], values: Sequence[float], parts: int = 4) -> list[dict[str, float]]:
    """Mean of a metric [N] by where the first truth stood in the prompt, cut in `parts` equal runs of slots.

    Candidates are shown in an order drawn by lot, so differences are the model's liking for places.
    """
    slots = np.array([int(np.flatnonzero(e.relevance > 0).min(initial=len(e.relevance))) for e in lists], int)
    counts = np.array([len(entry.candidates) for entry in lists], int)
    found = []
    for part in range(parts):
        chosen = (slots < counts) & (slots * parts // np.maximum(counts, 1) == part)
        if chosen.any():
            mean = float(np.mean(np.asarray(values)[chosen]))
            found.append({
                "from": part / parts, "to": (part + 1) / parts, "lists": int(chosen.sum()), "mean": mean,
            })  # fmt: skip
    return found


def arrived(entry: RankingList) -> NDArray[np.float32]:
    """Relevance [K] in arriving order."""
    relevance = np.empty_like(entry.relevance)
    relevance[entry.places] = entry.relevance
    return relevance
