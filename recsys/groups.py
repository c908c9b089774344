"""Groups of users and of items, so that a metric can be told for each, and for their intersections."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from extract.errors import InvalidData
from extract.tables import read_columns
from recsys.interactions import Interactions
from recsys.metrics import Judged

GROUPINGS = ("activity", "popularity", "warmth", "given")
"""The groupings there are: users by their number of train choices, items by theirs, items with and without a
choice, users by a table that was given."""


@dataclass(frozen=True, slots=True, eq=False)
class Grouping:
    """A label per user [U] or per item [I] of an axis, '' for none; `order` lists the labels there are."""

    side: Literal["users", "items"]
    labels: NDArray[np.str_]
    order: tuple[str, ...]


def activity(train: Interactions) -> Grouping:
    """Users in thirds by their number of train choices; equal numbers stay together."""
    counts = np.bincount(train.user_rows, minlength=train.n_users)
    cuts = np.quantile(counts, [1 / 3, 2 / 3]) if len(counts) else np.zeros(2)
    return _labelled("users", np.searchsorted(cuts, counts), ("few choices", "some choices", "many choices"))


def popularity(train: Interactions) -> Grouping:
    """Items in thirds of the train choices, most chosen first: few items are popular, many are rare."""
    counts = np.bincount(train.item_rows, minlength=train.n_items)
    order = np.argsort(-counts, kind="stable")
    before = np.concatenate([[0], np.cumsum(counts[order])[:-1]])
    third = np.empty(len(counts), dtype=np.int64)
    third[order] = np.minimum(3 * before // max(int(counts.sum()), 1), 2)
    return _labelled("items", third, ("popular items", "middle items", "rare items"))


def warmth(train: Interactions) -> Grouping:
    """Items with a train choice and items without one."""
    counts = np.bincount(train.item_rows, minlength=train.n_items)
    return _labelled("items", (counts == 0).astype(np.int64), ("warm items", "cold items"))


def given(groups: Mapping[str, str], train: Interactions) -> Grouping:
    """Users by a table from user id to label; users that the table lacks are in no group.

    A table without any user of `train` raises InvalidData D202.
    """
    labels = np.array([groups.get(user, "") for user in train.user_ids.tolist()], dtype=np.str_)
    order = tuple(sorted(set(labels.tolist()) - {""}))
    if not order:
        raise InvalidData(
            "D202",
            "no user of the interactions is in the table of groups",
            why=f"{len(groups)} users in the table, {train.n_users} in the interactions",
            next_step="check that both files use the same user ids",
        )
    return Grouping("users", labels, order)


def read_groups(path: Path) -> dict[str, str]:
    """User id to label from a CSV or Parquet file with the columns `user_id` and `group`."""
    table = read_columns(path, ("user_id", "group"), ids=("user_id",))
    return dict(zip(table["user_id"].to_pylist(), table["group"].to_pylist(), strict=True))


def judged_by_group(
    judged: Judged, groupings: Sequence[Grouping], users: NDArray[np.int32]
) -> dict[str, Judged]:
    """The part of `judged` in each group, or in each intersection where several groupings are given.

    `users` [N] are the rows of the judged users on the groupings' user axis; item labels must be on the axis
    of the truth. Names are the labels joined by commas; empty groups are left out.
    """
    parts = {}
    for labels in itertools.product(*(grouping.order for grouping in groupings)):
        of_users = np.ones(len(users), dtype=np.bool_)
        of_items = np.ones(judged.truth.shape[1], dtype=np.bool_)
        for grouping, label in zip(groupings, labels, strict=True):
            if grouping.side == "users":
                of_users &= grouping.labels[users] == label
            else:
                of_items &= grouping.labels == label
        part = judged.among(of_users, None if of_items.all() else of_items)
        if len(part.user_ids):
            parts[", ".join(labels)] = part
    return parts


def _labelled(side: Literal["users", "items"], place: NDArray[Any], names: tuple[str, ...]) -> Grouping:
    return Grouping(side, np.array(names, dtype=np.str_)[place], names)
