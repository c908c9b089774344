"""Content search: an item is as near to a user as its features are to those the user chose; no choice of
anybody else is read, and nothing is trained.

Score = sum over modalities m of w_m <mean over chosen j of x_jm, x_im>, x_m the features less their mean over
the items, at length one; an item without a modality has 0 there. The mean is taken off because vectors of
language models share a large part that tells nothing apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.features import FeatureTable
from recsys.content_vectors import content_vectors
from recsys.feature_settings import ContentSearchConfig
from recsys.interactions import Interactions
from recsys.modalities import read_modalities


class ContentSearch:
    """User vectors and item vectors of all modalities beside each other, [U, D] and [I, D]."""

    def __init__(
        self,
        config: ContentSearchConfig,
        train: Interactions,
        features: Mapping[str, FeatureTable] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        self.config = config
        self.axes = train.axes_hash()
        self._modalities = read_modalities("content_search", train, features)
        self._shares = self._modalities.shares(config.weights)
        self._matrix = train.matrix()
        self._items = np.zeros((train.n_items, 0), dtype=np.float32)
        self._users = np.zeros((train.n_users, 0), dtype=np.float32)

    def identity(self) -> dict[str, str]:
        """The content of the features."""
        return {"features": self._modalities.content()}

    def solve(self) -> None:
        """Put the features at length one and take each user's mean."""
        self._place(content_vectors(self._modalities.tables, self.means(), self.shares()))

    def means(self) -> dict[str, NDArray[np.float32]]:
        """By modality, the mean [D_m] of the items that have it."""
        return {name: t.matrix[t.present].mean(axis=0) for name, t in self._modalities.tables.items()}

    def shares(self) -> dict[str, float]:
        """By modality, its weight."""
        return dict(zip(self._modalities.tables, self._shares, strict=True))

    def embeddings(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """User vectors [U, D] and item vectors [I, D]."""
        return self._users, self._items

    def score(self, user_rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """Inner products [B, I]."""
        scores: NDArray[np.float32] = self._users[user_rows] @ self._items.T
        return scores

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What `save_model` keeps."""
        return {"items": self._items}

    def restore(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Take back what `tensors` gave."""
        self._place(tensors["items"])

    def _place(self, items: NDArray[np.float32]) -> None:
        chosen = np.maximum(np.diff(self._matrix.indptr), 1)[:, None]
        self._items = items
        self._users = (np.asarray(self._matrix @ items) / chosen).astype(np.float32)
