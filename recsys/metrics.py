"""Recall, NDCG, precision, MAP, MRR and hit rate at k of ranked lists, per user."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from extract.errors import InvalidData
from recsys.candidates import Candidates
from recsys.interactions import Interactions
from recsys.ranking import NO_ITEM

if TYPE_CHECKING:
    from scipy import sparse

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


def precision(hits: Hits, n_truth: Counts, k: int) -> PerUser:
    """Hits among the first k over k, also where the list is shorter."""
    found: PerUser = hits[:, :k].sum(axis=1) / k
    return found


def average_precision(hits: Hits, n_truth: Counts, k: int) -> PerUser:
    """Precision at each hit within k, summed, over the number of truths (trec_eval's map_cut)."""
    found: PerUser = _precision_at_hits(hits, k) / n_truth
    return found


def average_precision_mmrec(hits: Hits, n_truth: Counts, k: int) -> PerUser:
    """The same over min(k, truths), which is what MMRec prints as MAP."""
    found: PerUser = _precision_at_hits(hits, k) / np.minimum(n_truth, k)
    return found


def _precision_at_hits(hits: Hits, k: int) -> PerUser:
    top = hits[:, :k]
    total: PerUser = (np.cumsum(top, axis=1) / np.arange(1, top.shape[1] + 1) * top).sum(axis=1)
    return total


Metric = Callable[[Hits, Counts, int], PerUser]
"""Hits [N, K] in list order, truths per user [N] and k to a value per user [N]."""

METRICS: dict[str, Metric] = {
    "recall": recall,
    "ndcg": ndcg,
    "mrr": mrr,
    "hit": hit,
    "precision": precision,
    "map": average_precision,
    "map_mmrec": average_precision_mmrec,
}


def hit_matrix(
    item_rows: NDArray[np.int32], user_rows: NDArray[np.integer[Any]], truth: sparse.csr_array
) -> Hits:
    """True [N, K] where item `item_rows[n, k]` is a truth of user `user_rows[n]`; NO_ITEM is never one."""
    n_items = truth.shape[1]
    owners = np.repeat(np.arange(truth.shape[0], dtype=np.int64), np.diff(truth.indptr))
    known = np.append(owners * n_items + truth.indices, np.iinfo(np.int64).max)
    asked = user_rows[:, None].astype(np.int64) * n_items + item_rows
    found: Hits = known[np.searchsorted(known, asked)] == asked
    hits: Hits = found & (item_rows != NO_ITEM)
    return hits


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Lists held against the truth: one row per user [N] with a list and at least one truth.

    ``items`` int32 [N, K] are rows on the truth's item axis, NO_ITEM where the truth does not know the item;
    ``truth`` CSR [N, I] holds the same users' truths, ``hits`` [N, K] says where a list has one.
    """

    user_ids: NDArray[np.str_]
    items: NDArray[np.int32]
    truth: sparse.csr_array
    hits: Hits

    @property
    def n_truth(self) -> Counts:
        """Truths per user [N]."""
        counts: Counts = np.diff(self.truth.indptr).astype(np.int64)
        return counts

    def metrics(self, ks: Sequence[int], metrics: Mapping[str, Metric] = METRICS) -> Metrics:
        """Every metric at every k; no user raises InvalidData D211."""
        return _metrics(self.hits, self.n_truth, self.user_ids, ks, metrics)

    def oracle(self, ks: Sequence[int]) -> Metrics:
        """The metrics of the same candidates in the best possible order: what no reranker can exceed."""
        return _metrics(-np.sort(-self.hits.astype(np.int8), axis=1) > 0, self.n_truth, self.user_ids, ks)

    def reachable(self) -> Judged:
        """The same with the truths outside the K candidates taken away, and the users left with none."""
        from scipy import sparse

        counts = self.hits.sum(axis=1)
        owners = np.repeat(np.arange(len(self.user_ids)), counts)
        found = (np.ones(int(counts.sum()), dtype=np.float32), (owners, self.items[self.hits]))
        return self._with(sparse.csr_array(found, shape=self.truth.shape))

    def among(self, users: NDArray[np.bool_] | None, items: NDArray[np.bool_] | None) -> Judged:
        """Only the users of a mask [N], and only the truths of a mask [I]; the lists stay whole.

        So a metric of a group of items says how well its members are found among all others. Users left
        without a truth are outside.
        """
        truth = self.truth
        if items is not None:
            truth = truth.copy()
            truth.data *= items[truth.indices]
            truth.eliminate_zeros()
        return self._with(truth, users)

    def _with(self, truth: sparse.csr_array, users: NDArray[np.bool_] | None = None) -> Judged:
        left = np.diff(truth.indptr) > 0
        kept = np.flatnonzero(left if users is None else left & users)
        fewer = truth[kept]
        fewer.sort_indices()
        items = self.items[kept]
        return Judged(self.user_ids[kept], items, fewer, hit_matrix(items, np.arange(len(kept)), fewer))


def judge(candidates: Candidates, truth: Interactions) -> Judged:
    """Hold lists against the truth.

    Ids are matched as text, so the two may come from different files. Truth users without a list are outside
    the evaluation: the users asked of `retrieve` are the population.
    """
    matrix = truth.matrix()
    user_rows = _lookup(candidates.user_ids, truth.user_ids)
    counts = np.diff(matrix.indptr)
    judged = (
        np.flatnonzero((user_rows >= 0) & (counts[user_rows] > 0))
        if truth.n_users
        else np.zeros(0, dtype=np.int64)
    )
    items = _lookup(candidates.items[judged].ravel(), truth.item_ids).reshape(len(judged), candidates.k)
    of_users = matrix[user_rows[judged]]
    hits = hit_matrix(items, np.arange(len(judged)), of_users)
    return Judged(candidates.user_ids[judged], items, of_users, hits)


def evaluate(
    candidates: Candidates, truth: Interactions, ks: Sequence[int], metrics: Mapping[str, Metric] = METRICS
) -> Metrics:
    """Every metric at every k, over the users of `candidates` with at least one truth (see `judge`).

    No user with a truth raises InvalidData D211.
    """
    return judge(candidates, truth).metrics(ks, metrics)


def evaluate_conditional(candidates: Candidates, truth: Interactions, ks: Sequence[int]) -> Metrics:
    """The same with the truths outside the K candidates taken away: what a reranker of these lists can still
    win or lose.
    """
    return judge(candidates, truth).reachable().metrics(ks)


def _metrics(
    hits: Hits, n_truth: Counts, user_ids: NDArray[np.str_], ks: Sequence[int],
    metrics: Mapping[str, Metric] = METRICS,
) -> Metrics:  # fmt: skip
    if not len(user_ids):
        raise InvalidData(
            "D211",
            "no user of the lists has a truth",
            next_step="check that lists and truth use the same user and item ids",
        )
    values = {f"{name}@{k}": metric(hits, n_truth, k) for k in ks for name, metric in metrics.items()}
    return Metrics(user_ids, values)


def _lookup(ids: NDArray[np.str_], axis: NDArray[np.str_]) -> NDArray[np.int32]:
    row_of = {name: row for row, name in enumerate(axis.tolist())}
    return np.fromiter((row_of.get(name, NO_ITEM) for name in ids.tolist()), dtype=np.int32, count=len(ids))
