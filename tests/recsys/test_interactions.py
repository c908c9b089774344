import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.errors import InvalidData, UnsafeInput
from recsys import InteractionColumns, Interactions, interactions_from, read_interactions

ITEMS = ["c", "a", "b", "never"]
CSV = "user_id,item_id,time,split\nu2,a,5,train\nu1,b,3,train\nu2,c,1,test\nu1,b,9,train\nu1,a,2,valid\n"


def write(folder: Path, text: str, name: str = "clicks.csv") -> Path:
    path = folder / name
    data = text.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("name", ["clicks.csv", "clicks.csv.gz", "clicks.tsv", "clicks.parquet"])
def test_every_kind_of_file_gives_the_same_interactions(tmp_path: Path, name: str) -> None:
    if name.endswith(".parquet"):
        rows = [line.split(",") for line in CSV.splitlines()]
        path = tmp_path / name
        pq.write_table(pa.table({h: [r[n] for r in rows[1:]] for n, h in enumerate(rows[0])}), path)
    else:
        path = write(tmp_path, CSV.replace(",", "\t") if "tsv" in name else CSV, name)
    got, counts = read_interactions(path, InteractionColumns(timestamp="time", label="split"), ITEMS)
    assert got.user_ids.tolist() == ["u1", "u2"]
    assert got.item_ids.tolist() == ITEMS
    assert got.user_rows.tolist() == [1, 0, 1, 0]
    assert got.item_rows.tolist() == [1, 2, 0, 1]
    assert got.timestamps is not None and got.timestamps.tolist() == [5, 3, 1, 2]
    assert got.labels is not None and got.labels.tolist() == ["train", "train", "test", "valid"]
    assert (counts.n_in, counts.n_ok, counts.n_duplicate, counts.n_quarantined) == (5, 4, 1, 1)


def test_unknown_items_stop_or_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path, "user_id,item_id\nu,a\nu,ghost\nv,ghost\nv,b\n,a\n")
    with pytest.raises(InvalidData, match="2 interactions name items") as caught:
        read_interactions(path, InteractionColumns(), ITEMS)
    assert caught.value.code == "D202"
    assert "ghost" in caught.value.why
    got, counts = read_interactions(path, InteractionColumns(), ITEMS, unknown="drop")
    assert len(got) == 2
    assert (counts.n_in, counts.n_ok, counts.n_unknown_item, counts.n_empty_id) == (5, 2, 2, 1)
    assert counts.first_unknown == ("ghost",)
    assert counts.n_in == counts.n_ok + counts.n_quarantined


def test_users_whose_rows_are_all_dropped_have_no_row(tmp_path: Path) -> None:
    path = write(tmp_path, "user_id,item_id\nzz,ghost\nu,a\n")
    got, _ = read_interactions(path, InteractionColumns(), ITEMS, unknown="drop")
    assert got.user_ids.tolist() == ["u"]


def test_no_row_left_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidData) as caught:
        read_interactions(write(tmp_path, "user_id,item_id\n"), InteractionColumns(), ITEMS)
    assert caught.value.code == "D203"


def test_a_missing_column_names_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidData) as caught:
        read_interactions(write(tmp_path, CSV), InteractionColumns(timestamp="tyme"), ITEMS)
    assert caught.value.next_step == "did you mean `time`?"


def test_a_missing_file_is_an_unsafe_input(tmp_path: Path) -> None:
    with pytest.raises(UnsafeInput):
        read_interactions(tmp_path / "none.csv", InteractionColumns(), ITEMS)


def test_a_ragged_file_is_invalid(tmp_path: Path) -> None:
    with pytest.raises(InvalidData) as caught:
        read_interactions(write(tmp_path, "user_id,item_id\nu,a\nu,a,b\n"), InteractionColumns(), ITEMS)
    assert caught.value.code == "D201"


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["3", "4"], [3, 4]),
        (["3.7", "4"], [3, 4]),
        (["1970-01-01", "1970-01-02"], [0, 86400]),
        (["1970-01-01 00:01:00", "1970-01-02 00:00:00"], [60, 86400]),
    ],
)
def test_times_are_integers_decimals_or_dates(tmp_path: Path, cells: list[str], expected: list[int]) -> None:
    path = write(tmp_path, f"user_id,item_id,t\nu,a,{cells[0]}\nu,b,{cells[1]}\n")
    got, _ = read_interactions(path, InteractionColumns(timestamp="t"), ITEMS)
    assert got.timestamps is not None and got.timestamps.tolist() == expected


