"""The Parquet file of one part of the interactions: a row per pair with string ids, the axes as metadata.

It is written some rows at a time, so that a part which does not fit in memory gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from extract.disk import atomic_file

ROWS = 1 << 20
"""Rows of one group in the file."""
PAIR = ("user_rows", "item_rows")


def write_pairs(
    path: Path,
    user_ids: NDArray[np.str_],
    item_ids: NDArray[np.str_],
    chunks: Iterable[Mapping[str, NDArray[Any]]],
) -> None:
    """Write columns given by name, chunk by chunk (at least one, which may hold no row).

    Each chunk has `user_rows`, `item_rows` and the other columns of `Interactions` that there are. How the
    rows are cut into chunks does not show in the bytes.
    """
    users, items = (pa.array(ids, pa.string()) for ids in (user_ids, item_ids))
    with atomic_file(path) as file:
        writer: Any = None
        for columns in regrouped(chunks, ROWS):
            table = pa.table({
                # Texts, not a dictionary: the whole axis would be written with every group of rows.
                "user_id": users.take(pa.array(columns["user_rows"])),
                "item_id": items.take(pa.array(columns["item_rows"])),
                **{name[:-1]: pa.array(values) for name, values in columns.items() if name not in PAIR},
            })
            # Arrow's own copy of the schema would hold both axes once more.
            writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd", store_schema=False)
            writer.write_table(table, row_group_size=ROWS)
        axes = {"user_ids": users, "item_ids": items}
        # Last, since a list of all ids takes more memory than anything else here.
        writer.add_key_value_metadata({name: json.dumps(ids.to_pylist()) for name, ids in axes.items()})
        writer.close()


def regrouped(chunks: Iterable[Mapping[str, NDArray[Any]]], size: int) -> Iterator[dict[str, NDArray[Any]]]:
    """The same rows in chunks of `size`, the last one shorter; one empty chunk where there is no row."""
    held: dict[str, NDArray[Any]] = {}
    given = False
    for chunk in chunks:
        held = {name: np.concatenate([held[name], new]) if held else new for name, new in chunk.items()}
        while len(held["user_rows"]) >= size:
            yield {name: values[:size] for name, values in held.items()}
            given, held = True, {name: values[size:] for name, values in held.items()}
    if len(held["user_rows"]) or not given:
        yield held
