import numpy as np
import pytest

from extract.errors import ConfigError
from extract.features import FeatureTable
from recsys import Interactions
from recsys.graph_filter import GraphFilter, GraphFilterConfig

ALL = np.arange(4, dtype=np.int32)
Tables = dict[str, FeatureTable]


def scores(ring: Interactions, features: Tables | None = None, **settings: object) -> list[float]:
    model = GraphFilter(GraphFilterConfig.model_validate(settings), ring, features)
    model.solve()
    return [float(x) for x in model.score(ALL[:1])[0]]


def test_the_graph_of_choices_worked_by_hand(ring: Interactions) -> None:
    # R~ has 1/2 at each choice: P is 1/2 on the diagonal and 1/4 between items that share a user.
    assert scores(ring) == pytest.approx([0.75, 0.75, 0.25, 0.25])


def test_a_polynomial_worked_by_hand(ring: Interactions) -> None:
    # P of the vector above is [0.625, 0.625, 0.375, 0.375].
    assert scores(ring, coefficients=(2.0, -1.0)) == pytest.approx([0.875, 0.875, 0.125, 0.125])


def test_the_power_acts_on_every_entry(ring: Interactions) -> None:
    near, own = 0.25**0.5, 0.5**0.5
    # All rows sum to the largest eigenvalue, which is scaled to 1.
    largest = own + 2 * near
    expected = [(own + near) / largest] * 2 + [near / largest] * 2
    assert scores(ring, power=0.5) == pytest.approx(expected)


def test_alpha_weighs_users_against_items(checkerboard: Interactions) -> None:
    model = GraphFilter(GraphFilterConfig(alpha=0.2, coefficients=(0.5, 0.3, 0.1)), checkerboard)
    model.solve()
    r = checkerboard.matrix().toarray().astype(np.float64)
    n_users, n_items = np.maximum(r.sum(axis=1), 1), np.maximum(r.sum(axis=0), 1)
    scaled = n_users[:, None] ** -0.2 * r * n_items**-0.8
    p = scaled.T @ scaled
    p /= np.linalg.eigvalsh(p)[-1]
    expected = r @ (0.5 * p + 0.3 * p @ p + 0.1 * p @ p @ p)
    assert model.score(np.arange(24, dtype=np.int32)) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_features_add_their_own_graphs_worked_by_hand(ring: Interactions, pairs: Tables) -> None:
    # k = 2: every item and its twin have cosine 1, so both graphs weigh 1/2 on and beside the diagonal.
    # u0 chose 0 and 1: pictures pair them (1, 1, 0, 0), texts pair 0 with 3 and 1 with 2 (1/2 each).
    got = scores(ring, pairs, neighbours=2, content_weight=0.4, knn_weights={"picture": 3.0, "text": 1.0})
    choices, picture, text = np.array([0.75, 0.75, 0.25, 0.25]), np.array([1, 1, 0, 0]), np.full(4, 0.5)
    assert got == pytest.approx(0.6 * choices + 0.3 * picture + 0.1 * text)


def test_wrong_weights_are_an_error(ring: Interactions, pairs: Tables) -> None:
    with pytest.raises(ConfigError, match="knn_weights"):
        GraphFilter(GraphFilterConfig(knn_weights={"sound": 1.0}), ring, pairs)
