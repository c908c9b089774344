"""What preparing interactions is told, and what it tells: shared by the way in memory and the one on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from recsys.columns import InteractionColumns, ReadCounts
from recsys.filters import FilterConfig, FilterCounts
from recsys.overview import Tally
from recsys.split import SplitConfig


@dataclass(frozen=True, slots=True)
class Plan:
    """A file of interactions, and how it becomes three parts on the item axis `item_ids`."""

    path: Path
    columns: InteractionColumns
    item_ids: Sequence[str]
    unknown: Literal["error", "drop"]
    filter: FilterConfig
    split: SplitConfig
    keeps_times: bool = True
    """Whether the parts keep their times; without them, histories have no order."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """What happened to the rows, the axis of the users [U] that are left, and the sums over the parts."""

    counts: ReadCounts
    filtered: FilterCounts
    user_ids: NDArray[np.str_]
    tally: Tally

    def summary(self) -> dict[str, Any]:
        """All of it as one JSON object."""
        read, filtered = self.counts, self.filtered
        return {
            "users": len(self.user_ids),
            "items": len(self.tally.items["train"]),
            "interactions": self.tally.sizes(),
            "unknown_items": read.n_unknown_item,
            "first_unknown": list(read.first_unknown),
            "duplicates": read.n_duplicate,
            "duplicates_of_another_label": read.n_label_conflict,
            "empty_ids": read.n_empty_id,
            "filtered": {
                "users": filtered.n_users,
                "items": filtered.n_items,
                "interactions": filtered.n_interactions,
                "rounds": filtered.rounds,
            },
            **self.tally.overview(),
            "leakage": self.tally.leakage(),
        }
