"""What is known of items beside their words, and the layers that bring it to a decoder.

Soft tokens (`rerank.token`) and words with vectors (`rerank.hybrid`) read the same two things: an item's
vector and a candidate's numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn

from extract.errors import InvalidData
from rerank.inputs import ItemVectors
from rerank.lists import RankingList

FUSION = 64
"""Width of the layers that fuse a candidate's numbers."""


def known_of(entry: RankingList) -> tuple[NDArray[np.float32], ItemVectors]:
    """The inputs [K, S] and the item vectors of a list; R304 where it has none."""
    if entry.inputs is None or entry.vectors is None:
        raise InvalidData(
            "R304", f"the list of user {entry.user_id} has no inputs for a soft token",
            next_step="give inputs and vectors to ranking_lists",
        )  # fmt: skip
    return entry.inputs, entry.vectors


def input_projections(width: int, inputs: int, size: int) -> tuple[nn.Linear, nn.Sequential]:
    """Layers from an item's vector [width] and from a candidate's numbers [inputs] to an embedding [size]."""
    # The item's layer first: initial weights are drawn in this order.
    item = nn.Linear(width, size)
    return item, nn.Sequential(nn.Linear(inputs, size), nn.GELU(), nn.Linear(size, size))


def number_fusion(inputs: int) -> nn.Sequential:
    """Fuses a candidate's S numbers into one: two layers."""
    return nn.Sequential(
        nn.Linear(inputs, FUSION), nn.GELU(), nn.Linear(FUSION, FUSION), nn.GELU(), nn.Linear(FUSION, 1)
    )
