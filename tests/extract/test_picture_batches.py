"""Which pictures reach the model together."""

from __future__ import annotations

import pytest

from extract import (
    CAPTION_PROMPTS,
    CaptionConfig,
    Catalog,
    FakeEngine,
    Item,
    PictureSource,
    caption_items,
    caption_rows,
    caption_store,
    captions_of,
)
from extract.picture_fit import PictureFit

PROMPT = CAPTION_PROMPTS["plain"]
# Blocks of 4 x 4 pixels, between 16 and 100 of them.
RULE = PictureFit(kind="pixels", size=(16 * 16, 40 * 40), block=4)
SIZES = [(16, 16), (40, 40), (20, 20), (36, 40), (16, 20), (40, 36), (24, 24)]
TOKENS = [16, 100, 25, 90, 20, 90, 36]


class Seeing(FakeEngine):
    """Remembers the sizes of the pictures of each batch."""

    def __init__(self, rule: PictureFit | None = RULE) -> None:
        super().__init__()
        self.picture_fit = rule
        self.batches: list[list[tuple[int, int]]] = []

    def caption(self, images, prompts):
        self.batches.append([image.size for image in images])
        return super().caption(images, prompts)


@pytest.fixture
def catalog(tmp_path, picture_bytes):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, size in enumerate(SIZES):
        (folder / f"{number}.png").write_bytes(picture_bytes(number, "PNG", size))
    items = [Item(f"item-{number}", picture=f"{number}.png") for number in range(len(SIZES))]
    return Catalog.from_items(items, PictureSource(folder))


def run(catalog, folder, engine, **options):
    store = caption_store(folder, engine, prompt=PROMPT, batch_size=3, buckets=1, **options)
    caption_items(catalog, engine, store, prompt=PROMPT, batch_size=3, **options)
    return store


def test_a_picture_has_as_many_tokens_as_blocks():
    assert [RULE.tokens(size) for size in SIZES] == TOKENS
    assert PictureFit(kind="exact", size=(8, 8)).tokens((90, 10)) == 1


def test_the_longest_come_first_where_the_size_decides_and_the_shard_keeps_its_order(tmp_path, catalog):
    engine = Seeing()
    store = run(catalog, tmp_path / "s", engine)
    assert [[RULE.tokens(size) for size in batch] for batch in engine.batches] == [
        [100, 90, 90],
        [36, 25, 20],
        [16],
    ]
    assert [row["item_id"] for row in caption_rows(store)] == [f"item-{number}" for number in range(7)]
    other = run(catalog, tmp_path / "t", Seeing(None))
    assert captions_of(other).keys() == captions_of(store).keys()


def test_without_such_a_rule_pictures_come_in_id_order(tmp_path, catalog):
    engine = Seeing(None)
    run(catalog, tmp_path / "s", engine)
    assert [len(batch) for batch in engine.batches] == [3, 3, 1]
    assert [size for batch in engine.batches for size in batch] == SIZES


def test_a_batch_holds_no_more_padded_tokens_than_allowed_unless_one_picture_does(tmp_path, catalog):
    engine = Seeing()
    run(catalog, tmp_path / "s", engine, visual_tokens=95)
    assert [[RULE.tokens(size) for size in batch] for batch in engine.batches] == [
        [100],  # alone it is above 95
        [90],
        [90],
        [36, 25],  # a third would make 3 x 36 = 108
        [20, 16],
    ]


def test_a_broken_picture_does_not_shift_the_order_of_the_others(tmp_path, catalog):
    (catalog.pictures.root / "1.png").write_bytes(b"no picture")
    engine = Seeing()
    run(catalog, tmp_path / "s", engine)
    assert [[RULE.tokens(size) for size in batch] for batch in engine.batches] == [
        [90, 90, 36],
        [25, 20, 16],
    ]


@pytest.mark.parametrize("name", ["resizer", "reduced_jpeg", "visual_tokens"])
def test_an_engine_that_resizes_itself_refuses_what_it_would_not_heed(name):
    value = {"resizer": "torch", "reduced_jpeg": True, "visual_tokens": 9}[name]
    with pytest.raises(ValueError, match=name):
        CaptionConfig(engine="vllm", model="x", **{name: value})
