import math

import numpy as np
import pytest
import torch

from recsys import Interactions, interactions_from
from recsys.lightgcn import LightGCN, LightGCNConfig
from recsys.train import TrainConfig, fit

TINY = interactions_from("uuv", "abb", "abc")
USERS, ITEMS = [1.0, 2.0], [3.0, 4.0, 5.0]
R2 = math.sqrt(2)


def tiny(layers: int, reg: float = 0.0) -> LightGCN:
    model = LightGCN(LightGCNConfig(embedding_size=1, layers=layers, reg=reg), TINY)
    model.restore({"embedding": np.float32([USERS + ITEMS]).T})
    return model


def test_one_layer_worked_by_hand() -> None:
    users, items = tiny(1).embeddings()
    # Degrees: u 2, v 1, a 1, b 2, c 0; every edge weighs 1 / sqrt(product of its degrees).
    assert users.ravel() == pytest.approx(np.array([1 + 3 / R2 + 4 / 2, 2 + 4 / R2]) / 2)
    assert items.ravel() == pytest.approx(np.array([3 + 1 / R2, 4 + 1 / 2 + 2 / R2, 5]) / 2)


def test_two_layers_worked_by_hand() -> None:
    first = [3 / R2 + 4 / 2, 4 / R2, 1 / R2, 1 / 2 + 2 / R2, 0]
    second = [first[2] / R2 + first[3] / 2, first[3] / R2, first[0] / R2, first[0] / 2 + first[1] / R2, 0]
    expected = (np.array(USERS + ITEMS) + first + second) / 3
    assert np.concatenate(tiny(2).embeddings()).ravel() == pytest.approx(expected)


def test_no_layer_is_matrix_factorisation() -> None:
    assert tiny(0).score(np.array([1, 0], np.int32)).tolist() == [[6, 8, 10], [3, 4, 5]]


def test_the_loss_of_one_triple_worked_by_hand() -> None:
    loss = tiny(0, reg=0.1).loss(torch.tensor([1]), torch.tensor([0]), torch.tensor([2]))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(10 - 6)) + 0.1 * (4 + 9 + 25) / 2)


def test_start_values_are_normal_with_the_set_deviation_and_follow_the_seed() -> None:
    wide = LightGCNConfig(embedding_size=2000)
    weights = [LightGCN(wide, TINY, seed=s).tensors()["embedding"] for s in (0, 0, 1)]
    assert np.array_equal(weights[0], weights[1]) and not np.array_equal(weights[0], weights[2])
    assert weights[0].std() == pytest.approx(0.1, rel=0.05)


def test_building_a_model_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    LightGCN(LightGCNConfig(), TINY, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_scores_follow_every_change_of_the_weights() -> None:
    model = tiny(1)
    before = model.score(np.zeros(1, np.int32))
    with torch.no_grad():
        model.embedding.mul_(2)
    assert model.score(np.zeros(1, np.int32)) == pytest.approx(4 * before)


def test_scores_are_the_products_of_the_embeddings() -> None:
    model = tiny(1)
    users, items = model.embeddings()
    assert model.score(np.array([1, 0], np.int32)) == pytest.approx(users[[1, 0]] @ items.T)


def test_lightgcn_learns_the_checkerboard(checkerboard: Interactions) -> None:
    model = LightGCN(LightGCNConfig(embedding_size=16, layers=2), checkerboard)
    fit(model, checkerboard, None, TrainConfig(epochs=40, batch_size=64, learning_rate=0.02))
    scores = model.score(np.arange(24, dtype=np.int32))[:, :18]
    own = (np.arange(24)[:, None] + np.arange(18)) % 2 == 0
    assert (np.where(own, scores, np.inf).min(axis=1) > np.where(own, -np.inf, scores).max(axis=1)).all()


def test_permuting_items_and_their_weights_permutes_the_scores() -> None:
    order = np.array([2, 0, 1])
    other = LightGCN(
        LightGCNConfig(embedding_size=1, layers=2), interactions_from("uuv", "abb", ["c", "a", "b"])
    )
    other.restore({"embedding": np.float32([USERS + [ITEMS[n] for n in order]]).T})
    rows = np.arange(2, dtype=np.int32)
    assert other.score(rows) == pytest.approx(tiny(2).score(rows)[:, order])
