"""LightGCN: linear propagation of id embeddings over the user-item graph (He et al., SIGIR 2020).

E = 1/(L+1) sum over l = 0..L of A^l E0; loss = BPR + reg * 1/2 ||E0 of the batch||^2 / B, as in the authors'
code. Left out: their drawing of users with replacement (every train pair is visited once per epoch here) and
edge dropout.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from extract.features import FeatureTable
from recsys.graph import csr_tensor, normalised_adjacency, propagate_rows, propagate_sum
from recsys.interactions import Interactions
from recsys.losses import bpr, margin
from recsys.settings import LightGCNConfig
from recsys.two_tower import TwoTower


class LightGCN(TwoTower):
    """One embedding per user and item, [N, D] with users first."""

    adjacency: Tensor

    def __init__(
        self,
        config: LightGCNConfig,
        train: Interactions,
        features: Mapping[str, FeatureTable] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__(config, train)
        self.layers, self.reg, self.n_users = config.layers, config.reg, train.n_users
        generator = torch.Generator().manual_seed(seed)
        shape = (train.n_users + train.n_items, config.embedding_size)
        self.embedding = nn.Parameter(torch.randn(shape, generator=generator) * config.init_std)
        self.register_buffer("adjacency", csr_tensor(normalised_adjacency(train.matrix())), persistent=False)

    def forward(self) -> tuple[Tensor, Tensor]:
        """User vectors [U, D] and item vectors [I, D]: the mean over layers."""
        nodes = propagate_sum(self.adjacency, self.embedding, self.layers) / (self.layers + 1)
        return nodes[: self.n_users], nodes[self.n_users :]

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """BPR and L2 of B triples of rows (int64 [B] each)."""
        named = torch.cat([users, positives + self.n_users, negatives + self.n_users])
        rows, place, counts = torch.unique(named, return_inverse=True, return_counts=True)
        vectors, start = propagate_rows(self.adjacency, self.embedding, self.layers, rows)
        # F.embedding, not indexing: its backward adds up repeated rows in a fixed order.
        ranking = bpr(margin(*(F.embedding(place, vectors) / (self.layers + 1)).chunk(3)))
        squares: Tensor = (counts * start.square().sum(dim=1)).sum()
        return ranking + self.reg * squares / (2 * max(len(users), 1))
