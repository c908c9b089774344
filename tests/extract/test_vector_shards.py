"""Vectors that are carried over, stores that are merged, and one file made of many shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from extract import (
    FakeEngine,
    FeatureTable,
    InvalidData,
    ShardStore,
    bucket_of,
    embed_items,
    embed_store,
    embedded_table,
    quarantine_of,
    save_embedded,
)

BUCKETS = 8
IDS = [f"item-{number}" for number in range(200)]
TEXTS = {item_id: f"words of {item_id}" for item_id in IDS}


class Counting(FakeEngine):
    """Remembers the texts it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def embed(self, texts):
        self.texts += texts
        return super().embed(texts)


def filled(folder: Path, texts: dict[str, str], engine=None, **options: object) -> ShardStore:
    engine = engine or FakeEngine()
    store = embed_store(folder, engine, buckets=BUCKETS)
    embed_items(list(texts), list(texts.values()), engine, store, **options)
    return store


def files(store: ShardStore) -> dict[int, bytes]:
    return {int(path.name[:5]): path.read_bytes() for path in (store.folder / "shards").iterdir()}


def test_only_changed_and_new_texts_reach_the_engine_and_other_buckets_keep_their_bytes(tmp_path):
    before = files(filled(tmp_path / "s", TEXTS))
    added = {f"new-{number}": f"a new text {number}" for number in range(10)}
    changed = {"item-50": "another text"}
    later = {item_id: text for item_id, text in (TEXTS | changed | added).items() if item_id not in IDS[:10]}
    engine = Counting()
    store = filled(tmp_path / "s", later, engine)
    assert sorted(engine.texts) == sorted([*changed.values(), *added.values()])
    assert store.content_hash() == filled(tmp_path / "fresh", later).content_hash()
    touched = {bucket_of(item_id, BUCKETS) for item_id in (*changed, *added, *IDS[:10])}
    after = files(store)
    assert {bucket for bucket in range(BUCKETS) if after[bucket] != before[bucket]} == touched


def test_a_change_in_one_bucket_leaves_the_bytes_of_the_seven_others(tmp_path):
    before = files(filled(tmp_path / "s", TEXTS))
    after = files(filled(tmp_path / "s", TEXTS | {"item-3": "another text"}))
    [touched] = [bucket for bucket in before if before[bucket] != after[bucket]]
    assert touched == bucket_of("item-3", BUCKETS)


def test_a_damaged_shard_keeps_nothing_and_is_made_again(tmp_path):
    store, engine = filled(tmp_path / "s", TEXTS), Counting()
    bucket = bucket_of("item-3", BUCKETS)
    path = tmp_path / "s" / store.rows()[bucket].data
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    filled(tmp_path / "s", TEXTS, engine)
    assert sorted(engine.texts) == sorted(TEXTS[i] for i in IDS if bucket_of(i, BUCKETS) == bucket)
    assert path.read_bytes() == whole


def test_parts_made_apart_and_merged_are_the_bytes_of_one_process(tmp_path):
    whole = filled(tmp_path / "whole", TEXTS)
    parts = [filled(tmp_path / str(index), TEXTS, part=(index, 3)) for index in range(3)]
    assert all(0 < len(part.rows()) < BUCKETS for part in parts)
    engine = Counting()
    merged = filled(tmp_path / "merged", TEXTS, engine, sources=parts)
    assert engine.texts == []
    assert files(merged) == files(whole)
    assert merged.manifest.path.read_bytes() == whole.manifest.path.read_bytes()
    assert merged.verify() == []


def test_a_shard_of_other_inputs_or_damaged_is_not_taken_over(tmp_path):
    part = filled(tmp_path / "part", TEXTS | {"item-3": "stale"}, part=(0, 1))
    bucket = bucket_of("item-3", BUCKETS)
    damaged = next(row for number, row in part.rows().items() if number != bucket)
    (part.folder / damaged.data).write_bytes(b"junk")
    engine = Counting()
    merged = filled(tmp_path / "merged", TEXTS, engine, sources=[part])
    again = {i for i in IDS if bucket_of(i, BUCKETS) in {bucket, damaged.shard}}
    assert sorted(engine.texts) == sorted(TEXTS[i] for i in again)
    assert files(merged) == files(filled(tmp_path / "whole", TEXTS))


def test_a_shard_with_bad_items_is_not_taken_over_when_they_are_to_be_tried_again(tmp_path):
    class Moody(FakeEngine):
        def embed(self, texts):
            if TEXTS["item-3"] in texts:
                raise RuntimeError("not today")
            return super().embed(texts)

    part = filled(tmp_path / "part", TEXTS, Moody())
    assert quarantine_of(filled(tmp_path / "as-is", TEXTS, sources=[part]))[0].item_id == "item-3"
    tried = filled(tmp_path / "tried", TEXTS, sources=[part], retry_bad=True)
    assert quarantine_of(tried) == []
    assert files(tried) == files(filled(tmp_path / "whole", TEXTS))


def test_the_streamed_file_is_the_bytes_of_the_whole_table(tmp_path):
    texts = dict(reversed(TEXTS.items())) | {"ünïcode 猫": "a cat", "\U0001f408": "", "z": "last"}
    store = filled(tmp_path / "s", texts)
    save_embedded(store, tmp_path / "streamed.safetensors")
    embedded_table(store).save(tmp_path / "whole.safetensors")
    streamed = (tmp_path / "streamed.safetensors").read_bytes()
    assert streamed == (tmp_path / "whole.safetensors").read_bytes()
    table = FeatureTable.load(tmp_path / "streamed.safetensors")
    assert table.ids == tuple(sorted(texts))
    assert np.flatnonzero(~table.present).tolist() == [table.ids.index("\U0001f408")]


def test_a_damaged_or_empty_store_gives_no_file(tmp_path):
    with pytest.raises(InvalidData, match="no vectors"):
        save_embedded(embed_store(tmp_path / "empty", FakeEngine(), buckets=2), tmp_path / "x")
    store = filled(tmp_path / "s", TEXTS)
    (store.folder / next(iter(store.rows().values())).data).write_bytes(b"junk")
    with pytest.raises(InvalidData, match="damaged"):
        save_embedded(store, tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir() if "x" in path.name] == []
