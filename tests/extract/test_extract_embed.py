from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract import (
    FakeEngine,
    InvalidData,
    RunFolderError,
    embed_items,
    embed_store,
    embed_texts,
    embedded_table,
    quarantine_of,
)
from extract.embed import token_batches

IDS = [f"item-{number}" for number in range(20)]
TEXTS = [" ".join(f"word{number + extra}" for extra in range(1 + number % 5)) for number in range(20)]


class Watched(FakeEngine):
    """Remembers its batches; a text "fail" raises, a text "nan" gives NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[str]] = []

    def embed(self, texts):
        self.batches.append(list(texts))
        if "fail" in texts:
            raise RuntimeError("cannot")
        vectors = super().embed(texts)
        vectors[[text == "nan" for text in texts]] = np.nan
        return vectors


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 100))
def test_token_batches_hold_every_row_once_within_the_budget(counts, budget):
    batches = list(token_batches(counts, budget))
    assert sorted(row for batch in batches for row in batch) == list(range(len(counts)))
    for batch in batches:
        assert len(batch) == 1 or max(counts[row] for row in batch) * len(batch) <= budget
    longest = [max(counts[row] for row in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)


def test_token_batches_by_hand():
    assert list(token_batches([2, 5, 3, 1], 6)) == [[1], [2, 0], [3]]


def test_embedding_keeps_the_order_and_embeds_equal_texts_once():
    engine = Watched()
    vectors = embed_texts([*TEXTS, TEXTS[3]], engine, token_budget=8)
    assert np.array_equal(vectors[:-1], FakeEngine().embed(TEXTS))
    assert np.array_equal(vectors[-1], vectors[3])
    assert sum(map(len, engine.batches)) == len(TEXTS)


def test_embedding_nothing_gives_no_rows():
    assert embed_texts([], FakeEngine()).shape == (0, 32)


def test_fake_vectors_are_near_when_words_are_shared():
    a, b, c = FakeEngine(256).embed(["red round lamp", "red round vase", "blue square table"])
    assert a @ b > 0.4 > a @ c
    assert np.isclose(np.linalg.norm(a), 1.0)


def test_the_table_holds_every_item_and_marks_the_absent(tmp_path):
    engine = FakeEngine()
    texts = [None if number == 4 else " " if number == 5 else text for number, text in enumerate(TEXTS)]
    store = embed_store(tmp_path, engine, buckets=4)
    result = embed_items(IDS, texts, engine, store)
    table = embedded_table(store)
    assert (result.n_in, result.n_ok, result.n_absent) == (20, 20, 2)
    assert table.ids == tuple(sorted(IDS))
    aligned = table.aligned_to(IDS, require=True)
    assert np.flatnonzero(~aligned.present).tolist() == [4, 5]
    expected = FakeEngine().embed(TEXTS)
    expected[[4, 5]] = 0
    assert np.array_equal(aligned.matrix, expected)
    assert table.provenance.model == "fake"
    assert table.provenance.fingerprint == store.fingerprint


def test_failing_and_nan_texts_are_quarantined_and_absent(tmp_path):
    engine = Watched()
    texts = ["fail" if number == 2 else "nan" if number == 9 else text for number, text in enumerate(TEXTS)]
    store = embed_store(tmp_path, engine, buckets=2)
    result = embed_items(IDS, texts, engine, store, max_bad=0.1)
    assert (result.n_in, result.n_ok, result.n_quarantined) == (20, 18, 2)
    assert {bad.item_id: bad.reason for bad in quarantine_of(store)} == {
        "item-2": "engine-error",
        "item-9": "not-finite",
    }
    aligned = embedded_table(store).aligned_to(IDS)
    assert np.flatnonzero(~aligned.present).tolist() == [2, 9]
    good = [row for row in range(20) if row not in {2, 9}]
    assert np.array_equal(aligned.matrix[good], FakeEngine().embed(TEXTS)[good])


def test_a_changed_text_recomputes_its_shard_only(tmp_path):
    engine = FakeEngine()
    store = embed_store(tmp_path, engine, buckets=8)
    embed_items(IDS, TEXTS, engine, store)
    again = embed_items(IDS, [*TEXTS[:-1], "new words"], engine, store)
    assert again.shards_computed == 1
    assert np.array_equal(embedded_table(store).aligned_to([IDS[-1]]).matrix, engine.embed(["new words"]))


def test_another_engine_is_refused_on_the_same_folder(tmp_path):
    embed_store(tmp_path, FakeEngine(), buckets=8)
    with pytest.raises(RunFolderError, match=r"engine\.dimension"):
        embed_store(tmp_path, FakeEngine(64), buckets=8)


def test_doubled_ids_wrong_lengths_and_an_empty_store_are_refused(tmp_path):
    engine = FakeEngine()
    store = embed_store(tmp_path, engine, buckets=8)
    with pytest.raises(InvalidData):
        embed_items(["a", "a"], ["x", "y"], engine, store)
    with pytest.raises(InvalidData):
        embed_items(["a"], ["x", "y"], engine, store)
    with pytest.raises(InvalidData, match="no vectors"):
        embedded_table(store)


def test_equal_runs_give_equal_bytes(tmp_path):
    files = []
    for name in ("one", "two"):
        engine = FakeEngine()
        store = embed_store(tmp_path / name, engine, buckets=3)
        order = list(range(20)) if name == "one" else list(range(19, -1, -1))
        embed_items([IDS[row] for row in order], [TEXTS[row] for row in order], engine, store)
        files.append({path.name: path.read_bytes() for path in (store.folder / "shards").iterdir()})
    assert files[0] == files[1]
