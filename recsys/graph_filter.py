"""A training-free graph filter over choices and features, after MM-GF (Roh et al., "Training-free Adjustable
Polynomial Graph Filtering for Ultra-fast Multimodal Recommendation", 2025) and Turbo-CF (Park et al., 2024).

P = (1 - c) P_R + c * weighted mean over m of P_m. P_R = (R~^T R~)^s entry by entry, scaled to a largest
eigenvalue of 1, with R~ = D_U^-a R D_I^(a - 1); P_m = D^-1/2 S_m D^-1/2 with S_m the cosines of the k nearest
items, both ways. Score = r_u times the sum over n = 1..N of w_n P^n. Without features it is Turbo-CF. The
feature graphs are sparse here (the paper's are dense), and the paper's scaling of the features is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import eigsh

from extract.features import FeatureTable
from recsys.feature_settings import GraphFilterConfig
from recsys.graph import degree_normalised
from recsys.interactions import Interactions
from recsys.modalities import Modalities, read_modalities


class GraphFilter:
    """The item graph P, CSR [I, I]."""

    def __init__(
        self,
        config: GraphFilterConfig,
        train: Interactions,
        features: Mapping[str, FeatureTable] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        self.config = config
        self.axes = train.axes_hash()
        self._matrix = train.matrix()
        self._modalities: Modalities | None = None
        if features:
            self._modalities = read_modalities("graph_filter", train, features)
            self._modalities.shares(config.knn_weights)
        self._graph: Any = sparse.csr_array((train.n_items, train.n_items), dtype=np.float32)

    def identity(self) -> dict[str, str]:
        """The content of the features."""
        return {} if self._modalities is None else {"features": self._modalities.content()}

    def solve(self) -> None:
        """Build P; its choices part has an entry for every pair of items that one user chose."""
        config, matrix = self.config, self._matrix.tocoo()
        users, items = (np.bincount(rows, minlength=n) for rows, n in zip(matrix.coords, matrix.shape))
        values = users[matrix.row] ** -config.alpha * items[matrix.col] ** (config.alpha - 1.0)
        scaled = sparse.csr_array((values.astype(np.float32), matrix.coords), shape=matrix.shape)
        graph = sparse.csr_array(scaled.T @ scaled)
        graph.data **= np.float32(config.power)
        graph = graph / np.float32(largest_eigenvalue(graph))
        if self._modalities is not None:
            shares = self._modalities.shares(config.knn_weights)
            graph = (1 - config.content_weight) * graph
            graphs = self._modalities.cosine_graphs(config.neighbours)
            for near, share in zip(graphs, shares, strict=True):
                content = degree_normalised(sparse.csr_array(near.maximum(near.T)))
                graph = graph + (config.content_weight * share / sum(shares)) * content
        self._graph = sparse.csr_array(graph).astype(np.float32)

    def score(self, user_rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """r_u times the polynomial of P, by Horner's rule, [B, I]."""
        chosen = self._matrix[user_rows]
        *lower, highest = self.config.coefficients
        scores = np.asarray((highest * chosen @ self._graph).toarray(), dtype=np.float32)
        for weight in reversed(lower):
            scores = (self._graph @ (weight * chosen.toarray() + scores).T).T.astype(np.float32)
        return scores

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What `save_model` keeps."""
        return {"indptr": self._graph.indptr, "indices": self._graph.indices, "data": self._graph.data}

    def restore(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Take back what `tensors` gave."""
        parts = (tensors["data"], tensors["indices"], tensors["indptr"])
        self._graph = sparse.csr_array(parts, shape=self._graph.shape)


def largest_eigenvalue(graph: sparse.csr_array) -> float:
    """Of a symmetric graph [I, I] with entries >= 0; 1 for an empty one, so that it can be divided by."""
    if graph.nnz == 0:
        return 1.0
    if graph.shape[0] < 3:
        return float(np.linalg.eigvalsh(graph.toarray())[-1])
    start = np.ones(graph.shape[0], dtype=np.float64)
    return float(eigsh(graph.astype(np.float64), k=1, v0=start, return_eigenvectors=False)[0])
