"""SMORE: modalities fused and cleaned in the frequency domain, with one item graph each (Ong & Khong, WSDM
2025), for any number M >= 1 of modalities.

m^ = rFFT of W_m f + b along its width; cleaned views iFFT(w_m * m^) and the fused one iFFT(w_f * product over
m of m^), w complex and learned. For each view v: x_v = S_v (E_i * sigmoid(U_v v + b)), users x_v = R^ x_v,
S_v the modality's graph, for the fused view the union of all with the larger weight. C = mean over l = 0..L
of A^l E; gates p_v = dropout(sigmoid(G_v C)); attention a_m = softmax over the width of Q_m tanh(K_m x_f);
side = mean of all p_m * a_m * x_m and p_f * x_f; user and item = C + side. Loss = BPR + reg * 1/2 squared
norms of the batch's user, item and negative / B + w * [InfoNCE(side_i, C_i) + InfoNCE(side_u, C_u)].

Where this differs from the published code:
- the temperature is a setting that works (there 0.2 whatever the key says), and dropout acts in training
  only;
- negative cosines are no edges (there a negative row sum gives NaN);
- features are constants; an item nobody chose has no embedding of its own and is ranked by its neighbours'.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from extract.features import FeatureTable
from recsys.feature_settings import SMOREConfig
from recsys.graph import csr_tensor, degree_normalised, graph_product, normalised_adjacency, propagate_sum
from recsys.interactions import Interactions
from recsys.losses import bpr, half_squared_norm, info_nce, margin
from recsys.modalities import FeatureTower
from recsys.two_tower import chosen_items


class SMORE(FeatureTower):
    """Id embeddings [N, d], users first; the last of the M + 1 views is the fused one."""

    adjacency: Tensor
    chosen: Tensor

    def __init__(
        self,
        config: SMOREConfig,
        train: Interactions,
        features: Mapping[str, FeatureTable] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__(config, train, features)
        self.settings, self.n_users, self._seed = config, train.n_users, seed
        self.keep_inputs(self.modalities.filled())
        graphs = self.modalities.cosine_graphs(config.neighbours)
        union = graphs[0]
        for graph in graphs[1:]:
            union = union.maximum(graph)
        adjacency = normalised_adjacency(train.matrix())
        to_users = adjacency[: self.n_users, self.n_users :]
        operators = {f"item_graph_{n}": degree_normalised(g) for n, g in enumerate([*graphs, union])}
        for name, matrix in (operators | {"to_users": to_users}).items():
            self.register_buffer(name, csr_tensor(matrix.tocsr()), persistent=False)
            self.register_buffer(f"{name}_transposed", csr_tensor(matrix.T.tocsr()), persistent=False)
        self.register_buffer("adjacency", csr_tensor(adjacency), persistent=False)
        self.register_buffer("chosen", chosen_items(train), persistent=False)
        self._initialise(config, train.n_items, seed)
        self.start_epoch(0)

    def _initialise(self, config: SMOREConfig, n_items: int, seed: int) -> None:
        d, widths = config.embedding_size, [x.shape[1] for x in self.inputs()]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            tables = [nn.init.xavier_uniform_(torch.empty(n, d)) for n in (self.n_users, n_items)]
            self.embedding = nn.Parameter(torch.cat(tables))
            self.projections = nn.ModuleList(nn.Linear(width, d) for width in widths)
            # Real and imaginary part, so that weights files need no complex numbers.
            self.filters = nn.Parameter(torch.randn(len(widths) + 1, d // 2 + 1, 2))
            self.purifiers = nn.ModuleList(nn.Linear(d, d) for _ in range(len(widths) + 1))
            self.gates = nn.ModuleList(nn.Linear(d, d) for _ in range(len(widths) + 1))
            self.queries = nn.ModuleList(
                nn.Sequential(nn.Linear(d, d), nn.Tanh(), nn.Linear(d, d, bias=False)) for _ in widths
            )

    def start_epoch(self, epoch: int) -> None:
        """Dropout is a function of the seed and the epoch."""
        self._generator = torch.Generator().manual_seed((self._seed << 32) + epoch)

    def start_part(self, epoch: int, part: int) -> None:
        """Dropout is a function of the part too."""
        seed = np.random.SeedSequence([self._seed, epoch, part]).generate_state(1, np.uint64)
        self._generator.manual_seed(int(seed[0] >> 1))

    def forward(self) -> tuple[Tensor, Tensor]:
        """User vectors [U, d] and item vectors [I, d]."""
        chosen, side = self._parts(training=False)
        nodes = chosen + side
        return nodes[: self.n_users], nodes[self.n_users :]

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """BPR, L2 and both contrasts of B triples of rows (int64 [B] each)."""
        chosen, side = self._parts(training=True)
        nodes = chosen + side
        rows = (users, positives + self.n_users, negatives + self.n_users)
        total = bpr(margin(*(F.embedding(r, nodes) for r in rows)))
        total = total + self.settings.reg * half_squared_norm(nodes, torch.cat(rows), max(len(users), 1))
        for r in rows[:2]:
            # The contrast compares all pairs of the batch, in which few users and items stand often.
            own, counts = torch.unique(r, return_counts=True)
            pair = F.embedding(own, side), F.embedding(own, chosen)
            total = total + self.settings.contrast * info_nce(*pair, self.settings.temperature, counts)
        return total

    def views(self) -> list[Tensor]:
        """The cleaned modalities and their fusion, M + 1 of [I, d]."""
        weights = torch.view_as_complex(self.filters)
        width = self.embedding.shape[1]
        spectra = [
            torch.fft.rfft(project(values), dim=1, norm="ortho")
            for project, values in zip(self.projections, self.inputs(), strict=True)
        ]
        spectra.append(torch.stack(spectra).prod(dim=0))
        return [
            torch.fft.irfft(spectrum * weight, n=width, dim=1, norm="ortho")
            for spectrum, weight in zip(spectra, weights, strict=True)
        ]

    def _parts(self, *, training: bool) -> tuple[Tensor, Tensor]:
        """C and side, both [N, d]."""
        users, items = self.embedding[: self.n_users], self.embedding[self.n_users :] * self.chosen
        layers = self.settings.layers
        chosen = propagate_sum(self.adjacency, torch.cat([users, items]), layers) / (layers + 1)
        spread = [
            self._spread(number, items * torch.sigmoid(purify(view)))
            for number, (purify, view) in enumerate(zip(self.purifiers, self.views(), strict=True))
        ]
        *separate, fused = spread
        attended = [
            torch.softmax(query(fused), dim=1) * x for query, x in zip(self.queries, separate, strict=True)
        ]
        gated = [
            self._gate(torch.sigmoid(gate(chosen)), training) * x
            for gate, x in zip(self.gates, [*attended, fused], strict=True)
        ]
        return chosen, torch.stack(gated).mean(dim=0)

    def _spread(self, number: int, items: Tensor) -> Tensor:
        """One view's items over its graph, and the users' shares of them, [N, d]."""
        name = f"item_graph_{number}"
        near = graph_product(self.get_buffer(name), self.get_buffer(f"{name}_transposed"), items)
        users = graph_product(self.get_buffer("to_users"), self.get_buffer("to_users_transposed"), near)
        return torch.cat([users, near])

    def _gate(self, values: Tensor, training: bool) -> Tensor:
        share = self.settings.dropout
        if not training or share == 0:
            return values
        kept = torch.empty(values.shape).bernoulli_(1 - share, generator=self._generator)
        return values * kept.to(values.device) / (1 - share)
