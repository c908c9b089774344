"""What pictures held when they were last read, recognised by size and modification time.

Without it, a rerun over a million unchanged pictures reads every byte of them to learn that nothing changed.
It lies beside a store's shards, one file per shard, and is no result: without it, pictures are read again.
"""

from __future__ import annotations

import io
import logging
import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from extract.errors import UnsafeInput
from extract.faults import Failure, describe
from extract.items import Catalog, Item
from extract.pictures import BadPicture, PictureLimits, PictureSource
from extract.store import content_hash, write_atomic

logger = logging.getLogger(__name__)

SCHEMA = pa.schema([
    ("picture", pa.string()),
    ("size", pa.int64()),
    ("stamp", pa.int64()),
    ("sha256", pa.string()),
])
RACY_NS = 2 * 10**9
"""A file this young may be written again within the clock's tick, with the same time on it."""

Stamp = tuple[int, int]


class PictureMemo:
    """Content hashes of the pictures of one shard.

    Args:
        folder: of the memo's files.
        shard: whose pictures they are.
        pictures: where the names lead.
        rehash: trust no size and time; every picture is read.
    """

    def __init__(
        self, folder: Path, shard: int, pictures: PictureSource | None, *, rehash: bool = False
    ) -> None:
        self.path, self.pictures, self.rehash = folder / f"{shard:05d}.parquet", pictures, rehash
        # Another folder's picture of the same name, size and time is another one; a zip file has checksums.
        in_a_folder = pictures is not None and pictures.root.is_dir()
        self._root = os.fsencode(pictures.root.resolve()) if pictures is not None and in_a_folder else b""
        self._known = {} if rehash else _read(self.path, self._root)
        self._seen: dict[str, tuple[Stamp, str]] = {}

    def stamp(self, name: str) -> Stamp | None:
        """Size and time of a picture as they are now; to be taken before it is read."""
        return None if self.pictures is None else self.pictures.stamp(name)

    def sha256(self, name: str) -> str | None:
        """The hash of a picture's content, if it is known and the file still has its size and time."""
        known = self._seen.get(name) or self._known.get(name)
        if known is None or known[0] != self.stamp(name):
            return None
        self._seen[name] = known
        return known[1]

    def saw(self, name: str, stamp: Stamp | None, sha256: str) -> None:
        """Remember what was read, unless the file is so young that its time may not tell the next change."""
        if stamp is not None and (self.pictures is None or time.time_ns() - stamp[1] > RACY_NS):
            self._seen[name] = (stamp, sha256)

    def save(self) -> None:
        """Write what is known of this shard's pictures, if it is not what was read from disk."""
        if self._seen == self._known and not self.rehash:
            return
        rows = [
            {"picture": name, "size": size, "stamp": stamp, "sha256": sha256}
            for name, ((size, stamp), sha256) in sorted(self._seen.items())
        ]
        sink = io.BytesIO()
        table = pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata({"pictures": self._root}))
        pq.write_table(table, sink, compression="zstd")
        self.path.parent.mkdir(exist_ok=True)
        write_atomic(self.path, sink.getvalue())


def check_pictures(catalog: Catalog) -> None:
    """Refuse names of pictures that lead nowhere.

    Raises:
        UnsafeInput: items name pictures, but the catalogue has no pictures.
    """
    if catalog.pictures is None and catalog.table["picture"].null_count < len(catalog):
        raise UnsafeInput(
            "U404",
            "items name pictures, but no folder of pictures is given",
            next_step="set `pictures` to the folder or zip file the names are relative to",
        )


def known_input(item: Item, text: str, memo: PictureMemo) -> str | None:
    """The hash of a picture and a text that goes with it, if the picture need not be read for it."""
    if item.picture is None or memo.pictures is None:
        return content_hash([text, "absent"])
    sha256 = memo.sha256(item.picture)
    return None if sha256 is None else content_hash([text, sha256])


def read_input(
    item: Item, text: str, memo: PictureMemo, limits: PictureLimits
) -> tuple[str, bytes | Failure | None]:
    """The same hash, and the picture's bytes, why there are none, or None without a picture."""
    if item.picture is None or memo.pictures is None:
        return content_hash([text, "absent"]), None
    stamp = memo.stamp(item.picture)
    try:
        data = memo.pictures.read(item.picture, limits)
    except BadPicture as bad:
        return content_hash([text, f"{bad.reason}: {bad.detail}"]), Failure(bad.reason, bad.detail)
    sha256 = content_hash(data)
    memo.saw(item.picture, stamp, sha256)
    return content_hash([text, sha256]), data


def _read(path: Path, root: bytes) -> dict[str, tuple[Stamp, str]]:
    if not path.is_file():
        return {}
    try:
        if (pq.read_schema(path).metadata or {}).get(b"pictures") != root:
            return {}
        columns = pq.read_table(path, schema=SCHEMA).to_pydict()
    except (pa.ArrowException, OSError) as error:
        logger.warning("%s cannot be read (%s); pictures are read again", path, describe(error))
        return {}
    stamps = zip(columns["size"], columns["stamp"])
    return dict(zip(columns["picture"], zip(stamps, columns["sha256"])))
