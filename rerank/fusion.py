"""Fuses the scores of several sources into one: a linear ListNet, fitted on validation lists.

The same function with and without the language model's scores is what separates an LLM reranker from score
fusion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from recsys.candidates import Candidates


@dataclass(frozen=True)
class Fusion:
    """Weights of a linear fusion.

    Attributes:
        names: S inputs.
        weights: [S] weight of each input.
    """

    names: tuple[str, ...]
    weights: NDArray[np.float64]

    def scores(self, candidates: Candidates) -> NDArray[np.float32]:
        """Fused scores [U, K]; -inf where there is no candidate."""
        features, mask = fusion_inputs(candidates, self.names)
        return np.where(mask, features @ self.weights, -np.inf).astype(np.float32)


def sources_of(names: Sequence[str]) -> tuple[str, ...]:
    """The inputs of a fusion over these sources: each source's score, and its rank."""
    return tuple(f"{kind}:{name}" for name in names for kind in ("score", "rank"))


def fusion_inputs(
    candidates: Candidates, names: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Inputs [U, K, S] and mask [U, K].

    A score is standardised within its list (mean 0, deviation 1 over the real candidates; a constant becomes
    0), a rank becomes -log(rank). Where a source does not know an item, both are the list's lowest value.
    """
    mask = candidates.items != ""
    columns = []
    for name in names:
        kind, _, source = name.partition(":")
        if kind == "rank":
            values = np.where(
                candidates.ranks[source] > 0, -np.log(np.maximum(candidates.ranks[source], 1)), np.nan
            )
        else:
            values = candidates.scores[source].astype(np.float64)
        columns.append(standardised(values, mask))
    return np.stack(columns, axis=2), mask


def standardised(values: NDArray[np.float64], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Values [U, K] with mean 0 and deviation 1 within each list; NaN becomes the list's lowest value."""
    known = mask & np.isfinite(values)
    lowest = np.where(known, values, np.inf).min(axis=1, keepdims=True)
    values = np.where(known, values, np.where(np.isfinite(lowest), lowest, 0.0))
    count = np.maximum(mask.sum(axis=1, keepdims=True), 1)
    mean = (values * mask).sum(axis=1, keepdims=True) / count
    deviation = np.sqrt((np.square(values - mean) * mask).sum(axis=1, keepdims=True) / count)
    return np.where(mask & (deviation > 1e-9), (values - mean) / np.maximum(deviation, 1e-9), 0.0)


def fit_fusion(
    candidates: Candidates, relevance: NDArray[np.float32], sources: Sequence[str], *, ridge: float = 1e-3
) -> Fusion:
    """Weights that minimise ListNet's cross-entropy on lists with a truth, plus `ridge` times their squares.

    Args:
        candidates: validation lists.
        relevance: [U, K] in the candidates' order, larger is better.
        sources: names of scores in `candidates`.
    """
    # Slow to import, and a run that finds everything done passes through this module.
    from scipy.optimize import minimize

    names = sources_of(sources)
    features, mask = fusion_inputs(candidates, names)
    gain = np.where(mask, relevance, 0.0).astype(np.float64)
    usable = gain.sum(axis=1) > 0
    features, mask, gain = features[usable], mask[usable], gain[usable]
    if not len(gain):
        return Fusion(names, np.eye(len(names))[0])
    gain = gain / gain.sum(axis=1, keepdims=True)

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logits = np.where(mask, features @ weights, -1e9)
        value = -np.sum(gain * log_softmax(logits, axis=1)) / len(gain)
        slope = np.einsum("uk,uks->s", softmax(logits, axis=1) - gain, features) / len(gain)
        return float(value + ridge * weights @ weights), slope + 2 * ridge * weights

    fitted = minimize(loss, np.zeros(len(names)), jac=True, method="L-BFGS-B")
    return Fusion(names, fitted.x)


def fused(candidates: Candidates, fusion: Fusion, name: str) -> Candidates:
    """The candidates by fused score, ties by incoming order; the scores are kept under `name`."""
    scores = fusion.scores(candidates)
    order = np.argsort(-scores, axis=1, kind="stable")
    return candidates.reordered(order, name, scores)
