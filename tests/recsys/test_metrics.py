import math

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import AP, RR, P, R, Success, nDCG

from extract.errors import InvalidData
from recsys import Candidates, evaluate, evaluate_conditional, interactions_from, judge


def listed(lists: dict[str, list[str]], k: int) -> Candidates:
    items = np.array([row + [""] * (k - len(row)) for row in lists.values()], dtype=np.str_)
    final = np.where(items != "", -np.arange(k, dtype=np.float32), np.nan).astype(np.float32)
    return Candidates(np.array(list(lists)), items, {}, {}, final)


def test_ndcg_of_a_perfect_list_is_one() -> None:
    truth = interactions_from("uu", "ab", "abc")
    got = evaluate(listed({"u": ["b", "a", "c"]}, 3), truth, [1, 3]).mean()
    assert got["ndcg@1"] == 1.0 and got["ndcg@3"] == pytest.approx(1.0)


def test_every_metric_of_one_list_worked_by_hand() -> None:
    truth = interactions_from("uuu", "bdx", "abcdx")
    got = evaluate(listed({"u": ["a", "b", "c", "d"]}, 4), truth, [1, 2, 4]).mean()
    perfect = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert got["recall@1"] == got["ndcg@1"] == got["mrr@1"] == got["hit@1"] == 0
    assert got["recall@2"] == pytest.approx(1 / 3)
    assert got["recall@4"] == pytest.approx(2 / 3)
    assert got["mrr@4"] == 0.5 and got["hit@4"] == 1
    assert got["ndcg@2"] == pytest.approx((1 / math.log2(3)) / (1 + 1 / math.log2(3)))
    assert got["ndcg@4"] == pytest.approx((1 / math.log2(3) + 1 / math.log2(5)) / perfect)


def test_precision_and_both_maps_worked_by_hand() -> None:
    truth = interactions_from("uuu", "bdx", "abcdx")
    got = evaluate(listed({"u": ["a", "b", "c", "d"]}, 4), truth, [2, 4, 9]).mean()
    assert (got["precision@2"], got["precision@4"], got["precision@9"]) == (1 / 2, 2 / 4, 2 / 9)
    # Hits at places 2 and 4 of 3 truths: precisions 1/2 and 2/4.
    assert got["map@2"] == pytest.approx((1 / 2) / 3)
    assert got["map@4"] == pytest.approx((1 / 2 + 2 / 4) / 3)
    assert got["map_mmrec@2"] == pytest.approx((1 / 2) / 2)
    assert got["map_mmrec@4"] == pytest.approx((1 / 2 + 2 / 4) / 3)


def test_the_best_possible_order_puts_the_truths_of_the_list_first() -> None:
    judged = judge(listed({"u": ["a", "b", "c", "d"]}, 4), interactions_from("uuu", "bdx", "abcdx"))
    got = judged.oracle([1, 4]).mean()
    assert got["recall@1"] == pytest.approx(1 / 3) and got["recall@4"] == pytest.approx(2 / 3)
    assert got["mrr@1"] == 1 and got["map@4"] == pytest.approx(2 / 3)
    assert got["ndcg@4"] == pytest.approx((1 + 1 / math.log2(3)) / (1 + 1 / math.log2(3) + 1 / math.log2(4)))


def test_among_some_items_only_their_truths_count_and_places_stay() -> None:
    truth = interactions_from("uuv", "abb", "abc")
    judged = judge(listed({"u": ["c", "a", "b"], "v": ["b", "c"]}, 3), truth)
    only_b = judged.among(None, np.array([False, True, False])).metrics([3])
    assert only_b.per_user["mrr@3"] == pytest.approx([1 / 3, 1])
    only_a = judged.among(None, np.array([True, False, False]))
    assert only_a.user_ids.tolist() == ["u"] and only_a.metrics([3]).per_user["mrr@3"].tolist() == [0.5]
    second = judged.among(np.array([False, True]), None)
    assert second.user_ids.tolist() == ["v"] and second.n_truth.tolist() == [1]


def test_users_without_truth_are_left_out_and_ids_match_across_files() -> None:
    truth = interactions_from(["v", "w"], ["x", "y"], ["y", "x"])
    got = evaluate(listed({"u": ["x"], "v": ["x"], "w": ["x"]}, 1), truth, [1])
    assert got.user_ids.tolist() == ["v", "w"]
    assert got.per_user["recall@1"].tolist() == [1.0, 0.0]


