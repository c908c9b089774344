"""VBPR: matrix factorisation with a learned projection of features (He & McAuley, AAAI 2016).

Score = b_i + <p_u, q_i> + <theta_u, E f_i> + <beta, f_i>, f the concatenation of all M >= 1 modalities; loss
= BPR + reg * 1/2 squared norms of the batch's vectors. The paper has one modality, the picture; the terms
that do not depend on the item cancel and are left out. An item nobody chose is scored by its features alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from extract.features import FeatureTable
from recsys.feature_settings import VBPRConfig
from recsys.interactions import Interactions
from recsys.losses import bpr, half_squared_norm, margin
from recsys.modalities import FeatureTower, projected_difference
from recsys.two_tower import chosen_items


class VBPR(FeatureTower):
    """User vectors [U, D + V], item vectors with a bias [I, D + 1], and a projection of width V + 1."""

    chosen: Tensor

    def __init__(
        self,
        config: VBPRConfig,
        train: Interactions,
        features: Mapping[str, FeatureTable] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__(config, train, features)
        self.reg = config.reg
        inputs = np.concatenate(self.modalities.filled(), axis=1)
        self.keep_inputs([inputs])
        generator = torch.Generator().manual_seed(seed)

        def start(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator) * config.init_std

        self.users = nn.Parameter(start(train.n_users, config.embedding_size + config.feature_size))
        self.items = nn.Parameter(F.pad(start(train.n_items, config.embedding_size), (0, 1)))
        projection = torch.empty(config.feature_size + 1, inputs.shape[1])
        self.projection = nn.Parameter(nn.init.xavier_normal_(projection, generator=generator))
        self.register_buffer("chosen", chosen_items(train), persistent=False)

    def forward(self) -> tuple[Tensor, Tensor]:
        """User vectors [U, D + V + 2] and item vectors [I, D + V + 2]; the ones stand for both biases."""
        projected = F.linear(self.inputs()[0], self.projection)
        return self._with_ones(self.users), torch.cat([self.items * self.chosen, projected], dim=1)

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """BPR and L2 of B triples of rows (int64 [B] each).

        <theta_u, E f_i> - <theta_u, E f_j> = <theta_u, E (f_i - f_j)>: one projection.
        """
        (values,) = self.inputs()
        user = F.embedding(users, self.users)
        ids = F.embedding(positives, self.items) - F.embedding(negatives, self.items)
        content = projected_difference(values, self.projection, positives, negatives)
        difference = torch.cat([ids, content], dim=1)
        ranking = bpr(margin(self._with_ones(user), difference, torch.zeros_like(difference)))
        batch = max(len(users), 1)
        squares = half_squared_norm(self.users, users, batch)
        squares = squares + half_squared_norm(self.items, torch.cat([positives, negatives]), batch)
        return ranking + self.reg * squares

    def _with_ones(self, user: Tensor) -> Tensor:
        """[p_u, 1, theta_u, 1] in the order of the item vectors."""
        width = self.items.shape[1] - 1
        ones = user.new_ones(len(user), 1)
        return torch.cat([user[:, :width], ones, user[:, width:], ones], dim=1)
