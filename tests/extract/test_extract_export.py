from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extract import FeatureTable, InvalidData, Provenance, UnsafeInput, VectorsConfig, import_vectors
from extract.cards import feature_card, read_card
from extract.disk import hash_file
from extract.export import FORMATS, MISSING, export_features, filled

TABLE = FeatureTable(
    ("b", "a", "c", "d"),
    np.array([[1, 2], [3, 4], [0, 0], [5, 9]], np.float32),
    np.array([True, True, False, True]),
    Provenance("a model", "a1b2", "query: ", "bfloat16", "mean", "in", "fp", {"engine": {"x": 1}}),
)
MEAN = [3.0, 5.0]
"""Of (1, 2), (3, 4) and (5, 9)."""
HELD = {"mask": [0.0, 0.0], "zero": [0.0, 0.0], "mean": MEAN}


def names(paths):
    return [path.name for path in paths]


@pytest.mark.parametrize("missing", MISSING)
def test_mmrecs_arrays_hold_the_rows_in_the_order_of_ids_and_the_missing_are_named(missing, tmp_path):
    written = export_features({"image": TABLE}, tmp_path / "out", "mmrec", missing=missing)
    mask = ["image_present.npy"] if missing == "mask" else []
    assert names(written) == [
        "image.md",
        "image_feat.npy",
        "image_missing_rows.txt",
        *mask,
        "item_ids.parquet",
    ]
    rows = np.load(tmp_path / "out/image_feat.npy")
    assert rows.dtype == np.float32
    assert rows.tolist() == [[3, 4], [1, 2], HELD[missing], [5, 9]]
    assert (tmp_path / "out/image_missing_rows.txt").read_text() == "2\n"
    assert pq.read_table(tmp_path / "out/item_ids.parquet").to_pydict() == {
        "item_id": ["a", "b", "c", "d"],
        "row": [0, 1, 2, 3],
    }
    if mask:
        assert np.load(tmp_path / "out/image_present.npy").tolist() == [True, True, False, True]


@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.parametrize("format", ["parquet", "dataset"])
def test_parquet_and_datasets_hold_id_presence_and_vector(format, missing, tmp_path):
    export_features({"image": TABLE}, tmp_path / "out", format, missing=missing)
    if format == "parquet":
        rows = pq.read_table(tmp_path / "out/image.parquet").to_pydict()
    else:
        import datasets

        made = datasets.load_from_disk(str(tmp_path / "out/image"))
        assert made.features["vector"].length == 2
        rows = made.to_dict()
    assert rows["item_id"] == ["a", "b", "c", "d"]
    assert rows["present"] == [True, True, False, True]
    third = None if missing == "mask" else HELD[missing]
    assert rows["vector"] == [[3, 4], [1, 2], third, [5, 9]]


@pytest.mark.parametrize("missing", MISSING)
def test_an_exported_mmrec_array_is_read_back_as_the_table_it_was(missing, tmp_path):
    export_features({"image": TABLE}, tmp_path / "out", "mmrec", missing=missing)
    config = VectorsConfig(
        path="image_feat.npy", ids="item_ids.parquet", row_column="row", absent_rows="image_missing_rows.txt"
    )
    again = import_vectors(TABLE.ids, config, tmp_path / "out")
    assert again.table.content_hash() == TABLE.content_hash()
    assert again.bad == ()


def test_exported_parquet_is_read_back_as_the_table_it_was(tmp_path):
    export_features({"image": TABLE}, tmp_path / "out", "parquet")
    again = import_vectors(TABLE.ids, VectorsConfig(path="image.parquet"), tmp_path / "out")
    assert again.table.content_hash() == TABLE.content_hash()
    assert again.bad == ()


@pytest.mark.parametrize("format", FORMATS)
def test_ids_given_decide_which_rows_there_are_and_their_order(format, tmp_path):
    export_features({"image": TABLE}, tmp_path / "out", format, missing="zero", ids=("d", "new", "b"))
    assert pq.read_table(tmp_path / "out/item_ids.parquet")["item_id"].to_pylist() == ["d", "new", "b"]
    card = read_card((tmp_path / "out/image.md").read_text())
    assert (card["rows"], card["missing"]) == (3, 1)
    if format == "mmrec":
        assert np.load(tmp_path / "out/image_feat.npy").tolist() == [[5, 9], [0, 0], [1, 2]]


