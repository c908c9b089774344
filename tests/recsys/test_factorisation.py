import math

import numpy as np
import pytest
import torch

from extract.features import FeatureTable
from recsys import Interactions, interactions_from
from recsys.als import ALS, ALSConfig
from recsys.bpr_mf import BPRMF, BPRMFConfig
from recsys.vbpr import VBPR, VBPRConfig

ALL = np.arange(4, dtype=np.int32)


def test_als_of_the_ring_worked_by_hand(ring: Interactions) -> None:
    model = ALS(ALSConfig(embedding_size=1, alpha0=0.5, l2=0.1, nu=1.0, iterations=1), ring)
    model.restore({"users": np.zeros((4, 1), np.float32), "items": np.float32([[1], [2], [3], [4]])})
    users = model._half(ring.matrix(), model.embeddings()[1])
    # x_u = (y_i + y_j) / (y_i^2 + y_j^2 + 0.5 * 30 + 0.1 (2 + 0.5 * 4)).
    expected = [3 / (5 + 15.4), 5 / (13 + 15.4), 7 / (25 + 15.4), 5 / (17 + 15.4)]
    assert users.ravel() == pytest.approx(expected)


def test_each_half_of_als_is_the_minimum_of_its_loss(checkerboard: Interactions) -> None:
    config = ALSConfig(embedding_size=5, alpha0=0.2, l2=0.05, nu=0.5, iterations=2)
    model = ALS(config, checkerboard, seed=3)
    model.solve()
    users, items = (table.astype(np.float64) for table in model.embeddings())
    r = checkerboard.matrix().toarray()
    for user in range(24):
        weights = np.diag(0.2 + r[user])
        ridge = 0.05 * (r[user].sum() + 0.2 * 20) ** 0.5
        plain = np.linalg.solve(items.T @ weights @ items + ridge * np.eye(5), items.T @ r[user])
        assert users[user] == pytest.approx(plain, abs=1e-5)


def test_als_solves_the_same_in_small_blocks(
    checkerboard: Interactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = []
    for block in (10, 4_000_000):
        monkeypatch.setattr("recsys.als.BLOCK", block)
        model = ALS(ALSConfig(embedding_size=4), checkerboard)
        model.solve()
        scores.append(model.score(np.arange(24, dtype=np.int32)))
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_als_gives_who_chose_nothing_the_zero_vector(checkerboard: Interactions) -> None:
    model = ALS(ALSConfig(), checkerboard)
    model.solve()
    assert not model.embeddings()[1][18:].any()


def bpr_of_the_ring(ring: Interactions, reg: float = 0.0) -> BPRMF:
    model = BPRMF(BPRMFConfig(embedding_size=1, reg=reg), ring)
    items = np.float32([[5, 0.5], [6, 0], [7, -1], [8, 2]])
    model.restore({"users": np.float32([[1], [2], [3], [4]]), "items": items})
    return model


def test_bpr_mf_of_the_ring_worked_by_hand(ring: Interactions) -> None:
    expected = [[5.5, 6, 6, 10], [10.5, 12, 13, 18], [15.5, 18, 20, 26], [20.5, 24, 27, 34]]
    assert bpr_of_the_ring(ring).score(ALL).tolist() == expected


def test_the_loss_of_bpr_mf_worked_by_hand(ring: Interactions) -> None:
    loss = bpr_of_the_ring(ring, reg=0.1).loss(torch.tensor([1]), torch.tensor([1]), torch.tensor([0]))
    squares = (2**2 + 6**2 + 5**2 + 0.5**2) / 2
    assert loss.item() == pytest.approx(math.log(1 + math.exp(10.5 - 12)) + 0.1 * squares)


def test_bpr_mf_scores_items_nobody_chose_zero() -> None:
    model = BPRMF(BPRMFConfig(), interactions_from("uv", "ab", "abc"))
    assert (model.score(ALL[:2])[:, 2] == 0).all() and (model.score(ALL[:2])[:, :2] != 0).all()


def vbpr_of_the_ring(ring: Interactions, pairs: dict[str, FeatureTable]) -> VBPR:
    model = VBPR(VBPRConfig(embedding_size=1, feature_size=1, reg=0.1), ring, pairs)
    model.restore({
        "users": np.float32([[1, 10], [2, 20], [3, 30], [4, 40]]),
        "items": np.float32([[5, 0.5], [6, 0], [7, -1], [8, 2]]),
        # Columns: two of the picture, three of the text; the second row is the bias of the features.
        "projection": np.float32([[1, 0, 0, 1, 0], [0, 0, 0, 0, 4]]),
    })
    return model


def test_vbpr_of_the_ring_worked_by_hand(ring: Interactions, pairs: dict[str, FeatureTable]) -> None:
    # E f: 1 + 1, 2 + 0, 0 + 0, 0 + 2; beta f: 0, 4, 8, 0.
    content, bias = [2, 2, 0, 2], [0.5, 4, 7, 2]
    expected = [
        [u * q + 10 * u * e + b for q, e, b in zip([5, 6, 7, 8], content, bias, strict=True)]
        for u in (1, 2, 3, 4)
    ]
    assert vbpr_of_the_ring(ring, pairs).score(ALL).tolist() == expected


def test_the_loss_of_vbpr_worked_by_hand(ring: Interactions, pairs: dict[str, FeatureTable]) -> None:
    # s_00 = 5 + 20 + 0.5, s_02 = 7 + 0 + 7.
    loss = vbpr_of_the_ring(ring, pairs).loss(torch.tensor([0]), torch.tensor([0]), torch.tensor([2]))
    squares = (1**2 + 10**2 + 5**2 + 0.5**2 + 7**2 + 1**2) / 2
    assert loss.item() == pytest.approx(math.log(1 + math.exp(14 - 25.5)) + 0.1 * squares, rel=1e-5)
