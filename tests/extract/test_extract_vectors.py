from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from safetensors.numpy import save_file

from extract import FeatureTable, InvalidData, UnsafeInput, VectorsConfig, import_vectors, vectors

IDS = ("a", "b", "c", "d")
ROWS = np.arange(12, dtype=np.float32).reshape(4, 3) + 1
STORED = ("c", "a", "d", "b")
"""Ids of the stored rows: not the catalogue's order."""
EXPECTED = ROWS[[1, 3, 0, 2]]


def write(folder, kind):
    """The rows under one kind of file, and the settings that read them."""
    if kind == "npy":
        np.save(folder / "v.npy", ROWS)
        (folder / "ids.txt").write_text("\n".join(STORED))
        return VectorsConfig(path="v.npy", ids="ids.txt")
    if kind == "npy-json":
        np.save(folder / "v.npy", ROWS.astype(np.float64))
        (folder / "ids.json").write_text(json.dumps(STORED))
        return VectorsConfig(path="v.npy", ids="ids.json")
    if kind == "npy-npy":
        np.save(folder / "v.npy", ROWS.astype(np.float16))
        np.save(folder / "ids.npy", np.array(STORED))
        return VectorsConfig(path="v.npy", ids="ids.npy")
    if kind == "mmrec":
        np.save(folder / "image_feat.npy", ROWS)
        # As MMRec writes it: tabs in a .csv, rows in any order, numbers beside the ids.
        lines = [f"{STORED[row]}\t{row}" for row in (2, 0, 3, 1)]
        (folder / "i_id_mapping.csv").write_text("\n".join(["asin\titemID", *lines]))
        columns = {"id_column": "asin", "row_column": "itemID"}
        return VectorsConfig(path="image_feat.npy", ids="i_id_mapping.csv", **columns)
    if kind == "parquet":
        table = {
            "item_id": pa.array(STORED),
            "vector": pa.array(list(map(list, ROWS)), pa.list_(pa.float32())),
        }
        pq.write_table(pa.table(table), folder / "v.parquet", row_group_size=3)
        return VectorsConfig(path="v.parquet")
    if kind == "parquet-fixed":
        lists = pa.FixedSizeListArray.from_arrays(pa.array(ROWS.ravel()), 3)
        pq.write_table(pa.table({"id": pa.array(STORED), "v": lists}), folder / "v.parquet")
        return VectorsConfig(path="v.parquet", id_column="id", vector_column="v")
    if kind == "safetensors":
        save_file({"audio": ROWS, "other": ROWS[:1]}, folder / "v.safetensors")
        pq.write_table(pa.table({"item_id": pa.array(STORED)}), folder / "ids.parquet")
        return VectorsConfig(path="v.safetensors", ids="ids.parquet", tensor="audio")
    FeatureTable(STORED, ROWS).save(folder / "v.safetensors")
    return VectorsConfig(path="v.safetensors")


KINDS = (
    "npy",
    "npy-json",
    "npy-npy",
    "mmrec",
    "parquet",
    "parquet-fixed",
    "safetensors",
    "feature-table",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [1, 3, 4096])
def test_rows_find_their_items_by_id_whatever_their_order(kind, block, tmp_path, monkeypatch):
    monkeypatch.setattr(vectors, "BLOCK", block)
    found = import_vectors(IDS, write(tmp_path, kind), tmp_path)
    assert found.table.ids == IDS
    assert np.array_equal(found.table.matrix, EXPECTED)
    assert found.table.present.all()
    assert (found.bad, found.n_dropped) == ((), 0)


