"""Splits written for RecBole, MMRec and TREC come back with the same rows, and so do their own files."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.errors import InvalidData, UnsafeInput
from recsys.interaction_export import export_split
from recsys.interactions import InteractionColumns, Interactions, interactions_from, read_interactions

WORDS = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="\r\n\0"), min_size=1, max_size=6
)


def rows(part: Interactions) -> list[tuple[object, ...]]:
    times = part.timestamps if part.timestamps is not None else np.zeros(len(part), np.int64)
    weights = part.weights if part.weights is not None else np.zeros(len(part), np.float32)
    users, items = part.user_ids[part.user_rows].tolist(), part.item_ids[part.item_rows].tolist()
    return list(zip(users, items, times.tolist(), weights.tolist(), strict=True))


@st.composite
def splits(draw: st.DrawFn) -> dict[str, Interactions]:
    users = draw(st.lists(WORDS, min_size=1, max_size=4, unique=True))
    items = draw(st.lists(WORDS, min_size=1, max_size=5, unique=True))
    pairs = draw(st.lists(
        st.tuples(st.sampled_from(users), st.sampled_from(items)), min_size=1, max_size=12, unique=True
    ))  # fmt: skip
    labels = [draw(st.integers(0, 2)) for _ in pairs]
    times = draw(st.lists(st.integers(0, 2**40), min_size=len(pairs), max_size=len(pairs)))
    whole = interactions_from(
        [u for u, _ in pairs],
        [i for _, i in pairs],
        items,
        timestamps=times,
        weights=np.arange(len(pairs)) / 4,
    )
    return {name: whole.take(np.array(labels) == n) for n, name in enumerate(("train", "valid", "test"))}


@settings(max_examples=60, deadline=None)
@given(splits())
def test_recboles_files_come_back_as_they_were(parts: dict[str, Interactions]) -> None:
    columns = InteractionColumns(
        user="user_id", item="item_id", timestamp="timestamp", weight="rating", label="split"
    )
    with tempfile.TemporaryDirectory() as folder:
        export_split(parts, Path(folder) / "out", "recbole", "shop")
        found, counts = read_interactions(
            Path(folder) / "out/shop.inter", columns, parts["train"].item_ids.tolist()
        )
    assert counts.n_quarantined == 0 and found.labels is not None
    for name, part in parts.items():
        assert rows(found.take(found.labels == name)) == rows(part)


@settings(max_examples=60, deadline=None)
@given(splits())
def test_mmrecs_numbers_and_mappings_come_back_as_the_ids_they_were(parts: dict[str, Interactions]) -> None:
    first = parts["train"]
    columns = InteractionColumns(
        user="userID", item="itemID", timestamp="timestamp", weight="rating", label="x_label"
    )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        export_split(parts, out, "mmrec", "shop")
        ids = {}
        for axis, field, number in (("u", "user_id", "userID"), ("i", "asin", "itemID")):
            named = InteractionColumns(user=field, item=number)
            table, _ = read_interactions(
                (out / f"{axis}_id_mapping.csv").rename(out / f"{axis}.tsv"),
                named,
                [str(n) for n in range(20)],
            )
            ids[axis] = dict(
                zip(table.item_ids[table.item_rows].tolist(), table.user_ids[table.user_rows].tolist())
            )
        found, _ = read_interactions(out / "shop.inter", columns, sorted(ids["i"]))
    assert sorted(ids["i"].values()) == sorted(first.item_ids.tolist()) and found.labels is not None
    for label, part in enumerate(parts.values()):
        there = [
            (ids["u"][u], ids["i"][i], t, w) for u, i, t, w in rows(found.take(found.labels == str(label)))
        ]
        assert there == rows(part)


BABY = "userID\titemID\tx_label\n" + "".join(
    f"{u}\t{i}\t{x}\n" for u, i, x in ((10, 0, 0), (2, 1, 0), (10, 2, 0), (0, 1, 1), (10, 1, 2), (2, 0, 2))
)


def test_an_mmrec_file_is_written_again_with_its_own_numbers(tmp_path: Path) -> None:
    (tmp_path / "baby.inter").write_text(BABY)
    columns = InteractionColumns(user="userID", item="itemID", label="x_label")
    read, _ = read_interactions(tmp_path / "baby.inter", columns, ["0", "1", "2"])
    assert read.labels is not None
    names = ("train", "valid", "test")
    export_split(
        {n: read.take(read.labels == str(x)) for x, n in enumerate(names)}, tmp_path / "o", "mmrec", "baby"
    )
    # Of three users, number 10 is too large to be kept: they are numbered in the order of their ids.
    assert (tmp_path / "o/u_id_mapping.csv").read_text() == "user_id\tuserID\n0\t0\n10\t1\n2\t2\n"
    assert (tmp_path / "o/i_id_mapping.csv").read_text() == "asin\titemID\n0\t0\n1\t1\n2\t2\n"
    dense = BABY.replace("10\t", "1\t")
    (tmp_path / "dense.inter").write_text(dense)
    read, _ = read_interactions(tmp_path / "dense.inter", columns, ["0", "1", "2"])
    assert read.labels is not None
    export_split(
        {n: read.take(read.labels == str(x)) for x, n in enumerate(names)}, tmp_path / "d", "mmrec", "baby"
    )
    assert (tmp_path / "d/baby.inter").read_text() == dense


def test_recboles_parts_are_files_of_their_own(tmp_path: Path) -> None:
    train = interactions_from(["u", "v"], ["a", "b"], ["a", "b"], timestamps=[5, 6])
    empty = train.take(np.zeros(2, np.bool_))
    made = export_split({"train": train, "valid": empty, "test": empty}, tmp_path / "o", "recbole", "x")
    assert [path.name for path in made] == ["x.inter", "x.test.inter", "x.train.inter", "x.valid.inter"]
    assert made[2].read_text() == "user_id:token\titem_id:token\ttimestamp:float\nu\ta\t5\nv\tb\t6\n"
    assert made[3].read_text() == "user_id:token\titem_id:token\ttimestamp:float\n"


def test_qrels_are_lines_that_the_trec_tools_read(tmp_path: Path) -> None:
    import ir_measures

    test = interactions_from(["u 1", "v"], ["a", "b%"], ["a", "b%"])
    empty = test.take(np.zeros(2, np.bool_))
    export_split({"train": empty, "valid": empty, "test": test}, tmp_path / "o", "qrels", "x")
    text = (tmp_path / "o/x.test.qrels").read_text()
    assert text == "u%201 0 a 1\nv 0 b%25 1\n"
    assert [q.doc_id for q in ir_measures.read_trec_qrels(text)] == ["a", "b%25"]


def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    train = interactions_from(["u\nv"], ["a"], ["a"])
    parts = {"train": train, "valid": train, "test": train}
    with pytest.raises(InvalidData, match="D216"):
        export_split(parts, tmp_path / "o", "recbole", "x")
    with pytest.raises(UnsafeInput, match="U408"):
        export_split(parts, tmp_path / "o", "recbole", "../x")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UnsafeInput, match="U407"):
        export_split(parts, tmp_path, "recbole", "x")
