"""Exact full ranking, block of users by block of users.

The order is total and never depends on the machine: by score, then by item id. A float32 score and an item's
place in the sorted ids are packed into one int64, so that one comparison decides both.

Where scores are inner products, blocks of users meet blocks of items in tiles that fit the cache, and only
scores that reach the user's running k-th best leave a tile: the time is that of the products.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from extract.errors import InvalidData
from recsys.best import best_columns, reaching
from recsys.order import NO_ITEM, Keys, id_places, scores_of, sort_keys
from recsys.sparse_ranking import SparseScores, positive_best

if TYPE_CHECKING:
    from scipy import sparse

# The order is part of what ranking is; it lives apart so that ranking sparse scores can use it.
__all__ = ["NO_ITEM", "Factors", "Keys", "Recommender", "best_columns", "blocks", "exact_ranks", "id_places"]
__all__ += ["masked_scores", "reaching", "scores_of", "sort_keys", "top_k", "top_k_factors"]

# A tile of USERS x ITEMS scores takes 4 MB.
USERS, ITEMS = 256, 4096
_NONE = np.iinfo(np.int64).max
Vectors = NDArray[np.float32] | NDArray[np.float64]


class Recommender(Protocol):
    """Anything that scores every item for a user."""

    def score(self, user_rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """Scores [B, I] of all items for the given users; -inf keeps an item out of every list."""
        ...


@runtime_checkable
class Factors(Protocol):
    """A recommender whose scores are inner products."""

    def embeddings(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """User vectors [U, D] and item vectors [I, D]."""
        ...


def blocks(n: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover 0..n."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def masked_scores(
    model: Recommender, user_rows: NDArray[np.int32], seen: sparse.csr_array | None
) -> NDArray[np.float32]:
    """Scores [B, I] with the seen items at -inf."""
    scores = np.array(model.score(user_rows), dtype=np.float32)
    if seen is not None:
        _check_axis(scores.shape, seen)
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
    the score NaN. Memory is one block of `block` x I scores and keys. Where scores are sparse, only users who
    have no k items above 0 cost a dense row.
    """
    if isinstance(model, Factors):
        users, vectors = model.embeddings()
        _check_axis((len(user_rows), len(vectors)), seen)
        own = None if seen is None else seen[user_rows]
        return top_k_factors(users[user_rows], vectors, own, k, places=places)
    if isinstance(model, SparseScores):
        items = np.empty((len(user_rows), k), dtype=np.int32)
        values = np.empty((len(user_rows), k), dtype=np.float32)
        found = np.zeros(len(user_rows), dtype=np.bool_)
        for part in blocks(len(user_rows), USERS):
            found[part] = positive_best(
                model.sparse_scores(user_rows[part]), None if seen is None else seen[user_rows[part]],
                places, items[part], values[part],
            )  # fmt: skip
        rest = np.flatnonzero(~found)
        items[rest], values[rest] = _top_k_dense(model, user_rows[rest], seen, k, places, block)
        return items, values
    return _top_k_dense(model, user_rows, seen, k, places, block)


