"""What a reranking changed, worked by hand."""

import numpy as np
import pytest

from recsys.candidates import Candidates
from rerank.diagnosis import by_slot, first_places, flips, gap_closed, order_pairs, place_bins, score_pairs
from rerank.inference import ordered_by
from rerank.lists import RankingList


def lists_of(rows):
    ranks = np.tile(np.arange(1, len(rows[0]) + 1, dtype=np.int32), (len(rows), 1))
    users, scores = np.array([f"u{n}" for n in range(len(rows))]), -ranks.astype(np.float32)
    return Candidates(users, np.array(rows), {"s": scores}, {"s": ranks}, scores)


BEFORE = lists_of([["a", "b", "c"], ["a", "b", ""], ["a", "b", "c"]])
TRUTHS = {"u0": frozenset("b"), "u1": frozenset("z"), "u2": frozenset("ac")}


def test_pairs_put_right_and_wrong_by_two_orders():
    after = ordered_by(BEFORE, [np.array(s, np.float32) for s in ([1, 2, 3], [0, 1], [2, 3, 1])], "model")
    assert after.items[0].tolist() == ["c", "b", "a"]
    # u0: b was behind a and before c, and is before a and behind c; u1 has no truth in its list; u2: of the
    # pairs (a, b) and (c, b), a falls behind b, c stays behind.
    assert flips(order_pairs(BEFORE, after, TRUTHS)) == {
        "pairs": 4, "before": 0.5, "after": 0.25,
        "put_right": 1, "put_wrong": 2, "stayed_right": 0, "stayed_wrong": 1,
    }  # fmt: skip


def test_pairs_by_scores_in_arriving_order_count_ties_as_wrong():
    entry = RankingList("u", (), ("c", "a", "b"), np.array([2, 0, 1]), np.array([0, 1, 0], np.float32))
    before, after = np.array([1, 1, 0.5]), np.array([3, 1, 2])
    # The truth came in first: 1 against 1 and 0.5 before, 3 against 1 and 2 after.
    assert flips(score_pairs([entry], [before], [after]))["put_right"] == 1
    assert flips(score_pairs([entry], [before], [after]))["after"] == 1
    assert flips(iter(())) == {
        "pairs": 0, "before": 0, "after": 0, "put_right": 0, "put_wrong": 0,
        "stayed_right": 0, "stayed_wrong": 0,
    }  # fmt: skip


def test_the_share_of_the_gap_closed_may_be_negative_and_is_none_without_a_gap():
    assert gap_closed(0.2, 0.3, 0.6) == pytest.approx(0.25)
    assert gap_closed(0.2, 0.1, 0.6) == pytest.approx(-0.25)
    assert gap_closed(0.2, 0.2, 0.2) is None


def test_places_of_first_truths_and_their_bins():
    assert first_places(BEFORE, TRUTHS).tolist() == [2, 0, 1]
    assert place_bins(12) == [(1, 1), (2, 3), (4, 5), (6, 10), (11, 12)]
    assert place_bins(1) == [(1, 1)]
    assert place_bins(2000)[-1] == (1001, 2000)


def test_a_metric_by_slot_of_the_prompt():
    def entry(slot):
        relevance = np.zeros(4, np.float32)
        if slot is not None:
            relevance[slot] = 1
        return RankingList("u", (), tuple("abcd"), np.arange(4), relevance)

    found = by_slot([entry(0), entry(0), entry(3), entry(None)], [1.0, 0.0, 0.25, 9.0])
    assert found == [
        {"from": 0.0, "to": 0.25, "lists": 2, "mean": 0.5},
        {"from": 0.75, "to": 1.0, "lists": 1, "mean": 0.25},
    ]
