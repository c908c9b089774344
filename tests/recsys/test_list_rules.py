from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys import Candidates, Interactions, Recommender, interactions_from, retrieve
from recsys.list_rules import ListRules, Lists, category_rows, ruled_lists


class Table:
    def __init__(self, scores: object) -> None:
        self.scores = np.asarray(scores, dtype=np.float32)

    def score(self, user_rows: NDArray[np.int32]) -> NDArray[np.float32]:
        return self.scores[user_rows]


SEEN = interactions_from("uv", "aa", "abcdef")
MODELS = {"m": Table([[9, 8, 7, 6, 5, 4], [9, 4, 5, 6, 7, 8]])}
KINDS = category_rows([["x"], ["x"], ["x"], ["x", "y"], ["y"], []])


def made(seen: Interactions) -> Lists:
    def make(models: Mapping[str, Recommender], users: Sequence[str], k: int) -> Candidates:
        return retrieve(models, seen, users, k)

    return make


def test_items_that_are_not_allowed_are_in_no_list_and_hold_no_rank() -> None:
    rules = ListRules(allowed=np.array([True, False, True, False, True, True]))
    got = ruled_lists(made(SEEN), MODELS, SEEN, ["u", "v"], 4, rules)
    assert got.items.tolist() == [["c", "e", "f", ""], ["f", "e", "c", ""]]
    assert got.ranks["m"].tolist() == [[1, 2, 3, 0], [1, 2, 3, 0]]


def test_a_cap_takes_the_best_of_each_category() -> None:
    got = ruled_lists(made(SEEN), MODELS, SEEN, ["u", "v"], 3, ListRules(categories=KINDS, cap=1))
    # u: b fills x; c and d are x too; e is y; f has no category. v: f, e fills y, d is full by y, c fills x.
    assert got.items.tolist() == [["b", "e", "f"], ["f", "e", "c"]]
    assert got.scores["m"].tolist() == [[8, 5, 4], [8, 7, 5]]
    assert got.ranks["m"].tolist() == [[1, 4, 5], [1, 2, 4]]


def test_a_catalogue_that_cannot_fill_a_capped_list_leaves_it_short() -> None:
    got = ruled_lists(made(SEEN), MODELS, SEEN, ["u"], 5, ListRules(categories=KINDS, cap=1))
    assert got.items.tolist() == [["b", "e", "f", "", ""]]
    assert np.isnan(got.final[0, 3:]).all() and got.ranks["m"][0, 3:].tolist() == [0, 0]


def test_labels_are_numbered_and_repeats_count_once() -> None:
    assert category_rows([["a", "b", "a"], [], ["b"]]).tolist() == [[0, 1], [-1, -1], [1, -1]]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), cap=st.integers(1, 3), k=st.integers(1, 8))
def test_a_capped_list_is_a_walk_down_the_full_ranking(seed: int, cap: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    ids = [f"i{n:02d}" for n in range(40)]
    seen = interactions_from(["u", "v"], [ids[0], ids[1]], ids)
    scores = rng.integers(0, 9, (2, 40))
    labels = [[str(label) for label in rng.integers(0, 4, rng.integers(0, 3))] for _ in ids]
    rules = ListRules(categories=category_rows(labels), cap=cap)
    got = ruled_lists(made(seen), {"m": Table(scores)}, seen, ["u", "v"], k, rules)
    for row in range(2):
        expected: list[str] = []
        full: dict[str, int] = {}
        for item in sorted(set(range(40)) - {row}, key=lambda i: (-scores[row, i], ids[i])):
            own = set(labels[item])
            if len(expected) < k and all(full.get(label, 0) < cap for label in own):
                expected.append(ids[item])
                full |= {label: full.get(label, 0) + 1 for label in own}
        assert got.items[row].tolist() == expected + [""] * (k - len(expected))


def test_without_rules_lists_are_what_they_were() -> None:
    got = ruled_lists(made(SEEN), MODELS, SEEN, ["v"], 2, ListRules())
    assert got.items.tolist() == [["f", "e"]] and got.final[0] == pytest.approx([8, 7])
