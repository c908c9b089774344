"""What the trainable models share: a user table times an item table, propagated once per step and once per
evaluation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor, nn

from recsys.interactions import Interactions


class TwoTower(nn.Module, ABC):
    """A trainable model whose score is the inner product of a user vector and an item vector."""

    def __init__(self, config: BaseModel, train: Interactions) -> None:
        super().__init__()
        self.config = config
        self.axes = train.axes_hash()
        self._ranked: tuple[object, Tensor, Tensor] | None = None

    @abstractmethod
    def forward(self) -> tuple[Tensor, Tensor]:
        """User vectors [U, D] and item vectors [I, D] of the present weights."""

    @abstractmethod
    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Training loss of B triples of rows (int64 [B] each)."""

    def start_epoch(self, epoch: int) -> None:
        """Called before each epoch, from 0; what a schedule needs."""
        return

    def start_part(self, epoch: int, part: int) -> None:
        """Called before each loss where a batch has several parts, counted from 0 within the epoch: what is
        drawn in `loss` may depend on these two alone, for another process computes the part before.
        """
        return

    def identity(self) -> dict[str, str]:
        """What, beside weights, makes two models the same; compared when a training run is resumed."""
        return {"model": type(self).__name__, "model_config": self.config.model_dump_json()}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def embeddings(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """User vectors [U, D] and item vectors [I, D]; their inner products are the scores."""
        users, items = self._fresh()
        return users.cpu().numpy(), items.cpu().numpy()

    def score(self, user_rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """Inner products [B, I]."""
        users, items = self._fresh()
        with torch.no_grad():
            rows = torch.from_numpy(np.asarray(user_rows, dtype=np.int64)).to(users.device)
            scores: NDArray[np.float32] = (users[rows] @ items.T).cpu().numpy()
        return scores

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Weights and schedule state, what `save_model` keeps."""
        return {name: tensor.cpu().numpy() for name, tensor in self.state_dict().items()}

    def restore(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Take back what `tensors` gave."""
        self.load_state_dict({name: torch.from_numpy(np.array(values)) for name, values in tensors.items()})

    def _fresh(self) -> tuple[Tensor, Tensor]:
        """The propagated tables of the present weights: kept between user blocks, made anew once any weight
        was written.
        """
        version = tuple((t.data_ptr(), t._version) for t in self.state_dict(keep_vars=True).values())
        if self._ranked is None or self._ranked[0] != version:
            with torch.no_grad():
                users, items = self()
            self._ranked = (version, users, items)
        return self._ranked[1], self._ranked[2]


def chosen_items(train: Interactions) -> Tensor:
    """1 for an item that somebody chose, else 0, [I, 1].

    What a model learns of an id is its start value where nobody chose it: noise that must not rank.
    """
    chosen = np.zeros((train.n_items, 1), dtype=np.float32)
    chosen[train.item_rows] = 1.0
    return torch.from_numpy(chosen)
