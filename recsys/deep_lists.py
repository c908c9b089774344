"""Lists kept deeper than they are shown, so that tomorrow's follow from today's without ranking everything.

A list of depth D is exact down to its last entry: what it does not hold ranks below. When items change, join
or leave, the entries of items that are as they were stay in order, and items that are not as they were enter
where their new scores put them, unless they rank below the old end. What results is exact as long as it holds
the K that are asked for; a list that has lost more is ranked anew, as is that of a user who has changed. (The
maintenance of materialised top-k views: Yi et al., ICDE 2003.)
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from extract.store import write_atomic
from recsys.frozen import KEY, Frozen, content_key
from recsys.interactions import Interactions
from recsys.list_rules import Allowed
from recsys.order import NO_ITEM, Keys, id_places, scores_of, sort_keys
from recsys.ranking import blocks, top_k

USERS = 1024
"""Users whose lists are brought up to date at a time."""
MOST_FRESH = 0.25
"""Share of the items that may have changed; with more, ranking everything costs no more."""
_NONE = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False)
class DeepLists:
    """The best items of each user [U] among the items [I] that may be shown, as of one state of both."""

    user_ids: NDArray[np.str_]
    user_keys: NDArray[np.bytes_]
    """By user, the hash of all that the list depends on, items aside."""
    item_ids: NDArray[np.str_]
    item_keys: NDArray[np.bytes_]
    """By item, the hash of all that its scores depend on, users aside."""
    items: NDArray[np.int32]
    """Rows of items [U, D], best first, NO_ITEM at the end."""
    scores: NDArray[np.float32]
    """Their scores [U, D], NaN at the end."""
    whole: NDArray[np.bool_]
    """True [U] where the list holds every item that the user may be shown."""

    def save(self, path: Path) -> None:
        """Write one file."""
        sink = io.BytesIO()
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        np.savez(sink, allow_pickle=False, **arrays)
        write_atomic(path, sink.getvalue())

    @classmethod
    def load(cls, path: Path) -> DeepLists:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{field.name: arrays[field.name] for field in fields(cls)})


@dataclass(frozen=True, eq=False)
class Ranked:
    """Lists of today, and how they came about."""

    lists: DeepLists
    columns: NDArray[np.int32]
    """The K best [U, K] as rows of the whole item axis, NO_ITEM at the end."""
    anew: NDArray[np.bool_]
    """True [U] where everything was ranked; elsewhere only items that are not as they were."""
    items_anew: int
    """Items that were not as in the old lists."""

    def best(self, k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Item rows and scores of the K best, [U, K] both, as `recsys.ranking.top_k` gives them."""
        return self.columns[:, :k], self.lists.scores[:, :k]


def rank(
    model: Frozen, seen: Interactions, user_rows: NDArray[np.int32], k: int, *, depth: int,
    allowed: NDArray[np.bool_] | None = None, old: DeepLists | None = None, block: int = 256,
) -> Ranked:  # fmt: skip
    """The best unseen items of some users, exactly as ranking everything gives them.

    Args:
        model: on the axes of `seen`.
        k: entries that must be exact; the lists have `depth` of them where that costs nothing.
        allowed: items [I] that may be shown; None: all.
        old: lists of another day, of the same model; None: everything is ranked.
        block: users per block where scores are made one row of all items at a time.
    """
    open_ = model.known if allowed is None else model.known & allowed
    shown = np.flatnonzero(open_)
    matrix, places = seen.matrix(), id_places(seen.item_ids)
    user_ids = seen.user_ids[user_rows]
    user_keys = _user_keys(model, matrix, seen.item_ids)[user_rows]
    item_keys = np.array(model.item_keys(), dtype=f"S{KEY}")[shown]
    depth = max(depth, k)
    keys = np.full((len(user_rows), depth), _NONE, dtype=np.int64)
    whole, done = np.zeros((2, len(user_rows)), dtype=np.bool_)
    update = None if old is None else _Update(model, matrix, places, shown, seen.item_ids, item_keys, old)
    if old is not None and update is not None and len(update.fresh) <= MOST_FRESH * len(shown):
        before = _same(user_ids, user_keys, old)
        for part in blocks(len(user_rows), USERS):
            rows = np.flatnonzero(before[part] >= 0) + part.start
            keys[rows], whole[rows] = update.bring(user_rows[rows], before[rows], depth)
        done = (before >= 0) & (whole | (keys[:, k - 1] != _NONE))
    rest = np.flatnonzero(~done)
    ranked = model if open_.all() else Allowed(model, open_)
    items, values = top_k(ranked, user_rows[rest], matrix, depth, places=places, block=block)
    there = items != NO_ITEM
    keys[rest] = np.where(
        there, sort_keys(np.where(there, values, np.float32(0)), np.append(places, 0)[items]), _NONE
    )
    whole[rest] = ~there.all(axis=1)
    columns, scores = _unpacked(keys, places)
    row_of = np.full(seen.n_items + 1, NO_ITEM, dtype=np.int32)
    row_of[shown] = np.arange(len(shown))
    lists = DeepLists(user_ids, user_keys, seen.item_ids[shown], item_keys, row_of[columns], scores, whole)
    return Ranked(lists, columns, ~done, len(shown) if update is None else len(update.fresh))