def test_an_item_that_the_truth_never_heard_of_is_a_miss() -> None:
    got = evaluate(listed({"u": ["alien", "a"]}, 2), interactions_from("u", "a", "a"), [2])
    assert got.mean()["mrr@2"] == 0.5


def test_conditional_metrics_count_only_truths_that_can_be_reached() -> None:
    truth = interactions_from("uuv", "abc", "abc")
    lists = listed({"u": ["c", "a"], "v": ["a", "b"]}, 2)
    got = evaluate_conditional(lists, truth, [2])
    assert got.user_ids.tolist() == ["u"]
    assert got.mean()["recall@2"] == 1.0
    assert evaluate(lists, truth, [2]).mean()["recall@2"] == 0.25


def test_what_can_be_reached_keeps_the_axis_and_the_lists() -> None:
    truth = interactions_from("uuv", "acd", "abcd")
    whole = judge(listed({"u": ["b", "a"], "v": ["a", "b"]}, 2), truth)
    found = whole.reachable()
    assert found.user_ids.tolist() == ["u"] and found.items.tolist() == [[1, 0]]
    # d, the last item, is nobody's truth any more, and the axis still has it.
    assert found.truth.shape == (1, 4) and found.truth.toarray().tolist() == [[1, 0, 0, 0]]
    assert found.truth.dtype == np.float32 and found.hits.tolist() == [[False, True]]


def test_a_user_whom_the_truth_lists_without_a_choice_is_left_out() -> None:
    truth = interactions_from("uv", "ab", "ab").take(np.array([True, False]))
    assert truth.n_users == 2
    assert judge(listed({"u": ["a"], "v": ["b"]}, 1), truth).user_ids.tolist() == ["u"]


def test_a_truth_without_users_judges_nobody() -> None:
    judged = judge(listed({"u": ["a", "b"]}, 2), interactions_from("", "", "ab"))
    assert judged.user_ids.tolist() == [] and judged.items.shape == (0, 2) and judged.truth.shape == (0, 2)


def test_mrr_and_hit_of_lists_without_places_are_nothing() -> None:
    got = evaluate(listed({"u": [], "v": []}, 0), interactions_from("uv", "ab", "ab"), [3])
    assert got.per_user["mrr@3"].tolist() == got.per_user["hit@3"].tolist() == [0.0, 0.0]


def test_no_common_user_is_an_error() -> None:
    with pytest.raises(InvalidData) as caught:
        evaluate(listed({"nobody": ["a"]}, 1), interactions_from("u", "a", "a"), [1])
    assert caught.value.code == "D211" and caught.value.what == "no user of the lists has a truth"
    assert caught.value.next_step == "check that lists and truth use the same user and item ids"


@settings(max_examples=60, deadline=None)
@given(data=st.data(), k=st.integers(1, 7))
def test_metrics_agree_with_ir_measures(data: st.DataObject, k: int) -> None:
    items = [f"i{n}" for n in range(8)]
    users = [f"u{n}" for n in range(data.draw(st.integers(1, 4)))]
    lists = {u: data.draw(st.permutations(items))[: data.draw(st.integers(1, 8))] for u in users}
    truth = {u: data.draw(st.sets(st.sampled_from(items), min_size=1)) for u in users}
    rows = [(u, i) for u, chosen in truth.items() for i in sorted(chosen)]
    ours = evaluate(listed(lists, 8), interactions_from(*zip(*rows, strict=True), items), [k])
    qrels = [ir_measures.Qrel(u, i, 1) for u, i in rows]
    run = [ir_measures.ScoredDoc(u, i, float(-n)) for u, row in lists.items() for n, i in enumerate(row)]
    names = {"ndcg": nDCG @ k, "recall": R @ k, "mrr": RR @ k, "hit": Success @ k}
    names |= {"precision": P @ k, "map": AP @ k}
    theirs = {
        (str(m.measure), m.query_id): m.value for m in ir_measures.iter_calc(list(names.values()), qrels, run)
    }
    for name, measure in names.items():
        for user, value in zip(ours.user_ids, ours.per_user[f"{name}@{k}"], strict=True):
            assert value == pytest.approx(theirs[str(measure), str(user)], abs=1e-6)
