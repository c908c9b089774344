from pathlib import Path

import ir_measures
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from extract.errors import ConfigError, InvalidData
from recsys import Candidates, interactions_from, retrieve
from recsys.candidates import block_within, concatenated


class Table:
    def __init__(self, scores: object) -> None:
        self.scores = np.asarray(scores, dtype=np.float32)

    def score(self, user_rows: NDArray[np.int32]) -> NDArray[np.float32]:
        return self.scores[user_rows]


SEEN = interactions_from("uvvv", "aabc", "abcd")
MODELS = {
    "first": Table([[9, 3, 2, 1], [0, 0, 0, 5]]),
    "second": Table([[9, 1, 2, 3], [0, 0, 0, 7]]),
}


def lists() -> Candidates:
    return retrieve(MODELS, SEEN, ["v", "u"], 3, order_by="first")


def same(a: Candidates, b: Candidates) -> bool:
    return (
        a.user_ids.tolist() == b.user_ids.tolist()
        and a.items.tolist() == b.items.tolist()
        and list(a.scores) == list(b.scores)
        and all(np.array_equal(a.scores[n], b.scores[n], equal_nan=True) for n in a.scores)
        and all(np.array_equal(a.ranks[n], b.ranks[n]) for n in a.ranks)
        and np.array_equal(a.final, b.final, equal_nan=True)
    )


def test_retrieve_masks_the_seen_pads_and_scores_by_every_source() -> None:
    got = lists()
    assert got.user_ids.tolist() == ["v", "u"]
    assert got.items.tolist() == [["d", "", ""], ["b", "c", "d"]]
    assert np.array_equal(got.final, np.float32([[5, np.nan, np.nan], [3, 2, 1]]), equal_nan=True)
    assert np.array_equal(got.scores["second"], np.float32([[7, np.nan, np.nan], [1, 2, 3]]), equal_nan=True)
    assert got.ranks["first"].tolist() == [[1, 0, 0], [1, 2, 3]]
    assert got.ranks["second"].tolist() == [[1, 0, 0], [3, 2, 1]]


def test_a_rank_counts_all_unseen_items_not_only_the_pool() -> None:
    got = retrieve(MODELS, SEEN, ["u"], 1, order_by="first")
    assert got.items.tolist() == [["b"]]
    assert got.ranks["second"].tolist() == [[3]]


def test_the_block_size_changes_nothing() -> None:
    assert same(lists(), retrieve(MODELS, SEEN, ["v", "u"], 3, order_by="first", block=1))


def test_an_unknown_model_or_user_is_an_error() -> None:
    with pytest.raises(ConfigError, match="third"):
        retrieve(MODELS, SEEN, ["u"], 1, order_by="third")
    with pytest.raises(InvalidData):
        retrieve(MODELS, SEEN, ["stranger"], 1)


def test_reordering_keeps_all_sources_and_adds_one() -> None:
    new = lists().reordered(np.array([[0, 1, 2], [2, 0, 1]]), "llm", np.array([[4.0, 0, 0], [6.0, 5.0, 7.0]]))
    assert new.items.tolist() == [["d", "", ""], ["d", "b", "c"]]
    assert new.scores["llm"][1].tolist() == [7, 6, 5]
    assert new.ranks["llm"].tolist() == [[1, 0, 0], [1, 2, 3]]
    assert new.ranks["first"].tolist() == [[1, 0, 0], [3, 1, 2]]
    assert new.final[1].tolist() == [7, 6, 5]
    assert np.isnan(new.final[0, 1:]).all()


@pytest.mark.parametrize(
    "order", [[[0, 1, 2], [0, 0, 1]], [[0, 1, 2], [0, 1, 3]], [[1, 0, 2], [0, 1, 2]], [[0, 1], [0, 1]]]
)
def test_an_order_that_is_no_permutation_or_moves_padding_forward_is_refused(order: list[list[int]]) -> None:
    with pytest.raises(InvalidData) as caught:
        lists().reordered(np.array(order), "llm", np.zeros((2, 3)))
    assert caught.value.code == "D209"


