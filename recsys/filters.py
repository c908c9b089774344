"""Which interactions are enough: least numbers of choices per user and per item, once or until all hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from extract.errors import InvalidData
from recsys.interactions import Interactions

Counts = NDArray[np.int64]
Alive = NDArray[np.bool_]


class FilterConfig(BaseModel):
    """Least numbers of choices. Items that fall out stay in the catalogue, as items that nobody chose."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_user: int = Field(default=1, ge=1)
    """Choices that a user must have; others are left out."""
    min_item: int = Field(default=1, ge=1)
    """Choices that an item must have; the choices of others are left out."""
    repeat: bool = True
    """true: until both hold for all that is left, the k-core; false: once, by the numbers in the file."""

    @property
    def does_nothing(self) -> bool:
        """Whether everybody has enough."""
        return self.min_user == 1 and self.min_item == 1


@dataclass(frozen=True, slots=True)
class FilterCounts:
    """What a filter took out, and in how many rounds."""

    n_users: int = 0
    n_items: int = 0
    n_interactions: int = 0
    rounds: int = 0


def core(
    config: FilterConfig, count: Callable[[Alive | None, Alive | None], tuple[Counts, Counts]]
) -> tuple[Alive, Alive, int]:
    """Users [U] and items [I] that stay, and the rounds it took.

    `count` gives the choices of each user and of each item among those of the users and items that stay
    (None: all). Removing in rounds ends at the k-core, which does not depend on the order of removal.
    """
    users, items = (counts >= least for counts, least in zip(count(None, None), _least(config), strict=True))
    rounds = 1
    while config.repeat:
        found = count(users, items)
        enough = [c >= least for c, least in zip(found, _least(config), strict=True)]
        if (enough[0] | ~users).all() and (enough[1] | ~items).all():
            break
        users, items, rounds = users & enough[0], items & enough[1], rounds + 1
    return users, items, rounds


def _least(config: FilterConfig) -> tuple[int, int]:
    return config.min_user, config.min_item


def filter_interactions(
    interactions: Interactions, config: FilterConfig
) -> tuple[Interactions, FilterCounts]:
    """The interactions of users and items with enough of them, on the axis of the users that are left.

    Raises:
        InvalidData: D203, nothing is left.
    """
    if config.does_nothing:
        return interactions, FilterCounts()
    users, items = interactions.user_rows, interactions.item_rows

    def count(of_users: Alive | None, of_items: Alive | None) -> tuple[Counts, Counts]:
        there = np.ones(len(users), dtype=np.bool_)
        if of_users is not None and of_items is not None:
            there = of_users[users] & of_items[items]
        return (
            np.bincount(users[there], minlength=interactions.n_users),
            np.bincount(items[there], minlength=interactions.n_items),
        )

    of_users, of_items, rounds = core(config, count)
    kept = interactions.take(of_users[users] & of_items[items])
    if not len(kept):
        raise nothing_left(config, len(interactions))
    left = np.unique(kept.user_rows)
    row_of = np.zeros(interactions.n_users, dtype=np.int32)
    row_of[left] = np.arange(len(left), dtype=np.int32)
    chosen_before, chosen_after = (np.unique(part.item_rows).size for part in (interactions, kept))
    counts = FilterCounts(
        interactions.n_users - len(left), chosen_before - chosen_after, len(interactions) - len(kept), rounds
    )
    changes: dict[str, Any] = {"user_ids": interactions.user_ids[left], "user_rows": row_of[kept.user_rows]}
    return replace(kept, **changes), counts


def nothing_left(config: FilterConfig, n: int) -> InvalidData:
    """The error of a filter that takes out everything."""
    return InvalidData(
        "D203",
        "no interaction is left",
        why=f"of {n}: no part of them has {config.min_user} per user and {config.min_item} per item",
        next_step="lower data.filter.min_user or min_item",
    )
