"""The order of work over shards of pictures: what is read and decoded while the model works."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from extract import (
    CAPTION_PROMPTS,
    Catalog,
    FakeEngine,
    Item,
    PictureSource,
    bucket_of,
    caption_items,
    caption_store,
    picture_shards,
)
from extract.decoding import HereDecoder
from extract.errors import TooManyBadInputs
from extract.on_demand import OnDemand
from extract.picture_engines import FakePictureEngine, PictureEmbedConfig
from extract.picture_stage import embed_pictures, picture_embed_store

PROMPT = CAPTION_PROMPTS["plain"]


@pytest.fixture
def events(shop, tmp_path):
    """Names as they are read, "model" as a batch reaches the model, and shards as they are done."""
    seen: list[str] = []

    class Source(PictureSource):
        def read(self, name, limits=None):
            seen.append(name.removesuffix(".png"))
            return super().read(name, limits)

    class Engine(FakeEngine):
        def caption(self, images, prompts):
            seen.append("model")
            return super().caption(images, prompts)

    catalog, engine = shop(20), Engine()
    store = caption_store(tmp_path / "s", engine, prompt=PROMPT, batch_size=2, buckets=3)
    caption_items(
        Catalog(catalog.table, Source(catalog.pictures.root)),
        engine,
        store,
        prompt=PROMPT,
        batch_size=2,
        progress=lambda *_: seen.append("done"),
    )
    return seen


def test_two_batches_wait_at_most_and_the_next_shard_is_read_before_the_last_batch_of_this_one(events, shop):
    waiting = most = 0
    for event in events:
        waiting += 1 if event not in ("model", "done") else -2 if event == "model" else 0
        most = max(most, waiting)
    assert most == 4
    first_done = events.index("done")
    read = [event for event in events[:first_done] if event != "model"]
    item_of = {item.picture.removesuffix(".png"): item.item_id for item in shop(20) if item.picture}
    shards = [bucket_of(item_of[name], 3) for name in read]
    assert shards == sorted(shards)
    assert set(shards) == {0, 1}


def test_where_no_picture_is_to_be_decoded_no_model_is_loaded(tmp_path, picture_bytes):
    def load():
        raise AssertionError("the model was loaded")

    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes(picture_bytes())
    items = [Item("a", picture="a.png"), Item("b"), Item("c", picture="gone.png"), Item("d")]
    everything = Catalog.from_items(items, PictureSource(folder))
    engine = FakeEngine()
    store = caption_store(tmp_path / "s", engine, prompt=PROMPT, batch_size=2, buckets=1)
    options = {"prompt": PROMPT, "batch_size": 2, "max_bad": 1.0}
    caption_items(everything, engine, store, **options)
    rest = everything.subset(["a", "b", "c"])
    result = caption_items(rest, OnDemand(engine.fingerprint, load), store, **options)
    assert (result.shards_computed, result.n_absent, result.n_quarantined) == (1, 1, 1)


def test_a_limit_met_by_looking_ahead_does_not_cost_the_shard_in_work(tmp_path, shop):
    catalog, engine = shop(20), FakeEngine()
    store = caption_store(tmp_path / "s", engine, prompt=PROMPT, batch_size=2, buckets=2)
    second = [item for item in catalog if bucket_of(item.item_id, 2) == 1]
    for item in second[:2]:
        (catalog.pictures.root / item.picture).write_bytes(b"no picture")
    options = {"prompt": PROMPT, "batch_size": 2}
    caption_items(Catalog.from_items(second, catalog.pictures), engine, store, max_bad=1.0, **options)
    assert list(store.rows()) == [1]
    with pytest.raises(TooManyBadInputs):
        caption_items(catalog, engine, store, max_bad=0.01, **options)
    assert list(store.rows()) == [0, 1]


@pytest.fixture
def asked(monkeypatch):
    """Whether threads are left to the decoders, batch by batch, while those are always busy."""
    seen: list[bool] = []
    monkeypatch.setattr(HereDecoder, "busy", True)
    monkeypatch.setattr(
        picture_shards, "half_the_threads", lambda needed: seen.append(needed) or nullcontext()
    )
    return seen


@pytest.mark.parametrize(("dtype", "left"), [("float32", True), ("bfloat16", False)])
def test_only_captions_of_float32_leave_threads_to_busy_decoders(dtype, left, shop, tmp_path, asked):
    class Engine(FakeEngine):
        @property
        def fingerprint(self):
            return {"engine": "transformers", "dtype": dtype}

    store = caption_store(tmp_path / "s", Engine(), prompt=PROMPT, batch_size=2, buckets=1)
    caption_items(shop(4), Engine(), store, prompt=PROMPT, batch_size=2)
    assert asked == [left] * 2


def test_vectors_of_pictures_count_to_the_last_bit_and_keep_torchs_threads(shop, tmp_path, asked):
    engine = FakePictureEngine(PictureEmbedConfig(engine="fake"))
    store = picture_embed_store(tmp_path / "s", engine, batch_size=2, buckets=1)
    embed_pictures(shop(4), None, engine, store, batch_size=2)
    assert asked == [False] * 2
