"""Implicit ALS: matrix factorisation of all entries by alternating least squares (Hu, Koren & Volinsky, ICDM
2008), in the form of Rendle et al., "Revisiting the Performance of iALS on Item Recommendation Benchmarks"
(RecSys 2022).

Loss = sum over choices (1 - <x_u, y_i>)^2 + alpha0 * sum over all pairs <x_u, y_i>^2 + lambda (sum over u of
(n_u + alpha0 I)^nu ||x_u||^2 + sum over i of (n_i + alpha0 U)^nu ||y_i||^2), n the number of choices. Every
vector is solved exactly; the Gram matrix of the other side stands for the pairs nobody chose. Left out:
weights of single choices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from extract.features import FeatureTable
from recsys.interactions import Interactions
from recsys.settings import ALSConfig

# Numbers gathered at once, in one block of equally long histories.
BLOCK = 4_000_000

Vectors = NDArray[np.float32]


class ALS:
    """User vectors [U, D] and item vectors [I, D]; who has no choice has the vector 0."""

    def __init__(
        self,
        config: ALSConfig,
        train: Interactions,
        features: Mapping[str, FeatureTable] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        self.config = config
        self.axes = train.axes_hash()
        self._matrix = train.matrix()
        self._users = np.zeros((train.n_users, config.embedding_size), dtype=np.float32)
        start = np.random.default_rng(seed).standard_normal((train.n_items, config.embedding_size))
        self._items = (start * config.init_std / np.sqrt(config.embedding_size)).astype(np.float32)

    def solve(self) -> None:
        """Alternate: all users for the present items, then all items; the users last, once more."""
        by_item = sparse.csr_array(self._matrix.T)
        for _ in range(self.config.iterations):
            self._users = self._half(self._matrix, self._items)
            self._items = self._half(by_item, self._users)
        self._users = self._half(self._matrix, self._items)

    def _half(self, chosen: sparse.csr_array, others: Vectors) -> Vectors:
        """One side's vectors [N, D], each the minimum of the loss for the other side's vectors [M, D]."""
        d, length = others.shape[1], np.diff(chosen.indptr)
        gram = np.float32(self.config.alpha0) * (others.T @ others)
        weight = (length + self.config.alpha0 * len(others)) ** self.config.nu
        ridge = (self.config.l2 * weight).astype(np.float32)
        solved = np.zeros((len(length), d), dtype=np.float32)
        for rows in _equally_long(length, d):
            longest = int(length[rows].max())
            place = np.arange(longest)
            there = place < length[rows, None]
            columns = chosen.indices[np.where(there, chosen.indptr[rows, None] + place, 0)]
            vectors = others[columns] * there[:, :, None].astype(np.float32)
            system = vectors.transpose(0, 2, 1) @ vectors + gram
            system[:, np.arange(d), np.arange(d)] += ridge[rows, None]
            solved[rows] = np.linalg.solve(system, vectors.sum(axis=1)[:, :, None])[:, :, 0]
        return solved

    def embeddings(self) -> tuple[Vectors, Vectors]:
        """User vectors [U, D] and item vectors [I, D]; their inner products are the scores."""
        return self._users, self._items

    def score(self, user_rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """Inner products [B, I]."""
        scores: Vectors = self._users[user_rows] @ self._items.T
        return scores

    def tensors(self) -> dict[str, Vectors]:
        """What `save_model` keeps."""
        return {"users": self._users, "items": self._items}

    def restore(self, tensors: Mapping[str, Vectors]) -> None:
        """Take back what `tensors` gave."""
        self._users, self._items = tensors["users"], tensors["items"]


def _equally_long(length: NDArray[np.int32], width: int) -> Iterator[NDArray[np.int64]]:
    """Rows with at least one choice, in blocks of like lengths whose padded vectors stay below `BLOCK`."""
    order = np.argsort(length, kind="stable")
    order = order[np.searchsorted(length[order], 1) :]
    start, most = 0, BLOCK // width**2 + 1
    while start < len(order):
        # Sorted by length, so the last row of a block is its longest; a row costs its vectors and its system.
        longest = length[order[start : start + most]].astype(np.int64)
        cost = np.arange(1, len(longest) + 1) * (longest + width) * width
        taken = max(int(np.searchsorted(cost, BLOCK, side="right")), 1)
        yield order[start : start + taken]
        start += taken
