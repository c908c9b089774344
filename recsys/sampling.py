"""Negatives: one uniform unseen item per positive, exact and without a loop."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from extract.errors import InvalidData


class NegativeSampler:
    """Draws items that the user has not chosen, uniformly over the items that anybody chose.

    Items without a choice are left out: as negatives they would be pushed below everything, and a cold item
    must be ranked by its features. No rejection: with the user's chosen items h_0 < h_1 < ... in the pool,
    the r-th unseen item is r plus the number of j with h_j - j <= r, which one binary search over all users
    finds.
    """

    def __init__(self, matrix: sparse.csr_array) -> None:
        seen = sparse.csr_array(matrix)
        seen.sort_indices()
        self.pool = np.unique(seen.indices).astype(np.int32)
        self._length = np.diff(seen.indptr).astype(np.int64)
        self._start = seen.indptr.astype(np.int64)
        owners = np.repeat(np.arange(seen.shape[0], dtype=np.int64), self._length)
        within = np.arange(len(owners)) - self._start[owners]
        shifted = np.searchsorted(self.pool, seen.indices) - within
        self._stride = len(self.pool) + 1
        self._keys = owners * self._stride + shifted

    def has_negative(self, users: NDArray[np.int32]) -> NDArray[np.bool_]:
        """False where a user chose every item of the pool."""
        left: NDArray[np.bool_] = self._length[users] < len(self.pool)
        return left

    def draw(self, users: NDArray[np.int32], generator: np.random.Generator) -> NDArray[np.int32]:
        """One negative item row per user row [B]; a user without any raises InvalidData D212."""
        if not self.has_negative(users).all():
            raise InvalidData(
                "D212", "a user chose every item, so no negative is left", why=f"{len(self.pool)} items"
            )
        place = generator.integers(0, len(self.pool) - self._length[users])
        shift = (
            np.searchsorted(self._keys, users * np.int64(self._stride) + place, side="right")
            - self._start[users]
        )
        drawn: NDArray[np.int32] = self.pool[place + shift]
        return drawn