def test_items_without_a_row_are_absent(tmp_path):
    table = import_vectors(("x", "c", "a", "d", "b"), write(tmp_path, "npy"), tmp_path).table
    assert table.present.tolist() == [False, True, True, True, True]
    assert table.matrix[1].tolist() == [1, 2, 3]


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_a_vector_of_an_unknown_item_is_an_error_unless_dropping_is_asked_for(kind, tmp_path):
    config = write(tmp_path, kind)
    with pytest.raises(
        InvalidData, match="1 of 4 vectors belong to items that the catalogue lacks"
    ) as caught:
        import_vectors(("a", "b", "c"), config, tmp_path)
    assert "first: d" in caught.value.why
    found = import_vectors(("a", "b", "c"), config.model_copy(update={"unknown_items": "drop"}), tmp_path)
    assert found.n_dropped == 1
    assert np.array_equal(found.table.matrix, EXPECTED[:3])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_that_is_not_finite_is_quarantined_and_absent(value, tmp_path):
    config = write(tmp_path, "npy")
    rows = ROWS.copy()
    rows[2, 1] = value
    np.save(tmp_path / "v.npy", rows)
    found = import_vectors(IDS, config, tmp_path)
    assert [(bad.item_id, bad.stage, bad.reason) for bad in found.bad] == [("d", "embed", "not-finite")]
    assert "row 2" in found.bad[0].detail
    assert found.table.present.tolist() == [True, True, True, False]
    assert found.table.matrix[3].tolist() == [0, 0, 0]


def test_a_parquet_row_without_a_vector_is_absent_and_one_with_a_hole_is_quarantined(tmp_path, monkeypatch):
    monkeypatch.setattr(vectors, "BLOCK", 1)
    lists = pa.array([None, [1.0, 2.0], [3.0, None]], pa.list_(pa.float64()))
    pq.write_table(pa.table({"item_id": ["a", "b", "c"], "vector": lists}), tmp_path / "v.parquet")
    found = import_vectors(("a", "b", "c"), VectorsConfig(path="v.parquet"), tmp_path)
    assert [bad.item_id for bad in found.bad] == ["c"]
    assert found.table.present.tolist() == [False, True, False]
    assert found.table.matrix.tolist() == [[0, 0], [1, 2], [0, 0]]


def test_a_number_beyond_float32_is_quarantined(tmp_path):
    np.save(tmp_path / "v.npy", np.array([[1e300], [1.0]]))
    (tmp_path / "ids.txt").write_text("a\nb\n")
    found = import_vectors(("a", "b"), VectorsConfig(path="v.npy", ids="ids.txt"), tmp_path)
    assert [bad.item_id for bad in found.bad] == ["a"]


def test_fillings_that_a_list_of_rows_names_are_absent_whatever_they_hold(tmp_path):
    config = write(tmp_path, "mmrec").model_copy(update={"absent_rows": "missed_img_itemIDs.csv"})
    rows = ROWS.copy()
    rows[1] = np.nan
    np.save(tmp_path / "image_feat.npy", rows)
    # As MMRec writes it: no heading, numbers of rows, here those of "a" and "b".
    np.savetxt(tmp_path / "missed_img_itemIDs.csv", [1, 3], delimiter=",", fmt="%d")
    found = import_vectors(IDS, config, tmp_path)
    assert found.table.present.tolist() == [False, False, True, True]
    assert found.bad == ()
    (tmp_path / "missed_img_itemIDs.csv").write_text("")
    assert [bad.item_id for bad in import_vectors(IDS, config, tmp_path).bad] == ["a"]


@pytest.mark.parametrize("text", ["item_id\n1\n", "1.0\n", "4\n", "-1\n"])
def test_absent_rows_must_be_numbers_of_rows_that_exist(text, tmp_path):
    config = write(tmp_path, "npy").model_copy(update={"absent_rows": "absent.txt"})
    (tmp_path / "absent.txt").write_text(text)
    with pytest.raises(InvalidData) as caught:
        import_vectors(IDS, config, tmp_path)
    assert caught.value.code == "D124"


