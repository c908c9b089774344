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
from numpy.typing import NDArray
from scipy import fft, sparse
from torch import Tensor, nn

from extract.errors import ConfigError, InvalidData
from extract.features import FeatureTable
from recsys.graph import (
    csr_tensor,
    graph_product,
    knn_graph,
    mixed_graph,
    normalised_adjacency,
    propagate_sum,
)
from recsys.interactions import Interactions
from recsys.losses import bpr, margin, mean_square
from recsys.ranking import id_places
from recsys.settings import LIRDRecConfig
from recsys.two_tower import TwoTower


class LIRDRec(TwoTower):
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
        super().__init__(config, train)
        self.layers, self.reg, self.copy_base = config.layers, config.reg, config.copy_base
        self.n_users = train.n_users
        self.modalities = tuple(sorted(features or {}))
        aligned = {
            name: (features or {})[name].aligned_to(train.item_ids.tolist()) for name in self.modalities
        }
        self._feature_hashes = ",".join(f"{name}:{table.content_hash()}" for name, table in aligned.items())
        inputs = [_filled(name, aligned[name].matrix, aligned[name].present) for name in self.modalities]
        graph = _neighbour_graph(config, aligned, train)
        inputs.append(np.concatenate([fft.dct(x, type=2, norm="ortho", axis=1) for x in inputs], axis=1))
        for number, values in enumerate(inputs):
            self.register_buffer(
                f"input_{number}", torch.from_numpy(np.ascontiguousarray(values)), persistent=False
            )
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
            self.projections = nn.ModuleList([_mlp(width, 4 * d, d, bias=False) for width in widths])
            self.gates = nn.ModuleList([_mlp(d, max(d // 4, 1), 1, bias=True) for _ in widths])
            self.theta = nn.Parameter(nn.init.xavier_normal_(torch.empty(self.n_users, n_blocks)))
        self.register_buffer("copied", torch.zeros(self.n_users, n_blocks))
        self.register_buffer("handover", torch.tensor([config.copy_start, 1 - config.copy_start]))

    def identity(self) -> dict[str, str]:
        """Class, settings and the content of the features."""
        return super().identity() | {"features": self._feature_hashes}

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
        for number, (table, project) in enumerate(zip(self.users, self.projections, strict=True)):
            items = project(self.get_buffer(f"input_{number}"))
            blocks.append(torch.cat([F.normalize(table, dim=1), F.normalize(items, dim=1)]))
        return propagate_sum(self.adjacency, torch.cat(blocks, dim=1), self.layers)

    def _attention_logits(self, users: Tensor) -> Tensor:
        """Logits over the blocks, [U, M + 1]."""
        parts = torch.split(users, users.shape[1] // len(self.gates), dim=1)
        computed = torch.cat([gate(part) for gate, part in zip(self.gates, parts, strict=True)], dim=1)
        return self.handover[0] * computed + self.handover[1] * (self.copied + self.theta)


def _mlp(width: int, hidden: int, out: int, *, bias: bool) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.LeakyReLU(), nn.Linear(hidden, out, bias=bias))


def _filled(name: str, matrix: NDArray[np.float32], present: NDArray[np.bool_]) -> NDArray[np.float32]:
    if not present.any():
        raise InvalidData(
            "D214", f"features `{name}` know none of the items", next_step="check the item ids of the table"
        )
    return np.where(present[:, None], matrix, matrix[present].mean(axis=0)).astype(np.float32)


def _neighbour_graph(
    config: LIRDRecConfig, tables: Mapping[str, FeatureTable], train: Interactions
) -> sparse.csr_array:
    if not tables:
        raise ConfigError(
            "C202",
            "LIRDRec needs at least one feature table",
            next_step="run the extract stage, or use lightgcn or ease",
        )
    weights = config.knn_weights or dict.fromkeys(tables, 1.0)
    if set(weights) != set(tables) or min(weights.values()) < 0 or sum(weights.values()) <= 0:
        raise ConfigError(
            "C202",
            "`knn_weights` must give every modality a weight >= 0, one of them above 0",
            why=f"weights for {sorted(weights)}, modalities {sorted(tables)}",
        )
    places = id_places(train.item_ids)
    graphs = [knn_graph(t.matrix, t.present, config.neighbours, places=places) for t in tables.values()]
    return mixed_graph(graphs, [weights[name] for name in tables])
