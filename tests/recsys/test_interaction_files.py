import gzip
import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from extract.errors import InvalidData, UnsafeInput
from recsys import InteractionColumns, SplitConfig, read_interactions, split_interactions
from recsys.interaction_files import column_names, read_batches

ROWS = [("u2", "7", 5), ("u1", "07", 3), ("u2", "c", 1)]
COLUMNS = InteractionColumns(timestamp="time")


def put(path: Path, text: str) -> Path:
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def written(folder: Path, kind: str) -> Path:
    """ROWS in a file of a kind."""
    path = folder / f"clicks.{kind}"
    table = {"user_id": [r[0] for r in ROWS], "item_id": [r[1] for r in ROWS], "time": [r[2] for r in ROWS]}
    if kind == "parquet":
        pq.write_table(pa.table(table), path)
    elif kind == "dataset":
        datasets.Dataset.from_dict(table).save_to_disk(str(path))
    elif kind.startswith("jsonl"):
        put(path, "\n".join(json.dumps(dict(zip(table, row, strict=True))) for row in ROWS) + "\n\n")
    else:
        mark = "," if kind.startswith("csv") else "\t"
        types = [":token", ":token", ":float"] if kind == "inter" else ["", "", ""]
        lines = [mark.join(name + t for name, t in zip(table, types, strict=True))]
        put(path, "\n".join(lines + [mark.join(map(str, row)) for row in ROWS]) + "\n")
    return path


KINDS = ("csv", "csv.gz", "tsv", "txt", "inter", "jsonl", "jsonl.gz", "parquet", "dataset")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_says_the_same(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, kind)
    assert column_names(path) == ["user_id", "item_id", "time"]
    got, counts = read_interactions(path, COLUMNS, ["c", "7", "07"])
    assert [got.user_ids[u] for u in got.user_rows] == ["u2", "u1", "u2"]
    assert [got.item_ids[i] for i in got.item_rows] == ["7", "07", "c"]
    assert got.timestamps is not None and got.timestamps.tolist() == [5, 3, 1]
    assert counts.n_in == 3


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_names_the_nearest_column(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InvalidData) as caught:
        list(read_batches(written(tmp_path, kind), ["user_id", "items_id"]))
    assert (caught.value.code, caught.value.next_step) == ("D201", "did you mean `item_id`?")


def test_mmrecs_file_is_split_by_its_own_labels(tmp_path: Path) -> None:
    text = "userID\titemID\trating\ttimestamp\tx_label\n0\t0\t5\t1\t0\n0\t1\t4\t2\t1\n0\t2\t3\t3\t2\n"
    columns = InteractionColumns(user="userID", item="itemID", timestamp="timestamp", label="x_label")
    whole, _ = read_interactions(put(tmp_path / "baby.inter", text), columns, ["0", "1", "2"])
    labels = SplitConfig(method="label", train_labels=("0",), valid_labels=("1",), test_labels=("2",))
    split = split_interactions(whole, labels)
    assert [part.item_rows.tolist() for part in (split.train, split.valid, split.test)] == [[0], [1], [2]]


def test_the_parts_of_a_dataset_are_labels(tmp_path: Path) -> None:
    parts = {
        "train": datasets.Dataset.from_dict({"user_id": ["u", "u"], "item_id": ["a", "b"]}),
        "test": datasets.Dataset.from_dict({"user_id": ["u"], "item_id": ["c"]}),
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    assert column_names(tmp_path / "saved") == ["user_id", "item_id", "split"]
    got, _ = read_interactions(tmp_path / "saved", InteractionColumns(label="split"), ["a", "b", "c"])
    assert got.labels is not None and got.labels.tolist() == ["train", "train", "test"]


def test_a_dataset_with_another_order_of_rows_is_read_in_that_order(tmp_path: Path) -> None:
    whole = datasets.Dataset.from_dict({"user_id": ["u", "u", "v"], "item_id": ["a", "b", "a"]})
    whole.select([2, 0]).save_to_disk(str(tmp_path / "saved"))
    rows = [
        row for batch in read_batches(tmp_path / "saved", ["user_id", "item_id"]) for row in batch.to_pylist()
    ]
    assert rows == [{"user_id": "v", "item_id": "a"}, {"user_id": "u", "item_id": "a"}]


def test_a_folder_that_is_no_dataset_is_told(tmp_path: Path) -> None:
    for look in (column_names, lambda path: list(read_batches(path, ["user_id"]))):
        with pytest.raises(InvalidData, match="cannot be parsed") as caught:
            look(tmp_path)
        assert "save_to_disk" in caught.value.why


@pytest.mark.parametrize("line", ["[1, 2]", '{"user_id": ', "[" * 100_000])
def test_a_line_that_is_no_object_is_told(tmp_path: Path, line: str) -> None:
    path = put(tmp_path / "clicks.jsonl", f'{{"user_id": "u", "item_id": "a"}}\n{line}\n')
    with pytest.raises(InvalidData) as caught:
        list(read_batches(path, ["user_id", "item_id"]))
    assert caught.value.code == "D201" and caught.value.why


def test_unknown_kinds_and_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="unknown kind"):
        column_names(put(tmp_path / "clicks.xlsx", "x"))
    with pytest.raises(UnsafeInput, match="does not exist"):
        column_names(tmp_path / "clicks.csv")