def test_an_absent_row_of_a_feature_table_stays_absent(tmp_path):
    FeatureTable(STORED, ROWS, np.array([True, False, True, True])).save(tmp_path / "v.safetensors")
    found = import_vectors(IDS, VectorsConfig(path="v.safetensors"), tmp_path)
    assert found.table.present.tolist() == [False, True, True, True]
    assert found.bad == ()


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda f: (f / "ids.txt").write_text("a\nb\nc\nc"), "D120"),
        (lambda f: (f / "ids.txt").write_text("a\nb\nc"), "D123"),
        (lambda f: (f / "ids.txt").unlink(), "U401"),
        (lambda f: (f / "v.npy").unlink(), "U401"),
        (lambda f: (f / "v.npy").write_bytes(b"\x93NUMPY"), "D122"),
        (lambda f: np.save(f / "v.npy", np.ones(4, np.float32)), "D122"),
        (lambda f: np.save(f / "v.npy", np.array([["x"]] * 4)), "D122"),
        (lambda f: np.save(f / "v.npy", np.array([[{}]] * 4), allow_pickle=True), "D122"),
    ],
)
def test_damaged_files_are_refused_with_a_code(damage, code, tmp_path):
    config = write(tmp_path, "npy")
    damage(tmp_path)
    with pytest.raises((InvalidData, UnsafeInput)) as caught:
        import_vectors(IDS, config, tmp_path)
    assert caught.value.code == code


@pytest.mark.parametrize("numbers", ["0 1 2 2", "1 2 3 4", "0 1 2 x", "0.0 1.0 2.0 3.0"])
def test_row_numbers_must_be_whole_and_complete(numbers, tmp_path):
    config = write(tmp_path, "mmrec")
    lines = [f"{item_id}\t{number}" for item_id, number in zip(STORED, numbers.split())]
    (tmp_path / "i_id_mapping.csv").write_text("\n".join(["asin\titemID", *lines]))
    with pytest.raises(InvalidData, match="row numbers"):
        import_vectors(IDS, config, tmp_path)


def test_a_file_of_rows_alone_needs_its_ids(tmp_path):
    save_file({"x": ROWS}, tmp_path / "v.safetensors")
    with pytest.raises(UnsafeInput, match="do not say which item") as caught:
        import_vectors(IDS, VectorsConfig(path="v.safetensors"), tmp_path)
    assert caught.value.code == "U406"
    with pytest.raises(ValidationError, match="does not say which item"):
        VectorsConfig(path="v.npy")
    with pytest.raises(ValidationError, match="row_column"):
        VectorsConfig(path="v.parquet", row_column="itemID")


def test_unknown_kinds_unnamed_tensors_and_uneven_lists_are_refused(tmp_path):
    (tmp_path / "v.bin").touch()
    (tmp_path / "ids.txt").write_text("a")
    with pytest.raises(UnsafeInput, match="unknown kind of vector file"):
        import_vectors(IDS, VectorsConfig(path="v.bin"), tmp_path)
    save_file({"x": ROWS, "y": ROWS}, tmp_path / "v.safetensors")
    with pytest.raises(InvalidData) as caught:
        import_vectors(IDS, VectorsConfig(path="v.safetensors", ids="ids.txt"), tmp_path)
    assert "name one as `tensor`: x, y" in caught.value.why
    uneven = pa.table({"item_id": ["a", "b"], "vector": [[1.0, 2.0], [3.0]]})
    pq.write_table(uneven, tmp_path / "v.parquet")
    with pytest.raises(InvalidData, match="not all 2 wide"):
        import_vectors(IDS, VectorsConfig(path="v.parquet"), tmp_path)
    with pytest.raises(InvalidData):
        import_vectors(IDS, VectorsConfig(path="v.parquet", vector_column="none"), tmp_path)


def test_the_provenance_changes_with_every_file(tmp_path):
    config = write(tmp_path, "npy").model_copy(update={"model": "an audio encoder"})
    one = import_vectors(IDS, config, tmp_path).table.provenance
    assert (one.model, one.dtype) == ("an audio encoder", "float32")
    (tmp_path / "ids.txt").write_text("\n".join(IDS))
    assert import_vectors(IDS, config, tmp_path).table.provenance.inputs_sha256 != one.inputs_sha256


def test_a_matrix_on_disk_is_read_in_blocks(tmp_path, monkeypatch):
    config = write(tmp_path, "npy")
    monkeypatch.setattr(vectors, "BLOCK", 2)
    sizes, real = [], np.isfinite
    monkeypatch.setattr(np, "isfinite", lambda block: sizes.append(block.shape) or real(block))
    import_vectors(IDS, config, tmp_path)
    assert (4, 3) in sizes[-1:]  # the table's own check; before it, blocks
    assert sizes[:-1] == [(2, 3), (2, 3)]
