"""Columns of an interaction file: which to read, and how their texts become times and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from extract.errors import InvalidData
from recsys.interaction_files import read_batches

# Parquet readers refuse long metadata strings by default; the item axis of a large catalogue is one.
LONG_METADATA = 2**31 - 1


class InteractionColumns(BaseModel):
    """Names of the columns of an interaction file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str = "user_id"
    """Column of the user id; read as text."""
    item: str = "item_id"
    """Column of the item id; read as text."""
    timestamp: str | None = None
    """Column of the time: integers or decimals of any unit, or ISO dates (read as seconds).

    None: no order is known.
    """
    weight: str | None = None
    """Column of a strength such as a rating; kept, not used by the binary models. None: absent."""
    label: str | None = None
    """Column that names the split of a row. None: absent."""

    def named(self) -> list[str]:
        """The columns to read, each once."""
        return list(dict.fromkeys(c for c in self.model_dump().values() if c is not None))


@dataclass(frozen=True, slots=True)
class ReadCounts:
    """What happened to the rows of a file: ``n_in = n_ok + n_quarantined``."""

    n_in: int
    n_ok: int
    n_unknown_item: int
    n_duplicate: int
    n_empty_id: int
    first_unknown: tuple[str, ...]
    n_label_conflict: int = 0
    """Of the duplicates, those whose label is another than that of the row that was kept."""

    @property
    def n_quarantined(self) -> int:
        """Rows that were read and not kept."""
        return self.n_unknown_item + self.n_duplicate + self.n_empty_id


class Pairs(NamedTuple):
    """The rows [E] of a table that count, the sorted user axis [U], and the rows of both ids [E]."""

    kept: NDArray[np.int64]
    user_ids: NDArray[np.str_]
    user_rows: NDArray[np.int32]
    item_rows: NDArray[np.int32]
    counts: ReadCounts


def read_table(path: Path, columns: InteractionColumns) -> Any:
    """Arrow table of the named columns of an interaction file, of any kind `interaction_files` reads."""
    batches = list(read_batches(path, columns.named()))
    return (
        pa.Table.from_batches(batches)
        if batches
        else pa.table({c: pa.array([], pa.string()) for c in columns.named()})
    )


def choose_pairs(
    users: Any,
    items: Any,
    universe: NDArray[np.str_],
    unknown: Literal["error", "drop"],
    *,
    where: str,
    labels: Any = None,
) -> Pairs:
    """Which rows of two id columns count: both ids there, the item known, the pair not seen before.

    Unknown items raise InvalidData D202 under "error"; no row left raises D203.
    """
    users, items = (column.cast(pa.string()).combine_chunks() for column in (users, items))
    present = _not_empty(users) & _not_empty(items)
    places = pc.fill_null(pc.index_in(items, value_set=pa.array(universe.tolist(), pa.string())), -1)
    item_rows = np.asarray(places.to_numpy(), dtype=np.int64)
    known = item_rows >= 0
    missing = pc.unique(items.filter(pa.array(present & ~known))).to_pylist()
    if missing and unknown == "error":
        raise unknown_items(int((present & ~known).sum()), missing, where)
    encoded = users.dictionary_encode()
    codes = np.asarray(pc.fill_null(encoded.indices, 0).to_numpy(), dtype=np.int64)
    usable = np.flatnonzero(present & known)
    keys = codes[usable] * len(universe) + item_rows[usable]
    _, first, pair = np.unique(keys, return_index=True, return_inverse=True)
    kept = usable[np.sort(first)]
    told = np.zeros(len(users), dtype=np.int64) if labels is None else _codes(labels)
    counts = ReadCounts(
        n_in=len(users),
        n_ok=len(kept),
        n_unknown_item=int((present & ~known).sum()),
        n_duplicate=len(usable) - len(kept),
        n_empty_id=int((~present).sum()),
        first_unknown=tuple(missing[:5]),
        n_label_conflict=int((told[usable] != told[usable[first[pair]]]).sum()),
    )
    if not len(kept):
        raise no_pair_left(counts, where)
    used = np.unique(codes[kept])
    names = np.asarray(encoded.dictionary.take(pa.array(used)).to_pylist(), dtype=np.str_)
    order = np.argsort(names)
    row_of = np.empty(used[-1] + 1, dtype=np.int32)
    row_of[used[order]] = np.arange(len(used), dtype=np.int32)
    return Pairs(kept, names[order], row_of[codes[kept]], item_rows[kept].astype(np.int32), counts)


def unknown_items(n: int, missing: Sequence[str], where: str) -> InvalidData:
    """The error of n rows on items that are not in the catalogue."""
    return InvalidData(
        "D202",
        f"{n} interactions name items that the catalogue lacks",
        where=where,
        why=f"{len(missing)} unknown items, first: {', '.join(missing[:5])}",
        next_step="add the items to the catalogue, or drop such rows with unknown_items: drop",
    )


def no_pair_left(counts: ReadCounts, where: str) -> InvalidData:
    """The error of a file without a row that counts."""
    return InvalidData("D203", "no interaction is left", where=where, why=f"of {counts.n_in} rows: {counts}")


def texts(column: Any) -> NDArray[np.str_]:
    """The column [E] as text, nulls as ''."""
    return np.asarray(pc.fill_null(column.cast(pa.string()), "").to_pylist(), dtype=np.str_)


def numbers(column: Any, name: str, path: Path) -> NDArray[np.float32]:
    """The column [E] as float32; text that is no number, or nothing, raises InvalidData D204."""
    try:
        values = np.asarray(column.cast(pa.float32()).to_numpy(), dtype=np.float32)
    except pa.ArrowInvalid as problem:
        values, why = np.full(1, np.nan, dtype=np.float32), str(problem)
    else:
        why = f"{int(np.isnan(values).sum())} empty cells"
    if np.isnan(values).any():
        raise InvalidData("D204", f"column `{name}` holds text that is no number", where=str(path), why=why)
    return values


def times(column: Any, name: str, path: Path) -> NDArray[np.int64]:
    """The column [E] as int64: integers as is, decimals cut, dates as seconds; else InvalidData D204."""
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
    for kind in (pa.int64(), pa.float64(), pa.timestamp("s")):
        try:
            values = column.cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            continue
        # What int64 cannot hold is no time either: the cast would make another number of it.
        if values.null_count or (kind == pa.float64() and not (abs(values.to_numpy()) < 2.0**63).all()):
            break
        return np.asarray(values.to_numpy().astype(np.int64), dtype=np.int64)
    raise InvalidData(
        "D204",
        f"column `{name}` holds an empty cell or text that is no time",
        where=str(path),
        next_step="use integers, decimals or ISO dates, or leave `timestamp` out",
    )


def _codes(column: Any) -> NDArray[np.int64]:
    encoded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    return np.asarray(pc.fill_null(encoded.indices, -1).to_numpy(), dtype=np.int64)


def _not_empty(column: Any) -> NDArray[np.bool_]:
    filled = pc.fill_null(pc.greater(pc.utf8_length(column), 0), False)
    return np.asarray(filled.to_numpy(zero_copy_only=False), dtype=np.bool_)
