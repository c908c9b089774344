"""Item vectors made of features alone: what content search is, apart from torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from extract.features import FeatureTable


def content_vectors(
    tables: Mapping[str, FeatureTable], means: Mapping[str, NDArray[np.float32]], shares: Mapping[str, float]
) -> NDArray[np.float32]:
    """Vectors [I, D] of all modalities beside each other: the features of `tables` (aligned, [I, D_m] each)
    less their mean, at length one, times the root of their share; 0 where an item lacks the modality.

    A row depends on its own features, the means and the shares alone.
    """
    parts = []
    for name, table in tables.items():
        rows = (table.matrix - means[name]) * table.present[:, None]
        lengths = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        parts.append(np.sqrt(shares[name]) * rows / lengths)
    return np.concatenate(parts, axis=1).astype(np.float32)
