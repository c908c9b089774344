"""The total order of all lists: by score, then by item id."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from extract.errors import InvalidData
from recsys.axes import as_texts

NO_ITEM = -1
Keys = NDArray[np.int64]


def id_places(item_ids: Sequence[str] | NDArray[np.str_]) -> NDArray[np.int64]:
    """Place [I] of each item in the sorted ids: the order among equal scores."""
    places = np.empty(len(item_ids), dtype=np.int64)
    places[np.argsort(as_texts(item_ids), kind="stable")] = np.arange(len(item_ids))
    return places


def sort_keys(scores: NDArray[np.float32], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Keys, of the shape of `scores`, that ascend from the best to the worst; no two of a list are equal.

    NaN scores raise InvalidData: they would sort somewhere, and seen items with them.
    """
    if np.isnan(scores).any():
        raise InvalidData(
            "D210", "a model returned NaN scores", why=f"{int(np.isnan(scores).sum())} of {scores.size}"
        )
    # Adding 0.0 turns -0.0 into 0.0; the bits of a negative float grow as it falls, so they are flipped.
    bits = (scores + np.float32(0.0)).view(np.int32)
    descending = np.where(bits < 0, bits & np.int32(0x7FFFFFFF), ~bits)
    return (descending.astype(np.int64) << 32) | places


def scores_of(keys: NDArray[np.int64]) -> NDArray[np.float32]:
    """The scores inside keys of `sort_keys`."""
    descending = (keys >> 32).astype(np.int32)
    bits = np.where(descending < 0, ~descending, descending | np.int32(-0x80000000))
    scores: NDArray[np.float32] = bits.astype(np.int32).view(np.float32)
    return scores
