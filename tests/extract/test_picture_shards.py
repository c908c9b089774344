"""The order of work over shards of pictures: what is read and decoded while the model works."""

from __future__ import annotations

import pytest

from extract import (
    CAPTION_PROMPTS,
    Catalog,
    FakeEngine,
    PictureSource,
    bucket_of,
    caption_items,
    caption_store,
)

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
