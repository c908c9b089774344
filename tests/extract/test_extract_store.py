from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from extract.errors import InvalidData, ResourceExhausted, RunFolderError
from extract.manifest import ShardRow
from extract.stage import ShardOutput, run_shards
from extract.store import (
    BadRow,
    ShardStore,
    bucket_of,
    content_hash,
    fingerprint,
    quarantine_of,
    write_atomic,
)

IDS = [f"id-{number}" for number in range(30)]


def run(store: ShardStore, ids=IDS, *, texts=None, bad=(), **options):
    """A stage whose work on an item is to write its text."""
    words = texts or {item_id: item_id.upper() for item_id in ids}

    def digest(positions):
        return content_hash([[ids[p], words[ids[p]]] for p in positions])

    def compute(positions):
        data = "\n".join(words[ids[p]] for p in positions).encode()
        rows = [BadRow(ids[p], "test", "made-bad") for p in positions if ids[p] in bad]
        return ShardOutput(data, "txt", digest(positions), 0, rows)

    return run_shards(
        ids, store, digest=digest, compute=lambda due: map(compute, due), **{"max_bad": 1.0, **options}
    )


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "shards").iterdir()}


def test_the_bucket_of_an_id_never_changes():
    # sha256("a") begins ca978112ca1bbdca; the same number on every machine and in every release.
    assert bucket_of("a", 64) == 0xCA978112CA1BBDCA % 64


def test_fingerprint_ignores_the_order_of_names_and_sees_every_value():
    assert fingerprint(a=1, b="x") == fingerprint(b="x", a=1)
    assert fingerprint(a=1, b="x") != fingerprint(a=2, b="x")


def test_content_hash_refuses_nan():
    with pytest.raises(ValueError, match="Out of range float"):
        content_hash([float("nan")])


