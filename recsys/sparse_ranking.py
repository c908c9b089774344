"""Exact best items where most scores are 0: those above 0 are enough, if there are k of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from recsys.order import scores_of, sort_keys

if TYPE_CHECKING:
    from scipy import sparse


@runtime_checkable
class SparseScores(Protocol):
    """A recommender most of whose scores are 0."""

    def sparse_scores(self, user_rows: NDArray[np.int32]) -> sparse.csr_array:
        """Scores, CSR [B, I]; what is not stored is 0."""
        ...


def positive_best(
    scores: sparse.csr_array,
    seen: sparse.csr_array | None,
    places: NDArray[np.int64],
    items: NDArray[np.int32],
    values: NDArray[np.float32],
) -> NDArray[np.bool_]:
    """Write the k best unseen items of each user into `items` and their scores into `values`, [B, k] both.

    False [B] for users without k unseen items above 0, whose rows mean nothing.
    """
    n_users, n_items = scores.shape
    rows = np.repeat(np.arange(n_users, dtype=np.int64), np.diff(scores.indptr))
    # Not "> 0": NaN must reach the check of `sort_keys`.
    kept = ~(scores.data <= 0)
    if seen is not None:
        owners = np.repeat(np.arange(n_users, dtype=np.int64), np.diff(seen.indptr))
        kept &= ~np.isin(rows * n_items + scores.indices, owners * n_items + seen.indices)
    rows, columns = rows[kept], scores.indices[kept]
    keys = sort_keys(scores.data[kept], places[columns])
    column_of = np.empty(n_items, dtype=np.int32)
    column_of[places] = np.arange(n_items, dtype=np.int32)
    starts, k = np.searchsorted(rows, np.arange(n_users + 1)), items.shape[1]
    found: NDArray[np.bool_] = (np.diff(starts) >= k) & (k > 0)
    for row in np.flatnonzero(found):
        own = keys[starts[row] : starts[row + 1]]
        own = np.sort(np.partition(own, k - 1)[:k])
        items[row], values[row] = column_of[own & 0xFFFFFFFF], scores_of(own)
    return found
