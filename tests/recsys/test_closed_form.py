import numpy as np
import pytest
from numpy.typing import NDArray

from extract.errors import ResourceExhausted
from recsys import Interactions, evaluate, interactions_from, item_knn, retrieve
from recsys.ease import Ease, EaseConfig
from recsys.item_knn import ItemKNN, ItemKNNConfig, nearest_by_choices
from recsys.models import build_model
from recsys.popularity import Popularity, PopularityConfig

TINY = interactions_from("uuvwwx", "abbabc", "abcd")
ALL = np.arange(4, dtype=np.int32)


def test_popularity_counts_train_choices() -> None:
    model = Popularity(PopularityConfig(), TINY)
    model.solve()
    assert model.score(ALL[:2]).tolist() == [[2, 3, 1, 0], [2, 3, 1, 0]]


def test_item_knn_worked_by_hand() -> None:
    model = ItemKNN(ItemKNNConfig(neighbours=1), TINY)
    model.solve()
    # a: {u, w}, b: {u, v, w}, c: {x}; cos(a, b) = 2 / sqrt(6).
    near = 2 / np.sqrt(6)
    expected = [[near, near, 0, 0], [near, 0, 0, 0], [near, near, 0, 0], [0, 0, 0, 0]]
    assert model.score(ALL) == pytest.approx(np.array(expected))


def test_shrinkage_is_added_to_the_norms() -> None:
    model = ItemKNN(ItemKNNConfig(neighbours=5, shrink=2.0), TINY)
    model.solve()
    assert model.score(ALL[1:2])[0, 0] == pytest.approx(2 / (np.sqrt(6) + 2))


def test_item_knn_keeps_the_nearest_and_breaks_ties_by_id() -> None:
    # b and c are equally near to a; only the lower id stays, whatever the order of the axis.
    for axis in ("abc", "cba"):
        train = interactions_from("uuu", "abc", axis)
        model = ItemKNN(ItemKNNConfig(neighbours=1), train)
        model.solve()
        scores = dict(zip(axis, model.score(np.zeros(1, np.int32))[0].tolist(), strict=True))
        assert scores == pytest.approx({"a": 2.0, "b": 1.0, "c": 0.0})


@pytest.mark.parametrize("pairs", [1, 5, 60])
def test_how_many_pairs_are_looked_at_together_changes_nothing(
    pairs: int, checkerboard: Interactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms = np.linspace(1, 2, checkerboard.n_items, dtype=np.float32)
    asked = (checkerboard.matrix(), norms, 4, np.arange(checkerboard.n_items))
    whole = nearest_by_choices(*asked)
    monkeypatch.setattr(item_knn, "PAIRS", pairs)
    cut = nearest_by_choices(*asked)
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(cut, name), getattr(whole, name))


def test_ease_equals_the_textbook_inverse() -> None:
    model = Ease(EaseConfig(l2=2.0), TINY)
    model.solve()
    x = TINY.matrix().toarray().astype(np.float64)
    p = np.linalg.inv(x.T @ x + 2.0 * np.eye(4))
    b = -p / np.diag(p)
    np.fill_diagonal(b, 0)
    assert model.score(ALL) == pytest.approx(x @ b, abs=1e-6)


def test_ease_of_two_items_worked_by_hand() -> None:
    model = Ease(EaseConfig(l2=1.0), interactions_from("uuv", "aba", "ab"))
    model.solve()
    # G = [[3, 1], [1, 2]], P = [[2, -1], [-1, 3]] / 5, so B_ab = 1/3 and B_ba = 1/2.
    assert model.score(np.array([1], np.int32)) == pytest.approx(np.array([[0, 1 / 3]]))


def test_denoising_adds_to_the_ridge_of_an_item_in_proportion_to_its_choices() -> None:
    model = Ease(EaseConfig(l2=1.0, denoise=0.5), interactions_from("uuv", "aba", "ab"))
    model.solve()
    # G = [[2, 1], [1, 1]] + I + diag(2, 1) = [[5, 1], [1, 3]], P = [[3, -1], [-1, 5]] / 14.
    # B_ab = 1/5 and B_ba = 1/3; u chose both, v chose a.
    assert model.score(np.arange(2, dtype=np.int32)) == pytest.approx(np.array([[1 / 3, 1 / 5], [0, 1 / 5]]))


