"""The shard store: the folder a batch stage can be killed over, at any moment, without loss or mixture.

A shard is the bucket of a hash of the item id, so a new item touches one shard only. A shard is committed in
this order: data to a temporary name, fsync, rename, fsync of the folder, then one checked line in
``manifest.jsonl``, fsync. A shard counts only if its line is whole and the file's hash is the line's hash;
the folder is never listed to learn what is valid.

    folder/store.json       the fingerprint parts that made this store
    folder/manifest.jsonl   one line per committed shard; the last whole line of a shard wins
    folder/shards/00012.*   the data
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from extract.disk import (
    bucket_of,
    canonical_json,
    content_hash,
    fingerprint,
    hash_file,
    sync_folder,
    write_atomic,
)
from extract.errors import InvalidData, RunFolderError
from extract.manifest import BadRow, Manifest, ShardRow

__all__ = [
    "BadRow",
    "ShardRow",
    "ShardStore",
    "bucket_of",
    "canonical_json",
    "content_hash",
    "fingerprint",
    "hash_file",
    "quarantine_of",
    "sync_folder",
    "write_atomic",
]

FORMAT_VERSION = 1
BLOCK = 10_000
"""Ids that are Python objects at a time."""


class ShardStore:
    """A folder of committed shards that belongs to one fingerprint.

    Args:
        folder: created if absent.
        fingerprint_parts: JSON values of everything that decides the content, except the items.
        buckets: number of shards the items are spread over; part of the fingerprint.

    Raises:
        RunFolderError: the folder was made by other parts; the message names the changed keys.
    """

    def __init__(self, folder: Path, fingerprint_parts: Mapping[str, Any], buckets: int) -> None:
        if buckets < 1:
            raise ValueError(f"`buckets` must be at least 1, got {buckets}")
        self.folder = Path(folder)
        self.parts: dict[str, Any] = json.loads(canonical_json({**fingerprint_parts, "buckets": buckets}))
        self.buckets = buckets
        self.manifest = Manifest(self.folder / "manifest.jsonl")
        header = self.folder / "store.json"
        if header.exists():
            self._check_same_parts(_read_header(header))
        elif self.manifest.path.exists():
            raise _headless(self.folder)
        else:
            (self.folder / "shards").mkdir(parents=True, exist_ok=True)
            content = {"format_version": FORMAT_VERSION, "fingerprint": self.fingerprint, "parts": self.parts}
            write_atomic(header, canonical_json(content) + b"\n")

    @classmethod
    def open(cls, folder: Path) -> ShardStore:
        """The store of a folder as it is, to read from, whatever its fingerprint."""
        header = Path(folder) / "store.json"
        if not header.exists():
            raise _headless(Path(folder))
        parts = _read_header(header)
        return cls(folder, parts, int(parts["buckets"]))

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of the parts, the number of buckets included."""
        return content_hash(self.parts)

    def group(self, ids: Sequence[str] | pa.ChunkedArray) -> dict[int, NDArray[np.int64]]:
        """Bucket -> positions in ``ids``, sorted by item id, so that file order decides nothing."""
        return group_by_bucket(ids, self.buckets)

    def rows(self) -> dict[int, ShardRow]:
        """Shard -> its last whole manifest row, in shard order. Torn and damaged lines do not count."""
        return self.manifest.rows()

    def holds(self, row: ShardRow) -> bool:
        """Whether the row's data file is there with the row's hash."""
        path = self.folder / row.data
        return path.is_file() and path.stat().st_size == row.n_bytes and hash_file(path) == row.data_sha256

    def read(self, row: ShardRow) -> bytes:
        """The row's data.

        Raises:
            InvalidData: the file is gone or its hash is another.
        """
        path = self.folder / row.data
        data = path.read_bytes() if path.is_file() else b""
        if content_hash(data) != row.data_sha256:
            raise InvalidData(
                "D107",
                f"stored shard {row.shard} is damaged",
                where=str(path),
                why="the file is missing or its sha256 is not the one in the manifest",
                next_step="run the stage again: only damaged shards are recomputed",
            )
        return data

    def commit(
        self,
        shard: int,
        data: bytes,
        suffix: str,
        *,
        n_in: int,
        n_absent: int,
        input_sha256: str,
        bad: Sequence[BadRow],
    ) -> ShardRow:
        """Make one shard durable: its file first, then its manifest row; afterwards it counts."""
        name = f"shards/{shard:05d}.{suffix}"
        write_atomic(self.folder / name, data)
        row = ShardRow(
            shard=shard,
            n_in=n_in,
            n_ok=n_in - len(bad),
            n_absent=n_absent,
            n_bad=len(bad),
            input_sha256=input_sha256,
            data=name,
            data_sha256=content_hash(data),
            n_bytes=len(data),
            bad=tuple(sorted(bad, key=lambda row: (row.item_id, row.reason))),
        )
        self.manifest.append(row)
        return row

    def adopt(self, row: ShardRow, data: bytes) -> ShardRow:
        """Make a shard of another store of the same fingerprint durable here, in the same order."""
        write_atomic(self.folder / row.data, data)
        self.manifest.append(row)
        return row

    def retire(self, row: ShardRow) -> None:
        """Empty a shard whose items all left the catalogue."""
        self.manifest.append(ShardRow(row.shard, 0, 0, 0, 0, "", "", "", 0))
        (self.folder / row.data).unlink(missing_ok=True)

    def sweep(self, shards: Iterable[int]) -> int:
        """Remove what killed runs left of these shards (temporary files, data without a row); how many."""
        mine, named, removed = set(shards), {Path(row.data).name for row in self.rows().values()}, 0
        for path in (self.folder / "shards").iterdir():
            number = path.name.lstrip(".").split(".")[0]
            if path.name not in named and number.isdigit() and int(number) in mine:
                path.unlink(missing_ok=True)
                removed += 1
        return removed

    def verify(self, *, committed_only: bool = False) -> list[str]:
        """Problems found, one line each; empty if every byte is as committed.

        Args:
            committed_only: look at committed shards only, as after a kill; otherwise leftovers are named too.
        """
        rows = self.rows()
        problems = [
            f"{row.data}: missing or damaged" for row in rows.values() if row.n_in and not self.holds(row)
        ]
        problems += [
            f"shard {row.shard}: counts do not reconcile" for row in rows.values() if not row.reconciles
        ]
        damaged = self.manifest.damaged_lines(torn_tail_too=not committed_only)
        problems += [f"manifest.jsonl line {number}: damaged" for number in damaged]
        if not committed_only:
            named = {row.data for row in rows.values()}
            present = (f"shards/{path.name}" for path in (self.folder / "shards").iterdir())
            problems += [f"{name}: not in the manifest" for name in sorted(present) if name not in named]
        return problems

    def content_hash(self) -> str:
        """sha256 (hex) of what the store holds; kills, reruns and the order of work do not change it."""
        return content_hash([self.fingerprint, [asdict(row) for row in self.rows().values() if row.n_in]])

    def _check_same_parts(self, found: dict[str, Any]) -> None:
        old, new = _flat(found), _flat(self.parts)
        changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
        if changed:
            raise RunFolderError(
                "F101",
                f"this store was made with other settings: {', '.join(changed)}",
                where=str(self.folder),
                why="; ".join(
                    f"{key}: {old.get(key, 'unset')} there, {new.get(key, 'unset')} now" for key in changed
                ),
                next_step="set these back, or give another folder: results of two settings are never mixed",
            )


