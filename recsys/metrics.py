"""Recall, NDCG, MRR and hit rate at k of ranked lists, per user."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from extract.errors import InvalidData
from recsys.candidates import Candidates
from recsys.interactions import Interactions
from recsys.ranking import NO_ITEM

Hits = NDArray[np.bool_]
Counts = NDArray[np.int64]
PerUser = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Metrics:
    """One value per user [N] under names such as ``ndcg@10``; ``user_ids`` [N] are the users with at least
    one truth.
    """

    user_ids: NDArray[np.str_]
    per_user: Mapping[str, PerUser]

    def mean(self) -> dict[str, float]:
        """The plain mean over users."""
        return {name: float(values.mean()) for name, values in self.per_user.items()}


def recall(hits: Hits, n_truth: Counts, k: int) -> PerUser:
    """Hits among the first k over the number of truths (not capped at k)."""
    found: PerUser = hits[:, :k].sum(axis=1) / n_truth
    return found


def ndcg(hits: Hits, n_truth: Counts, k: int) -> PerUser:
    """Binary gain discounted by log2(rank + 1), over that of a perfect list of min(k, truths)."""
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.concatenate([[0.0], np.cumsum(discount)])
    gain = hits[:, :k] @ discount[: hits[:, :k].shape[1]]
    normalised: PerUser = gain / ideal[np.minimum(n_truth, k)]
    return normalised


def mrr(hits: Hits, n_truth: Counts, k: int) -> PerUser:
    """One over the rank of the first hit within k; 0 without one."""
    top = hits[:, :k]
    if not top.shape[1]:
        return np.zeros(len(hits))
    first: PerUser = np.where(top.any(axis=1), 1.0 / (top.argmax(axis=1) + 1), 0.0)
    return first


def hit(hits: Hits, n_truth: Counts, k: int) -> PerUser:
    """1 where a truth is within the first k."""
    return np.asarray(hits[:, :k].any(axis=1), dtype=np.float64)


METRICS: dict[str, Callable[[Hits, Counts, int], PerUser]] = {
    "recall": recall,
    "ndcg": ndcg,
    "mrr": mrr,
    "hit": hit,
}


def hit_matrix(item_rows: NDArray[np.int32], user_rows: NDArray[np.int32], truth: sparse.csr_array) -> Hits:
    """True [N, K] where item `item_rows[n, k]` is a truth of user `user_rows[n]`; NO_ITEM is never one."""
    n_items = truth.shape[1]
    owners = np.repeat(np.arange(truth.shape[0], dtype=np.int64), np.diff(truth.indptr))
    known = np.append(owners * n_items + truth.indices, np.iinfo(np.int64).max)
    asked = user_rows[:, None].astype(np.int64) * n_items + item_rows
    found: Hits = known[np.searchsorted(known, asked)] == asked
    hits: Hits = found & (item_rows != NO_ITEM)
    return hits


def evaluate(candidates: Candidates, truth: Interactions, ks: Sequence[int]) -> Metrics:
    """Every metric at every k, over the users of `candidates` with at least one truth.

    Ids are matched as text, so the two may come from different files. Truth users without a list are outside
    the evaluation: the users asked of `retrieve` are the population. No user with a truth raises InvalidData
    D211.
    """
    hits, n_truth, user_ids = _hits(candidates, truth)
    return _metrics(hits, n_truth, user_ids, ks)


def evaluate_conditional(candidates: Candidates, truth: Interactions, ks: Sequence[int]) -> Metrics:
    """The same with the truths outside the K candidates taken away: what a reranker of these lists can still
    win or lose.
    """
    hits, _, user_ids = _hits(candidates, truth)
    reachable = hits.sum(axis=1)
    kept = reachable > 0
    return _metrics(hits[kept], reachable[kept], user_ids[kept], ks)


def _hits(candidates: Candidates, truth: Interactions) -> tuple[Hits, Counts, NDArray[np.str_]]:
    matrix = truth.matrix()
    user_rows = _lookup(candidates.user_ids, truth.user_ids)
    counts = np.diff(matrix.indptr).astype(np.int64)
    judged = (
        np.flatnonzero((user_rows >= 0) & (counts[user_rows] > 0))
        if truth.n_users
        else np.zeros(0, dtype=np.int64)
    )
    items = _lookup(candidates.items[judged].ravel(), truth.item_ids).reshape(len(judged), candidates.k)
    rows = user_rows[judged]
    return hit_matrix(items, rows, matrix), counts[rows], candidates.user_ids[judged]


def _metrics(hits: Hits, n_truth: Counts, user_ids: NDArray[np.str_], ks: Sequence[int]) -> Metrics:
    if not len(user_ids):
        raise InvalidData(
            "D211",
            "no user of the lists has a truth",
            next_step="check that lists and truth use the same user and item ids",
        )
    values = {f"{name}@{k}": metric(hits, n_truth, k) for k in ks for name, metric in METRICS.items()}
    return Metrics(user_ids, values)


def _lookup(ids: NDArray[np.str_], axis: NDArray[np.str_]) -> NDArray[np.int32]:
    row_of = {name: row for row, name in enumerate(axis.tolist())}
    return np.fromiter((row_of.get(name, NO_ITEM) for name in ids.tolist()), dtype=np.int32, count=len(ids))
