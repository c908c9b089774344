"""Interactions: who chose what, and the only place where ids become rows.

An id is a string and lives outside; a row is an int32 and lives inside. The user axis holds the users that
were read, sorted; the item axis is the catalogue in its own order, with the items nobody chose.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from extract.errors import InvalidData
from recsys.axes import as_texts, axis_of, hash_arrays, positions, rows_of
from recsys.columns import (
    LONG_METADATA,
    InteractionColumns,
    ReadCounts,
    choose_pairs,
    numbers,
    read_table,
    texts,
    times,
)
from recsys.pair_files import write_pairs

if TYPE_CHECKING:
    from scipy import sparse

logger = logging.getLogger(__name__)

__all__ = [
    "InteractionColumns",
    "Interactions",
    "ReadCounts",
    "check_same_axes",
    "interactions_from",
    "read_interactions",
]

PER_ROW = ("timestamps", "weights", "labels")


@dataclass(frozen=True, slots=True, eq=False)
class Interactions:
    """E chosen pairs on a user axis [U] and an item axis [I].

    ``user_rows`` and ``item_rows`` are int32 [E] in file order; ``timestamps`` int64 [E], ``weights`` float32
    [E] and ``labels`` text [E] are None where the source has none. E may be 0 (an unused validation split);
    the axes may not hold an id twice.
    """

    user_ids: NDArray[np.str_]
    item_ids: NDArray[np.str_]
    user_rows: NDArray[np.int32]
    item_rows: NDArray[np.int32]
    timestamps: NDArray[np.int64] | None = None
    weights: NDArray[np.float32] | None = None
    labels: NDArray[np.str_] | None = None

    def __post_init__(self) -> None:
        for name in ("item_rows", *PER_ROW):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.user_rows):
                raise InvalidData(
                    "D208",
                    f"`{name}` and `user_rows` differ in length",
                    why=f"{len(values)} against {len(self.user_rows)}",
                )
        for name, rows, size in (
            ("user_rows", self.user_rows, len(self.user_ids)),
            ("item_rows", self.item_rows, len(self.item_ids)),
        ):
            if len(rows) and (rows.min() < 0 or rows.max() >= size):
                raise InvalidData(
                    "D208",
                    f"`{name}` points outside its axis",
                    why=f"rows {rows.min()} to {rows.max()}, axis of {size}",
                )

    def __len__(self) -> int:
        return len(self.user_rows)

    @property
    def n_users(self) -> int:
        """Length U of the user axis."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """Length I of the item axis, items never chosen included."""
        return len(self.item_ids)

    @property
    def ordered(self) -> bool:
        """True where the times of the choices are known."""
        return self.timestamps is not None

    def matrix(self) -> sparse.csr_array:
        """Binary user-item matrix, CSR float32 [U, I], columns sorted within rows."""
        # Here, so that reading a configuration does not wait for scipy.
        from scipy import sparse

        ones = np.ones(len(self), dtype=np.float32)
        matrix = sparse.csr_array(
            (ones, (self.user_rows, self.item_rows)), shape=(self.n_users, self.n_items)
        )
        matrix.sum_duplicates()
        matrix.data[:] = 1.0
        return matrix

    def take(self, index: NDArray[np.bool_] | NDArray[np.integer[Any]]) -> Interactions:
        """The rows a mask [E] or an index array selects, on the same axes."""
        columns = {name: getattr(self, name) for name in PER_ROW}
        picked: dict[str, Any] = {n: None if v is None else v[index] for n, v in columns.items()}
        return replace(self, user_rows=self.user_rows[index], item_rows=self.item_rows[index], **picked)

    def concat(self, *others: Interactions) -> Interactions:
        """All rows of self and others, in that order; the axes must be equal.

        A column that one part lacks is dropped.
        """
        parts = [self, *others]
        for part in others:
            check_same_axes(self, part)
        joined: dict[str, Any] = {}
        for name in ("user_rows", "item_rows", *PER_ROW):
            columns = [getattr(part, name) for part in parts]
            joined[name] = None if any(c is None for c in columns) else np.concatenate(columns)
        return replace(self, **joined)

    def with_history(
        self, user_row: int, item_rows: Sequence[int] | NDArray[np.integer[Any]]
    ) -> Interactions:
        """The same data with one user's choices replaced by `item_rows`, oldest first: "what if this user had
        chosen these?".

        The new rows go to the end; times are 0, 1, 2, ..., weights 1 and labels empty where those columns
        exist.
        """
        kept = self.take(self.user_rows != user_row)
        n = len(item_rows)
        new = replace(
            self,
            user_rows=np.full(n, user_row, dtype=np.int32),
            item_rows=np.asarray(item_rows, dtype=np.int32),
            timestamps=None if self.timestamps is None else np.arange(n, dtype=np.int64),
            weights=None if self.weights is None else np.ones(n, dtype=np.float32),
            labels=None if self.labels is None else np.full(n, "", dtype=np.str_),
        )
        return kept.concat(new)

    def chronological(self) -> NDArray[np.int64]:
        """Index [E] that sorts by user, then time, then file order (by user and file order where no times are
        known).
        """
        keys = (self.user_rows,) if self.timestamps is None else (self.timestamps, self.user_rows)
        return np.lexsort(keys).astype(np.int64)

    def history(
        self, rows: Sequence[int] | NDArray[np.integer[Any]] | None = None
    ) -> list[NDArray[np.int32]]:
        """Item rows of each given user row (None: every user), oldest first; file order where no times are
        known.
        """
        wanted = np.arange(self.n_users) if rows is None else np.asarray(rows, dtype=np.int64)
        order = self.chronological()
        items = self.item_rows[order]
        bounds = np.concatenate([[0], np.cumsum(np.bincount(self.user_rows, minlength=self.n_users))])
        return [items[bounds[row] : bounds[row + 1]] for row in wanted]

    def user_rows_of(self, user_ids: Sequence[str] | NDArray[np.str_]) -> NDArray[np.int32]:
        """Rows of user ids; an id that is not on the axis raises InvalidData."""
        return rows_of(user_ids, self.user_ids, "user")

    def item_rows_of(self, item_ids: Sequence[str] | NDArray[np.str_]) -> NDArray[np.int32]:
        """Rows of item ids; an id that is not on the axis raises InvalidData."""
        return rows_of(item_ids, self.item_ids, "item")

    def content_hash(self) -> str:
        """SHA-256 of the axes and of every column in row order; independent of how wide numpy stores the
        text.
        """
        return hash_arrays({field.name: getattr(self, field.name) for field in fields(self)})

    def axes_hash(self) -> str:
        """SHA-256 of the two axes alone: what rows mean."""
        return hash_arrays({"user_ids": self.user_ids, "item_ids": self.item_ids})

    def save(self, path: Path) -> None:
        """Write one Parquet file: a row per pair with string ids, both axes in the file's metadata."""
        columns = {name: getattr(self, name) for name in ("user_rows", "item_rows", *PER_ROW)}
        chunk = {name: values for name, values in columns.items() if values is not None}
        write_pairs(path, self.user_ids, self.item_ids, [chunk])

    @classmethod
    def load(cls, path: Path) -> Interactions:
        """Read a file that `save` wrote; InvalidData where the axes are not in it."""
        table = pq.read_table(
            path, thrift_string_size_limit=LONG_METADATA, thrift_container_size_limit=LONG_METADATA
        )
        metadata = table.schema.metadata or {}
        if b"user_ids" not in metadata or b"item_ids" not in metadata:
            raise InvalidData(
                "D209",
                "the file holds no user and item axis",
                where=str(path),
                next_step="read it with read_interactions",
            )
        users, items = (json.loads(metadata[key]) for key in (b"user_ids", b"item_ids"))
        columns: dict[str, Any] = {
            name: table[name[:-1]].to_numpy() for name in PER_ROW if name[:-1] in table.column_names
        }
        if "labels" in columns:
            columns["labels"] = columns["labels"].astype(np.str_)
        return cls(
            user_ids=np.asarray(users, dtype=np.str_),
            item_ids=np.asarray(items, dtype=np.str_),
            user_rows=positions(table["user_id"], users),
            item_rows=positions(table["item_id"], items),
            **columns,
        )


