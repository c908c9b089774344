"""BPR-MF: matrix factorisation with an item bias, trained to rank (Rendle et al., UAI 2009).

Score = <p_u, q_i> + b_i; loss = BPR + reg * 1/2 (||p_u||^2 + ||q_i||^2 + ||q_j||^2 + b_i^2 + b_j^2), the mean
over the batch. One weight for all squares, where the paper allows three. An item nobody chose has no vector
and no bias: its score is 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from extract.features import FeatureTable
from recsys.interactions import Interactions
from recsys.losses import bpr, half_squared_norm, margin
from recsys.settings import BPRMFConfig
from recsys.two_tower import TwoTower, chosen_items


class BPRMF(TwoTower):
    """User vectors [U, D], and item vectors with the bias as their last column [I, D + 1]."""

    chosen: Tensor

    def __init__(
        self,
        config: BPRMFConfig,
        train: Interactions,
        features: Mapping[str, FeatureTable] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__(config, train)
        self.reg = config.reg
        generator = torch.Generator().manual_seed(seed)
        d = config.embedding_size
        self.users = nn.Parameter(torch.randn(train.n_users, d, generator=generator) * config.init_std)
        items = torch.randn(train.n_items, d, generator=generator) * config.init_std
        self.items = nn.Parameter(F.pad(items, (0, 1)))
        self.register_buffer("chosen", chosen_items(train), persistent=False)

    def forward(self) -> tuple[Tensor, Tensor]:
        """User vectors [U, D + 1], the last column 1, and item vectors [I, D + 1]."""
        return F.pad(self.users, (0, 1), value=1.0), self.items * self.chosen

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """BPR and L2 of B triples of rows (int64 [B] each); only these rows are read."""
        user = F.pad(F.embedding(users, self.users), (0, 1), value=1.0)
        ranking = bpr(margin(user, F.embedding(positives, self.items), F.embedding(negatives, self.items)))
        batch = max(len(users), 1)
        squares = half_squared_norm(self.users, users, batch)
        squares = squares + half_squared_norm(self.items, torch.cat([positives, negatives]), batch)
        return ranking + self.reg * squares