@pytest.mark.parametrize("cell", ["", "soon", "nan"])
@pytest.mark.parametrize("role", ["timestamp", "weight"])
def test_a_cell_that_is_no_time_or_number_is_refused(tmp_path: Path, cell: str, role: str) -> None:
    path = write(tmp_path, f"user_id,item_id,t\nu,a,3\nu,b,{cell}\n")
    with pytest.raises(InvalidData) as caught:
        read_interactions(path, InteractionColumns.model_validate({role: "t"}), ITEMS)
    assert caught.value.code == "D204"


@pytest.mark.parametrize("ids", [["a", "a"], ["a", ""]])
def test_the_item_axis_may_not_hold_an_id_twice_or_an_empty_one(ids: list[str]) -> None:
    with pytest.raises(InvalidData) as caught:
        interactions_from([], [], ids)
    assert caught.value.code == "D205"


def test_rows_outside_the_axis_are_refused() -> None:
    with pytest.raises(InvalidData, match="item_rows"):
        Interactions(np.array(["u"]), np.array(["a"]), np.zeros(1, np.int32), np.ones(1, np.int32))


def test_history_is_oldest_first_and_ties_keep_file_order() -> None:
    got = interactions_from("uuvu", "abca", "abc", timestamps=[2, 1, 0, 1])
    assert [h.tolist() for h in got.history()] == [[1, 0, 0], [2]]
    assert [h.tolist() for h in got.history([1])] == [[2]]


def test_history_without_times_is_file_order() -> None:
    assert [h.tolist() for h in interactions_from("uvu", "bca", "abc").history()] == [[1, 0], [2]]


def test_with_history_replaces_one_user_only() -> None:
    got = interactions_from("uuv", "abc", "abc", timestamps=[1, 2, 3]).with_history(0, [2, 1])
    assert [h.tolist() for h in got.history()] == [[2, 1], [2]]


def test_matrix_is_binary_even_if_a_pair_repeats() -> None:
    dense = interactions_from("uuv", "aac", "abc").matrix().toarray()
    assert dense.tolist() == [[1, 0, 0], [0, 0, 1]]
    assert dense.dtype == np.float32


def test_concat_refuses_other_axes() -> None:
    with pytest.raises(InvalidData, match="item_ids"):
        interactions_from("u", "a", "ab").concat(interactions_from("u", "a", "ba"))


@given(
    pairs=st.lists(
        st.tuples(st.sampled_from("uvw"), st.sampled_from(["a b", "é", "%", "x" * 9])), min_size=1
    ),
    timed=st.booleans(),
)
def test_saving_and_loading_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]], timed: bool
) -> None:
    users, items = zip(*pairs, strict=True)
    whole = interactions_from(
        users,
        items,
        ["unused", "%", "a b", "é", "x" * 9],
        timestamps=range(len(pairs)) if timed else None,
        labels=users if timed else None,
    )
    path = tmp_path_factory.mktemp("saved") / "x.parquet"
    whole.save(path)
    assert Interactions.load(path).content_hash() == whole.content_hash()


def test_the_content_hash_sees_every_column() -> None:
    base = interactions_from("uv", "ab", "ab", timestamps=[1, 2])
    others = [
        interactions_from("uv", "ba", "ab", timestamps=[1, 2]),
        interactions_from("uv", "ab", "ab", timestamps=[1, 3]),
        interactions_from("uv", "ab", "ab"),
        interactions_from("uv", "ab", "abc", timestamps=[1, 2]),
    ]
    assert len({base.content_hash(), *(o.content_hash() for o in others)}) == 5
    assert base.axes_hash() == others[0].axes_hash() != others[3].axes_hash()


def test_an_id_that_is_not_on_the_axis_is_named() -> None:
    with pytest.raises(InvalidData) as caught:
        interactions_from("uv", "ab", "ab").user_rows_of(["v", "stranger"])
    assert "stranger" in caught.value.why
