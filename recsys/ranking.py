"""Exact full ranking, block of users by block of users.

The order is total and never depends on the machine: by score, then by item id. A float32 score and an item's
place in the sorted ids are packed into one int64, so that one comparison decides both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from extract.errors import InvalidData
from recsys.axes import as_texts

NO_ITEM = -1
# Scores at or above the k-th best are sorted alone, unless ties make them more than this many times k.
TIED = 8


class Recommender(Protocol):
    """Anything that scores every item for a user."""

    def score(self, user_rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """Scores [B, I] of all items for the given users; -inf keeps an item out of every list."""
        ...


def id_places(item_ids: Sequence[str] | NDArray[np.str_]) -> NDArray[np.int64]:
    """Place [I] of each item in the sorted ids: the order among equal scores."""
    places = np.empty(len(item_ids), dtype=np.int64)
    places[np.argsort(as_texts(item_ids), kind="stable")] = np.arange(len(item_ids))
    return places


def sort_keys(scores: NDArray[np.float32], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Keys, of the shape of `scores`, that ascend from the best to the worst; no two of a list are equal.

    NaN scores raise InvalidData: they would sort somewhere, and seen items with them.
    """
    if np.isnan(scores).any():
        raise InvalidData(
            "D210", "a model returned NaN scores", why=f"{int(np.isnan(scores).sum())} of {scores.size}"
        )
    # Adding 0.0 turns -0.0 into 0.0; the bits of a negative float grow as it falls, so they are flipped.
    bits = (scores + np.float32(0.0)).view(np.int32)
    descending = np.where(bits < 0, bits & np.int32(0x7FFFFFFF), ~bits)
    return (descending.astype(np.int64) << 32) | places


def best_columns(scores: NDArray[np.float32], k: int, places: NDArray[np.int64]) -> NDArray[np.int32]:
    """Columns [B, min(k, I)] of the k highest scores per row, best first, ties by `places`."""
    n_rows, n_items = scores.shape
    k = min(k, n_items)
    if k == 0:
        return np.zeros((n_rows, 0), dtype=np.int32)
    # NaN sorts last, so it would pass for the highest score here; `sort_keys` then refuses it.
    kth = np.partition(scores, n_items - k, axis=1)[:, n_items - k]
    reaching = ~(scores < kth[:, None])
    if np.count_nonzero(reaching) > TIED * k * n_rows:
        return _best_by_keys(scores, k, places)
    rows, columns = np.nonzero(reaching)
    order = np.lexsort((sort_keys(scores[rows, columns], places[columns]), rows))
    starts = np.searchsorted(rows, np.arange(n_rows))
    best: NDArray[np.int32] = columns[order[starts[:, None] + np.arange(k)]].astype(np.int32)
    return best


def _best_by_keys(scores: NDArray[np.float32], k: int, places: NDArray[np.int64]) -> NDArray[np.int32]:
    keys = np.partition(sort_keys(scores, places), k - 1, axis=1)[:, :k]
    keys.sort(axis=1)
    column_of = np.empty(len(places), dtype=np.int32)
    column_of[places] = np.arange(len(places), dtype=np.int32)
    chosen: NDArray[np.int32] = column_of[keys & 0xFFFFFFFF]
    return chosen


def blocks(n: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover 0..n."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def masked_scores(
    model: Recommender, user_rows: NDArray[np.int32], seen: sparse.csr_array | None
) -> NDArray[np.float32]:
    """Scores [B, I] with the seen items at -inf."""
    scores = np.array(model.score(user_rows), dtype=np.float32)
    if seen is not None:
        if scores.shape != (len(user_rows), seen.shape[1]):
            raise InvalidData(
                "D208",
                "a model's scores do not fit the item axis",
                why=f"scores {scores.shape}, expected {(len(user_rows), seen.shape[1])}",
                next_step="train and rank with interactions on the same item axis",
            )
        of_users = seen[user_rows]
        scores[np.repeat(np.arange(len(user_rows)), np.diff(of_users.indptr)), of_users.indices] = -np.inf
    return scores


def top_k(
    model: Recommender,
    user_rows: NDArray[np.int32],
    seen: sparse.csr_array | None,
    k: int,
    *,
    places: NDArray[np.int64],
    block: int = 256,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The k best unseen items of each user: item rows and scores, both [B, k].

    Ties are broken by `places` (see `id_places`). Where fewer than k items are left, the row is NO_ITEM and
    the score NaN. Memory is one block of `block` x I scores and keys.
    """
    items = np.full((len(user_rows), k), NO_ITEM, dtype=np.int32)
    values = np.full((len(user_rows), k), np.nan, dtype=np.float32)
    for part in blocks(len(user_rows), block):
        scores = masked_scores(model, user_rows[part], seen)
        columns = best_columns(scores, k, places)
        best = np.take_along_axis(scores, columns.astype(np.int64), axis=1)
        left_out = np.isneginf(best)
        items[part, : columns.shape[1]] = np.where(left_out, NO_ITEM, columns)
        values[part, : columns.shape[1]] = np.where(left_out, np.nan, best)
    return items, values


def exact_ranks(
    scores: NDArray[np.float32], columns: NDArray[np.int32], places: NDArray[np.int64]
) -> NDArray[np.int32]:
    """1-based rank [B, K] of the given columns within each row of `scores` [B, I]; 0 for NO_ITEM and for -inf
    scores.
    """
    keys = sort_keys(scores, places)
    wanted = np.take_along_axis(keys, np.maximum(columns, 0).astype(np.int64), axis=1)
    keys.sort(axis=1)
    ranks = np.stack([np.searchsorted(row, asked) for row, asked in zip(keys, wanted, strict=True)]) + 1
    chosen = np.take_along_axis(scores, np.maximum(columns, 0).astype(np.int64), axis=1)
    return np.where((columns == NO_ITEM) | np.isneginf(chosen), 0, ranks).astype(np.int32)