def test_arrays_of_other_shapes_are_refused() -> None:
    with pytest.raises(InvalidData):
        Candidates(np.array(["u"]), np.array([["a", "b"]]), {}, {}, np.zeros((1, 3), np.float32))


def test_parquet_gives_back_the_same_and_the_same_bytes(tmp_path: Path) -> None:
    lists().to_parquet(tmp_path / "a.parquet")
    lists().to_parquet(tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert same(Candidates.from_parquet(tmp_path / "a.parquet"), lists())


def test_a_user_with_an_empty_list_survives_parquet(tmp_path: Path) -> None:
    seen = interactions_from("uuv", "aba", "ab")
    got = retrieve({"m": Table([[1, 2], [1, 2]])}, seen, ["u", "v"], 2)
    assert got.items.tolist() == [["", ""], ["b", ""]]
    got.to_parquet(tmp_path / "x.parquet")
    assert same(Candidates.from_parquet(tmp_path / "x.parquet"), got)


def test_lists_of_another_tool_are_read_from_their_columns(tmp_path: Path) -> None:
    columns = {"user_id": ["v", "u", "v"], "rank": [2, 1, 1], "item_id": [7, 8, 9], "score": [0.5, 1.0, 2.0]}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    got = Candidates.from_parquet(tmp_path / "x.parquet")
    assert got.user_ids.tolist() == ["v", "u"]
    assert got.items.tolist() == [["9", "7"], ["8", ""]]


def test_two_items_on_one_rank_are_refused(tmp_path: Path) -> None:
    columns = {"user_id": ["u", "u"], "rank": [1, 1], "item_id": ["a", "b"], "score": [2.0, 1.0]}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(InvalidData) as caught:
        Candidates.from_parquet(tmp_path / "x.parquet")
    assert caught.value.code == "D209"


@given(final=st.lists(st.sampled_from([2.0, 1.0, 0.0, -1.0, float("nan")]), min_size=4, max_size=4))
def test_an_evaluator_reads_a_trec_run_in_the_order_meant(
    tmp_path_factory: pytest.TempPathFactory, final: list[float]
) -> None:
    items = np.array([["x y", "b", "100%", "a"]])
    got = Candidates(np.array(["some user"]), items, {}, {}, np.float32([final]))
    path = tmp_path_factory.mktemp("run") / "x.trec"
    got.to_trec(path, "my tag")
    rows = list(ir_measures.read_trec_run(str(path)))
    assert [r.doc_id for r in sorted(rows, key=lambda r: -np.float32(r.score))] == [
        "x%20y",
        "b",
        "100%25",
        "a",
    ]
    assert len({np.float32(r.score) for r in rows}) == 4
    assert rows[0].query_id == "some%20user"
    assert path.read_text().splitlines()[0].split(" ")[5] == "my%20tag"


def test_real_scores_are_kept_in_a_trec_run(tmp_path: Path) -> None:
    lists().take(np.array([1])).to_trec(tmp_path / "x.trec", "first")
    assert (tmp_path / "x.trec").read_text() == "u Q0 b 1 3 first\nu Q0 c 2 2 first\nu Q0 d 3 1 first\n"


def test_head_and_take_cut_every_array() -> None:
    cut = lists().head(2).take(np.array([1]))
    assert cut.items.tolist() == [["b", "c"]]
    assert cut.scores["second"].tolist() == [[1, 2]]


def test_a_block_fits_the_memory_and_holds_at_least_one_user() -> None:
    # Two models: 56 bytes per item.
    assert block_within(56e6, 100_000, 2) == 10
    assert block_within(1.0, 100_000, 2) == 1
    assert block_within(2.0**40, 100_000, 2) == 256


def test_lists_put_together_are_the_lists_apart() -> None:
    whole = lists()
    assert same(concatenated([whole.take(np.array([0])), whole.take(np.array([1]))]), whole)
