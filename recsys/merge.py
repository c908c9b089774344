"""Merging several retrievers: one pool of candidates per user, ordered by a sum of standardised scores.

A source's scores are standardised over all the items a user has not seen (mean 0, deviation 1), so that
sources of any scale add up; the pool holds the best items of every source that has a weight. The weights come
from validation, by a search that starts at the best single source and keeps only what improves. Left out, as
none was better beyond noise (`benchmarks/merged_lists.py`): reciprocal rank fusion (Cormack et
al., SIGIR 2009), log ranks, scores scaled to 0..1, scores standardised within the pool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from extract.errors import ConfigError
from recsys.candidates import Candidates
from recsys.interactions import Interactions, check_same_axes
from recsys.metrics import Counts, Hits, hit_matrix, ndcg
from recsys.ranking import (
    NO_ITEM,
    Recommender,
    best_columns,
    blocks,
    exact_ranks,
    id_places,
    masked_scores,
)

Votes = NDArray[np.float32]
CUT = 20
"""The weights maximise NDCG at this place."""
FIRST_STEP, LAST_STEP = 0.5, 0.02
MOST_USERS = 10_000
"""Validation users the weights are fitted on, drawn with a seed where there are more."""


@dataclass(frozen=True, slots=True, eq=False)
class _Pool:
    """Of a block of users: the items [B, P] that any source has among its best (NO_ITEM at padded places),
    and by source [S, B, P] their scores, exact ranks and standardised scores.
    """

    items: NDArray[np.int32]
    scores: Votes
    ranks: NDArray[np.int32]
    votes: Votes


def retrieve_merged(
    models: Mapping[str, Recommender],
    seen: Interactions,
    users: Sequence[str] | NDArray[np.str_],
    k: int,
    weights: Mapping[str, float],
    *,
    block: int = 256,
) -> Candidates:
    """The k best unseen items by the weighted sum, with every model's score and exact rank, as `retrieve`.

    A model that `weights` does not name has weight 0: it is asked for scores and ranks, not for items.
    """
    user_rows = seen.user_rows_of(users)
    places = id_places(seen.item_ids)
    shares = _shares(models, weights)
    parts = []
    for pool in _pools(models, user_rows, seen.matrix(), k, shares, places, block):
        final = np.where(pool.items == NO_ITEM, -np.inf, np.tensordot(shares, pool.votes, axes=1))
        own_places = np.where(pool.items == NO_ITEM, len(places), places[pool.items])
        order = np.lexsort((own_places, -final), axis=1)[:, :k]
        parts.append([_taken(values, order, k) for values in (pool.items, final, *pool.scores, *pool.ranks)])
    items, final, *rest = (np.concatenate(column) for column in zip(*parts, strict=True))
    absent = items == NO_ITEM
    return Candidates(
        seen.user_ids[user_rows],
        np.append(seen.item_ids, "")[items],
        {name: np.where(absent, np.nan, v).astype(np.float32) for name, v in zip(models, rest, strict=False)},
        {
            name: np.where(absent, 0, v).astype(np.int32)
            for name, v in zip(models, rest[len(models) :], strict=True)
        },
        np.where(absent, np.nan, final).astype(np.float32),
    )


def fit_weights(
    models: Mapping[str, Recommender],
    seen: Interactions,
    valid: Interactions,
    k: int,
    *,
    seed: int = 0,
    block: int = 256,
) -> tuple[dict[str, float], float]:
    """Weights that sum to one, and the NDCG@20 on `valid` they reach; never below the best single source's.

    No row in `valid` raises ConfigError C205: weights are chosen on validation or not at all.
    """
    check_same_axes(seen, valid)
    users = np.unique(valid.user_rows)
    if not len(users):
        raise ConfigError(
            "C205",
            "merging needs a validation split, to choose the weights by",
            next_step="name a retriever in candidates.order_by, or give data.split.valid_share",
        )
    if len(users) > MOST_USERS:
        users = np.sort(np.random.default_rng(seed).choice(users, MOST_USERS, replace=False))
    truth, places = valid.matrix(), id_places(seen.item_ids)
    n_truth = np.diff(truth.indptr).astype(np.int64)[users]
    votes: list[Votes] = []
    hits: list[Hits] = []
    done = 0
    for pool in _pools(models, users, seen.matrix(), k, np.ones(len(models)), places, block):
        hits.append(hit_matrix(pool.items, users[done : done + len(pool.items)], truth))
        done += len(pool.items)
        votes.append(np.where(pool.items == NO_ITEM, -np.inf, pool.votes).astype(np.float32))
    width = max(CUT, *(found.shape[1] for found in hits))
    table = np.concatenate([_padded(part, width, -np.inf) for part in votes], axis=1)
    found = np.concatenate([_padded(part, width, False) for part in hits])
    shares, best = best_shares(table, found, n_truth)
    return dict(zip(models, shares.tolist(), strict=True)), best


def best_shares(votes: Votes, hits: Hits, n_truth: Counts) -> tuple[NDArray[np.float64], float]:
    """Shares [S] of sources whose weighted votes have the best NDCG@20, and that NDCG.

    `votes` [S, U, P] of pooled items, -inf at padded places; `hits` [U, P] says which are truths, `n_truth`
    [U] how many there are. P is at least 20.
    """

    def value(shares: NDArray[np.float64]) -> float:
        used = shares > 0
        final = np.tensordot(shares[used].astype(np.float32), votes[used], axes=1)
        # The lists themselves break ties by id; in sums of scores they are too rare to move a weight.
        top = np.argpartition(-final, CUT - 1, axis=1)[:, :CUT]
        order = np.argsort(-np.take_along_axis(final, top, axis=1), axis=1, kind="stable")
        in_order = np.take_along_axis(hits, np.take_along_axis(top, order, axis=1), axis=1)
        return float(ndcg(in_order, n_truth, CUT).mean())

    return _climb(value, len(votes))


def _climb(
    value: Callable[[NDArray[np.float64]], float], n_sources: int
) -> tuple[NDArray[np.float64], float]:
    """Coordinate ascent on the simplex from its best corner, halving the step when nothing improves."""
    corners = list(np.eye(n_sources))
    values = [value(corner) for corner in corners]
    shares, best = corners[int(np.argmax(values))], max(values)
    step = FIRST_STEP
    while step > LAST_STEP:
        improved = False
        for source in range(n_sources):
            for change in (step, -step):
                tried = shares.copy()
                tried[source] = max(tried[source] + change, 0.0)
                if not tried.any():
                    continue
                tried /= tried.sum()
                if (reached := value(tried)) > best + 1e-9:
                    shares, best, improved = tried, reached, True
        if not improved:
            step /= 2
    return shares, best


def _pools(
    models: Mapping[str, Recommender],
    user_rows: NDArray[np.int32],
    seen: sparse.csr_array,
    k: int,
    shares: NDArray[np.float64],
    places: NDArray[np.int64],
    block: int,
) -> Iterator[_Pool]:
    for part in blocks(len(user_rows), block):
        full = [masked_scores(model, user_rows[part], seen) for model in models.values()]
        asked = [best_columns(s, k, places) for s, share in zip(full, shares, strict=True) if share > 0]
        items = np.sort(np.concatenate(asked, axis=1), axis=1)
        repeated = np.zeros(items.shape, dtype=np.bool_)
        repeated[:, 1:] = items[:, 1:] == items[:, :-1]
        columns = items.astype(np.int64)
        scores = np.stack([np.take_along_axis(s, columns, axis=1) for s in full])
        # A source may keep an item out by -inf that another wants; seen ones are -inf in all.
        absent = repeated | np.isneginf(scores).all(axis=0)
        items = np.where(absent, NO_ITEM, items).astype(np.int32)
        votes = np.stack([_standardised(own, s) for own, s in zip(scores, full, strict=True)])
        known = np.where(np.isneginf(scores), np.nan, scores)
        yield _Pool(items, known, np.stack([exact_ranks(s, items, places) for s in full]), votes)


def _standardised(chosen: Votes, full: Votes) -> Votes:
    """Chosen scores [B, P] less the mean over the finite scores of `full` [B, I], over their deviation; what
    a source keeps out has its lowest vote, a source without an opinion 0.
    """
    finite = np.isfinite(full)
    n = np.maximum(finite.sum(axis=1, keepdims=True), 1)
    filled = np.where(finite, full, np.float32(0))
    mean = (filled.sum(axis=1, keepdims=True, dtype=np.float64) / n).astype(np.float32)
    square = np.where(finite, np.square(full - mean), 0).sum(axis=1, keepdims=True)
    lowest = np.where(finite, full, np.inf).min(axis=1, keepdims=True)
    values = np.where(np.isfinite(chosen), chosen, np.where(np.isfinite(lowest), lowest, mean)) - mean
    deviation = np.sqrt(square / n)
    votes: Votes = np.divide(values, deviation, out=np.zeros_like(values), where=deviation > 0)
    return votes.astype(np.float32)


def _shares(models: Mapping[str, Recommender], weights: Mapping[str, float]) -> NDArray[np.float64]:
    shares = np.array([max(weights.get(name, 0.0), 0.0) for name in models])
    if unknown := sorted(set(weights) - set(models)):
        raise ConfigError("C201", f"no model is called `{unknown[0]}`", why=f"models: {', '.join(models)}")
    if not shares.any():
        raise ConfigError(
            "C201", "merging needs a model with a weight above 0", why=f"weights: {dict(weights)}"
        )
    scaled: NDArray[np.float64] = shares / shares.sum()
    return scaled


def _taken(values: NDArray[Any], order: NDArray[np.int64], k: int) -> NDArray[Any]:
    """`values` [B, P] in the given order [B, <= k], padded to k."""
    empty = NO_ITEM if values.dtype.kind == "i" else -np.inf
    return _padded(np.take_along_axis(values, order, axis=1), k, empty)


def _padded(values: NDArray[Any], width: int, empty: float) -> NDArray[Any]:
    """The last axis widened to `width`."""
    short = width - values.shape[-1]
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, short)], constant_values=empty)