def group_by_bucket(ids: Sequence[str] | pa.ChunkedArray, buckets: int) -> dict[int, NDArray[np.int64]]:
    """Bucket -> positions in ``ids``, sorted by item id, so that file order decides nothing."""
    column = ids if isinstance(ids, pa.ChunkedArray) else pa.array(ids, pa.string())
    # UTF-8 bytes sort as code points do, so this is the order of Python's strings.
    order = pc.sort_indices(column).to_numpy().astype(np.int64)
    bucket = np.empty(len(column), np.int64)
    for start in range(0, len(column), BLOCK):
        block = column.slice(start, BLOCK).to_pylist()
        bucket[start : start + len(block)] = [bucket_of(item_id, buckets) for item_id in block]
    order = order[np.argsort(bucket[order], kind="stable")]
    found, starts = np.unique(bucket[order], return_index=True)
    return dict(zip(found.tolist(), np.split(order, starts[1:]))) if len(order) else {}


def quarantine_of(store: ShardStore) -> list[BadRow]:
    """All quarantined items of a store, sorted by item id."""
    return sorted((bad for row in store.rows().values() for bad in row.bad), key=lambda bad: bad.item_id)


def _flat(parts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in parts.items():
        flat.update(
            _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {prefix + key: value}
        )
    return flat


def _read_header(path: Path) -> dict[str, Any]:
    try:
        header = json.loads(path.read_bytes())
        parts = header["parts"]
        known = header["format_version"] == FORMAT_VERSION and header["fingerprint"] == content_hash(parts)
        if known and type(parts["buckets"]) is int and parts["buckets"] > 0:
            return dict(parts)
        why = f"format_version {header['format_version']} (known: {FORMAT_VERSION}) or a changed byte"
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        why = f"{type(error).__name__}: {error}"
    raise RunFolderError("F102", "store.json is damaged or of another release", where=str(path), why=why)


def _headless(folder: Path) -> RunFolderError:
    return RunFolderError(
        "F102",
        "not a store: store.json is missing",
        where=str(folder),
        next_step="give the folder of a finished stage",
    )
