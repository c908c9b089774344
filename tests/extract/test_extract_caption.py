from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from extract import (
    CAPTION_PROMPTS,
    Catalog,
    FakeEngine,
    Item,
    PictureLimits,
    PictureSource,
    RunFolderError,
    TooManyBadInputs,
    UnsafeInput,
    bucket_of,
    caption_items,
    caption_rows,
    caption_store,
    captions_of,
    quarantine_of,
)

PROMPT = CAPTION_PROMPTS["plain"]


class Counting(FakeEngine):
    """Remembers the sizes of its batches; fails on batches that hold a picture of the poisoned size."""

    def __init__(self, poison: tuple[int, int] = (0, 0)) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.poison = poison

    def caption(self, images, prompts):
        self.batches.append(len(images))
        if any(image.size == self.poison for image in images):
            raise RuntimeError("poisoned picture")
        return super().caption(images, prompts)


def store_at(folder: Path, engine=None, *, batch_size=4, buckets=3, prompt=PROMPT):
    return caption_store(
        folder, engine or FakeEngine(), prompt=prompt, batch_size=batch_size, buckets=buckets
    )


def run(catalog, store, engine=None, *, batch_size=4, prompt=PROMPT, **options):
    return caption_items(
        catalog, engine or FakeEngine(), store, prompt=prompt, batch_size=batch_size, **options
    )


def test_every_picture_gets_its_caption_and_items_without_one_are_absent(tmp_path, shop):
    catalog, store = shop(12, every_third_absent=True), store_at(tmp_path / "s")
    result = run(catalog, store)
    assert (result.n_in, result.n_ok, result.n_absent, result.n_quarantined) == (12, 12, 4, 0)
    captions = captions_of(store)
    assert set(captions) == {item.item_id for item in catalog if item.picture}
    assert list(captions) == sorted(captions)
    assert len(set(captions.values())) > 4
    assert {row["item_id"]: row["status"] for row in caption_rows(store)}["item-0"] == "absent"


def test_captions_do_not_depend_on_buckets_batches_or_order(tmp_path, shop):
    catalog = shop(10)
    found = []
    for number, (buckets, batch_size) in enumerate([(1, 1), (3, 4), (7, 2)]):
        store = store_at(tmp_path / str(number), buckets=buckets, batch_size=batch_size)
        run(catalog.subset(catalog.ids[::-1]) if number else catalog, store, batch_size=batch_size)
        found.append(captions_of(store))
    assert found[0] == found[1] == found[2]


def test_a_rerun_asks_the_engine_nothing(tmp_path, shop):
    catalog, engine = shop(12), Counting()
    run(catalog, store_at(tmp_path / "s", engine), engine)
    asked = len(engine.batches)
    result = run(catalog, store_at(tmp_path / "s", engine), engine)
    assert len(engine.batches) == asked > 0
    assert result.shards_computed == 0


def test_a_changed_picture_is_captioned_again_with_its_shard_only(tmp_path, shop, picture_bytes):
    catalog, store = shop(12), store_at(tmp_path / "s", buckets=6)
    run(catalog, store)
    before = captions_of(store)
    (catalog.pictures.root / "5.png").write_bytes(picture_bytes(99))
    assert run(catalog, store).shards_computed == 1
    after = captions_of(store)
    assert [item_id for item_id in before if before[item_id] != after[item_id]] == ["item-5"]


def test_only_changed_and_new_items_of_a_shard_reach_the_engine(tmp_path, shop, picture_bytes):
    catalog, store = shop(30), store_at(tmp_path / "s")
    run(catalog, store)
    before = captions_of(store)
    items = list(catalog)
    folder = catalog.pictures.root
    (folder / str(items[20].picture)).write_bytes(picture_bytes(901, size=(41, 43)))
    added = []
    for number in range(10):
        name = f"new{number}.png"
        (folder / name).write_bytes(picture_bytes(950 + number, size=(50 + number, 47)))
        added.append(Item(f"new{number}", "new", "", name))
    later = Catalog.from_items([*items[10:], *added], PictureSource(folder))
    engine = Counting()
    run(later, store, engine)
    assert sum(engine.batches) == 11
    after = captions_of(store)
    assert set(after) == set(later.ids)
    kept = {item.item_id for item in items[10:]} - {items[20].item_id}
    assert {item_id: after[item_id] for item_id in kept} == {item_id: before[item_id] for item_id in kept}
    fresh = store_at(tmp_path / "fresh")
    run(later, fresh)
    assert fresh.content_hash() == store.content_hash()


