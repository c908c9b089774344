"""LIRDRec: items are their features, users are tables; no item ids are learned, so items without a choice can
be ranked.

After "Learning Item Representations Directly from Multimodal Features for Effective Recommendation" (Zhou et
al., 2025), for any number M >= 1 of modalities. One block of width d per modality plus one shared block over
the DCT-II of all features: X = [n([P_b; MLP_b]) for each block b], H = sum over l = 0..L of A^l X, item = H_i
+ S H_i with S the frozen neighbour graph, user = H_u with each block times its attention; loss = BPR + reg
(mean user^2 + mean item^2) over the whole tables.

Where this differs from the published code:
- evaluation is a fresh forward pass, not the representation of the last training step;
- attention copying ("progressive weight copying") writes a buffer of its own, and Adam alone writes its
  parameter (`start_epoch`);
- weight decay is `TrainConfig.weight_decay` and reaches Adam;
- an item that lacks a modality gets the mean of the present rows and no neighbours in it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from scipy import fft
from torch import Tensor, nn

from extract.features import FeatureTable
from recsys.feature_settings import LIRDRecConfig
from recsys.graph import csr_tensor, graph_product, normalised_adjacency, propagate_sum
from recsys.interactions import Interactions
from recsys.losses import bpr, margin, mean_square
from recsys.modalities import FeatureTower, projection


class LIRDRec(FeatureTower):
    """User tables [U, (M + 1) d] and per-block feature projections."""

    adjacency: Tensor
    item_graph: Tensor
    item_graph_transposed: Tensor
    copied: Tensor
    handover: Tensor

    def __init__(
        self,
        config: LIRDRecConfig,
        train: Interactions,
        features: Mapping[str, FeatureTable] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__(config, train, features)
        self.layers, self.reg, self.copy_base = config.layers, config.reg, config.copy_base
        self.n_users = train.n_users
        inputs = self.modalities.filled()
        graph = self.modalities.neighbour_graph(config.neighbours, config.knn_weights)
        inputs.append(np.concatenate([fft.dct(x, type=2, norm="ortho", axis=1) for x in inputs], axis=1))
        self.keep_inputs(inputs)
        self.register_buffer("adjacency", csr_tensor(normalised_adjacency(train.matrix())), persistent=False)
        self.register_buffer("item_graph", csr_tensor(graph), persistent=False)
        self.register_buffer("item_graph_transposed", csr_tensor(graph.T.tocsr()), persistent=False)
        self._initialise(config, [x.shape[1] for x in inputs], seed)

    def _initialise(self, config: LIRDRecConfig, widths: list[int], seed: int) -> None:
        d, n_blocks = config.embedding_size, len(widths)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            tables = [nn.init.xavier_normal_(torch.empty(self.n_users, d)) for _ in widths]
            self.users = nn.ParameterList([nn.Parameter(table) for table in tables])
            self.projections = nn.ModuleList([projection(width, 4 * d, d, bias=False) for width in widths])
            self.gates = nn.ModuleList([projection(d, max(d // 4, 1), 1, bias=True) for _ in widths])
            self.theta = nn.Parameter(nn.init.xavier_normal_(torch.empty(self.n_users, n_blocks)))
        self.register_buffer("copied", torch.zeros(self.n_users, n_blocks))
        self.register_buffer("handover", torch.tensor([config.copy_start, 1 - config.copy_start]))

    def start_epoch(self, epoch: int) -> None:
        """Hand over from computed to copied attention, from epoch 1 on.

        w1 <- w1 b^e / (w1 b^e + w2), w2 the rest; then `copied` <- log attention - theta, so that copied +
        theta stands for the attention of the present weights while Adam's parameter theta and its moments go
        on undisturbed (the published code overwrites theta).
        """
        if epoch == 0:
            return
        with torch.no_grad():
            logits = self._attention_logits(self._node_blocks()[: self.n_users])
            computed = self.handover[0] * self.copy_base**epoch
            self.handover.copy_(torch.stack([computed, self.handover[1]]) / (computed + self.handover[1]))
            self.copied.copy_(torch.log_softmax(logits, dim=1) - self.theta)

    def forward(self) -> tuple[Tensor, Tensor]:
        """User vectors [U, (M + 1) d] and item vectors [I, (M + 1) d]."""
        nodes = self._node_blocks()
        users, items = nodes[: self.n_users], nodes[self.n_users :]
        attention = torch.softmax(self._attention_logits(users), dim=1)
        blocks = users.view(self.n_users, len(self.gates), -1) * attention[:, :, None]
        return blocks.flatten(1), items + graph_product(self.item_graph, self.item_graph_transposed, items)

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """BPR of B triples of rows (int64 [B] each) and the mean squares of both tables."""
        user_table, item_table = self()
        positive, negative = F.embedding(positives, item_table), F.embedding(negatives, item_table)
        ranking = bpr(margin(F.embedding(users, user_table), positive, negative))
        return ranking + self.reg * mean_square(user_table, item_table)

    def _node_blocks(self) -> Tensor:
        """H, [N, (M + 1) d]."""
        blocks = []
        for table, project, values in zip(self.users, self.projections, self.inputs(), strict=True):
            items = project(values)
            blocks.append(torch.cat([F.normalize(table, dim=1), F.normalize(items, dim=1)]))
        return propagate_sum(self.adjacency, torch.cat(blocks, dim=1), self.layers)

    def _attention_logits(self, users: Tensor) -> Tensor:
        """Logits over the blocks, [U, M + 1]."""
        parts = torch.split(users, users.shape[1] // len(self.gates), dim=1)
        computed = torch.cat([gate(part) for gate, part in zip(self.gates, parts, strict=True)], dim=1)
        return self.handover[0] * computed + self.handover[1] * (self.copied + self.theta)
