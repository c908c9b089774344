"""Which pictures a rerun reads: counted at the source."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from extract import (
    CAPTION_PROMPTS,
    Catalog,
    FakeEngine,
    PictureSource,
    caption_items,
    caption_store,
    captions_of,
)

PROMPT = CAPTION_PROMPTS["plain"]


class Reads(PictureSource):
    """Remembers what was read."""

    def read(self, name, limits=None):
        self.__dict__.setdefault("names", []).append(name)
        return super().read(name, limits)

    def taken(self) -> list[str]:
        return sorted(self.__dict__.pop("names", []))


def aged(folder: Path, seconds: float = 100.0) -> None:
    """Gives every file a time that long ago: younger ones are never trusted."""
    for path in folder.iterdir():
        found = path.stat()
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns - int(seconds * 1e9)))


def run(catalog: Catalog, folder: Path, **options: object):
    engine = FakeEngine()
    store = caption_store(folder, engine, prompt=PROMPT, batch_size=4, buckets=3)
    return caption_items(catalog, engine, store, prompt=PROMPT, batch_size=4, **options), store


@pytest.fixture
def watched(shop):
    catalog = shop(12)
    aged(catalog.pictures.root)
    return Catalog(catalog.table, Reads(catalog.pictures.root))


def test_an_unchanged_rerun_reads_no_picture_and_rehash_reads_all(tmp_path, watched):
    run(watched, tmp_path / "s")
    assert len(watched.pictures.taken()) == 12
    run(watched, tmp_path / "s")
    assert watched.pictures.taken() == []
    result, _ = run(watched, tmp_path / "s", rehash=True)
    assert len(watched.pictures.taken()) == 12
    assert result.shards_computed == 0
    run(watched, tmp_path / "s")
    assert watched.pictures.taken() == []


def flat(shade: int) -> bytes:
    """A picture whose file has the same size whatever the shade."""
    sink = io.BytesIO()
    Image.new("RGB", (9, 9), (shade, shade, shade)).save(sink, "PNG", compress_level=0)
    return sink.getvalue()


def test_a_picture_of_another_time_or_size_is_read_and_what_only_looks_old_needs_rehash(tmp_path, watched):
    path = watched.pictures.root / "5.png"
    path.write_bytes(flat(1))
    aged(path.parent)
    run(watched, tmp_path / "s")
    found = path.stat()
    path.write_bytes(flat(2))
    assert path.stat().st_size == found.st_size
    assert run(watched, tmp_path / "s")[0].shards_computed == 1
    path.write_bytes(flat(3))
    aged(path.parent)
    _, store = run(watched, tmp_path / "s")
    before, found = captions_of(store), path.stat()
    path.write_bytes(flat(4))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert run(watched, tmp_path / "s")[0].shards_computed == 0
    assert captions_of(store) == before
    assert run(watched, tmp_path / "s", rehash=True)[0].shards_computed == 1
    after = captions_of(store)
    assert [item_id for item_id in before if before[item_id] != after[item_id]] == ["item-5"]


def test_a_file_that_is_two_seconds_young_is_read_again(tmp_path, shop):
    catalog = shop(3)
    watched = Catalog(catalog.table, Reads(catalog.pictures.root))
    run(watched, tmp_path / "s")
    assert len(watched.pictures.taken()) == 3
    run(watched, tmp_path / "s")
    assert len(watched.pictures.taken()) == 3


def test_in_a_changed_shard_only_what_changed_is_read(tmp_path, watched, picture_bytes):
    run(watched, tmp_path / "s")
    watched.pictures.taken()
    (watched.pictures.root / "5.png").write_bytes(picture_bytes(99))
    run(watched, tmp_path / "s")
    assert set(watched.pictures.taken()) == {"5.png"}


def test_a_lost_or_damaged_memo_costs_reads_and_nothing_else(tmp_path, watched):
    _, store = run(watched, tmp_path / "s")
    before = store.content_hash()
    watched.pictures.taken()
    for path in (tmp_path / "s" / "seen").iterdir():
        path.write_bytes(b"junk")
    result, store = run(watched, tmp_path / "s")
    assert len(watched.pictures.taken()) == 12
    assert (result.shards_computed, store.content_hash(), store.verify()) == (0, before, [])


def test_entries_of_a_zip_are_known_by_size_and_checksum(tmp_path, watched, picture_bytes):
    root = watched.pictures.root
    for number in range(2):
        with zipfile.ZipFile(tmp_path / f"{number}.zip", "w") as archive:
            for path in sorted(root.iterdir()):
                archive.write(path, path.name)
        (root / "5.png").write_bytes(picture_bytes(99))
    first, second = (Catalog(watched.table, Reads(tmp_path / f"{n}.zip")) for n in range(2))
    run(first, tmp_path / "s")
    assert len(first.pictures.taken()) == 12
    assert run(second, tmp_path / "s")[0].shards_computed == 1
    assert set(second.pictures.taken()) == {"5.png"}


def test_unsafe_names_have_no_stamp(tmp_path, watched):
    for name in ("../shop", "/etc/passwd", "none.png", "a\x00b", "http://x/y.png"):
        assert watched.pictures.stamp(name) is None
    size = (watched.pictures.root / "5.png").stat().st_size
    assert watched.pictures.stamp("5.png")[0] == size
