from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from extract import (
    Catalog,
    FakePictureEngine,
    InvalidData,
    Item,
    MissingPrerequisite,
    PictureEmbedConfig,
    PictureSource,
    RunFolderError,
    TooManyBadInputs,
    UnsafeInput,
    build_picture_embedder,
    embed_pictures,
    embedded_table,
    picture_embed_store,
    picture_engine_fingerprint,
    quarantine_of,
)


def drawn(seed, size=(24, 24)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(picture):
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


class Watched(FakePictureEngine):
    """Counts pictures; a red one raises, a green one gives NaN."""

    def __init__(self) -> None:
        super().__init__(PictureEmbedConfig(engine="fake", with_text=True))
        self.seen = 0

    def embed_pictures(self, images, texts):
        self.seen += len(images)
        corners = [image.getpixel((0, 0)) for image in images]
        if (255, 0, 0) in corners:
            raise RuntimeError("cannot")
        vectors = super().embed_pictures(images, texts)
        vectors[[corner == (0, 255, 0) for corner in corners]] = np.nan
        return vectors


def engine(**changes):
    return build_picture_embedder(PictureEmbedConfig(engine="fake", **changes))


def run(catalog, embedder, folder, texts=None, **options):
    store = picture_embed_store(folder, embedder, batch_size=2, buckets=3)
    texts = [None] * len(catalog) if texts is None else texts
    return store, embed_pictures(catalog, texts, embedder, store, batch_size=2, **options)


def test_items_without_a_picture_are_absent_and_the_others_have_their_own_vector(shop, tmp_path):
    catalog = shop(6, every_third_absent=True)
    store, result = run(catalog, engine(), tmp_path / "s")
    assert (result.n_in, result.n_ok, result.n_absent, result.n_quarantined) == (6, 6, 2, 0)
    table = embedded_table(store).aligned_to(catalog.ids, require=True)
    assert np.flatnonzero(~table.present).tolist() == [0, 3]
    expected = engine().embed_pictures([drawn(number) for number in range(6)], [""] * 6)
    expected[[0, 3]] = 0
    assert np.array_equal(table.matrix, expected)


def test_bad_pictures_are_quarantined_with_their_reason_and_spare_their_neighbours(tmp_path):
    (tmp_path / "broken.png").write_bytes(encoded(drawn(1))[:-200])
    (tmp_path / "good.png").write_bytes(encoded(drawn(2)))
    for name, colour in (("red", (255, 0, 0)), ("green", (0, 255, 0))):
        (tmp_path / f"{name}.png").write_bytes(encoded(Image.new("RGB", (4, 4), colour)))
    names = ("broken", "good", "red", "green", "lost")
    catalog = Catalog.from_items(
        [Item(name, name, picture=f"{name}.png") for name in names], PictureSource(tmp_path)
    )
    store, result = run(catalog, Watched(), tmp_path / "s", max_bad=0.8)
    assert (result.n_ok, result.n_quarantined) == (1, 4)
    assert {bad.item_id: bad.reason for bad in quarantine_of(store)} == {
        "broken": "broken",
        "red": "engine-error",
        "green": "not-finite",
        "lost": "missing",
    }
    table = embedded_table(store).aligned_to(["good"])
    assert np.array_equal(table.matrix, engine(with_text=True).embed_pictures([drawn(2)], [""]))
    with pytest.raises(TooManyBadInputs):
        run(catalog, Watched(), tmp_path / "t", max_bad=0.1)


def test_a_text_beside_the_picture_counts_where_the_engine_takes_it(shop, tmp_path):
    catalog = shop(4)
    texts = ["one", "two", None, "one"]
    store, _ = run(catalog, engine(with_text=True), tmp_path / "s", texts)
    expected = engine(with_text=True).embed_pictures([drawn(n) for n in range(4)], ["one", "two", "", "one"])
    assert np.array_equal(embedded_table(store).aligned_to(catalog.ids).matrix, expected)


def test_nothing_is_done_twice_and_a_changed_picture_recomputes_its_shard(shop, tmp_path):
    catalog, watched = shop(8), Watched()
    run(catalog, watched, tmp_path / "s")
    assert watched.seen == 8
    assert run(catalog, watched, tmp_path / "s")[1].shards_computed == 0
    assert watched.seen == 8
    (catalog.pictures.root / "0.png").write_bytes(encoded(drawn(99)))
    store, again = run(catalog, watched, tmp_path / "s")
    assert again.shards_computed == 1
    found = embedded_table(store).aligned_to(["item-0"]).matrix
    assert np.array_equal(found, engine(with_text=True).embed_pictures([drawn(99)], [""]))


def test_equal_pictures_are_embedded_once_per_shard(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(drawn(5)))
    items = [Item(f"item-{number}", picture="a.png") for number in range(9)]
    watched = Watched()
    store = picture_embed_store(tmp_path / "s", watched, batch_size=4, buckets=1)
    embed_pictures(Catalog.from_items(items, PictureSource(tmp_path)), [None] * 9, watched, store)
    assert watched.seen == 1


def test_the_order_of_the_catalogue_changes_no_byte(shop, tmp_path):
    catalog = shop(8)
    turned = Catalog.from_items(list(catalog)[::-1], catalog.pictures)
    one, two = (run(c, engine(), tmp_path / n)[0] for c, n in ((catalog, "one"), (turned, "two")))
    assert one.content_hash() == two.content_hash()


def test_other_settings_wrong_lengths_and_a_missing_folder_are_refused(shop, tmp_path):
    catalog = shop(3)
    run(catalog, engine(), tmp_path / "s")
    with pytest.raises(RunFolderError, match=r"engine\.with_text"):
        run(catalog, engine(with_text=True), tmp_path / "s")
    with pytest.raises(InvalidData, match="2 texts for 3 items"):
        run(catalog, engine(), tmp_path / "t", ["a", "b"])
    with pytest.raises(UnsafeInput, match="no folder of pictures"):
        run(Catalog(catalog.table), engine(), tmp_path / "u")


@pytest.mark.parametrize(
    "change",
    [
        {"pooling": "cls"},
        {"normalize": True},
        {"truncate_dim": 8},
        {"dtype": "bfloat16"},
        {"engine": "sentence-transformers"},
    ],
)
def test_every_setting_that_changes_vectors_changes_the_fingerprint(change, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    config = PictureEmbedConfig(model=str(tmp_path))
    assert picture_engine_fingerprint(config) != picture_engine_fingerprint(config.model_copy(update=change))


def test_the_backend_that_resizes_is_part_of_the_fingerprint(tmp_path, monkeypatch):
    from extract import picture_engines

    (tmp_path / "config.json").write_text("{}")
    config = PictureEmbedConfig(model=str(tmp_path))
    monkeypatch.setattr(picture_engines, "image_backend", lambda: "pil")
    pil = picture_engine_fingerprint(config)
    monkeypatch.setattr(picture_engines, "image_backend", lambda: "torchvision")
    assert picture_engine_fingerprint(config) != pil


def test_keys_of_another_engine_are_refused():
    for wrong in ({"with_text": True}, {"prompt": "a "}):
        with pytest.raises(ValidationError, match="sentence-transformers"):
            PictureEmbedConfig(model="m", **wrong)
    with pytest.raises(ValidationError, match="its own"):
        PictureEmbedConfig(model="m", engine="sentence-transformers", pooling="cls")


def test_a_model_that_is_not_there_is_a_missing_prerequisite():
    with pytest.raises(MissingPrerequisite):
        build_picture_embedder(PictureEmbedConfig(model="./none"))
