"""FREEDOM: a frozen graph of similar items and a user-item graph without its noisiest edges (Zhou & Shen, ACM
MM 2023), for any number M >= 1 of modalities.

With E the id embeddings: H = mean over l = 0..L of A^l E, user = H_u, item = H_i + S E_i, S the frozen
neighbour graph. Each epoch trains on a sample of the edges, drawn without replacement in proportion to 1 /
sqrt(d_u d_i), with A normalised anew; ranking uses all edges. Loss = BPR(user, item) + reg * sum over m of
BPR(user, W_m f), f the features.

Where this differs from the published code:
- features are constants, as in the paper's equations; the code trains them too. The bias of W_m cancels in a
  difference of items and is left out;
- an item nobody chose has no embedding of its own and is ranked by its neighbours'; an item that lacks a
  modality gets the mean of the present rows and no neighbours in it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor, nn

from extract.features import FeatureTable
from recsys.feature_settings import FREEDOMConfig
from recsys.graph import csr_tensor, graph_product, normalised_adjacency, propagate_sum
from recsys.interactions import Interactions
from recsys.losses import bpr, margin
from recsys.modalities import FeatureTower, projected_difference
from recsys.two_tower import chosen_items


class FREEDOM(FeatureTower):
    """Id embeddings [N, D], users first, and one projection [D, D_m] per modality."""

    adjacency: Tensor
    pruned: Tensor
    item_graph: Tensor
    item_graph_transposed: Tensor
    chosen: Tensor

    def __init__(
        self,
        config: FREEDOMConfig,
        train: Interactions,
        features: Mapping[str, FeatureTable] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__(config, train, features)
        self.layers, self.reg, self.kept_share = config.layers, config.reg, config.kept_edges
        self.n_users, self._matrix, self._seed = train.n_users, train.matrix(), seed
        self.keep_inputs(self.modalities.filled())
        generator = torch.Generator().manual_seed(seed)
        d = config.embedding_size
        tables = [torch.empty(n, d) for n in (train.n_users, train.n_items)]
        tables = [nn.init.xavier_uniform_(table, generator=generator) for table in tables]
        self.embedding = nn.Parameter(torch.cat(tables))
        self.projections = nn.ParameterList(
            nn.Parameter(nn.init.xavier_normal_(torch.empty(d, x.shape[1]), generator=generator))
            for x in self.inputs()
        )
        graph = self.modalities.neighbour_graph(config.neighbours, config.knn_weights)
        adjacency = csr_tensor(normalised_adjacency(self._matrix))
        self.register_buffer("adjacency", adjacency, persistent=False)
        self.register_buffer("pruned", adjacency, persistent=False)
        self.register_buffer("item_graph", csr_tensor(graph), persistent=False)
        self.register_buffer("item_graph_transposed", csr_tensor(graph.T.tocsr()), persistent=False)
        self.register_buffer("chosen", chosen_items(train), persistent=False)

    def start_epoch(self, epoch: int) -> None:
        """Draw the edges this epoch trains on: smallest exponential times with the weights as rates."""
        if self.kept_share == 1:
            return
        edges = self._matrix.tocoo()
        of_user, of_item = np.diff(self._matrix.indptr), np.bincount(edges.col, minlength=edges.shape[1])
        slowness = np.sqrt(of_user[edges.row].astype(np.float64) * of_item[edges.col])
        times = np.random.default_rng([self._seed, epoch]).exponential(size=edges.nnz) * slowness
        kept = np.sort(np.argsort(times, kind="stable")[: int(self.kept_share * edges.nnz)])
        pairs = (edges.data[kept], (edges.row[kept], edges.col[kept]))
        pruned = normalised_adjacency(sparse.csr_array(pairs, shape=edges.shape))
        self.pruned = csr_tensor(pruned).to(self.device)

    def forward(self) -> tuple[Tensor, Tensor]:
        """User vectors [U, D] and item vectors [I, D], over all edges."""
        return self._vectors(self.adjacency)

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """BPR of B triples of rows (int64 [B] each), on ids and on each modality, over this epoch's edges."""
        user_table, item_table = self._vectors(self.pruned)
        user = F.embedding(users, user_table)
        total = bpr(margin(user, F.embedding(positives, item_table), F.embedding(negatives, item_table)))
        for values, projection in zip(self.inputs(), self.projections, strict=True):
            difference = projected_difference(values, projection, positives, negatives)
            total = total + self.reg * bpr((user * difference).sum(dim=1))
        return total

    def _vectors(self, adjacency: Tensor) -> tuple[Tensor, Tensor]:
        users, items = self.embedding[: self.n_users], self.embedding[self.n_users :] * self.chosen
        nodes = propagate_sum(adjacency, torch.cat([users, items]), self.layers) / (self.layers + 1)
        similar = graph_product(self.item_graph, self.item_graph_transposed, items)
        return nodes[: self.n_users], nodes[self.n_users :] + similar
