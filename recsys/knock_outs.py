"""Features without what they say: the controls that a gain claimed for them must survive."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from extract.features import FeatureTable


def permuted(table: FeatureTable, seed: int) -> FeatureTable:
    """The vectors of the items that have one, dealt out among them: the same rows, of other items."""
    matrix = table.matrix.copy()
    there = np.flatnonzero(table.present)
    matrix[there] = matrix[np.random.default_rng([seed, 1]).permutation(there)]
    return FeatureTable(table.ids, matrix, table.present)


def noise(table: FeatureTable, seed: int) -> FeatureTable:
    """Normal numbers with each column's mean and deviation, for the items that have a vector."""
    rows = table.matrix[table.present]
    drawn = np.random.default_rng([seed, 2]).normal(size=rows.shape) * rows.std(axis=0) + rows.mean(axis=0)
    matrix = table.matrix.copy()
    matrix[table.present] = drawn.astype(np.float32)
    return FeatureTable(table.ids, matrix, table.present)


def constant(table: FeatureTable, seed: int) -> FeatureTable:
    """The mean vector for every item that has one."""
    matrix = table.matrix.copy()
    matrix[table.present] = table.matrix[table.present].mean(axis=0)
    return FeatureTable(table.ids, matrix, table.present)


KNOCK_OUTS: dict[str, Callable[[FeatureTable, int], FeatureTable]] = {
    "permuted": permuted,
    "noise": noise,
    "constant": constant,
}
"""By name; each takes a table and a seed."""


def foretold(table: FeatureTable, others: Sequence[FeatureTable], seed: int, folds: int = 5) -> FeatureTable:
    """What other features already say of this one: each vector as ridge regression foretells it from those of
    the same item in the others, having learned from other items.

    What a model gains from `table` over this is what only `table` knows. The tables must have the same ids;
    items that lack another feature have its mean there.
    """
    inputs = np.concatenate([_filled(other) for other in others], axis=1, dtype=np.float64)
    there = np.flatnonzero(table.present)
    part = np.random.default_rng([seed, 4]).permutation(len(there)) % folds
    matrix = table.matrix.copy()
    for fold in range(folds):
        known, asked = there[part != fold], there[part == fold]
        matrix[asked] = ridge(inputs[known], table.matrix[known].astype(np.float64), inputs[asked])
    return FeatureTable(table.ids, matrix, table.present)


def ridge(x: NDArray[np.float64], y: NDArray[np.float64], asked: NDArray[np.float64]) -> NDArray[np.float32]:
    """Predictions [A, E] for inputs [A, D] from pairs [N, D], [N, E], columns centred; the strength is the
    best of a grid by generalised cross-validation (Golub, Heath & Wahba, 1979).
    """
    centre, mean = x.mean(axis=0), y.mean(axis=0)
    left, values, right = np.linalg.svd(x - centre, full_matrices=False)
    projected, total = left.T @ (y - mean), ((y - mean) ** 2).sum()
    best, weights = np.inf, np.zeros((x.shape[1], y.shape[1]))
    for strength in np.geomspace(1e-4, 1e2, 13) * max(float((values**2).mean()), 1e-12):
        kept = values**2 / (values**2 + strength)
        left_over = total - ((2 * kept - kept**2)[:, None] * projected**2).sum()
        error = left_over / max(1 - kept.sum() / len(x), 1e-6) ** 2
        if error < best:
            best = error
            weights = right.T @ ((values / (values**2 + strength))[:, None] * projected)
    predicted: NDArray[np.float32] = ((asked - centre) @ weights + mean).astype(np.float32)
    return predicted


def _filled(table: FeatureTable) -> NDArray[np.float32]:
    mean = table.matrix[table.present].mean(axis=0)
    return np.where(table.present[:, None], table.matrix, mean).astype(np.float32)
