"""A teacher's orders: read from every format, laid over a list's candidates, learnt in place of choices."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.errors import InvalidData, UnsafeInput
from recsys.candidates import Candidates
from rerank.inference import score_lists
from rerank.inputs import ItemVectors
from rerank.lists import RankingList
from rerank.settings import FineTuneConfig, RerankConfig, TokenConfig
from rerank.teacher import read_orders, taught
from rerank.token import build_token_scorer
from rerank.train import fine_tune

ORDERS = {"u1": [("b", "a", "c")], "u2": [("c",)]}


def entry_of(user, candidates, truth=""):
    relevance = np.array([item == truth for item in candidates], np.float32)
    return RankingList(user, (), tuple(candidates), np.arange(len(candidates)), relevance)


def test_a_table_json_lines_and_a_trec_run_say_the_same(tmp_path):
    rows = [("u1", "c", 3), ("u2", "c", 1), ("u1", "b", 1), ("u1", "a", 2)]
    columns = dict(zip(("user_id", "item_id", "rank"), zip(*rows, strict=True), strict=True))
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), tmp_path / "o.parquet")
    lines = [json.dumps({"qid": user, "items": order}) for user, [order] in ORDERS.items()]
    (tmp_path / "o.jsonl").write_text("\n".join(lines) + "\n\n")
    (tmp_path / "o.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    # A run's order is its scores'; equal ones keep their ranks.
    (tmp_path / "o.trec").write_text("u1 Q0 a 2 5.0 t\nu1 Q0 c 3 -1 t\nu1 Q0 b 1 5.0 t\nu2 Q0 c 1 0 t\n")
    for name in ("o.parquet", "o.jsonl", "o.jsonl.gz", "o.trec"):
        assert read_orders(tmp_path / name) == ORDERS


def test_the_lists_that_a_stage_writes_are_orders(tmp_path):
    items = np.array([["b", "a", "c"], ["c", "", ""]])
    scores = np.where(items == "", np.nan, [[3, 2, 1], [1, 0, 0]]).astype(np.float32)
    ranks = np.where(items == "", 0, [[1, 2, 3], [1, 0, 0]]).astype(np.int32)
    Candidates(np.array(["u1", "u2"]), items, {"s": scores}, {"s": ranks}, scores).to_parquet(
        tmp_path / "reranked.parquet"
    )
    assert read_orders(tmp_path / "reranked.parquet") == ORDERS


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("o.jsonl", '{"user_id": "u"}', "D223"),
        ("o.jsonl", '{"user_id": "u", "items": "ab"}', "D223"),
        ("o.jsonl", "not json", "D223"),
        ("o.jsonl", '{"user_id": "u", "items": ["a", "b", "a"]}', "D224"),
        ("o.jsonl", '{"user_id": null, "items": ["a"]}', "D223"),
        ("o.jsonl", '{"user_id": "u", "items": [{"x": 1}]}', "D223"),
        ("o.jsonl", "[" * 200_000, "D223"),
        ("o.trec", "u Q0 a 1 nan t", "D223"),
        ("o.trec", "u Q0 a one 1.0 t", "D223"),
        ("o.trec", "u Q0 a 1 1.0 t\nu Q0 a 2 0.5 t", "D224"),
    ],
)
def test_what_is_no_order_is_refused_by_its_line(tmp_path, name, text, code):
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidData) as caught:
        read_orders(tmp_path / name)
    assert caught.value.code == code
    assert name in str(caught.value)


def test_a_table_without_ranks_and_a_file_that_is_not_there_are_refused(tmp_path):
    pq.write_table(pa.table({"user_id": ["u"], "item_id": ["a"]}), tmp_path / "o.parquet")
    with pytest.raises(InvalidData, match="lacks a column"):
        read_orders(tmp_path / "o.parquet")
    for name in ("none.parquet", "none.jsonl"):
        with pytest.raises(UnsafeInput):
            read_orders(tmp_path / name)


def test_relevance_is_one_over_the_teachers_rank_among_the_candidates():
    # The teacher also named x, which is no candidate, and left out d.
    made = taught([entry_of("u1", ["a", "d", "b"], truth="a")], {"u1": [("x", "b", "a")]})
    assert made[0].relevance.tolist() == [0.5, 0.0, 1.0]


def test_of_several_folds_each_list_gets_the_order_that_names_all_its_candidates(tmp_path):
    lists = [entry_of("u", ["a", "b"], truth="a"), entry_of("u", ["a", "c"], truth="c")]
    columns = {
        "fold": [0, 0, 1, 1], "user_id": ["u"] * 4, "item_id": ["b", "a", "a", "c"], "rank": [1, 2, 1, 2],
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "o.parquet")
    orders = read_orders(tmp_path / "o.parquet")
    assert [made.relevance.tolist() for made in taught(lists, orders)] == [[0.5, 1.0], [1.0, 0.5]]
    # The first fold's order does not know the second list's truth: that list keeps its choice.
    made = taught(lists, {"u": [("b", "a")]})
    assert [entry.relevance.tolist() for entry in made] == [[0.5, 1.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("ranks", "code"), [([1, 1], "D224"), ([1.0, float("nan")], "D223"), ([1, None], "D223")]
)
def test_a_table_with_ranks_that_make_no_order_is_refused(tmp_path, ranks, code):
    pq.write_table(
        pa.table({"user_id": ["u", "u"], "item_id": ["a", "b"], "rank": ranks}), tmp_path / "o.parquet"
    )
    with pytest.raises(InvalidData) as caught:
        read_orders(tmp_path / "o.parquet")
    assert caught.value.code == code


def test_lists_that_the_teacher_did_not_order_keep_the_choices():
    lists = [entry_of("u3", ["a", "b"], truth="b"), entry_of("u1", ["x", "y"], truth="y")]
    assert [new is old for new, old in zip(taught(lists, ORDERS), lists, strict=True)] == [True, True]


@given(st.permutations(list("abcdef")), st.permutations(list("abcdef")), st.integers(1, 6))
def test_sorting_by_relevance_gives_the_teachers_order_back(shown, order, named):
    made = taught([entry_of("u", shown)], {"u": [order[:named]]})[0]
    best = np.argsort(-made.relevance, kind="stable")[:named]
    assert [made.candidates[i] for i in best] == list(order[:named])


def test_a_model_learns_the_order_of_its_teacher():
    # Each item is one number; the teacher likes the second before the first before the third.
    ids = np.array(["i0", "i1", "i2"])
    vectors = ItemVectors(
        ids, np.eye(3, dtype=np.float32), {"x": slice(0, 3)}, np.zeros(3, np.float32), np.zeros((3, 0)),
        np.zeros((3, 0)),
    )  # fmt: skip
    rng = np.random.default_rng(0)

    def lists(count):
        orders = [rng.permutation(3) for _ in range(count)]
        made = [
            replace(entry_of("u", ids[order]), inputs=np.eye(3, dtype=np.float32)[order], vectors=vectors)
            for order in orders
        ]
        return taught(made, {"u": [("i1", "i0", "i2")]})

    config = RerankConfig(form="token", token=TokenConfig(width=16, feed_forward=16, layers=1, heads=2))
    learner, held = build_token_scorer(config, lists(1)[0], seed=0), lists(6)
    settings = FineTuneConfig(epochs=10, batch_size=16, learning_rate=1e-2, patience=50)
    fine_tune(learner, lists(64), held, {}, settings, seed=0)
    for entry, scores in zip(held, score_lists(learner, held, {}), strict=True):
        assert [entry.candidates[i] for i in np.argsort(-scores)] == ["i1", "i0", "i2"]