def test_equal_pictures_are_captioned_once_per_shard(tmp_path, shop):
    catalog, engine = shop(6), Counting()
    for number in range(1, 6):
        shutil.copy(catalog.pictures.root / "0.png", catalog.pictures.root / f"{number}.png")
    store = store_at(tmp_path / "s", engine, buckets=1)
    run(catalog, store, engine)
    assert engine.batches == [1]
    assert len(set(captions_of(store).values())) == 1
    assert len(captions_of(store)) == 6


def test_equal_pictures_of_other_shards_and_runs_are_captioned_once(tmp_path, shop, picture_bytes):
    catalog, engine = shop(9), Counting()
    for number in range(1, 8):
        shutil.copy(catalog.pictures.root / "0.png", catalog.pictures.root / f"{number}.png")
    store = store_at(tmp_path / "s", engine)
    run(catalog, store, engine)
    assert len({bucket_of(item_id, 3) for item_id in catalog.ids[:8]}) > 1
    assert sum(engine.batches) == 2
    (catalog.pictures.root / "again.png").write_bytes((catalog.pictures.root / "8.png").read_bytes())
    later = Catalog.from_items([*catalog, Item("again", picture="again.png")], catalog.pictures)
    run(later, store, engine)
    assert sum(engine.batches) == 2
    assert captions_of(store)["again"] == captions_of(store)["item-8"]


def test_a_shard_of_an_engine_whose_captions_depend_on_the_batch_is_a_function_of_itself(tmp_path, shop):
    class Dependent(Counting):
        fingerprint = {"engine": "transformers", "dtype": "bfloat16"}  # noqa: RUF012

    catalog, engine = shop(9), Dependent()
    for number in range(1, 9):
        shutil.copy(catalog.pictures.root / "0.png", catalog.pictures.root / f"{number}.png")
    run(catalog, store_at(tmp_path / "s", engine), engine)
    assert engine.batches == [1] * len({bucket_of(item_id, 3) for item_id in catalog.ids})
    assert len(engine.batches) > 1


def test_another_prompt_is_refused_on_the_same_folder(tmp_path, shop):
    run(shop(4), store_at(tmp_path / "s"))
    with pytest.raises(RunFolderError, match=r"prompt\.name"):
        store_at(tmp_path / "s", prompt=CAPTION_PROMPTS["media"])


def spoiled(catalog: Catalog, picture_bytes, tmp_path: Path) -> tuple[Catalog, dict[str, str]]:
    """The catalogue with eight bad items among the good ones, and the reason each must get."""
    root = catalog.pictures.root
    jpeg = picture_bytes(1, "JPEG", (64, 64))
    (root / "cut.jpg").write_bytes(jpeg[:-300])
    (root / "page.jpg").write_bytes(b"<html>not found</html>")
    (root / "empty.jpg").write_bytes(b"")
    (root / "large.png").write_bytes(picture_bytes(2, "PNG", (300, 300)))
    (tmp_path / "outside.png").write_bytes(picture_bytes(3))
    (root / "link.png").symlink_to(tmp_path / "outside.png")
    expected = {
        "none.jpg": "missing",
        "cut.jpg": "broken",
        "page.jpg": "not-a-picture",
        "empty.jpg": "empty",
        "large.png": "too-many-pixels",
        "../../etc/passwd": "unsafe-name",
        "/etc/passwd": "unsafe-name",
        "link.png": "outside-root",
    }
    bad = [Item(f"bad-{number}", picture=name) for number, name in enumerate(expected)]
    reasons = {f"bad-{number}": reason for number, reason in enumerate(expected.values())}
    return Catalog.from_items([*bad[:4], *catalog, *bad[4:]], catalog.pictures), reasons


LIMITS = PictureLimits(max_pixels=10_000)


def test_bad_pictures_are_quarantined_with_their_reason_and_neighbours_are_unharmed(
    tmp_path, shop, picture_bytes
):
    good = shop(20)
    clean = store_at(tmp_path / "clean")
    run(good, clean, limits=LIMITS)
    catalog, reasons = spoiled(good, picture_bytes, tmp_path)
    store = store_at(tmp_path / "s")
    result = run(catalog, store, limits=LIMITS, max_bad=0.5)
    assert {bad.item_id: bad.reason for bad in quarantine_of(store)} == reasons
    assert captions_of(store) == captions_of(clean)
    assert (result.n_in, result.n_ok, result.n_quarantined) == (28, 20, 8)
    assert sum(row.n_in for row in store.rows().values()) == 28
    assert all(row.reconciles for row in store.rows().values())
    assert len(list(caption_rows(store))) == 28


