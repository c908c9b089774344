"""What a split is like: counts, sparsity, the long tail, and what of the future or of one part leaks.

Everything is told from sums over rows, which may come in pieces.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.beyond_accuracy import gini

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of the items at which the long-tail curve is told."""
PARTS = ("train", "valid", "test")


class Tally:
    """Sums over the rows of each part, train first, on axes of `n_users` users and `n_items` items."""

    def __init__(self, n_users: int, n_items: int) -> None:
        self.users = {part: np.zeros(n_users, dtype=np.int64) for part in PARTS}
        self.items = {part: np.zeros(n_items, dtype=np.int64) for part in PARTS}
        self._last_train = np.full(n_users, np.iinfo(np.int64).min)
        self._timed = False
        self._early = {part: [0, 0] for part in PARTS}

    def add(
        self,
        part: str,
        user_rows: NDArray[np.int32],
        item_rows: NDArray[np.int32],
        times: NDArray[np.int64] | None,
    ) -> None:
        """Take in rows of a part; all of train must come before the others."""
        self.users[part] += np.bincount(user_rows, minlength=len(self.users[part]))
        self.items[part] += np.bincount(item_rows, minlength=len(self.items[part]))
        if times is None or not len(times):
            return
        self._timed = True
        if part == "train":
            np.maximum.at(self._last_train, user_rows, times)
        else:
            self._early[part][0] += int((times < self._last_train.max()).sum())
            self._early[part][1] += int((times < self._last_train[user_rows]).sum())

    def sizes(self) -> dict[str, int]:
        """Rows of each part."""
        return {part: int(self.users[part].sum()) for part in PARTS}

    def overview(self) -> dict[str, Any]:
        """Counts, density, choices per user and per item, and the long tail, over all parts."""
        users, items = (np.sum(list(side.values()), axis=0) for side in (self.users, self.items))
        total = int(users.sum())
        return {
            "density": total / max(len(users) * len(items), 1),
            "never_chosen_items": int((items == 0).sum()),
            "choices_per_user": spread(users),
            "choices_per_chosen_item": spread(items[items > 0]),
            "gini_of_items": round(gini(items), 4),
            "share_of_choices_by_share_of_items": {str(s): c for s, c in long_tail(items).items()},
        }

    def leakage(self) -> dict[str, dict[str, int]]:
        """Rows of validation and test by what is odd about them.

        `user_without_train`, `item_without_train`: of users and items that train does not have;
        `before_last_of_train`: older than the newest row of train, which a model could not have known then;
        `before_last_of_own_train`: older than the newest train row of the same user. The last two are left
        out where there are no times.
        """
        found = {}
        for part in PARTS[1:]:
            row = {
                "user_without_train": int(self.users[part][self.users["train"] == 0].sum()),
                "item_without_train": int(self.items[part][self.items["train"] == 0].sum()),
            }
            if self._timed:
                names = ("before_last_of_train", "before_last_of_own_train")
                row |= dict(zip(names, self._early[part], strict=True))
            found[part] = row
        return found


def spread(counts: NDArray[np.int64]) -> dict[str, float]:
    """Least, quartiles, mean and largest of counts; empty for none."""
    if not len(counts):
        return {}
    low, first, median, third, high = np.quantile(counts, [0, 0.25, 0.5, 0.75, 1]).tolist()
    mean = round(float(counts.mean()), 2)
    return {
        "min": low,
        "quarter": first,
        "median": median,
        "mean": mean,
        "three_quarters": third,
        "max": high,
    }


def long_tail(counts: NDArray[np.int64]) -> dict[float, float]:
    """Share of all choices that the most chosen items hold, by the share of items they are (rounded up)."""
    held = np.cumsum(np.sort(counts)[::-1]) / max(int(counts.sum()), 1)
    return {s: round(float(held[int(np.ceil(s * len(counts))) - 1]), 4) for s in SHARES} if len(held) else {}
