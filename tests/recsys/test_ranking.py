import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import sparse
from threadpoolctl import threadpool_limits

from extract.errors import InvalidData
from recsys import ranking
from recsys.ranking import (
    NO_ITEM,
    best_columns,
    exact_ranks,
    id_places,
    scores_of,
    sort_keys,
    top_k,
    top_k_factors,
)


class Table:
    def __init__(self, scores: object) -> None:
        self.scores = np.asarray(scores, dtype=np.float32)

    def score(self, user_rows: NDArray[np.int32]) -> NDArray[np.float32]:
        return self.scores[user_rows]


SCORES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 9)),
    elements=st.one_of(
        st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5]),
        st.floats(allow_nan=False, allow_infinity=False, width=32),
    ),
)


@given(scores=SCORES, k=st.integers(1, 12), block=st.integers(1, 4), data=st.data())
def test_top_k_equals_sorting_by_score_then_id(
    scores: NDArray[np.float32], k: int, block: int, data: st.DataObject
) -> None:
    n_users, n_items = scores.shape
    ids = np.array(data.draw(st.permutations([f"{n}" for n in range(8, 8 + n_items)])))
    seen = data.draw(hnp.arrays(np.bool_, scores.shape))
    items, values = top_k(
        Table(scores),
        np.arange(n_users, dtype=np.int32),
        sparse.csr_array(seen.astype(np.float32)),
        k,
        places=id_places(ids),
        block=block,
    )
    for user in range(n_users):
        unseen = [n for n in range(n_items) if not seen[user, n]]
        expected = sorted(unseen, key=lambda n: (-scores[user, n], ids[n]))[:k]
        assert items[user].tolist() == expected + [NO_ITEM] * (k - len(expected))
        assert np.array_equal(values[user, : len(expected)], scores[user, expected])
        assert np.isnan(values[user, len(expected) :]).all()


@given(seed=st.integers(0, 99), levels=st.sampled_from([1, 2, 5, 1000]), k=st.integers(1, 60))
def test_many_ties_and_few_ties_take_the_same_items(seed: int, levels: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (3, 50)).astype(np.float32)
    places = rng.permutation(50)
    expected = [sorted(range(50), key=lambda n: (-row[n], places[n]))[:k] for row in scores]
    assert best_columns(scores, k, places).tolist() == expected


@given(scores=SCORES)
def test_exact_rank_counts_the_items_before(scores: NDArray[np.float32]) -> None:
    places = id_places([f"{n:03d}" for n in range(scores.shape[1])])
    columns = np.tile(np.arange(scores.shape[1], dtype=np.int32), (len(scores), 1))
    ranks = exact_ranks(scores, columns, places)
    for row, values in zip(ranks, scores, strict=True):
        order = sorted(range(len(values)), key=lambda n: (-values[n], n))
        assert [row[n] for n in order] == list(range(1, len(values) + 1))


def test_nan_scores_are_refused() -> None:
    with pytest.raises(InvalidData, match="NaN"):
        top_k(Table([[1.0, np.nan]]), np.zeros(1, np.int32), None, 1, places=id_places(["a", "b"]))


def test_minus_infinity_keeps_an_item_out() -> None:
    items, _ = top_k(Table([[-np.inf, 1.0]]), np.zeros(1, np.int32), None, 2, places=id_places(["a", "b"]))
    assert items.tolist() == [[1, NO_ITEM]]


def test_scores_of_another_catalogue_are_refused() -> None:
    with pytest.raises(InvalidData, match="do not fit"):
        top_k(
            Table([[1.0, 2.0]]),
            np.zeros(1, np.int32),
            sparse.csr_array((1, 3), dtype=np.float32),
            1,
            places=id_places("abc"),
        )


class Inner:
    def __init__(self, users: NDArray[np.float32], items: NDArray[np.float32]) -> None:
        self.users, self.items = users, items

    def embeddings(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self.users, self.items

    def score(self, user_rows: NDArray[np.int32]) -> NDArray[np.float32]:
        raise AssertionError("inner products are ranked without the whole matrix")


# Small whole numbers: products are exact in any order of summation, and ties are many.
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    levels=st.sampled_from([0, 1, 3, 1000]),
    k=st.integers(1, 40),
    tile=st.tuples(st.integers(1, 9), st.integers(1, 40)),
)
def test_tiles_give_the_order_of_the_whole_matrix(
    seed: int, levels: int, k: int, tile: tuple[int, int]
) -> None:
    rng = np.random.default_rng(seed)
    n_users, n_items = rng.integers(1, 20), rng.integers(1, 60)
    users, items = (rng.integers(-levels, levels + 1, (n, 3)).astype(np.float32) for n in (n_users, n_items))
    seen = sparse.csr_array((rng.random((n_users, n_items)) < 0.3).astype(np.float32))
    places = rng.permutation(n_items)
    rows = rng.permutation(n_users).astype(np.int32)
    expected = top_k(Table(users @ items.T), rows, seen, k, places=places)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "USERS", tile[0])
        patch.setattr(ranking, "ITEMS", tile[1])
        got = top_k(Inner(users, items), rows, seen, k, places=places)
    assert np.array_equal(got[0], expected[0])
    assert np.array_equal(got[1], expected[1], equal_nan=True)


def test_many_users_and_items_in_several_threads_give_the_same_lists() -> None:
    rng = np.random.default_rng(1)
    users, items = (rng.integers(-9, 10, (n, 4)).astype(np.float32) for n in (600, 9000))
    places = rng.permutation(9000)
    with threadpool_limits(2, "blas"):
        got, values = top_k_factors(users, items, None, 20, places=places)
    scores = users @ items.T
    expected = np.lexsort((np.broadcast_to(places, scores.shape), -scores), axis=1)[:, :20]
    assert np.array_equal(got, expected)
    assert np.array_equal(values, np.take_along_axis(scores, expected, axis=1))


def test_vectors_that_are_not_finite_are_refused() -> None:
    vectors = np.array([[1.0], [np.inf]], dtype=np.float32)
    with pytest.raises(InvalidData, match="finite"):
        top_k_factors(vectors, vectors, None, 1, places=np.arange(2))


@given(scores=hnp.arrays(np.float32, 7, elements=st.floats(allow_nan=False, width=32)))
def test_a_key_holds_its_score(scores: NDArray[np.float32]) -> None:
    assert np.array_equal(scores_of(sort_keys(scores, np.arange(7))), scores)


@given(seed=st.integers(0, 99), levels=st.sampled_from([2, 50, 100_000]), k=st.integers(1, 9))
def test_groups_of_columns_lose_none_of_the_best(seed: int, levels: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (3, 400)).astype(np.float32)
    places = rng.permutation(400)
    expected = np.lexsort((np.broadcast_to(places, scores.shape), -scores), axis=1)[:, :k]
    assert np.array_equal(best_columns(scores, k, places), expected)
