"""What is known of a list besides words: every source's score and rank, likeness to the history, popularity.

The token form and LambdaMART read exactly these numbers, so that one can be held against the other. Item
vectors are made from the interactions a list was retrieved with: a fold's own, never the held-out choices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from extract.features import FeatureTable
from recsys.candidates import Candidates
from recsys.interactions import Interactions
from recsys.ranking import blocks
from rerank.fusion import fusion_inputs, sources_of, standardised

Matrix = NDArray[np.float32]

CHOICES = "@choices"
"""The block of vectors made from choices; no feature is called so."""

CLIP = 6.0
"""Largest magnitude of a vector's entry, in deviations."""


@dataclass(frozen=True, eq=False)
class ItemVectors:
    """What is known of each item, side by side: one block per feature, then choices, then popularity.

    Attributes:
        item_ids: I ids.
        matrix: float32 [I, D]; a block is all zeros where an item has no feature.
        blocks: where each named block lies in the columns.
        popularity: float32 [I], log(1 + choices), standardised over the items.
        taken: float64 [I, R], and `given` its counterpart: a person's choices x score item i by the low-rank
            filter  (x given) taken_i;  R = 0 without vectors made from choices.
    """

    item_ids: NDArray[np.str_]
    matrix: Matrix
    blocks: Mapping[str, slice]
    popularity: Matrix
    taken: NDArray[np.float64]
    given: NDArray[np.float64]

    @property
    def width(self) -> int:
        """D."""
        return int(self.matrix.shape[1])

    def rows(self, ids: Sequence[str] | NDArray[np.str_]) -> NDArray[np.int64]:
        """The row of each id, -1 for one that is not here."""
        return np.fromiter((self._row_of.get(str(item), -1) for item in ids), np.int64, len(ids))

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {item: row for row, item in enumerate(self.item_ids.tolist())}


def item_vectors(
    known: Interactions, features: Mapping[str, FeatureTable], *, width: int,
    reference: ItemVectors | None = None,
) -> ItemVectors:  # fmt: skip
    """Vectors of all items on the axis of `known`.

    Args:
        features: tables by name; each block is centred and scaled to deviation 1.
        width: of the vectors made from choices; 0: none.
        reference: vectors of the same items and width whose basis the choice vectors are turned to. Two
            decompositions differ by a rotation that means nothing, and a model would have to learn each.
    """
    parts: dict[str, Matrix] = {}
    for name, table in features.items():
        aligned = table.aligned_to([str(i) for i in known.item_ids])
        parts[name] = _scaled(aligned.matrix, aligned.present)
    basis, values = _choice_basis(known, width)
    root = np.sqrt(np.maximum(np.asarray(known.matrix().sum(axis=0)).reshape(-1, 1), 1))
    if width:
        vectors = basis * values
        if reference is not None:
            left, _, right = np.linalg.svd(vectors.T @ reference.matrix[:, reference.blocks[CHOICES]])
            vectors = vectors @ (left @ right)
        parts[CHOICES] = (vectors / max(float(vectors.std()), 1e-9)).astype(np.float32)
    count = np.bincount(known.item_rows, minlength=known.n_items)
    popularity = np.log1p(count).astype(np.float32)
    popularity = (popularity - popularity.mean()) / max(float(popularity.std()), 1e-9)
    places, start = {}, 0
    for name, block in parts.items():
        places[name] = slice(start, start + block.shape[1])
        start += block.shape[1]
    whole = np.concatenate([*parts.values(), popularity[:, None]], axis=1).clip(-CLIP, CLIP)
    return ItemVectors(
        known.item_ids, whole.astype(np.float32), places, popularity, basis * root, basis / root
    )


def input_names(sources: Sequence[str], vectors: ItemVectors) -> tuple[str, ...]:
    """The names of the S inputs of `list_inputs`, in order."""
    liked = [f"history:{name}" for name in vectors.blocks]
    return (*sources_of(sources), *liked, "popularity", "activity")


def list_inputs(
    candidates: Candidates, known: Interactions, vectors: ItemVectors, sources: Sequence[str]
) -> Matrix:
    """Inputs [U, K, S] of each candidate, 0 at padded places.

    Scores and ranks as `fusion_inputs` makes them; for each feature the candidate's cosine with the mean of
    everything the person chose, and for choices the score of the ideal low-pass filter of the choice graph
    (Shen et al. 2021, GF-CF), both standardised within the list; the item's popularity; the person's
    activity, log(1 + choices) less 4.
    """
    parts, mask = fusion_inputs(candidates, sources_of(sources))
    rows = np.where(mask, vectors.rows(candidates.items.ravel()).reshape(mask.shape), -1)
    users = known.user_rows_of([str(user) for user in candidates.user_ids])
    matrix = known.matrix()[users]
    chosen = np.asarray(matrix.sum(axis=1)).reshape(-1)
    columns = [parts]
    for name, block in vectors.blocks.items():
        own = vectors.taken if name == CHOICES else _unit(vectors.matrix[:, block])
        liked = np.asarray(matrix @ vectors.given) if name == CHOICES else _unit(np.asarray(matrix @ own))
        likeness = np.zeros(mask.shape)
        for part in blocks(len(rows), 256):
            likeness[part] = np.einsum("ud,ukd->uk", liked[part], own[rows[part]], optimize=True)
        columns.append(standardised(np.where(rows >= 0, likeness, np.nan), mask)[:, :, None])
    popularity = np.where(rows >= 0, vectors.popularity[rows], 0.0)
    activity = np.broadcast_to((np.log1p(chosen) - 4)[:, None], mask.shape)
    columns += [popularity[:, :, None], activity[:, :, None]]
    inputs: Matrix = (np.concatenate(columns, axis=2) * mask[:, :, None]).astype(np.float32)
    return inputs


def _choice_basis(known: Interactions, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Right singular vectors [I, width] of the degree-normalised choices, largest first, and their values.

    A catalogue that has fewer is filled up with zeros.
    """
    matrix = known.matrix().astype(np.float64)
    basis, values = np.zeros((matrix.shape[1], width)), np.zeros(width)
    rank = min(width, *(side - 1 for side in matrix.shape))
    if rank > 0 and matrix.nnz:
        from scipy.sparse.linalg import svds

        users = np.maximum(np.asarray(matrix.sum(axis=1)).ravel(), 1) ** -0.5
        items = np.maximum(np.asarray(matrix.sum(axis=0)).ravel(), 1) ** -0.5
        normalised = sparse.diags_array(users) @ matrix @ sparse.diags_array(items)
        # A fixed start, so that equal choices give equal vectors.
        _, found, vectors = svds(normalised, k=rank, v0=np.ones(min(matrix.shape)))
        basis[:, :rank], values[:rank] = vectors.T[:, ::-1], found[::-1]
    return basis, values


def _scaled(matrix: Matrix, present: NDArray[np.bool_]) -> Matrix:
    if not present.any():
        return np.zeros_like(matrix)
    centred = matrix - matrix[present].mean(axis=0)
    scaled: Matrix = np.where(present[:, None], centred / max(float(centred[present].std()), 1e-9), 0.0)
    return scaled.astype(np.float32)


def _unit(matrix: NDArray[Any]) -> NDArray[Any]:
    unit: NDArray[Any] = matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-9)
    return unit