def _top_k_dense(
    model: Recommender,
    user_rows: NDArray[np.int32],
    seen: sparse.csr_array | None,
    k: int,
    places: NDArray[np.int64],
    block: int,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
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


def top_k_factors(
    users: Vectors,
    items: Vectors,
    seen: sparse.csr_array | None,
    k: int,
    *,
    places: NDArray[np.int64],
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The k best unseen items of each user: item rows and scores, both [B, k], padded as by `top_k`.

    `users` [B, D] and `items` [I, D] are vectors, `seen` CSR [B, I] the items to leave out; float64 ones are
    multiplied as such, and their scores rounded. Vectors that are not finite raise InvalidData D210. As many
    blocks are ranked at a time as the BLAS has threads.
    """
    if not (np.isfinite(users).all() and np.isfinite(items).all()):
        raise InvalidData("D210", "a model returned vectors that are not finite")
    found = np.full((len(users), k), NO_ITEM, dtype=np.int32)
    values = np.full((len(users), k), np.nan, dtype=np.float32)
    column_of = np.empty(len(places), dtype=np.int32)
    column_of[places] = np.arange(len(places), dtype=np.int32)
    kind: type[Any] = np.float64 if users.dtype == np.float64 else np.float32
    users, vectors = (np.ascontiguousarray(v, dtype=kind) for v in (users, items))

    def rank(part: slice) -> None:
        keys = _best_keys(users[part], vectors, _rows_of(seen, part), k, places)
        there = keys != _NONE
        found[part][there] = column_of[keys[there] & 0xFFFFFFFF]
        values[part][there] = scores_of(keys[there])

    blas = _blas()
    workers = max((library.num_threads for library in blas.lib_controllers), default=1)
    with blas.limit(limits=1), ThreadPoolExecutor(workers) as pool:
        list(pool.map(rank, blocks(len(users), USERS)))
    return found, values


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


def _check_axis(shape: tuple[int, ...], seen: sparse.csr_array | None) -> None:
    if seen is not None and shape[1] != seen.shape[1]:
        raise InvalidData(
            "D208",
            "a model's scores do not fit the item axis",
            why=f"scores {shape}, expected {(shape[0], seen.shape[1])}",
            next_step="train and rank with interactions on the same item axis",
        )


def _rows_of(seen: sparse.csr_array | None, part: slice) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The seen pairs of a block of users, sorted by item: places in the block and item rows."""
    if seen is None:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    lengths = np.diff(seen.indptr[part.start : part.stop + 1])
    columns = seen.indices[seen.indptr[part.start] : seen.indptr[part.stop]].astype(np.int64)
    order = np.argsort(columns, kind="stable")
    return np.repeat(np.arange(part.stop - part.start), lengths)[order], columns[order]


def _best_keys(
    users: Vectors,
    items: Vectors,
    seen: tuple[NDArray[np.int64], NDArray[np.int64]],
    k: int,
    places: NDArray[np.int64],
) -> Keys:
    """The k smallest keys per user, ascending."""
    best = np.full((len(users), k), _NONE, dtype=np.int64)
    least = np.full(len(users), -np.inf, dtype=np.float32)
    scores = np.empty(len(users) * min(ITEMS, len(items)), dtype=np.float32)
    passed = np.empty(scores.shape, dtype=np.bool_)
    waiting: list[tuple[NDArray[np.int64], Keys]] = []
    merged_at, held = 0, 0
    for part in blocks(len(items), ITEMS):
        width = part.stop - part.start
        tile = scores[: len(users) * width].reshape(len(users), width)
        np.matmul(users, items[part].T, out=tile, casting="same_kind")
        low, high = np.searchsorted(seen[1], (part.start, part.stop))
        tile[seen[0][low:high], seen[1][low:high] - part.start] = -np.inf
        if part.start == 0:
            rows, columns = reaching(tile, min(k, width))
        else:
            high_enough = np.greater_equal(tile, least[:, None], out=passed[: tile.size].reshape(tile.shape))
            rows, columns = np.divmod(np.flatnonzero(high_enough), width)
        chosen = tile[rows, columns]
        there = chosen > -np.inf
        rows, columns, chosen = rows[there], columns[there], chosen[there]
        waiting.append((rows, sort_keys(chosen, places[columns + part.start])))
        held += len(rows)
        # Each doubling of the items seen lets through about k more per user, so merging is rare.
        if part.stop >= 2 * merged_at or part.stop == len(items) or held > 4 * k * len(users):
            best = _merged(best, waiting, k)
            full = best[:, -1] != _NONE
            least[full] = scores_of(best[full, -1])
            waiting, held, merged_at = [], 0, part.stop
    return best


def _merged(best: Keys, waiting: list[tuple[NDArray[np.int64], Keys]], k: int) -> Keys:
    """The k smallest of the present keys and the waiting ones, per row, ascending."""
    rows = np.concatenate([part for part, _ in waiting])
    keys = np.concatenate([part for _, part in waiting])
    order = np.argsort(rows, kind="stable")
    rows, keys = rows[order], keys[order]
    counts = np.bincount(rows, minlength=len(best))
    table = np.full((len(best), k + int(counts.max(initial=0))), _NONE, dtype=np.int64)
    table[:, :k] = best
    starts = np.cumsum(counts) - counts
    table[rows, k + np.arange(len(rows)) - starts[rows]] = keys
    if table.shape[1] > k:
        table = np.partition(table, k - 1, axis=1)[:, :k]
    table.sort(axis=1)
    return table


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