class _Update:
    """What all users share when lists of another day are brought up to date."""

    def __init__(
        self, model: Frozen, seen: sparse.csr_array, places: NDArray[np.int64], shown: NDArray[np.int64],
        item_ids: NDArray[np.str_], item_keys: NDArray[np.bytes_], old: DeepLists,
    ) -> None:  # fmt: skip
        self._model, self._old = model, old
        # One place more, for NO_ITEM, also where no item is left.
        self._places = np.append(places, 0)
        before = _same(item_ids[shown], item_keys, old, items=True)
        self.fresh = shown[before < 0]
        """Columns of the items that are not as they were."""
        # One column more, for padding: it is no item.
        self._column_of = np.full(len(old.item_ids) + 1, NO_ITEM, dtype=np.int64)
        self._column_of[before[before >= 0]] = shown[before >= 0]
        # Places among the ids of both days, so that an old end can be compared with an item of today.
        ids, self._joint_old = np.unique(old.item_ids, return_inverse=True)
        slots = np.searchsorted(ids, item_ids)
        self._joint = 2 * slots + (np.append(ids, "")[np.minimum(slots, len(ids))] == item_ids)
        self._seen = sparse.csr_array(seen[:, self.fresh]) if len(self.fresh) else None

    def bring(
        self, user_rows: NDArray[np.int32], before: NDArray[np.int64], depth: int
    ) -> tuple[Keys, NDArray[np.bool_]]:
        """Keys [B, depth] of users whose lists stand at the rows `before`, and which are whole."""
        items, scores = self._old.items[before], self._old.scores[before]
        whole = self._old.whole[before]
        columns = self._column_of[items]
        kept = columns != NO_ITEM
        filled = np.where(kept, scores, np.float32(0))
        own = np.where(kept, sort_keys(filled, self._places[columns]), _NONE)
        found = [own]
        if self._seen is not None and len(user_rows):
            entering = self._model.among(user_rows, self.fresh)
            of_users = self._seen[user_rows]
            entering[
                np.repeat(np.arange(len(user_rows)), np.diff(of_users.indptr)), of_users.indices
            ] = -np.inf
            high = self._above_end(entering, items, scores, whole) & (entering > -np.inf)
            found.append(np.where(high, sort_keys(entering, self._places[self.fresh]), _NONE))
        keys = np.concatenate(found, axis=1)
        # A list that outgrows its depth is cut, and then something is left out.
        whole = whole & ((keys != _NONE).sum(axis=1) <= depth)
        if keys.shape[1] > depth:
            keys = np.partition(keys, depth - 1, axis=1)[:, :depth]
        keys.sort(axis=1)
        padded = np.full((len(keys), depth), _NONE, dtype=np.int64)
        padded[:, : keys.shape[1]] = keys
        return padded, whole

    def _above_end(
        self, entering: NDArray[np.float32], items: NDArray[np.int32], scores: NDArray[np.float32],
        whole: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:  # fmt: skip
        """Which scores [B, C] of fresh items rank above the last entry of the old lists."""
        last = np.maximum((items != NO_ITEM).sum(axis=1) - 1, 0)
        rows = np.arange(len(items))
        end, at_end = scores[rows, last][:, None], items[rows, last]
        joint = np.append(2 * self._joint_old + 1, 0)[at_end][:, None]
        tied = (entering == end) & (self._joint[self.fresh][None, :] < joint)
        above: NDArray[np.bool_] = (entering > end) | tied | whole[:, None]
        return above


def _unpacked(keys: Keys, places: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Item rows and scores of keys, NO_ITEM and NaN where there is none."""
    there = keys != _NONE
    # One more, which keys that are none can point at where no item is left.
    column_of = np.full(len(places) + 1, NO_ITEM, dtype=np.int32)
    column_of[places] = np.arange(len(places), dtype=np.int32)
    columns = np.where(there, column_of[np.where(there, keys, 0) & 0xFFFFFFFF], NO_ITEM).astype(np.int32)
    return columns, np.where(there, scores_of(keys), np.float32(np.nan)).astype(np.float32)


def _user_keys(model: Frozen, seen: sparse.csr_array, item_ids: NDArray[np.str_]) -> NDArray[np.bytes_]:
    """What a user's list depends on, items aside: their own scores, and what they have seen."""
    names = np.array([content_key(item.encode()) for item in item_ids.tolist()], dtype=f"S{KEY}")
    found = []
    for own, start, stop in zip(model.user_keys(), seen.indptr[:-1], seen.indptr[1:], strict=True):
        found.append(content_key(own + np.sort(names[seen.indices[start:stop]]).tobytes()))
    return np.array(found, dtype=f"S{KEY}")


def _same(
    ids: NDArray[np.str_], keys: NDArray[np.bytes_], old: DeepLists, *, items: bool = False
) -> NDArray[np.int64]:
    """Row [N] among the old ones of everyone who is as they were, -1 for the others."""
    then: Sequence[Any] = (old.item_ids, old.item_keys) if items else (old.user_ids, old.user_keys)
    row_of = {name: row for row, name in enumerate(then[0].tolist())}
    rows = np.array([row_of.get(name, -1) for name in ids.tolist()], dtype=np.int64)
    if not len(then[0]):
        return rows
    same: NDArray[np.int64] = np.where((rows >= 0) & (then[1][np.maximum(rows, 0)] == keys), rows, -1)
    return same
