"""Files of vectors and ids as people and their programs leave them: read rightly, or refused with a code."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from safetensors.numpy import save_file

from extract import CatalographError, ConfigError, FeatureTable, InvalidData, VectorsConfig, import_vectors

IDS = ("a", "b", "c", "d")
ROWS = np.arange(12, dtype=np.float32).reshape(4, 3) + 1


def of_ids(folder, name, content):
    """Settings for good vectors beside this file of ids."""
    np.save(folder / "v.npy", ROWS)
    if isinstance(content, np.ndarray):
        np.save(folder / name, content)
    else:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return VectorsConfig(path="v.npy", ids=name, unknown_items="drop")


def refused(config, folder, ids=IDS):
    with pytest.raises(CatalographError) as caught:
        import_vectors(ids, config, folder)
    assert caught.value.next_step
    return caught.value.code


@pytest.mark.parametrize(
    "content",
    [
        '{"a": 3, "b": 2, "c": 1, "d": 0}',
        '"abcd"',
        "null",
        "[1.0, 2.0, 3.0, 4.0]",
        "[true, false, 3, 4]",
        '["a", null, "c", "d"]',
        "[" * 100_000,
    ],
    ids=["object", "string", "null", "floats", "booleans", "hole", "deep"],
)
def test_a_json_that_is_no_list_of_ids_is_refused(content, tmp_path):
    assert refused(of_ids(tmp_path, "ids.json", content), tmp_path) == "D124"


def test_a_json_with_a_mark_at_its_start_and_whole_numbers_is_read(tmp_path):
    config = of_ids(tmp_path, "ids.json", b"\xef\xbb\xbf" + json.dumps([3, 1, "2", 0]).encode())
    found = import_vectors(("0", "1", "2", "3"), config, tmp_path).table
    assert found.matrix[:, 0].tolist() == [10, 4, 7, 1]


@pytest.mark.parametrize(
    "content",
    [
        np.arange(4.0),
        np.array([["a"], ["b"], ["c"], ["d"]]),
        np.array("a"),
        np.array([True] * 4),
        b"",
        b"\x93NUMPY\x01\x00\x10\x00{'descr':((((((  ",
    ],
    ids=["floats", "matrix", "scalar", "booleans", "empty file", "broken header"],
)
def test_an_array_that_is_no_list_of_ids_is_refused(content, tmp_path):
    assert refused(of_ids(tmp_path, "ids.npy", content), tmp_path) == "D124"


def test_ids_in_an_array_of_bytes_are_their_text(tmp_path):
    config = of_ids(tmp_path, "ids.npy", np.array(["ü".encode(), b"b", b"c", b"d"]))
    assert import_vectors(("ü", "b", "c", "d"), config, tmp_path).table.present.all()


@pytest.mark.parametrize("line", ["3\n", "3\t" + "x" * 200_000])
def test_a_tabbed_table_with_a_short_or_a_huge_row_is_refused(line, tmp_path):
    config = of_ids(tmp_path, "m.csv", f"itemID\tasin\n0\ta\n1\tb\n2\tc\n{line}")
    columns = {"id_column": "asin", "row_column": "itemID"}
    assert refused(config.model_copy(update=columns), tmp_path) == "D124"


def test_an_empty_id_is_refused_and_not_dropped(tmp_path):
    table = {"item_id": ["a", None, "c", "d"], "vector": ROWS.tolist()}
    pq.write_table(pa.table(table), tmp_path / "v.parquet")
    with pytest.raises(InvalidData, match="1 rows have no id") as caught:
        import_vectors(IDS, VectorsConfig(path="v.parquet", unknown_items="drop"), tmp_path)
    assert (caught.value.code, caught.value.why) == ("D124", "first: row 1")


def test_ids_of_which_none_is_known_are_refused_even_where_unknown_ones_are_dropped(tmp_path):
    config = of_ids(tmp_path, "ids.txt", "1\n2\n3\n4\n")
    assert refused(config, tmp_path) == "D121"
    assert import_vectors(("1", "x"), config, tmp_path).n_dropped == 3


def test_absent_rows_of_a_feature_file_are_counted_over_all_its_rows(tmp_path):
    FeatureTable(IDS, ROWS, np.array([False, True, True, True])).save(tmp_path / "v.safetensors")
    (tmp_path / "absent.txt").write_text("1\n")
    config = VectorsConfig(path="v.safetensors", absent_rows="absent.txt")
    assert import_vectors(IDS, config, tmp_path).table.present.tolist() == [False, False, True, True]


def test_ids_beside_a_file_that_holds_its_own_are_refused(tmp_path):
    with pytest.raises(ValidationError, match="holds its own ids"):
        VectorsConfig(path="v.Parquet", ids="ids.txt")
    FeatureTable(IDS, ROWS).save(tmp_path / "v.safetensors")
    (tmp_path / "ids.txt").write_text("\n".join(reversed(IDS)))
    with pytest.raises(ConfigError) as caught:
        import_vectors(IDS, VectorsConfig(path="v.safetensors", ids="ids.txt"), tmp_path)
    assert caught.value.code == "C402"


def header(shape):
    text = str({"descr": "<f4", "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"0" * 64


@pytest.mark.parametrize(
    "content",
    [
        header((2**70, 3)),
        header((2**62, 2**62)),
        header((10**9, 10)),
        header((-4, 3)),
        b"\x93NUMPY\x01\x00\x10\x00{'descr':((((((  ",
    ],
)
def test_a_header_that_lies_is_refused(content, tmp_path):
    config = of_ids(tmp_path, "ids.txt", "\n".join(IDS))
    (tmp_path / "v.npy").write_bytes(content)
    assert refused(config, tmp_path) == "D122"


def test_an_archive_named_as_an_array_is_refused(tmp_path):
    config = of_ids(tmp_path, "ids.txt", "\n".join(IDS))
    with (tmp_path / "v.npy").open("wb") as file:
        np.savez(file, a=ROWS)
    assert refused(config, tmp_path) == "D122"


@pytest.mark.parametrize("kind", ["BF16", "F8_E4M3", "BOOL", "scalar"])
def test_a_tensor_that_numpy_cannot_hold_as_rows_of_numbers_is_refused(kind, tmp_path):
    config = of_ids(tmp_path, "ids.txt", "\n".join(IDS)).model_copy(update={"path": "v.safetensors"})
    shape = [] if kind == "scalar" else [4, 1]
    size = {"BF16": 8, "scalar": 4}.get(kind, 4)
    entry = {"dtype": "F32" if kind == "scalar" else kind, "shape": shape, "data_offsets": [0, size]}
    text = json.dumps({"x": entry}).encode()
    (tmp_path / "v.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(size))
    assert refused(config, tmp_path) == "D122"


def test_a_file_without_rows_makes_every_item_absent(tmp_path):
    save_file({"x": np.zeros((0, 3), np.float32)}, tmp_path / "v.safetensors")
    (tmp_path / "ids.txt").touch()
    found = import_vectors(IDS, VectorsConfig(path="v.safetensors", ids="ids.txt"), tmp_path).table
    assert not found.present.any()
    assert found.width == 3


@pytest.mark.parametrize(
    "column",
    [
        pa.array([["1", "x"]] * 4),
        pa.array([[[1.0], [2.0]]] * 4),
        pa.array([[{"a": 1}]] * 4),
        pa.array([[1, 2]] * 4, pa.list_(pa.timestamp("s"))),
        pa.array([[True]] * 4),
        pa.array([1.0] * 4),
        pa.array([None] * 4, pa.list_(pa.float32())),
        pa.array([[]] * 4, pa.list_(pa.float32())),
    ],
    ids=lambda column: str(column.type),
)
def test_a_parquet_column_that_holds_no_vectors_is_refused(column, tmp_path):
    pq.write_table(pa.table({"item_id": IDS, "vector": column}), tmp_path / "v.parquet")
    assert refused(VectorsConfig(path="v.parquet"), tmp_path) == "D122"


def test_a_page_that_is_damaged_is_told_when_it_is_reached(tmp_path):
    ids = tuple(map(str, range(8000)))
    rows = np.random.default_rng(0).normal(size=(8000, 8)).astype(np.float32)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 8)
    layout = {"row_group_size": 4000, "use_dictionary": False, "compression": "zstd"}
    pq.write_table(pa.table({"item_id": ids, "vector": lists}), tmp_path / "v.parquet", **layout)
    column = pq.ParquetFile(tmp_path / "v.parquet").metadata.row_group(1).column(1)
    content = bytearray((tmp_path / "v.parquet").read_bytes())
    middle = column.data_page_offset + column.total_compressed_size // 2
    content[middle : middle + 1000] = bytes(1000)
    (tmp_path / "v.parquet").write_bytes(bytes(content))
    assert refused(VectorsConfig(path="v.parquet"), tmp_path, ids) == "D122"
