"""EASE: a linear item-item model in closed form (Steck, "Embarrassingly Shallow Autoencoders for Sparse
Data", WWW 2019), and its denoising form (Steck, "Autoencoders that don't overfit towards the Identity",
NeurIPS 2020).

With G = X^T W X and P = (G + lambda I + p / (1 - p) diag G)^-1: B_ij = -P_ij / P_jj, B_jj = 0, score = X B.
p is the share of choices a denoising autoencoder would drop. W weighs the users of the squared error by
n_u^-a, n_u a user's choices over their geometric mean; that is ours. p = 0 and a = 0 are plain EASE. Dense,
so I is bounded by memory: 4 I^2 bytes. Left out: the low-rank solution of the denoising form.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import lapack

from extract.errors import InvalidData, ResourceExhausted
from extract.features import FeatureTable
from recsys.interactions import Interactions
from recsys.ranking import blocks
from recsys.settings import EaseConfig


class Ease:
    """Item weights B [I, I] solved from the train matrix."""

    def __init__(
        self,
        config: EaseConfig,
        train: Interactions,
        features: Mapping[str, FeatureTable] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        self.config = config
        self.axes = train.axes_hash()
        self._matrix = train.matrix()
        self._weights = np.zeros((0, 0), dtype=np.float32)

    def solve(self) -> None:
        """Factor and invert in float32, in place; too many items for memory raises ResourceExhausted."""
        n = self._matrix.shape[1]
        _check_memory(n)
        gram = np.zeros((n, n), dtype=np.float32, order="F")
        weighted = _weighted(self._matrix, self.config.user_power)
        columns = self._matrix.T.tocsr()
        for part in blocks(n, 512):
            gram[:, part] = (columns[part] @ weighted).toarray().T
        denoise = np.float32(self.config.denoise / (1 - self.config.denoise))
        gram[np.diag_indices(n)] += np.float32(self.config.l2) + denoise * np.diag(gram)
        inverse, failed = lapack.spotrf(gram, lower=1, overwrite_a=1)
        if not failed:
            inverse, failed = lapack.spotri(inverse, lower=1, overwrite_c=1)
        if failed:
            raise InvalidData(
                "D213",
                "the EASE system cannot be inverted",
                why=f"l2 = {self.config.l2}",
                next_step="raise `l2`",
            )
        # LAPACK fills the lower triangle only; seen through the transpose, the matrix is in row order.
        weights: NDArray[np.float32] = inverse.T
        for column in range(n):
            weights[column + 1 :, column] = weights[column, column + 1 :]
        weights /= -np.diag(weights).copy()
        weights[np.diag_indices(n)] = 0.0
        self._weights = weights

    def score(self, user_rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """X B, [B, I]."""
        return np.asarray(self._matrix[user_rows] @ self._weights, dtype=np.float32)

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """What `save_model` keeps."""
        return {"weights": self._weights}

    def restore(self, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        """Take back what `tensors` gave."""
        self._weights = tensors["weights"]


def _weighted(matrix: sparse.csr_array, power: float) -> sparse.csr_array:
    """The users' rows times n_u^-power, n_u over its geometric mean, so that lambda keeps its scale."""
    if not power:
        return matrix
    counts = np.diff(matrix.indptr)
    logs = np.log(np.maximum(counts, 1))
    mean = logs.sum() / max(np.count_nonzero(counts), 1)
    weights = np.exp(power * (mean - logs)).astype(np.float32)
    return sparse.csr_array(sparse.diags_array(weights) @ matrix)


def _check_memory(n_items: int) -> None:
    needed, there = 4 * n_items**2, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise ResourceExhausted(
            "M201",
            "EASE does not fit into memory",
            why=f"{n_items} items need {needed / 2**30:.1f} GiB, the machine has {there / 2**30:.1f} GiB",
            next_step="use item_knn or lightgcn, or fewer items",
        )
