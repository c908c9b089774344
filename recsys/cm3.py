"""CM3: calibrated uniformity and spherical Bezier fusion ("Calibrating Multimodal Recommendation", Zhou et
al., 2025), for any number M >= 1 of modalities. Items are their features: those without a choice can be
ranked.

Blocks: n(MLP_m f) of each modality m, and their fusion: unit vectors n(W_m f + b), drawn together by De
Casteljau's scheme with spherical interpolation at a point p. Users have a table for each block. X = the
blocks side by side; H = sum over l = 0..L of A^l X, item = H_i + S H_i, user = n(H_u, each block times its
share), a softmax over a free table. Score = <user, item>. With i = n(item), the loss = mean ||u - i||^2 +
gamma / 2 * [log mean exp(-2 ||u - u'||^2) + log mean exp(-2 (||j - j'||^2 - 2 + 2 s_jj'))], over the pairs of
the batch's users and of its drawn negatives, s = the cosine of the fused vectors, between min_similarity and
max_similarity: items are pushed apart only until they are as alike as their content.

Two things decide on dense data, as in the published code. The items that are pushed apart are the drawn ones,
nearly evenly spread: among the chosen ones, as DirectAU has it, the much chosen would be pushed hardest, away
from the many users they have. And items keep the length that propagation gave them in ranking.
docs/methods.md has the figures.

Where this differs from the published code:
- p is drawn from Beta(alpha, alpha) for each item and step in training and is 1/2 in ranking, a fresh forward
  pass;
- s carries no gradient, or the loss would make contents alike instead of calibrating by them;
- an item that lacks a modality gets the mean of the present rows and no neighbours in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from extract.features import FeatureTable
from recsys.feature_settings import CM3Config
from recsys.graph import csr_tensor, graph_product, normalised_adjacency, propagate_sum
from recsys.interactions import Interactions
from recsys.losses import alignment, uniformity
from recsys.modalities import FeatureTower, projection

# Nearer than this to parallel or opposite, unit vectors have no float32 angle to divide by.
NEARLY = 1e-6


class CM3(FeatureTower):
    """User tables [U, (M + 1) d] and per-block feature projections."""

    adjacency: Tensor
    item_graph: Tensor
    item_graph_transposed: Tensor

    def __init__(
        self,
        config: CM3Config,
        train: Interactions,
        features: Mapping[str, FeatureTable] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__(config, train, features)
        self.settings, self.n_users, self._seed = config, train.n_users, seed
        self.keep_inputs(self.modalities.filled())
        graph = self.modalities.neighbour_graph(config.neighbours, config.knn_weights)
        self.register_buffer("adjacency", csr_tensor(normalised_adjacency(train.matrix())), persistent=False)
        self.register_buffer("item_graph", csr_tensor(graph), persistent=False)
        self.register_buffer("item_graph_transposed", csr_tensor(graph.T.tocsr()), persistent=False)
        d, widths = config.embedding_size, [x.shape[1] for x in self.inputs()]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            blocks = range(len(widths) + 1)
            tables = [nn.init.xavier_normal_(torch.empty(self.n_users, d)) for _ in blocks]
            self.users = nn.ParameterList([nn.Parameter(table) for table in tables])
            self.shares = nn.Parameter(nn.init.xavier_normal_(torch.empty(self.n_users, len(blocks))))
            self.projections = nn.ModuleList([projection(width, 4 * d, d, bias=False) for width in widths])
            self.to_sphere = nn.ModuleList([nn.Linear(width, d) for width in widths])
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        """The points of the Bezier curves are a function of the seed and the epoch."""
        self._generator = np.random.default_rng([self._seed, epoch])

    def start_part(self, epoch: int, part: int) -> None:
        """The points are a function of the part too."""
        self._generator = np.random.default_rng([self._seed, epoch, part])

    def forward(self) -> tuple[Tensor, Tensor]:
        """Unit user vectors [U, (M + 1) d] and item vectors [I, (M + 1) d] of their own length."""
        users, items, _ = self._vectors(0.5)
        return users, items

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Alignment of B pairs of rows (int64 [B] each), uniformity of the users and, calibrated, of the
        negatives.
        """
        settings = self.settings
        n_items = len(self.inputs()[0])
        drawn = self._generator.beta(settings.alpha, settings.alpha, size=(n_items, 1)).astype(np.float32)
        user_table, item_table, fused = self._vectors(torch.from_numpy(drawn).to(self.device))
        item_table = F.normalize(item_table, dim=1)
        pairs = alignment(F.embedding(users, user_table), F.embedding(positives, item_table))
        # All pairs of the batch are compared, in which few users and items stand often.
        (users, of_user), (items, of_item) = (
            torch.unique(rows, return_counts=True) for rows in (users, negatives)
        )
        content = fused.detach()[items]
        similarity = (content @ content.T).clamp(settings.min_similarity, settings.max_similarity)
        apart = uniformity(F.embedding(users, user_table), None, of_user)
        apart = apart + uniformity(F.embedding(items, item_table), similarity, of_item)
        return pairs + settings.gamma / 2 * apart

    def _vectors(self, point: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """Users, items and the fused block of the items [I, d]."""
        on_sphere = [
            F.normalize(to_sphere(values), dim=1)
            for to_sphere, values in zip(self.to_sphere, self.inputs(), strict=True)
        ]
        fused = spherical_bezier(on_sphere, point)
        items = [
            F.normalize(project(values), dim=1)
            for project, values in zip(self.projections, self.inputs(), strict=True)
        ]
        blocks = [
            torch.cat([F.normalize(table, dim=1), block])
            for table, block in zip(self.users, [*items, fused], strict=True)
        ]
        nodes = propagate_sum(self.adjacency, torch.cat(blocks, dim=1), self.settings.layers)
        of_users, of_items = nodes[: self.n_users], nodes[self.n_users :]
        shares = torch.softmax(self.shares, dim=1)
        weighted = (of_users.view(self.n_users, len(blocks), -1) * shares[:, :, None]).flatten(1)
        near = graph_product(self.item_graph, self.item_graph_transposed, of_items)
        return F.normalize(weighted, dim=1), of_items + near, fused


def spherical_bezier(points: Sequence[Tensor], at: Tensor | float) -> Tensor:
    """The point of a Bezier curve on the unit sphere with control points of unit length, [I, d] each.

    De Casteljau: neighbours are interpolated along their arc, [sin(p t) a + sin((1 - p) t) b] / sin t with t
    the angle between them, until one point is left. `at` is p, one number or [I, 1]; at 1 it is the first
    point.
    """
    while len(points) > 1:
        points = [_on_arc(a, b, at) for a, b in pairwise(points)]
    return points[0]


def _on_arc(a: Tensor, b: Tensor, at: Tensor | float) -> Tensor:
    angle = torch.acos((a * b).sum(dim=1, keepdim=True).clamp(NEARLY - 1, 1 - NEARLY))
    return (torch.sin(at * angle) * a + torch.sin((1 - at) * angle) * b) / torch.sin(angle)
