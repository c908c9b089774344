import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import sparse

from recsys import Interactions, interactions_from, retrieve
from recsys.ease import Ease
from recsys.newcomers import RIDGE, UNOBSERVED, FoldedIn, fold_in, newcomer_models, stand_in_blocks
from recsys.settings import EaseConfig

TRAIN = interactions_from("uuvvww", "abbcac", "abcd")


def test_one_dimension_worked_by_hand() -> None:
    items = np.array([[1.0], [2.0], [0.0]], dtype=np.float32)
    got = fold_in(items, sparse.csr_array(np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0]], dtype=np.float32)))
    # All squares 5; mean 5/3. x (chosen squares + a 5 + r 5/3) = sum of the chosen.
    fixed = UNOBSERVED * 5 + RIDGE * 5 / 3
    assert got.ravel() == pytest.approx([1 / (1 + fixed), 3 / (5 + fixed), 0])


@given(seed=st.integers(0, 200))
def test_a_folded_vector_is_where_the_loss_has_no_slope(seed: int) -> None:
    rng = np.random.default_rng(seed)
    items = rng.normal(size=(9, 3)).astype(np.float32)
    chosen = rng.random(9) < 0.4
    (x,) = fold_in(items, sparse.csr_array(chosen[None].astype(np.float32))).astype(np.float64)
    mean_square = np.square(items, dtype=np.float64).sum() / 9
    slope = (chosen * (items @ x - 1)) @ items + UNOBSERVED * (items @ x) @ items + RIDGE * mean_square * x
    assert slope == pytest.approx(np.zeros(3), abs=1e-4)


def test_every_newcomer_stands_in_once_in_order_with_their_own_history() -> None:
    people = [f"n{n}" for n in range(7)]
    newcomers = interactions_from(people, [*"abcdabc"], "abcd")
    blocks = list(stand_in_blocks(TRAIN, newcomers))
    assert [ids for _, ids in blocks] == [people[:3], people[3:6], people[6:]]
    assert [block.item_rows.tolist() for block, _ in blocks] == [[0, 1, 2], [3, 0, 1], [2]]
    for block, ids in blocks:
        assert block.axes_hash() == TRAIN.axes_hash()
        assert block.user_rows.tolist() == list(range(len(ids)))


def ease_on(part: Interactions) -> dict[str, Ease]:
    solved = Ease(EaseConfig(l2=1.0), TRAIN)
    solved.solve()
    model = Ease(EaseConfig(l2=1.0), part)
    model.restore(solved.tensors())
    return {"ease": model}


def test_a_newcomer_with_a_known_history_gets_the_known_users_list() -> None:
    twins = interactions_from(["x", "x", "y", "y"], [*"bcab"], "abcd")
    ((block, ids),) = stand_in_blocks(TRAIN, twins)
    assert ids == ["x", "y"]
    got = retrieve(newcomer_models(ease_on, TRAIN, block), block, block.user_ids[:2], 2)
    known = retrieve(ease_on(TRAIN), TRAIN, ["v", "u"], 2)
    assert got.items.tolist() == known.items.tolist()
    assert got.final == pytest.approx(known.final)


class Vectors:
    def __init__(self, users: NDArray[np.float32], items: NDArray[np.float32]) -> None:
        self.tables = users, items

    def embeddings(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self.tables

    def score(self, user_rows: NDArray[np.int32]) -> NDArray[np.float32]:
        users, items = self.tables
        return users[user_rows] @ items.T


def test_models_of_vectors_use_the_items_of_training_and_a_taste_goes_on() -> None:
    # Two kinds of items; the vectors that a load on other histories gives are wrong on purpose.
    items = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], dtype=np.float32)

    def load(part: Interactions) -> dict[str, Vectors]:
        return {"m": Vectors(np.zeros((3, 2), np.float32), items if part is TRAIN else -items)}

    ((block, _),) = stand_in_blocks(TRAIN, interactions_from("xy", "ac", "abcd"))
    models = newcomer_models(load, TRAIN, block)
    assert isinstance(models["m"], FoldedIn)
    got = retrieve(models, block, block.user_ids[:2], 1)
    assert got.items.tolist() == [["b"], ["d"]]
    assert models["m"].score(np.array([0], np.int32))[0, 1] == pytest.approx(got.final[0, 0])
