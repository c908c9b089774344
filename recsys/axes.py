"""Axes: ids in a fixed order, the rows they stand for, and the hash of what rows mean."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from extract.errors import InvalidData


def as_texts(ids: Sequence[str] | NDArray[np.str_]) -> NDArray[np.str_]:
    """The ids [N] as a numpy text array."""
    return np.asarray(ids if isinstance(ids, np.ndarray) else list(ids), dtype=np.str_)


def axis_of(ids: Sequence[str] | NDArray[np.str_]) -> NDArray[np.str_]:
    """The ids as an axis; a repeated or empty id raises InvalidData D205."""
    axis = as_texts(ids)
    unique, counts = np.unique(axis, return_counts=True)
    if len(unique) != len(axis) or "" in unique[:1]:
        why = (
            f"`{unique[counts.argmax()]}` occurs {counts.max()} times"
            if len(unique) != len(axis)
            else "one is empty"
        )
        raise InvalidData("D205", "item ids must be unique and not empty", why=why)
    return axis


def rows_of(ids: Sequence[str] | NDArray[np.str_], axis: NDArray[np.str_], kind: str) -> NDArray[np.int32]:
    """Row [N] of each id on an axis; an id that is not on it raises InvalidData D202."""
    wanted = as_texts(ids)
    rows = find_rows(wanted, axis)
    bad = rows < 0
    if bad.any():
        names = ", ".join(dict.fromkeys(wanted[bad].tolist()[:5]))
        raise InvalidData(
            "D202",
            f"{int(bad.sum())} {kind} ids are not on the {kind} axis",
            why=f"first: {names}; axis of {len(axis)} ids",
        )
    return rows.astype(np.int32)


def find_rows(ids: NDArray[np.str_], axis: NDArray[np.str_]) -> NDArray[np.int64]:
    """Row [N] of each id on an axis, -1 for one that is not on it."""
    if not len(axis):
        return np.full(len(ids), -1, dtype=np.int64)
    order = np.argsort(axis, kind="stable")
    found = order[np.minimum(np.searchsorted(axis, ids, sorter=order), len(axis) - 1)]
    return np.where(axis[found] == ids, found, -1).astype(np.int64)


def positions(column: pa.ChunkedArray, axis: Sequence[str]) -> NDArray[np.int32]:
    """Row of each text of an Arrow column on an axis that holds all of them."""
    place = pc.index_in(column.cast(pa.string()).combine_chunks(), value_set=pa.array(axis, type=pa.string()))
    return np.asarray(place.to_numpy(), dtype=np.int32)


def hash_arrays(arrays: Mapping[str, NDArray[Any] | None]) -> str:
    """SHA-256 of named arrays; independent of how wide numpy stores text."""
    digest = hashlib.sha256()
    for name, values in arrays.items():
        if values is None:
            content = b"absent"
        elif values.dtype.kind == "U":
            content = json.dumps(values.tolist()).encode()
        else:
            content = np.ascontiguousarray(values).tobytes()
        digest.update(f"{name}:{len(content)}:".encode() + content)
    return digest.hexdigest()
