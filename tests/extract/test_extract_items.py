from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from extract import Catalog, CatalogColumns, InvalidData, Item, UnsafeInput, read_catalog

COLUMNS = CatalogColumns(
    item_id="sku", title="name", text=["about", "more"], picture="file", attributes=["colour", "size"]
)
ROWS = [
    {
        "sku": "007",
        "name": 'Lamp, "red"',
        "about": "two\nlines",
        "more": "x",
        "file": "a.jpg",
        "colour": "red",
        "size": "",
    },
    {"sku": "8", "name": "Ürn", "about": "", "more": "y", "file": "", "colour": "", "size": "L"},
]
EXPECTED = [
    Item("007", 'Lamp, "red"', "two\nlines\nx", "a.jpg", {"colour": "red"}),
    Item("8", "Ürn", "y", None, {"size": "L"}),
]


def write(path, rows):
    name = path.name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    if ".jsonl" in name:
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        mark = "\t" if ".tsv" in name else ","
        quote = lambda cell: '"' + cell.replace('"', '""') + '"'  # noqa: E731
        lines = [list(rows[0]), *[list(row.values()) for row in rows]]
        text = "".join(mark.join(map(quote, line)) + "\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("name", ["c.csv", "c.csv.gz", "c.tsv", "c.parquet", "c.jsonl", "c.jsonl.gz"])
def test_every_format_gives_the_same_catalogue(tmp_path, name):
    catalog = read_catalog(write(tmp_path / name, ROWS), COLUMNS)
    assert list(catalog) == EXPECTED
    assert catalog.ids == ("007", "8")
    assert catalog["8"] == EXPECTED[1]
    assert len(catalog) == 2


def test_a_picture_pattern_makes_names_from_ids(tmp_path):
    path = write(tmp_path / "c.csv", ROWS)
    catalog = read_catalog(
        path, CatalogColumns(item_id="sku", title="name", picture_pattern="posters/{item_id}.jpg")
    )
    assert [item.picture for item in catalog] == ["posters/007.jpg", "posters/8.jpg"]


def test_a_subset_keeps_the_order_asked_for_and_names_unknown_ids():
    catalog = Catalog.from_items(EXPECTED)
    assert catalog.subset(["8", "007"]).ids == ("8", "007")
    with pytest.raises(InvalidData, match="1 of 2 ids"):
        catalog.subset(["8", "9"])


def test_items_survive_the_table():
    assert list(Catalog.from_items(EXPECTED)) == EXPECTED
    assert len(Catalog.from_items([])) == 0


def test_doubled_ids_name_both_rows(tmp_path):
    path = write(tmp_path / "c.csv", [{"item_id": i, "title": "t"} for i in ("a", "b", "a")])
    with pytest.raises(InvalidData) as caught:
        read_catalog(path)
    assert caught.value.code == "D101"
    assert "'a' in rows 1, 3" in caught.value.where


def test_an_empty_id_names_its_row(tmp_path):
    path = write(tmp_path / "c.parquet", [{"item_id": i, "title": "t"} for i in ("a", None)])
    with pytest.raises(InvalidData) as caught:
        read_catalog(path)
    assert caught.value.code == "D101"
    assert "rows 2" in caught.value.where


def test_a_missing_column_is_named_with_the_nearest(tmp_path):
    path = write(tmp_path / "c.csv", [{"item_id": "a", "titel": "t"}])
    with pytest.raises(InvalidData, match="no column `title`, did you mean `titel`"):
        read_catalog(path)


def test_integer_ids_become_text_and_float_ids_are_refused(tmp_path):
    assert read_catalog(write(tmp_path / "i.parquet", [{"item_id": 7, "title": "t"}])).ids == ("7",)
    with pytest.raises(InvalidData, match="floating-point"):
        read_catalog(write(tmp_path / "f.parquet", [{"item_id": 7.0, "title": "t"}]))


def test_lists_are_joined_and_missing_values_are_empty(tmp_path):
    rows = [
        {"item_id": "a", "title": None, "text": ["one", "", "two"]},
        {"item_id": "b", "title": "t", "text": None},
    ]
    for name in ("c.jsonl", "c.parquet"):
        catalog = read_catalog(write(tmp_path / name, rows), CatalogColumns(text=["text"]))
        assert [(item.title, item.text) for item in catalog] == [("", "one\ntwo"), ("t", "")]


@pytest.mark.parametrize(
    ("name", "data", "where"),
    [
        ("bad.jsonl", b'{"item_id": "a", "title": "t"}\n{broken\n', "line 2"),
        ("surrogate.jsonl", b'{"item_id": "a", "title": "\\ud800"}\n', "line 1"),
        ("list.jsonl", b"[1]\n", "line 1"),
        ("latin.csv", "item_id,title\na,\xfc\n".encode("latin-1"), "latin.csv"),
        ("not.parquet", b"nonsense", "not.parquet"),
        ("cut.csv.gz", gzip.compress(b"item_id,title\na,b\n", mtime=0)[:-9], "cut.csv.gz"),
        ("ragged.csv", b"item_id,title\na,b,c\n", "ragged.csv"),
    ],
)
def test_unreadable_tables_say_where(tmp_path, name, data, where):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InvalidData) as caught:
        read_catalog(path)
    assert where in caught.value.where


def test_a_missing_file_and_an_unknown_kind_are_refused(tmp_path):
    with pytest.raises(UnsafeInput, match="not there"):
        read_catalog(tmp_path / "none.csv")
    (tmp_path / "c.xlsx").write_bytes(b"")
    with pytest.raises(UnsafeInput, match="unknown kind"):
        read_catalog(tmp_path / "c.xlsx")


def test_column_settings_refuse_unknown_keys_and_two_ways_to_a_picture():
    with pytest.raises(ValidationError, match="extra"):
        CatalogColumns(titel="x")
    with pytest.raises(ValidationError, match="not both"):
        CatalogColumns(picture="a", picture_pattern="{item_id}.jpg")


def test_ids_that_differ_only_in_form_are_reported(caplog):
    Catalog.from_items([Item("A"), Item("a"), Item("b")])
    assert "1 ids differ from another id only by case" in caplog.text
