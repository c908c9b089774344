"""Features without what they say: the controls that a gain claimed for them must survive."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

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
