import numpy as np
import pytest

from recsys import Interactions, interactions_from
from recsys.ease import Ease, EaseConfig
from recsys.sparse_ease import SparseEase, SparseEaseConfig

ALL = np.arange(24, dtype=np.int32)


def solved(train: Interactions, **settings: float) -> SparseEase:
    model = SparseEase(SparseEaseConfig.model_validate(settings), train)
    model.solve()
    return model


def test_with_all_items_behind_each_item_it_is_ease(checkerboard: Interactions) -> None:
    whole = Ease(EaseConfig(l2=3.0), checkerboard)
    whole.solve()
    assert solved(checkerboard, l2=3.0, neighbours=19).score(ALL) == pytest.approx(whole.score(ALL), abs=1e-5)


def test_one_item_behind_each_worked_by_hand(ring: Interactions) -> None:
    # Every item shares one user with each of its two sides; the lower id is taken: 1, 0, 1, 0.
    # Its weight is G_nj / (G_nn + lambda) = 1 / (2 + 2).
    got = solved(ring, l2=2.0, neighbours=1).score(np.arange(4, dtype=np.int32))
    assert got.tolist() == [[0.25, 0.25, 0.25, 0.25], [0.25, 0, 0.25, 0], [0, 0, 0, 0], [0, 0.25, 0, 0.25]]


def test_each_column_is_the_ridge_regression_on_its_support(checkerboard: Interactions) -> None:
    weights = solved(checkerboard, l2=1.5, neighbours=4).weights.toarray()
    x = checkerboard.matrix().toarray().astype(np.float64)
    for item in range(18):
        behind = np.flatnonzero(weights[:, item])
        assert 0 < len(behind) <= 4 and item not in behind
        gram = x[:, behind].T @ x[:, behind] + 1.5 * np.eye(len(behind))
        plain = np.linalg.solve(gram, x[:, behind].T @ x[:, item])
        assert weights[behind, item] == pytest.approx(plain, abs=1e-5)


def test_blocks_change_no_weight(checkerboard: Interactions, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = solved(checkerboard, neighbours=4).score(ALL)
    monkeypatch.setattr("recsys.sparse_ease.TOGETHER", 3)
    assert solved(checkerboard, neighbours=4).score(ALL) == pytest.approx(scores, abs=1e-6)


def test_items_without_a_choice_or_a_neighbour_have_no_weight() -> None:
    lonely = interactions_from("uuv", "abc", "abcd")
    got = solved(lonely, l2=1.0).score(np.arange(2, dtype=np.int32))
    assert got == pytest.approx(np.array([[0.5, 0.5, 0, 0], [0, 0, 0, 0]]))
