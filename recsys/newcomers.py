"""Users who were not there in training, scored by what they chose since: no weight is changed.

Models that score histories through weights of items (EASE, ItemKNN, popularity ...) take the new histories as
they are. Models of vectors get one for each newcomer: the ridge solution that scores the items of the history
1 and all items near 0, one half-step of implicit ALS (Hu, Koren & Volinsky, ICDM 2008).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from recsys.interactions import Interactions
from recsys.ranking import Factors, Recommender, blocks

# The best of a grid on MovieLens-1M's validation split, with LightGCN's items: NDCG@20 0.222, against 0.2295
# of the trained users themselves and 0.2155 of the sum of y / sqrt(choices of y).
UNOBSERVED = 0.1
"""Weight of the items that a newcomer did not choose, for the target 0."""
RIDGE = 0.15
"""Weight of the vector's own square, in mean squares of the item vectors."""


class FoldedIn:
    """A model of vectors with newcomers in the place of its users."""

    def __init__(self, model: Factors, histories: sparse.csr_array) -> None:
        _, self._items = model.embeddings()
        self._users = fold_in(self._items, histories)

    def embeddings(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Newcomers' vectors [U, D] and item vectors [I, D]."""
        return self._users, self._items

    def score(self, user_rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """Inner products [B, I]."""
        scores: NDArray[np.float32] = self._users[user_rows] @ self._items.T
        return scores


def fold_in(items: NDArray[np.float32], histories: sparse.csr_array) -> NDArray[np.float32]:
    """Vectors [U, D] for histories CSR [U, I]: the x that minimises sum over chosen (1 - <x, y>)^2 + a sum
    over all <x, y>^2 + r m |x|^2, m the mean square length of the item vectors; 0 for an empty history.
    """
    vectors = items.astype(np.float64)
    gram = vectors.T @ vectors
    n, width = max(len(vectors), 1), vectors.shape[1]
    fixed = UNOBSERVED * gram + RIDGE * np.trace(gram) / n * np.eye(width) + 1e-12 * np.eye(width)
    users = np.zeros((histories.shape[0], width), dtype=np.float32)
    for row in range(len(users)):
        chosen = vectors[histories.indices[histories.indptr[row] : histories.indptr[row + 1]]]
        users[row] = np.linalg.solve(chosen.T @ chosen + fixed, chosen.sum(axis=0))
    return users


def stand_in_blocks(train: Interactions, newcomers: Interactions) -> Iterator[tuple[Interactions, list[str]]]:
    """Newcomers' histories on the axes of `train`, as many at a time as it has users, each block with the
    newcomers' ids in the order of the stand-ins' rows.

    The item axis of both must be the same. A saved model loads on a block as on `train`.
    """
    for part in blocks(newcomers.n_users, train.n_users):
        own = newcomers.take((newcomers.user_rows >= part.start) & (newcomers.user_rows < part.stop))
        rows = (own.user_rows - part.start).astype(np.int32)
        yield replace(own, user_ids=train.user_ids, user_rows=rows), newcomers.user_ids[part].tolist()


def newcomer_models(
    load: Callable[[Interactions], Mapping[str, Recommender]], train: Interactions, stand_in: Interactions
) -> dict[str, Recommender]:
    """The models, ready to score the rows of `stand_in`; `load` gives the trained models on some histories.

    Vectors of items come from the models on `train`, whose graph made them.
    """
    trained, exchanged = load(train), load(stand_in)
    return {
        name: FoldedIn(model, stand_in.matrix()) if isinstance(model, Factors) else exchanged[name]
        for name, model in trained.items()
    }
