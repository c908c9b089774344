from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import sparse

from extract.errors import InvalidData
from recsys.ranking import top_k


class Sparse:
    def __init__(self, scores: sparse.csr_array) -> None:
        self.scores = scores

    def sparse_scores(self, user_rows: NDArray[np.int32]) -> sparse.csr_array:
        return sparse.csr_array(self.scores[user_rows])

    def score(self, user_rows: NDArray[np.int32]) -> NDArray[np.float32]:
        return np.float32(self.scores[user_rows].toarray())


class Dense:
    def __init__(self, scores: sparse.csr_array) -> None:
        self.whole = np.float32(scores.toarray())

    def score(self, user_rows: NDArray[np.int32]) -> NDArray[np.float32]:
        return self.whole[user_rows]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 7), st.booleans())
def test_lists_of_sparse_scores_are_those_of_dense_ones(seed: int, k: int, masked: bool) -> None:
    rng = np.random.default_rng(seed)
    # Few values, so that scores tie; negative ones and stored zeros too.
    values = rng.integers(-1, 3, size=(9, 12)) * (rng.random((9, 12)) < rng.random((9, 1)))
    stored = sparse.csr_array(np.float32(values))
    stored.data[rng.random(stored.nnz) < 0.1] = 0.0
    seen = sparse.csr_array(np.float32(rng.random((9, 12)) < 0.3)) if masked else None
    rows, places = np.arange(9, dtype=np.int32), rng.permutation(12)
    ours = top_k(Sparse(stored), rows, seen, k, places=places)
    theirs = top_k(Dense(stored), rows, seen, k, places=places)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_nan_among_sparse_scores_is_an_error() -> None:
    scores = sparse.csr_array(np.float32([[1, 2, np.nan]]))
    with pytest.raises(InvalidData, match="NaN"):
        top_k(Sparse(scores), np.zeros(1, np.int32), None, 1, places=np.arange(3))