@pytest.mark.parametrize("format", FORMATS)
def test_features_of_one_export_share_their_rows_and_equal_exports_have_equal_bytes(format, tmp_path):
    other = FeatureTable(("e", "a"), np.ones((2, 3), np.float32))
    for folder in ("one", "two"):
        export_features({"image": TABLE, "audio": other}, tmp_path / folder, format)
    assert pq.read_table(tmp_path / "one/item_ids.parquet")["item_id"].to_pylist() == list("abcde")
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*"))
    assert files == sorted(path.relative_to(tmp_path / "two") for path in (tmp_path / "two").rglob("*"))
    for name in files:
        if (tmp_path / "one" / name).is_file():
            assert hash_file(tmp_path / "one" / name) == hash_file(tmp_path / "two" / name), name


@pytest.mark.parametrize("format", FORMATS)
def test_the_card_says_what_made_the_vectors_and_what_fills_the_gaps(format, tmp_path):
    more = {"image": {"template": "{title}: x"}}
    export_features({"image": TABLE}, tmp_path / "out", format, missing="mean", more=more)
    card = read_card((tmp_path / "out/image.md").read_text())
    made = {"model": "a model", "revision": "a1b2", "prompt": "query: ", "dtype": "bfloat16"}
    sizes = {"name": "image", "rows": 4, "missing": 1, "width": 2, "pooling": "mean"}
    assert card | made | sizes | {"template": "{title}: x", "settings": {"engine": {"x": 1}}} == card
    assert card["sha256"] == TABLE.aligned_to(("a", "b", "c", "d")).content_hash()
    assert (card["export"]["format"], card["export"]["missing_rows_hold"]) == (format, "mean")
    assert card["export"]["files"]
    for name, digest in card["export"]["files"].items():
        assert hash_file(tmp_path / "out" / name) == digest


def test_a_model_or_prompt_cannot_end_the_cards_facts_early():
    table = FeatureTable(
        ("a",), np.ones((1, 1), np.float32), provenance=Provenance("m\n---\nx", prompt="---\n")
    )
    card = read_card(feature_card("f", table))
    assert (card["model"], card["prompt"], card["rows"]) == ("m\n---\nx", "---\n", 1)


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.sampled_from(MISSING))
@settings(deadline=None)
def test_filling_changes_no_row_that_is_present(present, missing):
    present = np.array(present)
    if missing == "mean" and not present.any():
        return
    rows = np.arange(len(present) * 2, dtype=np.float32).reshape(-1, 2) + 1
    table = FeatureTable(tuple(map(str, range(len(present)))), rows, present)
    made = filled(table, missing)
    assert np.array_equal(made[present], rows[present])
    wanted = rows[present].mean(axis=0) if missing == "mean" and present.any() else np.zeros(2)
    assert np.allclose(made[~present], wanted)


def test_a_failed_export_leaves_nothing_and_an_old_folder_is_never_touched(tmp_path):
    nothing = FeatureTable(("a",), np.zeros((1, 2), np.float32), np.array([False]))
    with pytest.raises(InvalidData, match="no mean") as caught:
        export_features({"image": TABLE, "none": nothing}, tmp_path / "out", "mmrec", missing="mean")
    assert caught.value.code == "D126"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    with pytest.raises(UnsafeInput, match="the folder exists"):
        export_features({"image": TABLE}, tmp_path / "out", "mmrec")


@pytest.mark.parametrize("name", ["../image", "a/b", "..", "", "item_ids"])
def test_a_name_that_leads_out_of_the_folder_or_is_taken_is_refused(name, tmp_path):
    with pytest.raises(UnsafeInput, match="no file of its own"):
        export_features({name: TABLE}, tmp_path / "out", "parquet")
    assert list(tmp_path.iterdir()) == []


def test_doubled_ids_are_refused(tmp_path):
    with pytest.raises(InvalidData, match="appear twice"):
        export_features({"image": TABLE}, tmp_path / "out", "parquet", ids=("a", "a"))
    assert list(tmp_path.iterdir()) == []