def test_a_failed_write_leaves_the_old_file_and_no_temporary(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceExhausted, match="no room to write 3 bytes"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_second_run_reuses_every_shard(tmp_path):
    store = ShardStore(tmp_path, {"model": "m"}, 8)
    first = run(store)
    before = store.manifest.path.read_bytes()
    second = run(ShardStore(tmp_path, {"model": "m"}, 8))
    assert (first.shards_computed, first.shards_reused) == (8, 0)
    assert (second.shards_computed, second.shards_reused) == (0, 8)
    assert store.manifest.path.read_bytes() == before
    assert store.verify() == []


def test_only_the_shard_of_a_changed_item_is_computed_again(tmp_path):
    store = ShardStore(tmp_path, {}, 8)
    run(store)
    before = files_of(tmp_path)
    words = {item_id: item_id.upper() for item_id in IDS} | {"id-7": "changed"}
    result = run(store, texts=words)
    after = files_of(tmp_path)
    assert result.shards_computed == 1
    assert [name for name in before if before[name] != after[name]] == [f"{bucket_of('id-7', 8):05d}.txt"]


def test_an_inserted_item_touches_one_shard_and_file_order_touches_none(tmp_path):
    store = ShardStore(tmp_path, {}, 8)
    run(store)
    assert run(store, ids=IDS[::-1]).shards_computed == 0
    assert run(store, ids=["new", *IDS]).shards_computed == 1


def test_a_store_after_edits_equals_a_fresh_one(tmp_path):
    old = ShardStore(tmp_path / "old", {}, 16)
    run(old, ids=[*IDS, "gone"])
    run(old, ids=IDS[:5])
    fresh = ShardStore(tmp_path / "fresh", {}, 16)
    run(fresh, ids=IDS[:5])
    assert old.content_hash() == fresh.content_hash()
    assert files_of(old.folder) == files_of(fresh.folder)
    assert old.verify() == []


def test_other_settings_are_refused_and_named(tmp_path):
    ShardStore(tmp_path, {"engine": {"model": "a", "dtype": "float32"}, "same": 1}, 8)
    with pytest.raises(RunFolderError) as caught:
        ShardStore(tmp_path, {"engine": {"model": "b", "dtype": "float32"}, "same": 1}, 16)
    assert "buckets, engine.model" in caught.value.what
    assert "engine.model: a there, b now" in caught.value.why


def test_open_reads_a_store_without_knowing_its_settings(tmp_path):
    store = ShardStore(tmp_path, {"model": "m"}, 8)
    run(store)
    assert ShardStore.open(tmp_path).content_hash() == store.content_hash()
    with pytest.raises(RunFolderError, match=r"store\.json is missing"):
        ShardStore.open(tmp_path / "shards")


def test_a_torn_last_line_costs_one_shard(tmp_path):
    store = ShardStore(tmp_path, {}, 8)
    run(store)
    whole = store.content_hash()
    manifest = store.manifest.path
    manifest.write_bytes(manifest.read_bytes()[:-20])
    assert store.verify(committed_only=True) == []
    assert store.verify() != []
    assert len(store.rows()) == 7
    assert run(store).shards_computed == 1
    assert store.content_hash() == whole
    assert store.verify() == []


@pytest.mark.parametrize("offset", [3, 40, 150, -30, -2])
def test_a_flipped_byte_in_the_manifest_is_found(tmp_path, offset):
    store = ShardStore(tmp_path, {}, 4)
    run(store)
    data = bytearray(store.manifest.path.read_bytes())
    data[offset] ^= 1
    store.manifest.path.write_bytes(bytes(data))
    assert store.verify() != []
    assert run(store).shards_computed == 1


def test_a_flipped_byte_in_any_shard_is_found_and_only_that_shard_is_mended(tmp_path):
    store = ShardStore(tmp_path, {}, 4)
    run(store)
    whole = store.content_hash()
    for path in sorted((tmp_path / "shards").iterdir()):
        good = path.read_bytes()
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        assert store.verify() == [f"shards/{path.name}: missing or damaged"]
        with pytest.raises(InvalidData, match="damaged"):
            store.read(store.rows()[int(path.stem)])
        assert run(store).shards_computed == 1
        assert path.read_bytes() == good
    assert store.content_hash() == whole


def test_a_changed_byte_in_the_header_is_refused(tmp_path):
    ShardStore(tmp_path, {"model": "m"}, 4)
    header = tmp_path / "store.json"
    header.write_bytes(header.read_bytes().replace(b'"m"', b'"n"'))
    with pytest.raises(RunFolderError, match="damaged"):
        ShardStore(tmp_path, {"model": "n"}, 4)


def test_counts_reconcile_and_the_quarantine_is_sorted(tmp_path):
    store = ShardStore(tmp_path, {}, 8)
    result = run(store, bad={"id-3", "id-21"})
    assert (result.n_in, result.n_ok, result.n_quarantined) == (30, 28, 2)
    assert [bad.item_id for bad in quarantine_of(store)] == ["id-21", "id-3"]
    assert all(row.reconciles for row in store.rows().values())


def test_a_row_whose_counts_do_not_reconcile_is_a_problem(tmp_path):
    store = ShardStore(tmp_path, {}, 1)
    store.commit(0, b"x", "txt", n_in=3, n_absent=0, input_sha256="", bad=[])
    row = store.rows()[0]
    store.manifest.append(ShardRow(0, 4, 3, 0, 0, "", row.data, row.data_sha256, row.n_bytes))
    assert store.verify() == ["shard 0: counts do not reconcile"]


def test_two_workers_share_a_store(tmp_path):
    store = ShardStore(tmp_path / "two", {}, 8)
    halves = [run(store, part=(worker, 2)) for worker in range(2)]
    alone = ShardStore(tmp_path / "one", {}, 8)
    run(alone)
    assert sum(half.n_in for half in halves) == len(IDS)
    assert store.content_hash() == alone.content_hash()


def test_sweeping_leaves_the_shards_of_other_workers(tmp_path):
    store = ShardStore(tmp_path, {}, 8)
    for name in (".00002.txt.1.tmp", ".00003.txt.1.tmp", "00002.txt", "00003.txt"):
        (tmp_path / "shards" / name).write_bytes(b"leftover")
    assert store.sweep([2]) == 2
    assert sorted(files_of(tmp_path)) == [".00003.txt.1.tmp", "00003.txt"]


class Crash(BaseException):
    """Not an Exception: like a kill, nothing may handle it."""


def failing_at(monkeypatch, call: int) -> list[str]:
    calls: list[str] = []

    def wrap(name):
        real = getattr(os, name)

        def wrapped(*arguments, **options):
            calls.append(name)
            if len(calls) == call:
                raise Crash
            return real(*arguments, **options)

        monkeypatch.setattr(os, name, wrapped)

    wrap("replace")
    wrap("fsync")
    return calls


def test_dying_at_every_rename_and_fsync_leaves_a_store_that_finishes_equal(tmp_path, monkeypatch):
    golden = ShardStore(tmp_path / "golden", {}, 3)
    run(golden)
    deaths = 0
    while True:
        folder = tmp_path / f"at-{deaths + 1}"
        with monkeypatch.context() as patch:
            failing_at(patch, deaths + 1)
            try:
                run(ShardStore(folder, {}, 3))
                break
            except Crash:
                deaths += 1
        store = ShardStore(folder, {}, 3)
        committed = len(store.rows())
        assert store.verify(committed_only=True) == []
        result = run(store)
        assert result.shards_reused == committed
        assert store.verify() == []
        assert store.content_hash() == golden.content_hash()
        assert files_of(folder) == files_of(golden.folder)
    # Header: fsync, replace, folder. Each of 3 shards: the same and the manifest; once the manifest's folder.
    assert deaths == 3 + 3 * 4 + 1


def test_data_is_on_disk_before_its_manifest_row(tmp_path, monkeypatch):
    store = ShardStore(tmp_path, {}, 1)
    store.commit(0, b"old", "txt", n_in=1, n_absent=0, input_sha256="a", bad=[])
    calls = failing_at(monkeypatch, -1)
    store.commit(0, b"new", "txt", n_in=1, n_absent=0, input_sha256="b", bad=[])
    assert calls == ["fsync", "replace", "fsync", "fsync"]


def test_a_full_disk_at_the_manifest_is_named_and_mended_by_a_rerun(tmp_path, monkeypatch):
    store = ShardStore(tmp_path, {}, 2)
    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ResourceExhausted, match="no room"):
            run(store)
    run(store)
    assert store.verify() == []


def test_the_manifest_is_plain_json_lines(tmp_path):
    store = ShardStore(tmp_path, {}, 2)
    run(store, bad={"id-3"})
    rows = [json.loads(line) for line in store.manifest.path.read_text().splitlines()]
    assert {"shard", "n_in", "n_ok", "n_bad", "input_sha256", "data", "data_sha256", "n_bytes"} <= set(
        rows[0]
    )
    assert sum(row["n_in"] for row in rows) == 30
