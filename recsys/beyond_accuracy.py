"""What lists are like apart from being right: how much of the catalogue they show, how evenly, how new, how
popular, how varied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from extract.features import FeatureTable
from recsys.candidates import Candidates
from recsys.interactions import Interactions
from recsys.ranking import NO_ITEM, blocks

Rows = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class ListStatistics:
    """Of lists cut at k: the shares of items and the evenness are of all lists together, the rest are means
    over users. None where there is nothing to take it from.
    """

    coverage: float
    """Share of the catalogue that is in at least one list."""
    gini: float
    """Gini index of how often each item of the catalogue is listed: 0 all alike, near 1 few take all."""
    novelty: float | None
    """Mean of log2(users / users who chose the item in train), in bits; an item without a choice counts as
    one with a single choice (mean self-information, Zhou et al. 2010).
    """
    popularity_lift: float | None
    """(popularity of lists - popularity of histories) / popularity of histories, each the mean over users of
    the mean train choices of the items (Abdollahpouri et al. 2020): 0 keeps the users' taste for hits.
    """
    diversity: float | None
    """Mean over pairs of a list of 1 - cosine of their features; items without features are left out."""


def list_statistics(
    candidates: Candidates, train: Interactions, ks: Sequence[int], features: FeatureTable | None = None
) -> dict[int, ListStatistics]:
    """The statistics at each k of the lists of users on the axes of `train`.

    An item or user that `train` does not know raises InvalidData D202; users without a list count nowhere.
    """
    rows = item_rows(candidates, train)
    users = train.user_rows_of(candidates.user_ids)
    counts = np.bincount(train.item_rows, minlength=train.n_items)
    vectors = None if features is None else unit_vectors(features, train.item_ids)
    own = _profile_popularity(train, counts)[users]
    found = {}
    for k in ks:
        top = rows[:, :k]
        listed = np.bincount(top[top != NO_ITEM], minlength=train.n_items)
        popularity = _row_means(counts[top], top)
        both = np.isfinite(popularity) & np.isfinite(own)
        lift = popularity[both].mean() / own[both].mean() - 1 if both.any() else np.nan
        rarity = np.log2(max(train.n_users, 1) / np.maximum(counts, 1))
        found[k] = ListStatistics(
            coverage=float((listed > 0).mean()),
            gini=gini(listed),
            novelty=_mean(_row_means(rarity[top], top)),
            popularity_lift=None if np.isnan(lift) else float(lift),
            diversity=None if vectors is None else _mean(list_diversity(top, vectors)),
        )
    return found


def item_rows(candidates: Candidates, train: Interactions) -> Rows:
    """Row [U, K] of every listed item on the axis of `train`; NO_ITEM at padded places."""
    rows = np.full(candidates.items.shape, NO_ITEM, dtype=np.int32)
    rows[candidates.mask] = train.item_rows_of(candidates.items[candidates.mask])
    return rows


def gini(counts: NDArray[np.integer]) -> float:
    """Gini index of non-negative counts [I]; 0 where all are 0."""
    total = int(counts.sum())
    if not total:
        return 0.0
    n = len(counts)
    weights = 2 * np.arange(1, n + 1) - n - 1
    return float((weights * np.sort(counts)).sum() / (n * total))


def list_diversity(rows: Rows, vectors: NDArray[np.float32], block: int = 4096) -> NDArray[np.float64]:
    """Mean of 1 - cosine over the pairs of each list [U]; NaN for fewer than two items with a vector.

    `vectors` [I, D] have length one, NaN rows for items without features. With S the sum of the n vectors of
    a list, the cosines of all pairs add up to (|S|^2 - n) / 2, so no pair is formed.
    """
    known = np.isfinite(vectors[:, :1]).ravel()
    filled = np.where(known[:, None], vectors, 0.0)
    diversity = np.full(len(rows), np.nan)
    for part in blocks(len(rows), block):
        counted = (rows[part] != NO_ITEM) & known[rows[part]]
        total = np.zeros((len(counted), vectors.shape[1]))
        for place in range(rows.shape[1]):
            total += filled[rows[part, place]] * counted[:, place, None]
        n = counted.sum(axis=1)
        enough = n > 1
        pairs = n[enough] * (n[enough] - 1.0)
        diversity[part][enough] = 1 - (np.square(total[enough]).sum(axis=1) - n[enough]) / pairs
    return diversity


def unit_vectors(features: FeatureTable, item_ids: NDArray[np.str_]) -> NDArray[np.float32]:
    """The features of each item [I, D] scaled to length one; NaN for absent, unknown and all-zero ones."""
    found = features.aligned_to(item_ids.tolist()).matrix
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    unit: NDArray[np.float32] = np.divide(found, norms, out=np.full_like(found, np.nan), where=norms > 0)
    return unit


def _profile_popularity(train: Interactions, counts: NDArray[np.integer]) -> NDArray[np.float64]:
    size = np.bincount(train.user_rows, minlength=train.n_users)
    total = np.bincount(train.user_rows, weights=counts[train.item_rows], minlength=train.n_users)
    mean: NDArray[np.float64] = np.divide(total, size, out=np.full(train.n_users, np.nan), where=size > 0)
    return mean


def _row_means(values: NDArray[np.float64] | NDArray[np.integer], rows: Rows) -> NDArray[np.float64]:
    present = rows != NO_ITEM
    n = present.sum(axis=1)
    total = (values * present).sum(axis=1)
    mean: NDArray[np.float64] = np.divide(total, n, out=np.full(len(rows), np.nan), where=n > 0)
    return mean


def _mean(values: NDArray[np.float64]) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None
