"""What a store's rows say, field by field, and what its errors tell a person."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from extract import store as module
from extract.errors import InvalidData, ResourceExhausted, RunFolderError
from extract.manifest import Manifest, ShardRow
from extract.store import BadRow, ShardStore, bucket_of, content_hash, group_by_bucket

ADVICE = "run the stage again: only damaged shards are recomputed"


def told(error: InvalidData | RunFolderError) -> tuple[str, str, str, str, str]:
    return error.code, error.what, error.where, error.why, error.next_step


def test_a_committed_row_says_what_is_in_its_file(tmp_path: Path) -> None:
    store = ShardStore(tmp_path, {}, 8)
    bad = [
        BadRow("b", "caption", "late", "x"),
        BadRow("a", "caption", "torn"),
        BadRow("b", "caption", "early"),
    ]
    row = store.commit(3, b"three", "txt", n_in=10, n_absent=2, input_sha256="in", bad=bad)
    assert row == ShardRow(
        3, 10, 7, 2, 3, "in", "shards/00003.txt", content_hash(b"three"), 5,
        (bad[1], bad[2], bad[0]),
    )  # fmt: skip
    assert (tmp_path / "shards" / "00003.txt").read_bytes() == b"three"
    assert store.rows() == {3: row} and row.reconciles and store.holds(row) and store.read(row) == b"three"


def test_a_shard_is_held_only_while_its_size_and_its_hash_are_the_rows(tmp_path: Path) -> None:
    store = ShardStore(tmp_path, {}, 1)
    row = store.commit(0, b"data", "txt", n_in=1, n_absent=0, input_sha256="", bad=[])
    path = tmp_path / "shards" / "00000.txt"
    for other in (b"date", b"data more"):
        path.write_bytes(other)
        assert not store.holds(row)
    path.unlink()
    assert not store.holds(row)
    with pytest.raises(InvalidData) as caught:
        store.read(row)
    assert told(caught.value) == (
        "D107", "stored shard 0 is damaged", str(path),
        "the file is missing or its sha256 is not the one in the manifest", ADVICE,
    )  # fmt: skip


def test_an_adopted_shard_is_that_of_the_other_store(tmp_path: Path) -> None:
    theirs, ours = ShardStore(tmp_path / "theirs", {}, 4), ShardStore(tmp_path / "ours", {}, 4)
    row = theirs.commit(2, b"data", "txt", n_in=1, n_absent=1, input_sha256="x", bad=[])
    assert ours.adopt(row, theirs.read(row)) == row
    assert ours.rows() == {2: row} and ours.read(row) == b"data"
    assert ours.content_hash() == theirs.content_hash() and ours.verify() == []


def test_a_retired_shard_leaves_no_file_and_does_not_count(tmp_path: Path) -> None:
    store = ShardStore(tmp_path, {}, 4)
    empty = store.content_hash()
    row = store.commit(1, b"data", "txt", n_in=1, n_absent=0, input_sha256="x", bad=[])
    assert store.content_hash() != empty
    store.retire(row)
    assert store.rows() == {1: ShardRow(1, 0, 0, 0, 0, "", "", "", 0)}
    assert list((tmp_path / "shards").iterdir()) == []
    assert store.content_hash() == empty and store.verify() == []
    # A file that is gone already is no reason to stop.
    store.retire(row)


def test_sweeping_keeps_what_the_manifest_names(tmp_path: Path) -> None:
    store = ShardStore(tmp_path, {}, 4)
    store.commit(1, b"data", "txt", n_in=1, n_absent=0, input_sha256="x", bad=[])
    for name in ("00001.json", ".00001.txt.77.tmp", "notes.txt"):
        (tmp_path / "shards" / name).write_bytes(b"")
    assert store.sweep([1, 2]) == 2
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == ["00001.txt", "notes.txt"]


def test_a_store_needs_a_bucket(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`buckets` must be at least 1, got 0"):
        ShardStore(tmp_path, {}, 0)
    assert ShardStore(tmp_path, {}, 1).buckets == 1


def test_the_header_names_the_parts_and_their_fingerprint(tmp_path: Path) -> None:
    store = ShardStore(tmp_path / "new" / "store", {"model": "m"}, 8)
    parts = {"model": "m", "buckets": 8}
    assert store.fingerprint == content_hash(parts)
    header = json.loads((tmp_path / "new/store/store.json").read_text())
    assert header == {"format_version": 1, "fingerprint": content_hash(parts), "parts": parts}
    opened = ShardStore.open(tmp_path / "new/store")
    assert (opened.parts, opened.buckets, opened.folder) == (parts, 8, tmp_path / "new/store")


def test_other_settings_are_told_with_both_values(tmp_path: Path) -> None:
    ShardStore(tmp_path, {"engine": {"model": "a"}, "gone": 1, "limits": {}}, 8)
    with pytest.raises(RunFolderError) as caught:
        ShardStore(tmp_path, {"engine": {"model": "b"}, "new": [2], "limits": {}}, 8)
    assert told(caught.value) == (
        "F101",
        "this store was made with other settings: engine.model, gone, new",
        str(tmp_path),
        "engine.model: a there, b now; gone: 1 there, unset now; new: unset there, [2] now",
        "set these back, or give another folder: results of two settings are never mixed",
    )


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ("{", "JSONDecodeError: Expecting property name"),
        ("[]", "TypeError: list indices"),
        ('{"format_version": 1}', "KeyError: 'parts'"),
        (
            '{"format_version": 2, "fingerprint": "x", "parts": {}}',
            "format_version 2 (known: 1) or a changed byte",
        ),
        (
            '{"format_version": 1, "fingerprint": "x", "parts": {}}',
            "format_version 1 (known: 1) or a changed byte",
        ),
    ],
)
def test_a_header_that_cannot_be_trusted_says_why(header: str, why: str, tmp_path: Path) -> None:
    ShardStore(tmp_path, {}, 4)
    (tmp_path / "store.json").write_text(header)
    with pytest.raises(RunFolderError) as caught:
        ShardStore.open(tmp_path)
    error = caught.value
    assert (error.code, error.what) == ("F102", "store.json is damaged or of another release")
    assert error.where == str(tmp_path / "store.json") and error.why.startswith(why)


def test_a_folder_with_a_manifest_and_no_header_is_not_made_a_store_again(tmp_path: Path) -> None:
    ShardStore(tmp_path, {}, 4).commit(0, b"x", "txt", n_in=1, n_absent=0, input_sha256="", bad=[])
    (tmp_path / "store.json").unlink()
    for attempt in (lambda: ShardStore(tmp_path, {}, 4), lambda: ShardStore.open(tmp_path)):
        with pytest.raises(RunFolderError) as caught:
            attempt()
        assert told(caught.value) == (
            "F102", "not a store: store.json is missing", str(tmp_path), "",
            "give the folder of a finished stage",
        )  # fmt: skip


@pytest.mark.parametrize("block", [1, 7, 10_000])
def test_buckets_hold_positions_by_id_whatever_the_block(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    ids = [f"id-{number % 10}{number}" for number in range(40)]
    expected: dict[int, list[int]] = {}
    for position in sorted(range(40), key=ids.__getitem__):
        expected.setdefault(bucket_of(ids[position], 4), []).append(position)
    for given in (ids, pa.chunked_array([ids[:11], ids[11:]])):
        found = group_by_bucket(given, 4)
        assert {bucket: rows.tolist() for bucket, rows in found.items()} == expected
        assert list(found) == sorted(found) and all(rows.dtype == np.int64 for rows in found.values())
    assert group_by_bucket([], 4) == {}


def test_problems_are_named_file_by_file(tmp_path: Path) -> None:
    store = ShardStore(tmp_path, {}, 4)
    store.commit(1, b"data", "txt", n_in=1, n_absent=0, input_sha256="", bad=[])
    (tmp_path / "shards" / "00001.txt").unlink()
    for name in ("b", "a"):
        (tmp_path / "shards" / name).write_bytes(b"")
    with store.manifest.path.open("ab") as file:
        file.write(b"torn\nhalf")
    missing, torn = "shards/00001.txt: missing or damaged", "manifest.jsonl line 2: damaged"
    assert store.verify(committed_only=True) == [missing, torn]
    assert store.verify() == [
        missing, torn, "manifest.jsonl line 3: damaged", "shards/a: not in the manifest",
        "shards/b: not in the manifest",
    ]  # fmt: skip


def test_a_damaged_last_line_that_is_whole_is_no_torn_one(tmp_path: Path) -> None:
    store = ShardStore(tmp_path, {}, 1)
    assert store.manifest.path == tmp_path / "manifest.jsonl"
    store.commit(0, b"x", "txt", n_in=1, n_absent=0, input_sha256="", bad=[])
    with store.manifest.path.open("ab") as file:
        file.write(b"changed\n")
    # A kill leaves half a line; this one was written to its end, so somebody changed it.
    assert store.verify(committed_only=True) == store.verify() == ["manifest.jsonl line 2: damaged"]


def test_a_full_disk_names_the_manifest_and_what_was_to_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = ShardRow(0, 1, 1, 0, 0, "", "shards/00000.txt", "", 1)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceExhausted, match=f"no room to write {len(row.line())} bytes") as caught:
        Manifest(tmp_path / "manifest.jsonl").append(row)
    assert str(tmp_path / "manifest.jsonl") in caught.value.where


@pytest.mark.parametrize(
    ("counts", "whole"),
    [
        ((3, 2, 0, 1), True), ((3, 2, 2, 1), True), ((3, 2, 3, 1), False), ((3, 2, -1, 1), False),
        ((4, 2, 0, 1), False), ((2, 2, 0, 0), False),
    ],
)  # fmt: skip
def test_counts_reconcile_with_each_other_and_with_the_bad_rows(
    counts: tuple[int, int, int, int], whole: bool
) -> None:
    row = ShardRow(0, *counts, "", "", "", 0, (BadRow("a", "s", "r"),))
    assert row.reconciles is whole


def test_a_line_is_read_back_and_any_other_is_nothing() -> None:
    row = ShardRow(5, 3, 2, 1, 1, "in", "shards/00005.txt", "hash", 9, (BadRow("a", "s", "r", "ä"),))
    assert ShardRow.from_line(row.line()) == row and row.line().endswith(b"\n")
    fields = json.loads(row.line())
    for other in (b"", b"5", b"{}", row.line()[:-3], json.dumps(fields | {"n_ok": 1}).encode()):
        assert ShardRow.from_line(other) is None
    # A whole line of another shape is none of ours either.
    strange = {"shard": 1}
    assert ShardRow.from_line(json.dumps(strange | {"check": content_hash(strange)}).encode()) is None
