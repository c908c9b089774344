"""ItemKNN: score = R S with the k nearest items by cosine of their user columns (Sarwar et al. 2001;
shrinkage after Bell & Koren 2007).

Left out: TF-IDF and BM25 weighting, other similarities.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from extract.features import FeatureTable
from recsys.interactions import Interactions
from recsys.ranking import best_columns, blocks, id_places
from recsys.settings import ItemKNNConfig


class ItemKNN:
    """Cosine neighbours of items in the train matrix."""

    def __init__(
        self,
        config: ItemKNNConfig,
        train: Interactions,
        features: Mapping[str, FeatureTable] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        self.config = config
        self.axes = train.axes_hash()
        self._matrix = train.matrix()
        self._places = id_places(train.item_ids)
        self._similarity: Any = sparse.csr_array((train.n_items, train.n_items), dtype=np.float32)

    def solve(self) -> None:
        """Build S [I, I], row i holding the k items nearest to i; blocks of items, so memory is block x I."""
        columns = self._matrix.T.tocsr()
        norms = np.sqrt(np.diff(columns.indptr)).astype(np.float32)
        rows, neighbours, values = [], [], []
        for part in blocks(columns.shape[0], 512):
            similarity = (columns[part] @ self._matrix).toarray()
            similarity /= np.maximum(
                norms[part, None] * norms + np.float32(self.config.shrink), np.float32(1e-12)
            )
            own = np.arange(part.start, part.stop)
            similarity[own - part.start, own] = -1.0
            best = best_columns(similarity, self.config.neighbours, self._places)
            value = np.take_along_axis(similarity, best.astype(np.int64), axis=1)
            near = value > 0
            rows.append(np.repeat(own, near.sum(axis=1)))
            neighbours.append(best[near])
            values.append(value[near])
        edges = (np.concatenate(values), (np.concatenate(rows), np.concatenate(neighbours)))
        self._similarity = sparse.csr_array(edges, shape=(len(norms), len(norms)))

    def score(self, user_rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """Sum over the user's items i of S[i], [B, I]."""
        return np.asarray((self._matrix[user_rows] @ self._similarity).toarray(), dtype=np.float32)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What `save_model` keeps."""
        csr = self._similarity
        return {"indptr": csr.indptr, "indices": csr.indices, "data": csr.data}

    def restore(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Take back what `tensors` gave."""
        parts = (tensors["data"], tensors["indices"], tensors["indptr"])
        self._similarity = sparse.csr_array(parts, shape=self._similarity.shape)
