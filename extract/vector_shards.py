"""Shard files of vectors: a feature table with the hash of each row's input, and one file of many shards.

The hashes let a shard whose catalogue rows changed keep the vectors of those that did not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from safetensors.numpy import load as load_tensors

from extract.disk import atomic_file
from extract.errors import InvalidData
from extract.features import FeatureTable, Provenance, feature_header
from extract.store import BLOCK, ShardRow, ShardStore

INPUTS = "input_sha256"


def shard_bytes(table: FeatureTable, inputs: Sequence[str]) -> bytes:
    """A shard's file: its table, and the sha256 (hex) of what each of its rows was made from."""
    digests = np.frombuffer(bytes.fromhex("".join(inputs)), np.uint8).reshape(len(inputs), 32)
    return table.to_bytes({INPUTS: digests})


def kept_vectors(store: ShardStore, row: ShardRow | None) -> dict[str, NDArray[np.float32]]:
    """Vectors by input hash of a committed shard: these need no model again.

    What was bad or absent is not among them, and a damaged shard keeps nothing.
    """
    if row is None or not row.n_in or not store.holds(row):
        return {}
    tensors = load_tensors(store.read(row))
    if INPUTS not in tensors:
        return {}
    known = zip(tensors[INPUTS], tensors["matrix"], tensors["present"])
    return {digest.tobytes().hex(): vector for digest, vector, present in known if present}


def save_vectors(store: ShardStore, path: Path, provenance: Provenance) -> int:
    """Write all vectors of a store as one feature file, sorted by item id; how many bytes.

    One shard is in memory at a time. The bytes are those of `FeatureTable.save` on the table of all shards.

    Raises:
        InvalidData: a stored shard is damaged, or the store is empty.
    """
    rows = [row for row in store.rows().values() if row.n_in]
    if not rows:
        raise InvalidData("D112", "the store holds no vectors", where=str(store.folder))
    tables = (load_tensors(store.read(row)) for row in rows)
    chunks, width = [], 0
    for table in tables:
        chunks.append(_ids(table))
        width = table["matrix"].shape[1]
    ids = pa.chunked_array(chunks, pa.string())
    order = pc.sort_indices(ids)
    places = np.empty(len(ids), np.int64)
    places[order.to_numpy()] = np.arange(len(ids))
    ids = ids.take(order)
    ends = np.cumsum(pc.binary_length(ids).to_numpy(), dtype=np.int64)
    header, starts = _header(len(ids), width, int(ends[-1]), provenance)
    present = np.zeros(len(ids), bool)
    with atomic_file(path, starts["end"]) as file:
        file.write(header + ends.tobytes())
        file.seek(starts["ids_utf8"])
        for start in range(0, len(ids), BLOCK):
            file.write("".join(ids.slice(start, BLOCK).to_pylist()).encode())
        file.flush()
        done = 0
        for row in rows:
            table = load_tensors(store.read(row))
            mine = places[done : done + row.n_in]
            present[mine] = table["present"]
            for place, vector in zip(mine.tolist(), table["matrix"]):
                os.pwrite(file.fileno(), vector.data, starts["matrix"] + vector.nbytes * place)
            done += row.n_in
        file.seek(starts["present"])
        file.write(present.tobytes())
    return starts["end"]


def _ids(tensors: Mapping[str, NDArray[Any]]) -> pa.Array:
    offsets = np.concatenate([[0], tensors["ids_end"]]).astype(np.int32)
    text = pa.py_buffer(tensors["ids_utf8"].tobytes())
    return pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), text)


def _header(rows: int, width: int, letters: int, provenance: Provenance) -> tuple[bytes, dict[str, int]]:
    """The header of a feature file in the order safetensors writes tensors in, and where each begins."""
    tensors = {
        "ids_end": ("I64", [rows], 8 * rows),
        "matrix": ("F32", [rows, width], 4 * rows * width),
        "ids_utf8": ("U8", [letters], letters),
        "present": ("BOOL", [rows], rows),
    }
    fields: dict[str, Any] = {"__metadata__": {"catalograph": feature_header(provenance)}}
    offset, offsets = 0, {}
    for name, (kind, shape, size) in tensors.items():
        fields[name] = {"dtype": kind, "shape": shape, "data_offsets": [offset, offset + size]}
        offsets[name] = offset
        offset += size
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    return header, {name: len(header) + at for name, at in (offsets | {"end": offset}).items()}
