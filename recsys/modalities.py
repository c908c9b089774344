"""The features of a model: any number of named modalities, in the order of its items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel
from scipy import sparse
from torch import Tensor, nn

from extract.errors import ConfigError, InvalidData
from extract.features import FeatureTable
from recsys.axes import hash_arrays
from recsys.graph import cosine_graph, knn_graph, mixed_graph
from recsys.interactions import Interactions
from recsys.ranking import id_places
from recsys.two_tower import TwoTower


@dataclass(frozen=True)
class Modalities:
    """Feature tables aligned to the item axis by id, sorted by name."""

    tables: dict[str, FeatureTable]
    places: NDArray[np.int64]

    def filled(self) -> list[NDArray[np.float32]]:
        """One matrix [I, D_m] per modality; an item that lacks it has the mean of the present rows."""
        return [
            np.where(t.present[:, None], t.matrix, t.matrix[t.present].mean(axis=0)).astype(np.float32)
            for t in self.tables.values()
        ]

    def content(self) -> str:
        """Names and content hashes: what tells two sets of features apart."""
        return ",".join(f"{name}:{table.content_hash()}" for name, table in self.tables.items())

    def shares(self, weights: Mapping[str, float]) -> list[float]:
        """The weight of each modality; equal where `weights` is empty. Wrong names: ConfigError."""
        chosen = weights or dict.fromkeys(self.tables, 1.0)
        if set(chosen) != set(self.tables) or min(chosen.values()) < 0 or sum(chosen.values()) <= 0:
            raise ConfigError(
                "C202",
                "`knn_weights` must give every modality a weight >= 0, one of them above 0",
                why=f"weights for {sorted(chosen)}, modalities {sorted(self.tables)}",
            )
        return [chosen[name] for name in self.tables]

    def neighbour_graph(self, neighbours: int, weights: Mapping[str, float]) -> sparse.csr_array:
        """The frozen item graph of FREEDOM, [I, I]: the weighted mean of the modalities' graphs."""
        shares = self.shares(weights)
        return mixed_graph([_knn_graph(content, neighbours) for content in self._contents()], shares)

    def cosine_graphs(self, neighbours: int) -> list[sparse.csr_array]:
        """One graph [I, I] per modality with the cosines of the nearest items."""
        return [_cosine_graph(content, neighbours) for content in self._contents()]

    def _contents(self) -> list[_Content]:
        order = hash_arrays({"places": self.places})
        return [_Content(t.content_hash() + order, t, self.places) for t in self.tables.values()]


@dataclass(frozen=True)
class _Content:
    """A table that equals every other of the same ids, values and presence."""

    key: str
    table: FeatureTable = field(compare=False)
    places: NDArray[np.int64] = field(compare=False)


# The same features serve the fits of a run (selection, final, folds) and other models: neighbours are found
# once. The key is the content, so another table under the same name is never mistaken for this one.
@lru_cache(maxsize=8)
def _knn_graph(content: _Content, neighbours: int) -> sparse.csr_array:
    table = content.table
    return knn_graph(table.matrix, table.present, neighbours, places=content.places)


@lru_cache(maxsize=8)
def _cosine_graph(content: _Content, neighbours: int) -> sparse.csr_array:
    table = content.table
    return cosine_graph(table.matrix, table.present, neighbours, places=content.places)


def read_modalities(
    model: str, train: Interactions, features: Mapping[str, FeatureTable] | None
) -> Modalities:
    """The features of the items of `train`; ConfigError where there are none, InvalidData D214 where a table
    knows no item.
    """
    if not features:
        raise ConfigError(
            "C202",
            f"{model} needs at least one feature table",
            next_step="run the extract stage, or use lightgcn or ease",
        )
    ids = train.item_ids.tolist()
    tables = {name: features[name].aligned_to(ids) for name in sorted(features)}
    for name, table in tables.items():
        if not table.present.any():
            raise InvalidData(
                "D214",
                f"features `{name}` know none of the items",
                next_step="check the item ids of the table",
            )
    return Modalities(tables, id_places(train.item_ids))


class FeatureTower(TwoTower):
    """A two-tower model that reads features: constants, which count to its identity."""

    def __init__(
        self, config: BaseModel, train: Interactions, features: Mapping[str, FeatureTable] | None
    ) -> None:
        super().__init__(config, train)
        self.modalities = read_modalities(type(self).__name__, train, features)
        self._content = self.modalities.content()
        self._n_inputs = 0

    def keep_inputs(self, matrices: list[NDArray[np.float32]]) -> None:
        """Hold matrices [I, D_m] as constants of the model, not saved with it."""
        for values in matrices:
            tensor = torch.from_numpy(np.ascontiguousarray(values))
            self.register_buffer(f"input_{self._n_inputs}", tensor, persistent=False)
            self._n_inputs += 1

    def inputs(self) -> list[Tensor]:
        """What `keep_inputs` was given, on the device of the model."""
        return [self.get_buffer(f"input_{number}") for number in range(self._n_inputs)]

    def identity(self) -> dict[str, str]:
        """Class, settings and the content of the features."""
        return super().identity() | {"features": self._content}


def projected_difference(values: Tensor, weight: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """W (f_i - f_j), [B, D], of B pairs of rows of f [I, D_m]: one projection of the batch, or of all items
    where they are fewer.
    """
    if len(positives) <= len(values):
        return F.linear(values[positives] - values[negatives], weight)
    table = F.linear(values, weight)
    return F.embedding(positives, table) - F.embedding(negatives, table)


def projection(width: int, hidden: int, out: int, *, bias: bool) -> nn.Sequential:
    """Two layers with a leaky ReLU between, the second with or without bias: how LIRDRec and CM3 read
    features.
    """
    return nn.Sequential(nn.Linear(width, hidden), nn.LeakyReLU(), nn.Linear(hidden, out, bias=bias))
