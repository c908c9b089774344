"""What models share whose scores are a history times sparse weights between items: ItemKNN, sparse EASE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from recsys.interactions import Interactions
from recsys.ranking import id_places


class ItemWeights:
    """Scores X W of the binary train matrix X [U, I]. ``weights`` is W, CSR [I, I], at first empty."""

    def __init__(self, train: Interactions) -> None:
        self.axes = train.axes_hash()
        self.weights: Any = sparse.csr_array((train.n_items, train.n_items), dtype=np.float32)
        self._matrix = train.matrix()
        self._places = id_places(train.item_ids)

    def sparse_scores(self, user_rows: NDArray[np.int32]) -> sparse.csr_array:
        """Sum over the user's items i of W[i], CSR [B, I]."""
        return sparse.csr_array(self._matrix[user_rows] @ self.weights)

    def score(self, user_rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """The same, dense [B, I]."""
        return np.asarray(self.sparse_scores(user_rows).toarray(), dtype=np.float32)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What `save_model` keeps."""
        return {"indptr": self.weights.indptr, "indices": self.weights.indices, "data": self.weights.data}

    def restore(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Take back what `tensors` gave."""
        parts = (tensors["data"], tensors["indices"], tensors["indptr"])
        self.weights = sparse.csr_array(parts, shape=self.weights.shape)