def test_too_many_bad_pictures_stop_the_stage_and_keep_what_is_done(tmp_path, shop, picture_bytes):
    catalog, _ = spoiled(shop(20), picture_bytes, tmp_path)
    store = store_at(tmp_path / "s")
    with pytest.raises(TooManyBadInputs) as caught:
        run(catalog, store, limits=LIMITS, max_bad=0.1)
    assert "of 28 items were quarantined; the limit is 2" in caught.value.what
    assert "bad-" in caught.value.where
    assert len(store.rows()) >= 1
    result = run(catalog, store, limits=LIMITS, max_bad=0.5)
    assert result.shards_reused >= 1
    assert result.n_quarantined == 8


@pytest.mark.parametrize(("max_bad", "stops"), [(0.01, False), (0.0, True)])
def test_one_bad_picture_is_allowed_unless_none_is(tmp_path, shop, max_bad, stops):
    catalog, store = shop(6), store_at(tmp_path / "s")
    (catalog.pictures.root / "3.png").write_bytes(b"junk")
    if stops:
        with pytest.raises(TooManyBadInputs):
            run(catalog, store, max_bad=max_bad)
    else:
        assert run(catalog, store, max_bad=max_bad).n_quarantined == 1


def test_a_mended_picture_leaves_the_quarantine(tmp_path, shop, picture_bytes):
    catalog, store = shop(6), store_at(tmp_path / "s")
    (catalog.pictures.root / "3.png").write_bytes(b"junk")
    run(catalog, store)
    (catalog.pictures.root / "3.png").write_bytes(picture_bytes(3))
    assert run(catalog, store).n_quarantined == 0
    assert quarantine_of(store) == []
    assert "item-3" in captions_of(store)


def test_a_picture_the_engine_fails_on_is_isolated_and_retried_on_request(tmp_path, shop, picture_bytes):
    catalog, engine = shop(8), Counting(poison=(7, 7))
    (catalog.pictures.root / "2.png").write_bytes(picture_bytes(2, "PNG", (7, 7)))
    store = store_at(tmp_path / "s", engine)
    assert run(catalog, store, engine).n_quarantined == 1
    [bad] = quarantine_of(store)
    assert (bad.item_id, bad.reason, bad.detail) == (
        "item-2",
        "engine-error",
        "RuntimeError: poisoned picture",
    )
    assert run(catalog, store, FakeEngine()).shards_computed == 0
    again = run(catalog, store, FakeEngine(), retry_bad=True)
    assert (again.n_quarantined, again.shards_computed) == (0, 1)
    clean = store_at(tmp_path / "clean")
    run(catalog, clean)
    assert captions_of(store) == captions_of(clean)


def test_an_empty_caption_is_not_counted_as_one(tmp_path, shop):
    class Silent(FakeEngine):
        def caption(self, images, prompts):
            return [" "] * len(images)

    store = store_at(tmp_path / "s")
    assert run(shop(3), store, Silent(), max_bad=1.0).n_quarantined == 3
    assert quarantine_of(store)[0].reason == "empty-caption"


def test_pictures_without_a_folder_are_an_error(tmp_path):
    catalog = Catalog.from_items([Item("a", picture="a.png")])
    with pytest.raises(UnsafeInput, match="no folder of pictures"):
        run(catalog, store_at(tmp_path / "s"))


def test_batches_are_a_function_of_the_shard(tmp_path, shop):
    catalog, engine = shop(12), Counting()
    run(catalog, store_at(tmp_path / "s", engine, buckets=3, batch_size=4), engine)
    sizes = [sum(bucket_of(item_id, 3) == bucket for item_id in catalog.ids) for bucket in range(3)]
    assert engine.batches == [min(4, size - start) for size in sizes for start in range(0, size, 4)]


def test_progress_counts_to_the_end(tmp_path, shop):
    seen: list[tuple[int, int]] = []
    run(shop(9), store_at(tmp_path / "s"), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (9, 9)
    assert seen == sorted(seen)


def test_a_zip_of_pictures_gives_the_captions_of_the_folder(tmp_path, shop):
    catalog = shop(5)
    archive = Path(shutil.make_archive(str(tmp_path / "pictures"), "zip", catalog.pictures.root))
    found = []
    for name, source in (("folder", catalog.pictures), ("zip", PictureSource(archive))):
        store = store_at(tmp_path / f"s-{name}")
        run(Catalog(catalog.table, source), store)
        found.append(captions_of(store))
    assert found[0] == found[1]
