import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.errors import InvalidData
from extract.features import FeatureTable
from recsys import Candidates, interactions_from
from recsys.beyond_accuracy import gini, list_diversity, list_statistics, unit_vectors
from recsys.ranking import NO_ITEM

# a is chosen by three, b by one, c and d by nobody.
TRAIN = interactions_from("uvwu", "aaab", "abcd")


def listed(rows: dict[str, list[str]], k: int) -> Candidates:
    items = np.array([row + [""] * (k - len(row)) for row in rows.values()], dtype=np.str_)
    return Candidates(np.array(list(rows)), items, {}, {}, np.zeros(items.shape, dtype=np.float32))


def test_every_statistic_of_two_lists_worked_by_hand() -> None:
    features = FeatureTable(
        ("a", "b", "c", "d"), np.array([[1, 0], [0, 2], [3, 0], [0, 0]], dtype=np.float32)
    )
    got = list_statistics(listed({"v": ["b", "c"], "w": ["b"]}, 2), TRAIN, [1, 2], features)
    assert got[1].coverage == 1 / 4 and got[2].coverage == 2 / 4
    # Counts 0 0 1 2 of three: (-3*0 - 1*0 + 1*1 + 3*2) / (4 * 3).
    assert got[2].gini == pytest.approx(7 / 12) and got[1].gini == pytest.approx(3 / 4)
    # One of three users chose b; c counts as chosen once.
    assert got[2].novelty == pytest.approx(math.log2(3))
    # Lists have popularity (1 + 0) / 2 and 1, both histories 3.
    assert got[2].popularity_lift == pytest.approx(0.75 / 3 - 1)
    # b and c are orthogonal; a list of one has no pair.
    assert got[2].diversity == pytest.approx(1) and got[1].diversity is None


def test_a_list_of_what_everybody_chose_has_no_novelty() -> None:
    got = list_statistics(listed({"u": ["a"]}, 1), TRAIN, [1])
    assert got[1].novelty == 0 and got[1].diversity is None


def test_items_without_features_are_in_no_pair() -> None:
    features = FeatureTable(("a", "b"), np.ones((2, 1), dtype=np.float32), np.array([True, False]))
    got = list_statistics(listed({"u": ["a", "b", "d"]}, 3), TRAIN, [3], features)
    assert got[3].diversity is None


def test_an_item_of_another_catalogue_is_refused() -> None:
    with pytest.raises(InvalidData, match="alien"):
        list_statistics(listed({"u": ["alien"]}, 1), TRAIN, [1])


@given(counts=st.lists(st.integers(0, 20), min_size=1, max_size=8))
def test_gini_is_the_mean_absolute_difference_over_twice_the_mean(counts: list[int]) -> None:
    n, mean = len(counts), sum(counts) / len(counts)
    apart = sum(abs(a - b) for a in counts for b in counts) / n**2
    assert gini(np.array(counts)) == pytest.approx(apart / (2 * mean) if mean else 0.0)


@given(seed=st.integers(0, 50), block=st.integers(1, 5))
def test_diversity_equals_the_mean_over_all_pairs(seed: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    present = rng.random(9) < 0.8
    matrix = rng.normal(size=(9, 3)).astype(np.float32)
    ids = tuple(f"i{n}" for n in range(9))
    vectors = unit_vectors(FeatureTable(ids, matrix, present), np.array(ids))
    rows = np.array([rng.permutation(9)[:5] for _ in range(4)], dtype=np.int32)
    rows[0, 3:] = NO_ITEM
    got = list_diversity(rows, vectors, block)
    for row, value in zip(rows, got, strict=True):
        known = [n for n in row if n != NO_ITEM and present[n]]
        apart = [1 - float(vectors[a] @ vectors[b]) for a, b in itertools.combinations(known, 2)]
        assert np.isnan(value) if not apart else value == pytest.approx(np.mean(apart), abs=1e-6)
