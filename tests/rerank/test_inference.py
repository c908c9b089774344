"""Windows, permutations, and the limit on how far an item moves."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from recsys.candidates import Candidates
from rerank.inference import OneByOne, held_within, limited, ordered_by, rank_lists, reorder, score_lists
from rerank.lists import RankingList, in_one_window, ranking_lists
from rerank.settings import InferenceConfig


class Known:
    """Scores every candidate by the number in its text, plus something for where it is shown."""

    def __init__(self, bias=0.0):
        self.bias, self.shown = bias, []

    def words(self, text):
        return [int(text)]

    def prompt(self, entry, words, answer=0):
        self.shown.append(entry.candidates)
        return [words[item][0] for item in entry.candidates]

    def score(self, prompts, token_budget):
        return [np.array([v + self.bias * n for n, v in enumerate(p)], np.float32) for p in prompts]


def entry_of(count, *, seed=None):
    places = np.arange(count) if seed is None else np.random.default_rng(seed).permutation(count)
    return RankingList("u", (), tuple(f"i{p}" for p in places), places, np.zeros(count, np.float32))


def best_first(scores):
    return np.argsort(-scores, kind="stable").tolist()


def test_windows_slide_from_the_end_to_the_top_and_carry_the_best_along():
    texts = {f"i{n}": str(n) for n in range(6)}
    scorer = Known()
    found = rank_lists(scorer, [entry_of(6)], texts, InferenceConfig(window=3, stride=2))[0]
    assert scorer.shown == [("i3", "i4", "i5"), ("i1", "i2", "i5"), ("i0", "i5", "i2")]
    assert best_first(found) == [5, 2, 0, 1, 4, 3]
    assert found[5] == 0
    assert found[3] == -5


def test_a_list_no_longer_than_the_window_keeps_its_own_scores():
    texts = {f"i{n}": str(n) for n in range(6)}
    lists = [entry_of(3), entry_of(6), entry_of(1)]
    found = rank_lists(Known(), lists, texts, InferenceConfig(window=3))
    assert [row.tolist() for row in (found[0], found[2])] == [[0, 1, 2], [0]]
    assert sorted(found[1].tolist()) == [-5, -4, -3, -2, -1, 0]


@given(count=st.integers(1, 30), window=st.integers(2, 12), seed=st.integers(0, 99), data=st.data())
@settings(max_examples=60, deadline=None)
def test_windows_give_a_permutation_and_the_best_item_first(count, window, seed, data):
    stride = data.draw(st.integers(1, window - 1))
    values = np.random.default_rng(seed).permutation(count)
    texts = {f"i{n}": str(values[n]) for n in range(count)}
    config = InferenceConfig(window=window, stride=stride)
    found = rank_lists(Known(), [entry_of(count, seed=seed)], texts, config)[0]
    assert sorted(best_first(found)) == list(range(count))
    assert best_first(found)[0] == int(np.argmax(values))


def test_a_candidate_that_is_read_alone_owes_nothing_to_its_place():
    texts = {f"i{n}": str(v) for n, v in enumerate((3, 1, 4, 1, 5))}
    lists = [entry_of(5, seed=1), entry_of(0), entry_of(2)]
    together, alone = (score_lists(s, lists, texts) for s in (Known(0.5), OneByOne(Known(0.5))))
    assert [row.tolist() for row in alone] == [[3, 1, 4, 1, 5], [], [3, 1]]
    assert together[0].tolist() != alone[0].tolist()


def test_permutations_average_out_what_a_place_adds():
    texts = {f"i{n}": "0" for n in range(4)}
    entry = entry_of(4, seed=1)
    one = score_lists(Known(bias=1.0), [entry], texts)[0]
    many = score_lists(Known(bias=1.0), [entry], texts, permutations=400)[0]
    assert sorted(one.tolist()) == [0, 1, 2, 3]
    np.testing.assert_allclose(many, 1.5, atol=0.25)


def test_a_limit_of_zero_changes_nothing_and_one_swaps_neighbours_only():
    wanted = np.array([[3, 2, 1, 0]])
    assert limited(wanted, None).tolist() == wanted.tolist()
    assert limited(wanted, 0).tolist() == [[0, 1, 2, 3]]
    assert limited(wanted, 1).tolist() == [[1, 0, 3, 2]]
    assert limited(wanted, 2).tolist() == [[2, 3, 0, 1]]
    assert limited(wanted, 3).tolist() == wanted.tolist()


@given(order=st.permutations(range(12)), most=st.integers(0, 12))
@settings(max_examples=200, deadline=None)
def test_no_item_moves_further_than_the_limit(order, most):
    found = limited(np.array([order]), most)[0]
    assert sorted(found.tolist()) == list(range(12))
    assert np.abs(found - np.arange(12)).max() <= most
    if np.abs(np.array(order) - np.arange(12)).max() <= most:
        assert found.tolist() == list(order)


def arrived(rows):
    ranks = np.tile(np.arange(1, len(rows[0]) + 1, dtype=np.int32), (len(rows), 1))
    users = np.array([f"u{n}" for n in range(len(rows))])
    return Candidates(
        users, np.array(rows), {"s": -ranks.astype(np.float32)}, {"s": ranks}, -ranks.astype(np.float32)
    )


def test_a_finished_order_is_held_within_the_limit_of_the_order_it_came_in_with_doubles_too():
    before = arrived([["a", "b", "a", "c"]])
    after = ordered_by(before, [np.array([0, 1, 2, 3], np.float32)], "model")
    assert after.items[0].tolist() == ["c", "a", "b", "a"]
    held = held_within(after, before, "model", 1)
    assert sorted(held.items[0].tolist()) == ["a", "a", "b", "c"]
    assert held.items[0].tolist().index("c") == 2
    assert held_within(after, before, "model", None) is after


def test_reordering_obeys_windows_and_the_limit_at_once():
    texts = {f"i{n}": str(n) for n in range(8)}
    before = arrived([[f"i{n}" for n in range(8)]])
    lists = ranking_lists(before, {"u0": ()}, None, seed=0)
    config = InferenceConfig(window=4, max_move=2)
    moved = reorder(Known(), before, lists, texts, config=config)
    places = {item: n for n, item in enumerate(moved.items[0].tolist())}
    assert all(abs(places[f"i{n}"] - n) <= 2 for n in range(8))
    assert moved.items[0].tolist() != before.items[0].tolist()


def test_a_training_list_is_cut_to_one_window_that_holds_a_truth():
    entry = entry_of(30, seed=3)
    relevance = np.zeros(30, np.float32)
    relevance[entry.places == 17] = 1
    entry = replace(entry, relevance=relevance)
    part = in_one_window(entry, 8, seed=0)
    assert len(part.candidates) == 8
    assert part.relevance.sum() == 1
    assert sorted(part.places.tolist()) == list(range(8))
    assert in_one_window(entry, None, seed=0) is entry


def test_a_stride_longer_than_its_window_is_refused():
    with pytest.raises(ValidationError, match="stride"):
        InferenceConfig(window=4, stride=5)
    with pytest.raises(ValidationError, match="stride"):
        InferenceConfig(stride=5)
