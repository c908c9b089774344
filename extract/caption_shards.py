"""Shard files of captions: one row per item with the hash of its input, and one file made of many shards."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from extract.disk import atomic_file
from extract.store import ShardRow, ShardStore

ROW_GROUP = 50_000
SCHEMA = pa.schema([(name, pa.string()) for name in ("item_id", "caption", "status", "input_sha256")])


def caption_bytes(rows: Sequence[Mapping[str, str | None]]) -> bytes:
    """A shard's file of rows ``item_id, caption, status (ok, absent, bad), input_sha256``."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), buffer, compression="zstd")
    return buffer.getvalue()


def kept_captions(store: ShardStore, row: ShardRow | None) -> dict[str, str]:
    """Captions by input hash of a committed shard whose catalogue rows changed: these need no model again.

    Only good rows are kept: what was bad gets another chance. A damaged shard keeps nothing.
    """
    if row is None or not row.n_in or not store.holds(row):
        return {}
    stored = pq.read_table(io.BytesIO(store.read(row)), columns=["input_sha256", "caption", "status"])
    good = (kept for kept in stored.to_pylist() if kept["status"] == "ok")
    return {str(kept["input_sha256"]): str(kept["caption"]) for kept in good}


class CaptionMemory:
    """Captions by input hash, of all shards of a store: equal pictures are captioned once.

    Only for engines whose captions do not depend on the batch: for others a shard would depend on what
    other shards hold. Read from the store when first asked; holds at most half a million captions.
    """

    most = 500_000

    def __init__(self, store: ShardStore, committed: Mapping[int, ShardRow]) -> None:
        self._store, self._committed = store, committed
        self._captions: dict[bytes, str] | None = None

    def get(self, key: str) -> str | None:
        """The caption of an input, if one was made."""
        return self._loaded().get(bytes.fromhex(key))

    def add(self, key: str, caption: str) -> None:
        """Remember a caption."""
        if len(self._loaded()) < self.most:
            self._loaded()[bytes.fromhex(key)] = caption

    def _loaded(self) -> dict[bytes, str]:
        if self._captions is None:
            self._captions = {}
            for row in self._committed.values():
                for key, caption in kept_captions(self._store, row).items():
                    self.add(key, caption)
        return self._captions


def caption_rows(store: ShardStore) -> Iterator[dict[str, str | None]]:
    """Rows ``item_id, caption, status (ok, absent, bad), input_sha256`` of a store, shard by shard."""
    for row in store.rows().values():
        if row.n_in:
            yield from pq.read_table(io.BytesIO(store.read(row))).to_pylist()


def caption_table(store: ShardStore) -> pa.Table:
    """Columns ``item_id, caption`` (null: none) of a store, shard by shard; compact, not Python objects.

    Raises:
        InvalidData: a stored shard is damaged.
    """
    shards = (io.BytesIO(store.read(row)) for row in store.rows().values() if row.n_in)
    tables = [pq.read_table(shard, columns=["item_id", "caption"]) for shard in shards]
    return pa.concat_tables(tables) if tables else SCHEMA.empty_table().select(["item_id", "caption"])


def save_captions(store: ShardStore, path: Path) -> None:
    """Write ``item_id, caption`` of the items that have one as Parquet, sorted by id.

    Raises:
        InvalidData: a stored shard is damaged.
    """
    table = caption_table(store)
    table = table.filter(pc.is_valid(table["caption"]))
    order = pc.sort_indices(table["item_id"])
    with atomic_file(path, table.nbytes) as file, pq.ParquetWriter(file, table.schema) as writer:
        for start in range(0, len(table), ROW_GROUP):
            writer.write_table(table.take(order[start : start + ROW_GROUP]))


def captions_of(store: ShardStore) -> dict[str, str]:
    """Item id -> caption, sorted by id, of the items that have one.

    Raises:
        InvalidData: a stored shard is damaged.
    """
    rows = caption_table(store).to_pylist()
    return dict(sorted((row["item_id"], row["caption"]) for row in rows if row["caption"] is not None))
