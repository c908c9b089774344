"""Sparse EASE for large catalogues: EASE's ridge regression with few items behind each item, after SANSA
(Spisak et al., "Scalable Approximate NonSymmetric Autoencoder for Collaborative Filtering", RecSys 2023).

EASE's column j is the ridge regression of item j's users on all other items. Here it is the exact regression
on N_j, the k items nearest to j: B_Nj = (G_NN + lambda I)^-1 G_Nj with G = X^T X, 0 elsewhere. Nearest is by
G_ij / sqrt((n_i + lambda) (n_j + lambda)), the entries of G + lambda I scaled to a unit diagonal. With k = I
- 1 it is EASE. Memory is 8 k I bytes beside the choices; G is never whole. SANSA keeps as few numbers by an
incomplete factorisation, for which SciPy has no routine.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from extract.features import FeatureTable
from recsys.interactions import Interactions
from recsys.item_knn import nearest_by_choices
from recsys.item_weights import ItemWeights
from recsys.ranking import blocks
from recsys.settings import SparseEaseConfig

# Items solved together: they share one Gram matrix of all their neighbours.
TOGETHER = 32


class SparseEase(ItemWeights):
    """Item weights B with at most k entries in a column."""

    def __init__(
        self,
        config: SparseEaseConfig,
        train: Interactions,
        features: Mapping[str, FeatureTable] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__(train)
        self.config = config

    def solve(self) -> None:
        """Find each item's neighbours, then solve the items in blocks."""
        columns = sparse.csr_array(self._matrix.T)
        norms = np.sqrt(np.diff(columns.indptr) + self.config.l2).astype(np.float32)
        near = nearest_by_choices(self._matrix, norms, self.config.neighbours, self._places)
        values = np.zeros(near.nnz, dtype=np.float32)
        for part in blocks(len(norms), TOGETHER):
            values[near.indptr[part.start] : near.indptr[part.stop]] = self._columns(columns, near, part)
        # Row j of `near` holds the items behind j, so B is its transpose.
        solved = sparse.csr_array((values, near.indices, near.indptr), shape=near.shape)
        self.weights = sparse.csr_array(solved.T)

    def _columns(self, columns: sparse.csr_array, near: sparse.csr_array, part: slice) -> NDArray[np.float32]:
        """The weights of the edges of `near` in the rows of `part`, in their order."""
        start, stop = near.indptr[part.start], near.indptr[part.stop]
        items, counts = np.arange(part.start, part.stop), np.diff(near.indptr[part.start : part.stop + 1])
        union = np.unique(np.concatenate([near.indices[start:stop], items]))
        gram = (columns[union] @ columns[union].T).toarray().astype(np.float64)
        there = np.arange(counts.max(initial=0)) < counts[:, None]
        behind = np.zeros(there.shape, dtype=np.int64)
        behind[there] = np.searchsorted(union, near.indices[start:stop])
        system = gram[behind[:, :, None], behind[:, None, :]] * (there[:, :, None] & there[:, None, :])
        own = np.arange(there.shape[1])
        # An empty place gets the equation 1 x = 0.
        system[:, own, own] += np.where(there, self.config.l2, 1.0)
        target = gram[behind, np.searchsorted(union, items)[:, None]] * there
        solved = np.linalg.solve(system, target[:, :, None])[:, :, 0]
        weights: NDArray[np.float32] = solved[there].astype(np.float32)
        return weights
