"""The k best of each row of scores, without sorting the rest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys.order import sort_keys

# Scores at or above the k-th best are sorted alone, unless ties make them more than this many times k.
TIED = 8
# Groups of columns per item asked for: more make the bound sharper and its own sort dearer.
GROUPS = 4


def reaching(scores: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of a few scores per row that hold the k highest and all that tie with them.

    Columns are dealt into groups; the k-th highest maximum of a group is reached by at least k scores, and by
    few more. Two passes over the scores, no sort. NaN counts as the highest.
    """
    n_rows, n_items = scores.shape
    groups = GROUPS * k
    if n_items < 4 * groups:
        # NaN sorts last, so it passes for the highest score here too.
        bound = np.partition(scores, n_items - k, axis=1)[:, n_items - k]
    else:
        dealt = scores[:, : n_items // groups * groups].reshape(n_rows, -1, groups)
        bound = np.partition(dealt.max(axis=1), groups - k, axis=1)[:, groups - k]
    found = np.flatnonzero(~(scores < bound[:, None]))
    rows, columns = np.divmod(found, n_items)
    return rows, columns


def best_columns(scores: NDArray[np.float32], k: int, places: NDArray[np.int64]) -> NDArray[np.int32]:
    """Columns [B, min(k, I)] of the k highest scores per row, best first, ties by `places`."""
    n_rows, n_items = scores.shape
    k = min(k, n_items)
    if k == 0:
        return np.zeros((n_rows, 0), dtype=np.int32)
    rows, columns = reaching(scores, k)
    if len(rows) > TIED * k * n_rows:
        return _best_by_keys(scores, k, places)
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
