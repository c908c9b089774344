from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract import FeatureTable, InvalidData, Provenance, UnsafeInput


def table() -> FeatureTable:
    matrix = np.arange(6, dtype=np.float32).reshape(3, 2) + 1
    return FeatureTable(
        ("a", "b", "c"), matrix, np.array([True, False, True]), Provenance(model="m", settings={"k": 1})
    )


def test_an_absent_row_is_zeros_whatever_was_given():
    assert table().matrix.tolist() == [[1, 2], [0, 0], [5, 6]]


def test_alignment_is_by_id_and_unknown_ids_are_absent():
    aligned = table().aligned_to(["c", "x", "a", "b"])
    assert aligned.ids == ("c", "x", "a", "b")
    assert aligned.matrix.tolist() == [[5, 6], [0, 0], [1, 2], [0, 0]]
    assert aligned.present.tolist() == [True, False, True, False]
    assert aligned.provenance == table().provenance


def test_required_alignment_names_the_lacking_ids():
    with pytest.raises(InvalidData, match=r"features lack 2 of 3 items \(first: x, y\)"):
        table().aligned_to(["x", "a", "y"], require=True)
    assert table().lacking(["x", "a", "y"]) == ["x", "y"]


def test_nan_is_refused_with_the_ids():
    with pytest.raises(InvalidData, match="1 of 2 items have NaN or infinite features: b"):
        FeatureTable(("a", "b"), np.array([[1.0], [np.nan]], np.float32))


def test_infinity_in_an_absent_row_becomes_zero():
    made = FeatureTable(("a",), np.array([[np.inf]], np.float32), np.array([False]))
    assert made.matrix.tolist() == [[0.0]]


@pytest.mark.parametrize(("ids", "shape"), [(("a", "a"), (2, 1)), (("a",), (2, 1)), (("a",), (1,))])
def test_doubled_ids_and_wrong_shapes_are_refused(ids, shape):
    with pytest.raises(InvalidData):
        FeatureTable(ids, np.zeros(shape, np.float32))


@given(
    st.lists(st.text(min_size=1).filter(lambda t: t.isprintable()), unique=True, max_size=8),
    st.integers(1, 5),
)
def test_bytes_round_trip(ids, width):
    matrix = np.random.default_rng(0).normal(size=(len(ids), width)).astype(np.float32)
    present = np.arange(len(ids)) % 3 != 1
    made = FeatureTable(tuple(ids), matrix, present, Provenance(prompt="p"))
    read = FeatureTable.from_bytes(made.to_bytes())
    assert read.ids == made.ids
    assert np.array_equal(read.matrix, made.matrix)
    assert np.array_equal(read.present, made.present)
    assert read.provenance == made.provenance
    assert read.content_hash() == made.content_hash()


def test_equal_tables_give_equal_bytes_in_another_process():
    code = (
        "import numpy as np, hashlib; from extract import FeatureTable, Provenance;"
        "t = FeatureTable(('a', 'b'), np.ones((2, 3), np.float32), None, Provenance(model='m', dtype='d'));"
        "print(hashlib.sha256(t.to_bytes()).hexdigest())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": s},
        )
        for s in ("1", "2", "3")
    ]
    assert len({run.stdout for run in runs}) == 1


def test_save_and_load(tmp_path):
    table().save(tmp_path / "f.safetensors")
    assert FeatureTable.load(tmp_path / "f.safetensors").content_hash() == table().content_hash()
    with pytest.raises(UnsafeInput):
        FeatureTable.load(tmp_path / "other")


@pytest.mark.parametrize("cut", [0, 7, 60, -1])
def test_a_truncated_table_is_refused(cut):
    with pytest.raises(InvalidData, match="not a feature table"):
        FeatureTable.from_bytes(table().to_bytes()[:cut])


def test_content_hash_sees_ids_values_and_presence():
    base = table().content_hash()
    assert FeatureTable(("a", "b", "d"), table().matrix, table().present).content_hash() != base
    assert FeatureTable(table().ids, table().matrix + 1, table().present).content_hash() != base
    assert FeatureTable(table().ids, table().matrix).content_hash() != base


def test_provenance_survives_json_and_ignores_fields_of_later_releases():
    made = Provenance(model="m", revision="r", settings={"a": [1, 2]})
    assert Provenance.from_json(made.to_json()) == made
    assert Provenance.from_json('{"model": "m", "invented_later": 1}') == Provenance(model="m")


def test_a_loaded_matrix_is_mapped_and_writing_to_it_changes_no_file(tmp_path):
    path = tmp_path / "t.safetensors"
    FeatureTable(("a", "b"), np.array([[1, 2], [3, 4]])).save(path)
    before = path.read_bytes()
    read = FeatureTable.load(path)
    assert isinstance(read.matrix.base, np.memmap)
    read.matrix[0, 0] = 9
    assert path.read_bytes() == before
    FeatureTable(("z",), np.array([[7.0, 8.0]])).save(path)
    assert read.matrix[1].tolist() == [3, 4]


def test_an_empty_table_can_be_saved_and_loaded(tmp_path):
    FeatureTable((), np.zeros((0, 3))).save(tmp_path / "t")
    assert FeatureTable.load(tmp_path / "t").matrix.shape == (0, 3)
