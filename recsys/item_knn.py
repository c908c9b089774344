"""ItemKNN: score = R S with the k nearest items by cosine of their user columns (Sarwar et al. 2001;
shrinkage after Bell & Koren 2007).

Left out: TF-IDF and BM25 weighting, other similarities.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from extract.features import FeatureTable
from recsys.interactions import Interactions
from recsys.item_weights import ItemWeights
from recsys.ranking import blocks, sort_keys
from recsys.settings import ItemKNNConfig

# Pairs of items looked at together; one costs about 80 bytes.
PAIRS = 4_000_000


class ItemKNN(ItemWeights):
    """Cosine neighbours of items in the train matrix."""

    def __init__(
        self,
        config: ItemKNNConfig,
        train: Interactions,
        features: Mapping[str, FeatureTable] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__(train)
        self.config = config

    def solve(self) -> None:
        """Build S, row i holding the k items nearest to i."""
        norms = np.sqrt(np.bincount(self._matrix.indices, minlength=self._matrix.shape[1]))
        self.weights = nearest_by_choices(
            self._matrix, norms.astype(np.float32), self.config.neighbours, self._places, self.config.shrink
        )


def nearest_by_choices(
    matrix: sparse.csr_array,
    norms: NDArray[np.float32],
    k: int,
    places: NDArray[np.int64],
    shrink: float = 0.0,
) -> sparse.csr_array:
    """The k other items j with the largest G_ij / (norm_i norm_j + shrink) > 0, G = X^T X, best first: CSR
    [I, I].

    Equal values go by `places`. Blocks of at most 512 items and about `PAIRS` pairs, at least an item with
    all its pairs: an item in a large part of all histories makes pairs with nearly every other.
    """
    columns = sparse.csr_array(matrix.T)
    lengths, neighbours, values = [np.zeros(1, dtype=np.int64)], [], []
    for part in _blocks_of_pairs(columns, matrix):
        together = sparse.csr_array(columns[part] @ matrix)
        n_rows = part.stop - part.start
        rows, items = np.repeat(np.arange(n_rows), np.diff(together.indptr)), together.indices
        other = items != rows + part.start
        rows, items, counts = rows[other], items[other], together.data[other]
        similarity = counts / (norms[rows + part.start] * norms[items] + np.float32(shrink))
        order = np.lexsort((sort_keys(similarity, places[items]), rows))
        # Rows stay where they were, so a place in the row is a place in the block minus the row's start.
        found = np.bincount(rows, minlength=n_rows)
        kept = order[np.arange(len(rows)) - np.repeat(np.cumsum(found) - found, found) < k]
        lengths.append(np.minimum(found, k))
        neighbours.append(items[kept])
        values.append(similarity[kept])
    parts = (np.concatenate(values), np.concatenate(neighbours), np.cumsum(np.concatenate(lengths)))
    return sparse.csr_array(parts, shape=(len(norms), len(norms)))


def _blocks_of_pairs(columns: sparse.csr_array, matrix: sparse.csr_array) -> Iterator[slice]:
    """Slices of items; an item has at most as many pairs as the histories of its users have choices."""
    pairs = np.minimum(columns.astype(np.float64) @ np.diff(matrix.indptr), columns.shape[0])
    for part in blocks(columns.shape[0], 512):
        start, total = part.start, np.cumsum(pairs[part])
        while start < part.stop:
            before = total[start - part.start - 1] if start > part.start else 0.0
            fits = int(np.searchsorted(total, before + PAIRS, side="right")) + part.start
            stop = max(fits, start + 1)
            yield slice(start, stop)
            start = stop