def test_a_user_of_twice_the_choices_weighs_half_at_power_one() -> None:
    model = Ease(EaseConfig(l2=1.0, user_power=1.0), interactions_from("uuv", "aba", "ab"))
    model.solve()
    # Counts 2 and 1 over their geometric mean sqrt(2): u weighs s = 1 / sqrt(2), v weighs sqrt(2) = 2 s.
    # G + I = [[3 s + 1, s], [s, s + 1]], so B_ab = s / (3 s + 1) and B_ba = s / (s + 1).
    s = 2**-0.5
    expected = [[s / (s + 1), s / (3 * s + 1)], [0, s / (3 * s + 1)]]
    assert model.score(np.arange(2, dtype=np.int32)) == pytest.approx(np.array(expected))


def test_a_user_without_choices_moves_no_weight() -> None:
    few = interactions_from("uuvw", "abaa", "ab")
    idle = few.take(few.user_rows < 2)
    with_idle, without = (
        Ease(EaseConfig(user_power=0.5), t) for t in (idle, interactions_from("uuv", "aba", "ab"))
    )
    with_idle.solve()
    without.solve()
    assert np.array_equal(with_idle.tensors()["weights"], without.tensors()["weights"])


def test_ease_of_more_items_than_memory_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Ease(EaseConfig(), TINY)
    monkeypatch.setattr("os.sysconf", lambda name: 7)
    with pytest.raises(ResourceExhausted, match="does not fit into memory"):
        model.solve()


@pytest.mark.parametrize(("name", "params"), [("item_knn", {}), ("ease", {"l2": 50.0})])
def test_closed_form_models_learn_the_checkerboard(
    checkerboard: Interactions, name: str, params: dict[str, float]
) -> None:
    model = build_model(name, params, checkerboard)
    model.solve()  # type: ignore[attr-defined]
    scores = model.score(np.arange(24, dtype=np.int32))[:, :18]
    own = (np.arange(24)[:, None] + np.arange(18)) % 2 == 0
    assert np.where(own, scores, np.inf).min(axis=1).min() > np.where(own, -np.inf, scores).max()


def test_popularity_cannot_learn_the_checkerboard(checkerboard: Interactions) -> None:
    model = build_model("popularity", {}, checkerboard)
    model.solve()  # type: ignore[attr-defined]
    seen = checkerboard.matrix().toarray() > 0
    unseen = [(u, i) for u in range(24) for i in range(18) if not seen[u, i] and (u + i) % 2 == 0]
    users, items = zip(*unseen, strict=True)
    truth = interactions_from(
        checkerboard.user_ids[list(users)].tolist(),
        checkerboard.item_ids[list(items)].tolist(),
        checkerboard.item_ids.tolist(),
    )
    lists = retrieve({"popularity": model}, checkerboard, checkerboard.user_ids, 3)
    assert evaluate(lists, truth, [3]).mean()["ndcg@3"] < 0.6


@pytest.mark.parametrize("name", ["popularity", "item_knn", "ease"])
def test_the_order_of_the_catalogue_changes_no_score(checkerboard: Interactions, name: str) -> None:
    def scores(order: NDArray[np.int64]) -> NDArray[np.float32]:
        train = interactions_from(
            checkerboard.user_ids[checkerboard.user_rows].tolist(),
            checkerboard.item_ids[checkerboard.item_rows].tolist(),
            checkerboard.item_ids[order].tolist(),
        )
        model = build_model(name, {"neighbours": 3} if name == "item_knn" else {}, train)
        model.solve()  # type: ignore[attr-defined]
        return model.score(np.arange(24, dtype=np.int32))

    order = np.random.default_rng(0).permutation(20)
    assert scores(order) == pytest.approx(scores(np.arange(20))[:, order], abs=1e-6)