def interactions_from(
    users: Sequence[str],
    items: Sequence[str],
    item_ids: Sequence[str],
    *,
    timestamps: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    labels: Sequence[str] | None = None,
) -> Interactions:
    """Build Interactions from parallel sequences of ids [E] and the item axis [I]; every item must be on the
    axis.
    """
    universe = axis_of(item_ids)
    user_ids = np.unique(as_texts(users))
    return Interactions(
        user_ids=user_ids,
        item_ids=universe,
        user_rows=rows_of(users, user_ids, "user"),
        item_rows=rows_of(items, universe, "item"),
        timestamps=None if timestamps is None else np.asarray(timestamps, dtype=np.int64),
        weights=None if weights is None else np.asarray(weights, dtype=np.float32),
        labels=None if labels is None else as_texts(labels),
    )


def check_same_axes(a: Interactions, b: Interactions) -> None:
    """Raise InvalidData unless both have the same users and the same items in the same order."""
    for name in ("user_ids", "item_ids"):
        if not np.array_equal(getattr(a, name), getattr(b, name)):
            raise InvalidData(
                "D208",
                f"two interaction sets have different `{name}`",
                why=f"{len(getattr(a, name))} ids against {len(getattr(b, name))}, or another order",
                next_step="split one set of interactions instead of reading two",
            )


def read_interactions(
    path: Path,
    columns: InteractionColumns,
    item_ids: Sequence[str],
    unknown: Literal["error", "drop"] = "error",
) -> tuple[Interactions, ReadCounts]:
    """Read a file of any kind of `recsys.interaction_files` onto the item axis `item_ids`.

    Rows with an empty id and repeated pairs (the first is kept) are counted and dropped. Rows whose item the
    catalogue lacks are dropped with counts under "drop" and raise InvalidData D202 under "error". No row left
    raises InvalidData D203.
    """
    table = read_table(path, columns)
    universe = axis_of(item_ids)
    time, weight, label = columns.timestamp, columns.weight, columns.label
    users, items, labels = (
        None if name is None else table[name] for name in (columns.user, columns.item, label)
    )
    pairs = choose_pairs(users, items, universe, unknown, where=str(path), labels=labels)
    logger.info("read %s: %s", path, pairs.counts)
    return Interactions(
        user_ids=pairs.user_ids,
        item_ids=universe,
        user_rows=pairs.user_rows,
        item_rows=pairs.item_rows,
        timestamps=None if time is None else times(table[time], time, path)[pairs.kept],
        weights=None if weight is None else numbers(table[weight], weight, path)[pairs.kept],
        labels=None if label is None else texts(table[label])[pairs.kept],
    ), pairs.counts
