"""Popularity: an item's score is the number of its train choices, the same for everybody.

The floor of every table.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from extract.features import FeatureTable
from recsys.interactions import Interactions
from recsys.settings import PopularityConfig


class Popularity:
    """Counts of train choices."""

    def __init__(
        self,
        config: PopularityConfig,
        train: Interactions,
        features: Mapping[str, FeatureTable] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        self.config = config
        self.axes = train.axes_hash()
        self._train = train
        self._counts = np.zeros(train.n_items, dtype=np.float32)

    def solve(self) -> None:
        """Count."""
        self._counts = np.bincount(self._train.item_rows, minlength=self._train.n_items).astype(np.float32)

    def score(self, user_rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """Counts, repeated [B, I]."""
        return np.tile(self._counts, (len(user_rows), 1))

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """What `save_model` keeps."""
        return {"counts": self._counts}

    def restore(self, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        """Take back what `tensors` gave."""
        self._counts = tensors["counts"]
