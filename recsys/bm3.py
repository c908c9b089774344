"""BM3: self-supervision by bootstrapped views, without negatives (Zhou et al., WWW 2023), for any number M >=
1 of modalities.

With E the id embeddings: H = mean over l = 0..L of A^l E, h_u = H_u, h_i = H_i + E_i, and m_i = W_m f_i + b.
q is one linear predictor for all of them, x' = dropout(x) without gradient, and c = 1 - mean cosine. Loss =
c(q(h_u), h_i') + c(q(h_i), h_u') + w * sum over m of [c(q(m_i), h_i') + c(q(m_i), m_i')] + reg * (mean h_u^2
+ mean h_i^2); score = <q(h_u), q(h_i)>.

Where this differs from the published code:
- the norms are squared, as in the paper, and means over the tables;
- features are constants, as in the paper's equations; the code trains them too;
- an item nobody chose has the mean direction of its q(m_i), which the loss draws to q(h_i), at the mean
  length of the other items; an item that lacks a modality gets the mean of the present rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from extract.features import FeatureTable
from recsys.feature_settings import BM3Config
from recsys.graph import csr_tensor, normalised_adjacency, propagate_sum
from recsys.interactions import Interactions
from recsys.losses import cosine_distance, mean_square
from recsys.modalities import FeatureTower
from recsys.two_tower import chosen_items


class BM3(FeatureTower):
    """Id embeddings [N, D], users first, one projection per modality and a predictor [D, D]."""

    adjacency: Tensor
    chosen: Tensor

    def __init__(
        self,
        config: BM3Config,
        train: Interactions,
        features: Mapping[str, FeatureTable] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__(config, train, features)
        self.layers, self.reg, self.dropout = config.layers, config.reg, config.dropout
        self.feature_weight, self.n_users, self._seed = config.feature_weight, train.n_users, seed
        self.keep_inputs(self.modalities.filled())
        d = config.embedding_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            tables = [nn.init.xavier_uniform_(torch.empty(n, d)) for n in (train.n_users, train.n_items)]
            self.embedding = nn.Parameter(torch.cat(tables))
            self.predictor = _linear(d, d)
            self.projections = nn.ModuleList(_linear(x.shape[1], d) for x in self.inputs())
        self.register_buffer("adjacency", csr_tensor(normalised_adjacency(train.matrix())), persistent=False)
        self.register_buffer("chosen", chosen_items(train), persistent=False)
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        """Dropout is a function of the seed and the epoch."""
        self._generator = torch.Generator().manual_seed((self._seed << 32) + epoch)

    def start_part(self, epoch: int, part: int) -> None:
        """Dropout is a function of the part too."""
        seed = np.random.SeedSequence([self._seed, epoch, part]).generate_state(1, np.uint64)
        self._generator.manual_seed(int(seed[0] >> 1))

    def forward(self) -> tuple[Tensor, Tensor]:
        """User vectors q(h_u) [U, D] and item vectors q(h_i) [I, D]."""
        users, items = self._vectors()
        items = self.predictor(items)
        if not self.chosen.all():
            content = [F.normalize(self.predictor(modality), dim=1) for modality in self._projected()]
            lengths = items.norm(dim=1)
            length = (lengths * self.chosen[:, 0]).sum() / self.chosen.sum().clamp(min=1)
            unseen = F.normalize(torch.stack(content).mean(dim=0), dim=1) * length
            items = torch.where(self.chosen > 0, items, unseen)
        return self.predictor(users), items

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """The loss of B pairs of rows (int64 [B] each); the negatives are not read."""
        user_table, item_table = self._vectors()
        user, item = F.embedding(users, user_table), F.embedding(positives, item_table)
        other_user, other_item = self._view(user), self._view(item)
        total = cosine_distance(self.predictor(user), other_item)
        total = total + cosine_distance(self.predictor(item), other_user)
        for modality in self._projected(positives):
            predicted = self.predictor(modality)
            pair = cosine_distance(predicted, other_item) + cosine_distance(predicted, self._view(modality))
            total = total + self.feature_weight * pair
        return total + self.reg * mean_square(user_table, item_table)

    def _vectors(self) -> tuple[Tensor, Tensor]:
        nodes = propagate_sum(self.adjacency, self.embedding, self.layers) / (self.layers + 1)
        return nodes[: self.n_users], nodes[self.n_users :] + self.embedding[self.n_users :]

    def _projected(self, rows: Tensor | None = None) -> list[Tensor]:
        """W_m f + b of all items, or of some rows: of these alone where they are fewer."""
        few = rows is not None and len(rows) <= len(self.chosen)
        picked = [values[rows] if few else values for values in self.inputs()]
        all_or_few = [project(values) for project, values in zip(self.projections, picked, strict=True)]
        return all_or_few if rows is None or few else [F.embedding(rows, table) for table in all_or_few]

    def _view(self, online: Tensor) -> Tensor:
        """Inverted dropout of the detached vectors."""
        kept = torch.empty(online.shape).bernoulli_(1 - self.dropout, generator=self._generator)
        return online.detach() * kept.to(online.device) / (1 - self.dropout)


def _linear(width: int, out: int) -> nn.Linear:
    layer = nn.Linear(width, out)
    nn.init.xavier_normal_(layer.weight)
    return layer
